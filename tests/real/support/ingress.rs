//! nginx as an ingress before a registry: it can lose its backend, and limit how often manifests are pulled.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};

use rustix::process::Signal;
use tempfile::TempDir;

use super::daemon::Daemon;
use super::port::free_port;
use super::program;

/// The file whose presence makes nginx answer so, and what it answers.
const NO_BACKEND: &str = "no-backend";
const LIMITED: &str = "limited";

pub struct Ingress {
    pub port: u16,
    // Before the folder: it must be gone when its files are removed.
    daemon: Daemon,
    folder: TempDir,
}

impl Ingress {
    /// Passes everything on to the registry at this port.
    pub async fn before(registry: u16) -> Ingress {
        let folder = TempDir::with_prefix("forebay-ingress-").expect("a folder can be made");
        let (at, port) = (folder.path().display().to_string(), free_port());
        let user = if rustix::process::getuid().is_root() { "user root;" } else { "" };
        let text = format!(
            r#"daemon off; {user} pid {at}/pid; error_log {at}/error.log;
            events {{ }}
            http {{
                access_log off; default_type text/plain; client_max_body_size 0;
                client_body_temp_path {at}/body; proxy_temp_path {at}/proxy; fastcgi_temp_path {at}/fastcgi;
                uwsgi_temp_path {at}/uwsgi; scgi_temp_path {at}/scgi;
                server {{
                    listen 127.0.0.1:{port};
                    set $counted $request_method;
                    if (!-f {at}/{LIMITED}) {{ set $counted NONE; }}
                    location / {{
                        if (-f {at}/{NO_BACKEND}) {{ return 404 "default backend - 404"; }}
                        proxy_pass http://127.0.0.1:{registry}; proxy_set_header Host $http_host;
                    }}
                    location ~ /manifests/ {{
                        if (-f {at}/{NO_BACKEND}) {{ return 404 "default backend - 404"; }}
                        if ($counted = GET) {{ return 429; }}
                        proxy_pass http://127.0.0.1:{registry}; proxy_set_header Host $http_host;
                    }}
                }}
            }}
            "#
        );
        fs::write(folder.path().join("nginx.conf"), text).expect("the configuration can be written");
        let mut command = program::command("nginx", "nginx-light");
        command.arg("-p").arg(folder.path()).arg("-c").arg(folder.path().join("nginx.conf"));
        command.args(["-e", &format!("{at}/error.log")]);
        let mut daemon = Daemon::spawn("nginx", command, &folder.path().join("log"));
        daemon.until_listening(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await;
        Ingress { port, daemon, folder }
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// From now on there is nothing behind it.
    pub fn lose_backend(&self) {
        self.mark(NO_BACKEND);
    }

    /// From now on GETs of manifests are 429, and HEADs are not.
    pub fn limit_pulls(&self) {
        self.mark(LIMITED);
    }

    fn mark(&self, name: &str) {
        fs::write(self.folder.path().join(name), "").expect("a file can be written");
    }
}

impl Drop for Ingress {
    fn drop(&mut self) {
        // Killed outright, the first process would leave its workers behind.
        self.daemon.signal(Signal::TERM);
        self.daemon.reap();
    }
}
