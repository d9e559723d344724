//! The end: what runs finishes, what idles closes, what does not finish is ended.

use std::time::Duration;

use tokio::net::TcpStream;

use forebay_test_support::{
    test_server::{CHUNK, Certificates, Setup, TestServer, client, h2_client, read_until, rest, send},
    until::{soon, until},
};

async fn refuses(server: &TestServer) {
    soon("the closing of the socket", async { while TcpStream::connect(server.address).await.is_ok() {} }).await;
}

#[tokio::test]
async fn running_responses_finish_and_idle_connections_close() {
    let certificates = Certificates::new();
    let server = Setup::tls(&certificates).start();
    let mut idle = server.connect().await;
    send(&mut idle, "GET /hello HTTP/1.1\r\nHost: x\r\n\r\n").await;
    read_until(&mut idle, "hello\n").await;
    let mut silent = server.connect().await;
    let mut late = server.connect().await;
    send(&mut late, "GET /late HTTP/1.1\r\nHost: x\r\n\r\n").await;
    let clients = [
        (client(), server.http("/gate")),
        (h2_client(), server.http("/gate")),
        (certificates.client().build().unwrap(), server.https("/gate")),
    ];
    let mut running = Vec::new();
    for (client, url) in &clients {
        running.push(client.get(url).send().await.unwrap());
    }
    until("all requests", async || server.stage.begun() == 2 + clients.len()).await;

    server.shutdown.cancel();
    refuses(&server).await;
    assert_eq!(rest(&mut idle).await.unwrap(), "");
    assert_eq!(rest(&mut silent).await.unwrap(), "");
    server.stage.open(1 + clients.len());
    for response in running {
        assert_eq!(soon("the rest", response.bytes()).await.unwrap().len(), 2 * CHUNK);
    }
    let answer = rest(&mut late).await.unwrap();
    assert!(answer.contains("connection: close\r\n") && answer.ends_with("late\n"), "{answer}");
    // A connection that only waits to be closed from the other side does not hold the end up.
    drop((idle, silent, late));
    drop(clients);
    server.end().await;
}

#[tokio::test]
async fn a_new_connection_is_served_before_the_drain_ends() {
    let certificates = Certificates::new();
    let server = Setup::tls(&certificates).timeouts(|timeouts| timeouts.grace = Duration::from_secs(10)).start();
    let mut clear = server.connect().await;
    let mut half = server.connect().await;
    send(&mut half, "GET /hello HT").await;
    let mut tls = certificates.connect(&server, &[b"http/1.1"]).await.unwrap();
    let shaking = server.connect().await;
    until("all connections", async || server.counted("forebay_connections 4")).await;

    server.shutdown.cancel();
    refuses(&server).await;
    send(&mut clear, "GET /hello HTTP/1.1\r\nHost: x\r\n\r\n").await;
    send(&mut half, "TP/1.1\r\nHost: x\r\n\r\n").await;
    send(&mut tls, "GET /hello HTTP/1.1\r\nHost: x\r\n\r\n").await;
    for answer in [rest(&mut clear).await, rest(&mut half).await, rest(&mut tls).await] {
        let answer = answer.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("hello\n"), "{answer}");
    }
    drop((clear, half, tls, shaking));
    server.end().await;
}

#[tokio::test]
async fn an_http2_client_cannot_begin_anything_after_the_drain_began() {
    let server = Setup::clear().start();
    let client = h2_client();
    let running = client.get(server.http("/gate")).send().await.unwrap();
    server.shutdown.cancel();
    refuses(&server).await;
    assert!(soon("a refusal", client.get(server.http("/hello")).send()).await.is_err());
    server.stage.open(1);
    assert_eq!(soon("the rest", running.bytes()).await.unwrap().len(), 2 * CHUNK);
    server.end().await;
}

#[tokio::test]
async fn what_does_not_finish_in_time_is_ended_and_looks_broken() {
    let certificates = Certificates::new();
    let mut setup = Setup::tls(&certificates);
    setup.config.drain_timeout = Duration::from_millis(200);
    let server = setup.start();
    let clients = [
        (client(), server.http("/gate")),
        (h2_client(), server.http("/gate")),
        (certificates.client().build().unwrap(), server.https("/gate")),
    ];
    let mut running = Vec::new();
    for (client, url) in &clients {
        running.push(client.get(url).send().await.unwrap());
    }
    // HTTP/1.0 without a length: here a mere close would be a clean end.
    let mut old = server.connect().await;
    send(&mut old, "GET /gate HTTP/1.0\r\n\r\n").await;
    read_until(&mut old, "\r\n\r\n").await;
    let (stage, metrics) = (server.stage.clone(), server.metrics.clone());
    server.end().await;
    // Every task has ended by now, with all it held.
    assert_eq!(stage.over(), 1 + clients.len());
    assert!(metrics.encode().unwrap().contains("forebay_connections 0\n"));
    for response in running {
        assert!(soon("the end", response.bytes()).await.is_err());
    }
    assert!(rest(&mut old).await.is_err());
}

#[tokio::test]
async fn an_address_that_is_taken_is_an_error_that_names_it() {
    let server = Setup::clear().start();
    let mut setup = Setup::clear();
    setup.config.listen = vec![server.address];
    let metrics = forebay::metrics::Metrics::new().unwrap();
    let error = forebay::transport::Listener::bind(&setup.config, Vec::new(), None, metrics).err().unwrap();
    assert_eq!(error.to_string(), format!("cannot listen on {}", server.address));
    server.end().await;
}
