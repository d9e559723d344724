//! nginx as an ingress before a registry: it can lose its backend, and limit how often manifests are pulled.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};

use rustix::process::Signal;
use tempfile::TempDir;

use super::{daemon::Daemon, port::free_port, program};

/// The files whose presence makes nginx answer something of its own.
const LIMITED: &str = "limited";
/// What is answered where there is no backend: by ingress-nginx, by Traefik, by nginx itself.
pub const PAGES: [&str; 3] = ["ingress-nginx", "traefik", "nginx"];

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
        let texts = [r#" "default backend - 404""#, r#" "404 page not found\n""#, ""];
        let pages = PAGES.iter().zip(texts).map(|(page, text)| format!("if (-f {at}/{page}) {{ return 404{text}; }}"));
        let no_backend = pages.collect::<String>();
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
                        {no_backend}
                        proxy_pass http://127.0.0.1:{registry}; proxy_set_header Host $http_host;
                    }}
                    location ~ /manifests/ {{
                        {no_backend}
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

    /// From now on there is nothing behind it, as this page says.
    pub fn lose_backend(&self, page: &str) {
        self.mark(page);
    }

    pub fn find_backend(&self, page: &str) {
        fs::remove_file(self.folder.path().join(page)).expect("a file can be removed");
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
