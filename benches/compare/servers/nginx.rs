//! nginx as a user who wants speed would set it up: sendfile, full segments, one worker for each core.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use tempfile::TempDir;

use super::{folder, local, write};
use forebay_test_support::real::{certificate::Identity, daemon::Daemon, port::free_port, program};

/// The protocol over TLS.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Tls {
    Http1,
    Http2,
}

pub struct Nginx {
    pub address: SocketAddr,
    // Before the folder: the process must have ended when its files are removed.
    daemon: Daemon,
    folder: TempDir,
}

impl Nginx {
    /// Serves the files of a folder, [`root`](Self::root), in clear.
    pub async fn files() -> Self {
        Self::start("", "root ROOT; default_type application/octet-stream;", false).await
    }

    /// The same over TLS 1.3 with AES-128-GCM.
    pub async fn files_tls(identity: &Identity, tls: Tls) -> Self {
        let server = format!(
            "root ROOT; default_type application/octet-stream;\n\
             ssl_certificate {}; ssl_certificate_key {};\n\
             ssl_protocols TLSv1.3; ssl_conf_command Ciphersuites TLS_AES_128_GCM_SHA256;",
            identity.certificate.display(),
            identity.key.display(),
        );
        Self::start(if tls == Tls::Http2 { "ssl http2" } else { "ssl" }, &server, false).await
    }

    /// A cache in front of a registry.
    pub async fn cache(upstream: &str, access_log: bool) -> Self {
        let server = format!(
            "location /v2/ {{ proxy_pass {upstream}; proxy_http_version 1.1; proxy_set_header Connection \"\";\n\
             proxy_cache cache; proxy_cache_valid 200 1h; }}",
        );
        Self::start("", &server, access_log).await
    }

    async fn start(listen: &str, server: &str, access_log: bool) -> Self {
        let (folder, port) = (folder("nginx"), free_port());
        let at = folder.path().display().to_string();
        fs::create_dir(folder.path().join("root")).unwrap();
        // An ordinary user's workers run as that user; root's workers are told to stay root, so that they can read the
        // files.
        let user = if rustix::process::getuid().is_root() { "user root;" } else { "" };
        let access_log = if access_log { format!("{at}/access.log combined buffer=32k") } else { "off".to_owned() };
        let text = format!(
            "daemon off; {user} worker_processes auto; pid {at}/pid; error_log {at}/error.log;\n\
             events {{ worker_connections 4096; }}\n\
             http {{\n\
             access_log {access_log}; sendfile on; tcp_nopush on; keepalive_requests 1000000000; keepalive_timeout 1h;\n\
             client_body_temp_path {at}/body; proxy_temp_path {at}/proxy; fastcgi_temp_path {at}/fastcgi;\n\
             uwsgi_temp_path {at}/uwsgi; scgi_temp_path {at}/scgi;\n\
             proxy_cache_path {at}/cache levels=1:2 keys_zone=cache:16m max_size=10g inactive=1h;\n\
             server {{ listen 127.0.0.1:{port} {listen}; {} }}\n\
             }}\n",
            server.replace("ROOT", &format!("{at}/root")),
        );
        write(&folder.path().join("nginx.conf"), &text);
        let mut command = program::command("nginx", "nginx-light");
        command.arg("-p").arg(folder.path()).arg("-c").arg(folder.path().join("nginx.conf"));
        command.args(["-e", &format!("{at}/error.log")]);
        let mut daemon = Daemon::spawn("nginx", command, &folder.path().join("log"));
        daemon.until_listening(local(port)).await;
        Self { address: local(port), daemon, folder }
    }

    pub fn process(&self) -> u32 {
        self.daemon.id()
    }

    /// Serves this file itself at this path, so that both servers share its pages.
    pub fn link(&self, file: &Path, path: &str) {
        let own: PathBuf = self.folder.path().join("root").join(path.trim_start_matches('/'));
        fs::create_dir_all(own.parent().unwrap()).unwrap();
        fs::hard_link(file, own).unwrap();
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // If it were killed, the first process would leave its workers running.
        self.daemon.signal(rustix::process::Signal::TERM);
        self.daemon.reap();
    }
}
