//! Clients that say nothing, or half, or go on for ever: each ends in time, and without a thread or a place taken.

use std::time::Duration;

use forebay_test_support::{
    test_server::{Certificates, Setup, TestServer, read_until, rest, send},
    until::{PATIENCE, soon, until},
};

const SHORT: Duration = Duration::from_millis(200);

/// Every wait but the one under test is longer than a test's patience.
fn only(change: impl FnOnce(&mut forebay::transport::Timeouts)) -> Setup {
    Setup::clear().timeouts(|timeouts| {
        let long = 10 * PATIENCE;
        timeouts.first_byte = long;
        timeouts.handshake = long;
        timeouts.head = long;
        timeouts.idle = long;
        timeouts.ping_interval = long;
        timeouts.stall = long;
        change(timeouts);
    })
}

/// Sends `text` and nothing more: the server ends the connection.
async fn ends_after(server: &TestServer, text: &str) -> String {
    let mut stream = server.connect().await;
    send(&mut stream, text).await;
    let answer = rest(&mut stream).await.unwrap_or_default();
    until("the connection's end", async || server.counted("forebay_connections 0")).await;
    answer
}

#[tokio::test]
async fn a_client_that_says_nothing_ends() {
    let server = only(|timeouts| timeouts.first_byte = SHORT).start();
    assert_eq!(ends_after(&server, "").await, "");
    assert!(server.counted("forebay_stalls_total{what=\"first_byte\"} 1"));
}

#[tokio::test]
async fn half_a_preface_ends() {
    let server = only(|timeouts| timeouts.first_byte = SHORT).start();
    assert_eq!(ends_after(&server, "PRI * HT").await, "");
}

#[tokio::test]
async fn half_a_head_ends() {
    let server = only(|timeouts| timeouts.head = SHORT).start();
    assert_eq!(ends_after(&server, "GET /hello HTTP/1.1\r\nHost: x\r\nX-").await, "");
    assert_eq!(server.stage.begun(), 0);
}

#[tokio::test]
async fn half_a_tls_handshake_ends() {
    let certificates = Certificates::new();
    let mut setup = only(|timeouts| timeouts.handshake = SHORT);
    setup.tls = Setup::tls(&certificates).tls;
    let server = setup.start();
    assert_eq!(ends_after(&server, "\x16\x03\x01\x02\0\x01").await, "");
    assert!(server.counted("forebay_stalls_total{what=\"handshake\"} 1"));
}

#[tokio::test]
async fn silence_after_a_tls_handshake_ends() {
    let certificates = Certificates::new();
    let mut setup = only(|timeouts| timeouts.head = SHORT);
    setup.tls = Setup::tls(&certificates).tls;
    let server = setup.start();
    let mut stream = certificates.connect(&server, &[b"http/1.1"]).await.unwrap();
    let _ = rest(&mut stream).await;
    until("the connection's end", async || server.counted("forebay_connections 0")).await;
}

#[tokio::test]
async fn a_head_that_drips_for_ever_ends() {
    let server = only(|timeouts| timeouts.head = SHORT).start();
    let mut stream = server.connect().await;
    send(&mut stream, "GET /hello HTTP/1.1\r\n").await;
    let (mut read, mut write) = stream.split();
    let drip = async {
        loop {
            if tokio::io::AsyncWriteExt::write_all(&mut write, b"X: y\r\n").await.is_err() {
                return;
            }
            tokio::time::sleep(SHORT / 20).await;
        }
    };
    tokio::select! {
        answer = rest(&mut read) => { assert!(answer.is_err() || answer.unwrap().is_empty()); }
        () = drip => {}
    }
    assert_eq!(server.stage.begun(), 0);
}

#[tokio::test]
async fn an_idle_http1_connection_ends_and_a_busy_one_does_not() {
    // Between two requests a slow machine must not take as long as the clock.
    let head = Duration::from_millis(1500);
    let server = only(|timeouts| timeouts.head = head).start();
    let mut stream = server.connect().await;
    for _ in 0..3 {
        send(&mut stream, "GET /hello HTTP/1.1\r\nHost: x\r\n\r\n").await;
        read_until(&mut stream, "hello\n").await;
    }
    // The handler takes longer than the clock that bounds heads.
    send(&mut stream, "GET /late HTTP/1.1\r\nHost: x\r\n\r\n").await;
    tokio::time::sleep(head + SHORT).await;
    server.stage.open(1);
    read_until(&mut stream, "late\n").await;
    assert_eq!(rest(&mut stream).await.unwrap(), "");
}

#[tokio::test]
async fn an_idle_http2_connection_is_told_to_go_and_then_left() {
    let server = only(|timeouts| {
        timeouts.idle = SHORT;
        timeouts.stall = SHORT;
    })
    .start();
    // It acknowledges nothing, so it never goes by itself.
    let answer = ends_after(&server, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await;
    // GOAWAY, RFC 9113 section 6.8: eight bytes of payload, type 7.
    assert!(answer.contains("\0\0\u{8}\u{7}\0"), "{answer:?}");
}

#[tokio::test]
async fn an_http2_client_that_answers_no_ping_ends() {
    let server = only(|timeouts| {
        timeouts.ping_interval = SHORT;
        timeouts.ping_timeout = SHORT;
    })
    .start();
    ends_after(&server, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await;
}

#[tokio::test]
async fn a_request_body_that_never_comes_blocks_no_client() {
    let server = only(|_| {}).start();
    let answer = ends_after(&server, "POST /hello HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("hello\n"), "{answer}");
}

#[tokio::test]
async fn an_unwanted_upload_does_not_hide_the_answer() {
    let server = only(|_| {}).start();
    let mut stream = server.connect().await;
    send(&mut stream, "PUT /hello HTTP/1.1\r\nHost: x\r\nContent-Length: 900000\r\n\r\n").await;
    // All of it is on the way before the answer is read: a reset would throw the answer away.
    soon("the upload", async {
        let part = vec![b'x'; 100_000];
        for _ in 0..9 {
            if tokio::io::AsyncWriteExt::write_all(&mut stream, &part).await.is_err() {
                break;
            }
        }
    })
    .await;
    let answer = rest(&mut stream).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("hello\n"), "{answer}");
}
