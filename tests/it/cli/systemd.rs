//! The service manager: readiness, reload, stop, watchdog.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;

/// A service manager that only listens.
pub struct Manager {
    socket: UnixDatagram,
}

impl Manager {
    pub fn listen(directory: &TempDir) -> Self {
        let socket = UnixDatagram::bind(directory.path().join("notify")).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { socket }
    }

    /// Waits for the first message that has `line` in it; gives all its lines.
    pub fn wait_for(&self, line: &str) -> Vec<String> {
        let mut buffer = [0; 4096];
        loop {
            let len = match self.socket.recv(&mut buffer) {
                Ok(len) => len,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => panic!("no {line}: {error}"),
            };
            let message: Vec<_> = String::from_utf8_lossy(&buffer[..len]).lines().map(str::to_owned).collect();
            if message.iter().any(|known| known == line) {
                return message;
            }
        }
    }
}

#[test]
fn the_service_manager_is_told_of_start_reload_and_stop() {
    let directory =
        directory("[server]\nlisten = [\"127.0.0.1:0\"]\ndrain_timeout = \"7s\"\n[admin]\nlisten = \"127.0.0.1:0\"\n");
    let manager = Manager::listen(&directory);
    let mut command = forebay(&directory);
    command.args(["serve", "--config", "forebay.toml"]).env("NOTIFY_SOCKET", directory.path().join("notify"));
    let serving = Serving::start(&mut command);
    manager.wait_for("READY=1");

    serving.signal(Signal::HUP);
    let reloading = manager.wait_for("RELOADING=1");
    assert!(reloading.iter().any(|line| line.starts_with("MONOTONIC_USEC=")), "{reloading:?}");
    manager.wait_for("READY=1");

    fs::write(directory.path().join("forebay.toml"), "[server]\nnonsense = 1\n").unwrap();
    serving.signal(Signal::HUP);
    manager.wait_for("RELOADING=1");
    manager.wait_for("READY=1");
    TcpStream::connect(serving.registry).expect("a bad file changes nothing");

    serving.signal(Signal::TERM);
    let stopping = manager.wait_for("STOPPING=1");
    assert!(stopping.iter().any(|line| line == "EXTEND_TIMEOUT_USEC=22000000"), "{stopping:?}");
    let (code, log) = serving.end();
    assert_eq!(code, Some(0), "{log}");
    assert!(log.contains("configuration reloaded"), "{log}");
    assert!(log.contains("reload failed") && log.contains("server.nonsense"), "{log}");
}

#[tokio::test]
async fn a_reload_takes_moved_tls_files_over_or_nothing() {
    let certificates = Certificates::new();
    let directory = directory("");
    let path = |name: &str| directory.path().join(name);
    let overrides = Overrides {
        listen: vec!["127.0.0.1:0".parse().unwrap()],
        admin: Some("127.0.0.1:0".parse().unwrap()),
        cache_dir: Some(path("cache")),
        max_size: None,
    };
    let text = "state_directory = \"state\"\n[admin]\nsocket = \"control.sock\"\n";
    let base = Config::parse(text, &path("forebay.toml"), overrides).unwrap();
    let with = |certificate: &str| {
        let mut config = base.clone();
        let key = certificates.config.key.clone();
        config.server.tls = Some(TlsConfig { certificate: path(certificate), key, client_ca: None });
        config
    };
    fs::copy(&certificates.config.certificate, path("old.crt")).unwrap();
    let app = App::start(with("old.crt"), Inherited::default()).await.unwrap();
    // The start's file is gone: only the new one can be what is read.
    fs::rename(path("old.crt"), path("new.crt")).unwrap();
    app.reload(with("old.crt")).unwrap_err();
    let mut bad = with("new.crt");
    bad.access.htpasswd = Some(path("missing"));
    app.reload(bad).unwrap_err();
    app.reload(with("new.crt")).unwrap();
    // Whether there is TLS is fixed at the start; these files are served on.
    app.reload(base.clone()).unwrap();
    let told = {
        let mut client = tokio::net::UnixStream::connect(path("control.sock")).await.unwrap();
        let request = b"GET /api/v1/config HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        client.write_all(request).await.unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        answer
    };
    assert!(told.contains("new.crt") && !told.contains("old.crt"), "{told}");
    app.drain().await;
}

#[test]
fn the_watchdog_is_kept_quiet() {
    let directory = directory("");
    let manager = Manager::listen(&directory);
    let mut command = forebay(&directory);
    command.args(ON_ANY_PORT).env("NOTIFY_SOCKET", directory.path().join("notify")).env("WATCHDOG_USEC", "40000");
    let _serving = Serving::start(&mut command);
    manager.wait_for("READY=1");
    for _ in 0..3 {
        manager.wait_for("WATCHDOG=1");
    }
}
