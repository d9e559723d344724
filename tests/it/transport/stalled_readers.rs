//! Clients that do not read: cut off, unless it is we who keep them waiting.

use std::time::Duration;

use http_body_util::BodyExt;
use tokio::io::AsyncReadExt;

use forebay_test_support::{
    test_server::{CHUNK, Certificates, Setup, TestServer, client, h2_client, rest, send},
    until::{soon, until},
};

const STALL: Duration = Duration::from_millis(400);
/// More than all buffers between the handler and the client.
const ENDLESS: usize = 1 << 30;

fn start() -> TestServer {
    Setup::clear().timeouts(|timeouts| timeouts.stall = STALL).start()
}

#[tokio::test]
async fn an_http1_client_that_stops_reading_is_cut() {
    let server = start();
    let mut stream = server.connect().await;
    send(&mut stream, &format!("GET /big?{ENDLESS} HTTP/1.1\r\nHost: x\r\n\r\n")).await;
    until("the end of the body", async || server.stage.over() == 1).await;
    until("the end of the connection", async || server.counted("forebay_connections 0")).await;
    assert!(server.counted("forebay_stalls_total{what=\"read\"} 1"));
    // What is in the buffers may be read, and then there is a reset: no clean end.
    assert!(rest(&mut stream).await.is_err());
}

#[tokio::test]
async fn a_tls_client_that_stops_reading_is_cut() {
    let certificates = Certificates::new();
    let server = Setup::tls(&certificates).timeouts(|timeouts| timeouts.stall = STALL).start();
    let mut stream = certificates.connect(&server, &[b"http/1.1"]).await.unwrap();
    send(&mut stream, &format!("GET /big?{ENDLESS} HTTP/1.1\r\nHost: x\r\n\r\n")).await;
    until("the end of the body", async || server.stage.over() == 1).await;
    until("the end of the connection", async || server.counted("forebay_connections 0")).await;
    assert!(server.counted("forebay_stalls_total{what=\"read\"} 1"));
    assert!(rest(&mut stream).await.is_err());
}

#[tokio::test]
async fn an_unread_http2_stream_is_reset_and_the_others_go_on() {
    let server = start();
    let client = h2_client();
    let stalled = client.get(server.http(&format!("/big?{ENDLESS}"))).send().await.unwrap();
    until("the end of the body", async || server.stage.over() == 1).await;
    assert!(server.counted("forebay_stalls_total{what=\"read\"} 1"));
    // It is the same connection, and it is still there.
    assert_eq!(client.get(server.http("/hello")).send().await.unwrap().text().await.unwrap(), "hello\n");
    assert!(server.counted("forebay_connections 1"));
    assert!(soon("the reset", stalled.bytes()).await.is_err());
}

#[tokio::test]
async fn a_body_that_waits_for_us_is_left_alone() {
    let certificates = Certificates::new();
    let server = Setup::tls(&certificates).timeouts(|timeouts| timeouts.stall = STALL).start();
    let clients = [
        (client(), server.http("/gate")),
        (h2_client(), server.http("/gate")),
        (certificates.client().build().unwrap(), server.https("/gate")),
    ];
    let mut responses = Vec::new();
    for (client, url) in &clients {
        let mut response = client.get(url).send().await.unwrap();
        let mut read = 0;
        while read < CHUNK {
            read += soon("the first chunk", response.chunk()).await.unwrap().unwrap().len();
        }
        responses.push(response);
    }
    // Nothing can be awaited here: what must not happen is not to happen for a while.
    tokio::time::sleep(3 * STALL).await;
    server.stage.open(responses.len());
    for response in responses {
        assert_eq!(soon("the rest", response.bytes()).await.unwrap().len(), CHUNK);
    }
    assert!(!server.metrics.encode().unwrap().contains("forebay_stalls_total{"));
    server.end().await;
}

#[tokio::test]
async fn a_slow_reader_is_not_a_stalled_one() {
    const BYTES: usize = 48 << 20;
    let stall = Duration::from_secs(1);
    let server = Setup::clear().timeouts(|timeouts| timeouts.stall = stall).start();
    let mut stream = server.connect().await;
    send(&mut stream, &format!("GET /big?{BYTES} HTTP/1.0\r\n\r\n")).await;
    let began = std::time::Instant::now();
    let mut part = vec![0; 1 << 20];
    let mut read = 0;
    while read < BYTES {
        soon("the next bytes", stream.read_exact(&mut part)).await.unwrap();
        read += part.len();
        tokio::time::sleep(Duration::from_millis(40)).await;
    }
    assert!(began.elapsed() > stall, "it was not slow");
}

#[tokio::test]
async fn a_steady_reader_behind_large_buffers_is_not_cut() {
    const STEP: usize = 30_000;
    let stall = Duration::from_secs(3);
    let server = Setup::clear().timeouts(|timeouts| timeouts.stall = stall).start();
    let mut stream = server.connect().await;
    send(&mut stream, &format!("GET /big?{ENDLESS} HTTP/1.1\r\nHost: x\r\n\r\n")).await;
    let mut part = vec![0; STEP];
    let began = std::time::Instant::now();
    // It takes our kernel longer than that to take anything more of the response: it has 4 MiB of it.
    while began.elapsed() < 3 * stall {
        soon("the next bytes", stream.read_exact(&mut part)).await.unwrap();
        tokio::time::sleep(Duration::from_millis(150)).await;
    }
    assert!(!server.metrics.encode().unwrap().contains("forebay_stalls_total{"));
}

#[tokio::test]
async fn a_body_that_fails_never_looks_like_an_end() {
    let server = start();
    for client in [client(), h2_client()] {
        let response = client.get(server.http("/fail")).send().await.unwrap();
        assert_eq!(response.status(), 200);
        assert!(soon("the failure", response.bytes()).await.is_err());
    }
    // HTTP/1.0 knows no length here: a mere close would be a clean end.
    let mut stream = server.connect().await;
    send(&mut stream, "GET /fail HTTP/1.0\r\n\r\n").await;
    assert!(rest(&mut stream).await.is_err());
    // Under TLS an end says that it is one.
    let certificates = Certificates::new();
    let server = Setup::tls(&certificates).start();
    for (path, whole) in [("/hello", true), ("/fail", false)] {
        let mut stream = certificates.connect(&server, &[b"http/1.1"]).await.unwrap();
        send(&mut stream, &format!("GET {path} HTTP/1.0\r\n\r\n")).await;
        assert_eq!(rest(&mut stream).await.is_ok(), whole, "{path}");
    }
}

#[tokio::test]
async fn a_client_that_leaves_ends_its_body() {
    let server = start();
    for client in [client(), h2_client()] {
        let over = server.stage.over();
        let response = client.get(server.http("/gate")).send().await.unwrap();
        let mut body = reqwest::Body::from(response);
        soon("the first chunk", body.frame()).await.unwrap().unwrap();
        drop(body);
        drop(client);
        until("the end of the body", async || server.stage.over() == over + 1).await;
    }
}
