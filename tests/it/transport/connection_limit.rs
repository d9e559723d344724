//! The connection limit, and what happens when even the process has no place left.

use std::{
    process::Command,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use forebay_test_support::{
    test_server::{Certificates, Setup, client, h2_client, rest, send},
    until::{PATIENCE, soon, until},
};

#[tokio::test]
async fn over_the_limit_a_client_is_told_so_whatever_it_speaks() {
    let certificates = Certificates::new();
    let mut setup = Setup::tls(&certificates);
    setup.config.max_connections = 1;
    let server = setup.start();
    let mut only = server.connect().await;
    until("the first connection", async || server.counted("forebay_connections 1")).await;
    let clients = [
        (client(), server.http("/hello")),
        (h2_client(), server.http("/hello")),
        (certificates.client().build().unwrap(), server.https("/hello")),
        (certificates.client().http1_only().build().unwrap(), server.https("/hello")),
    ];
    for (client, url) in &clients {
        let response = soon("an answer", client.get(url).send()).await.unwrap();
        assert_eq!(response.status(), 503, "{url}");
        assert!(response.headers().contains_key("retry-after"));
        assert_eq!(response.headers()["content-type"], "application/json");
        assert_eq!(response.headers()["x-content-type-options"], "nosniff");
        assert_eq!(response.headers()["content-security-policy"], "default-src 'none'; sandbox");
        let body: serde_json::Value = serde_json::from_str(&response.text().await.unwrap()).unwrap();
        assert_eq!(body["errors"][0]["code"], "UNAVAILABLE");
    }
    assert_eq!(server.stage.begun(), 0);
    assert!(server.counted("forebay_connections_refused_total 4"));
    // A refused connection is closed by us, at once.
    let mut refused = server.connect().await;
    send(&mut refused, "GET /hello HTTP/1.1\r\nHost: x\r\n\r\n").await;
    let answer = rest(&mut refused).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("connection: close\r\n"), "{answer}");
    // And the one who was there first has lost nothing.
    send(&mut only, "GET /hello HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
    assert!(rest(&mut only).await.unwrap().ends_with("hello\n"));
    drop(only);
    for (_, url) in &clients {
        soon("a place", async {
            while certificates.client().build().unwrap().get(url).send().await.unwrap().status() != 200 {}
        })
        .await;
    }
    server.end().await;
}

#[tokio::test]
async fn silent_connections_of_one_address_block_no_other() {
    const GET: &str = "GET /hello HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let mut setup = Setup::clear().timeouts(|timeouts| timeouts.courtesy = Duration::from_millis(100));
    setup.config.max_connections = 800;
    setup.config.trusted_networks = vec!["127.0.0.9".parse().unwrap()];
    let server = setup.start();
    let mut silent = Vec::new();
    for _ in 0..800 {
        silent.push(server.connect().await);
    }
    // Three quarters are one address's when no other wants them.
    until("600 are admitted", async || server.counted("forebay_connections 600")).await;
    until("200 are refused", async || server.counted("forebay_connections_refused_total 200")).await;
    for other in ["127.0.0.2", "127.0.0.3", "127.0.0.2"] {
        let mut client = server.connect_from(other).await;
        send(&mut client, GET).await;
        assert!(rest(&mut client).await.unwrap().ends_with("hello\n"), "{other}");
    }
    let refused = async |address| loop {
        let mut again = server.connect_from(address).await;
        let _ = again.write_all(GET.as_bytes()).await;
        // As long as its silent connections take all that its address has of the courtesy, it is told nothing.
        match rest(&mut again).await {
            Ok(answer) if !answer.is_empty() => break answer,
            _ => {}
        }
    };
    let refusal = soon("a refusal", refused("127.0.0.1")).await;
    assert!(refusal.starts_with("HTTP/1.1 503") && refusal.contains("from your address"), "{refusal}");
    // A network that the operator trusts is held to the whole.
    let mut trusted = Vec::new();
    for _ in 0..200 {
        trusted.push(server.connect_from("127.0.0.9").await);
    }
    until("800 are admitted", async || server.counted("forebay_connections 800")).await;
    let refusal = soon("a refusal", refused("127.0.0.9")).await;
    assert!(refusal.starts_with("HTTP/1.1 503") && !refusal.contains("from your address"), "{refusal}");
}

#[tokio::test]
async fn the_courtesy_is_bounded_too() {
    let mut setup = Setup::clear().timeouts(|timeouts| timeouts.courtesy = 10 * PATIENCE);
    setup.config.max_connections = 1;
    let server = setup.start();
    let mut silent = Vec::new();
    for _ in 0..1 + 48 {
        silent.push(server.connect().await);
    }
    for _ in 0..3 {
        // Its address has three quarters of those that are told anything.
        assert_eq!(rest(&mut server.connect().await).await.unwrap_or_default(), "");
    }
    let mut other = server.connect_from("127.0.0.2").await;
    send(&mut other, "GET /hello HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(rest(&mut other).await.unwrap().starts_with("HTTP/1.1 503"));
    drop(silent);
    soon("a place", async {
        loop {
            // A refusal without a word is an error to the client, and may still come for a moment.
            if client().get(server.http("/hello")).send().await.is_ok_and(|response| response.status() == 200) {
                break;
            }
        }
    })
    .await;
}

#[tokio::test]
async fn refused_clients_that_say_nothing_do_not_stay() {
    let mut setup = Setup::clear().timeouts(|timeouts| timeouts.courtesy = Duration::from_millis(100));
    setup.config.max_connections = 0;
    let server = setup.start();
    assert_eq!(rest(&mut server.connect().await).await.unwrap_or_default(), "");
}

/// What is logged on this thread while it lives. A test's server runs on the test's own thread.
struct Log {
    written: Arc<Mutex<Vec<u8>>>,
    _guard: tracing::subscriber::DefaultGuard,
}

impl Log {
    fn begin() -> Log {
        let written = Arc::new(Mutex::new(Vec::new()));
        let to = written.clone();
        let subscriber =
            tracing_subscriber::fmt().json().flatten_event(true).with_writer(move || To(to.clone())).finish();
        Log { written, _guard: tracing::subscriber::set_default(subscriber) }
    }

    /// Peer and status of those who were sent away.
    fn sent_away(&self) -> Vec<(String, u64)> {
        let written = self.written.lock().unwrap();
        let lines = std::str::from_utf8(&written).unwrap().lines();
        let lines = lines.map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        let sent_away = lines.filter(|line| line["message"] == "a client was sent away" && line["level"] == "INFO");
        sent_away.map(|line| (line["peer"].as_str().unwrap().to_owned(), line["status"].as_u64().unwrap())).collect()
    }
}

struct To(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for To {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        std::io::Write::write(&mut *self.0.lock().unwrap(), bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_rejected_connection_is_logged() {
    const HELLO: &[u8] = &[0x16, 3, 1, 0, 0];
    const GET: &[u8] = b"GET /hello HTTP/1.1\r\nHost: x\r\n\r\n";
    let certificates = Certificates::new();
    let mut full = Setup::clear();
    full.config.max_connections = 0;
    let mut tls_only = Setup::tls(&certificates);
    tls_only.config.clear_http = false;
    let log = Log::begin();
    for (setup, says, status) in [(full, GET, 503), (Setup::clear(), HELLO, 400), (tls_only, GET, 400)] {
        let server = setup.start();
        let mut client = server.connect().await;
        client.write_all(says).await.unwrap();
        assert!(rest(&mut client).await.unwrap().contains(&status.to_string()));
        let peer = client.local_addr().unwrap().to_string();
        drop(client);
        server.end().await;
        assert_eq!(log.sent_away().last(), Some(&(peer, status)));
    }
    assert_eq!(log.sent_away().len(), 3);
}

#[tokio::test]
async fn a_client_is_told_how_many_streams_it_may_have() {
    let server = Setup::clear().start();
    let mut client = server.connect().await;
    // The preface and empty SETTINGS, RFC 9113 section 3.4; the server's SETTINGS are its first frame.
    client.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    let mut head = [0; 9];
    soon("a frame", client.read_exact(&mut head)).await.unwrap();
    assert_eq!(head[3], 4, "{head:?}");
    let mut settings = vec![0; usize::from(head[1]) << 8 | usize::from(head[2])];
    soon("the settings", client.read_exact(&mut settings)).await.unwrap();
    let max_concurrent_streams = settings.chunks(6).find(|setting| setting[..2] == [0, 3]).unwrap();
    assert_eq!(max_concurrent_streams[2..], 100_u32.to_be_bytes());
}

/// Descriptors are the process's: this test runs itself again, in a process that has few.
#[test]
fn running_out_of_descriptors_does_not_end_the_loop() {
    const CHILD: &str = "FOREBAY_TEST_FEW_DESCRIPTORS";
    if std::env::var_os(CHILD).is_some() {
        return without_descriptors();
    }
    // Test names lack the name of the crate.
    let (_, module) = module_path!().split_once("::").unwrap();
    let output = Command::new("sh")
        .args(["-c", "ulimit -n 48 && exec \"$0\" --exact \"$1\" --test-threads=1"])
        .arg(std::env::current_exe().unwrap())
        .arg(format!("{module}::running_out_of_descriptors_does_not_end_the_loop"))
        .env(CHILD, "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{said}{}", String::from_utf8_lossy(&output.stderr));
}

fn without_descriptors() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let server = Setup::clear().start();
        // One thread, no await: the server accepts none of them until the last descriptor is gone.
        let mut clients = Vec::new();
        while let Ok(client) = std::net::TcpStream::connect(server.address) {
            clients.push(client);
        }
        assert!(clients.len() > 10, "there were few descriptors to begin with");
        tokio::time::sleep(Duration::from_millis(250)).await;
        assert!(server.counted("forebay_connections 0"), "a connection was accepted without a descriptor");
        drop(clients);
        let answer = soon("an answer", client().get(server.http("/hello")).send()).await.unwrap();
        assert_eq!(answer.text().await.unwrap(), "hello\n");
        server.end().await;
    });
}
