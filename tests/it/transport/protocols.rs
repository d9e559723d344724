//! TLS and clear text, HTTP/1 and HTTP/2, on one port; answers to what is none of them.

use http::Version;

use forebay_test_support::{
    test_server::{Certificates, Setup, client, h2_client, read_until, rest, send},
    until::soon,
};

#[tokio::test]
async fn tls_and_clear_text_and_both_versions_share_one_port() {
    let certificates = Certificates::new();
    let server = Setup::tls(&certificates).start();
    let tls = certificates.client().build().unwrap();
    let tls1 = certificates.client().http1_only().build().unwrap();
    for (client, url, version, facts) in [
        (client(), server.http("/connection"), Version::HTTP_11, "false - false"),
        (h2_client(), server.http("/connection"), Version::HTTP_2, "false - false"),
        (tls, server.https("/connection"), Version::HTTP_2, "true localhost false"),
        (tls1, server.https("/connection"), Version::HTTP_11, "true localhost false"),
    ] {
        for _ in 0..2 {
            let response = soon("an answer", client.get(&url).send()).await.unwrap();
            assert_eq!(response.version(), version, "{url}");
            assert_eq!(response.text().await.unwrap(), facts, "{url}");
        }
    }
    server.end().await;
}

#[tokio::test]
async fn a_big_body_comes_whole_over_every_protocol() {
    const BYTES: usize = 8 << 20;
    let certificates = Certificates::new();
    let server = Setup::tls(&certificates).start();
    let path = format!("/big?{BYTES}");
    for (client, url) in [
        (client(), server.http(&path)),
        (h2_client(), server.http(&path)),
        (certificates.client().build().unwrap(), server.https(&path)),
        (certificates.client().http1_only().build().unwrap(), server.https(&path)),
    ] {
        let body = soon("a body", async { client.get(&url).send().await.unwrap().bytes().await.unwrap() }).await;
        assert_eq!(body.len(), BYTES);
        assert!(body.iter().all(|byte| *byte == b'x'));
    }
    server.end().await;
}

#[tokio::test]
async fn a_preface_or_a_head_may_come_byte_by_byte() {
    let server = Setup::clear().start();
    let mut stream = server.connect().await;
    for byte in b"PUT /hello HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n" {
        send(&mut stream, &(*byte as char).to_string()).await;
        tokio::task::yield_now().await;
    }
    assert!(read_until(&mut stream, "hello\n").await.starts_with("HTTP/1.1 200 OK\r\n"));

    let mut stream = server.connect().await;
    for byte in b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0" {
        send(&mut stream, &(*byte as char).to_string()).await;
        tokio::task::yield_now().await;
    }
    // The server's own SETTINGS frame, RFC 9113 section 6.5: length, type 4.
    let mut head = [0; 9];
    soon("a frame", tokio::io::AsyncReadExt::read_exact(&mut stream, &mut head)).await.unwrap();
    assert_eq!(head[3], 4, "{head:?}");
}

#[tokio::test]
async fn a_tls_only_port_says_so_in_clear_text() {
    let certificates = Certificates::new();
    let mut setup = Setup::tls(&certificates);
    setup.config.clear_http = false;
    let server = setup.start();
    let response = soon("an answer", client().get(server.http("/hello")).send()).await.unwrap();
    assert_eq!(response.status(), 400);
    assert_eq!(response.headers()["content-type"], "application/json");
    assert_eq!(response.headers()["x-content-type-options"], "nosniff");
    assert_eq!(response.headers()["content-security-policy"], "default-src 'none'; sandbox");
    let body: serde_json::Value = serde_json::from_str(&response.text().await.unwrap()).unwrap();
    assert_eq!(body["errors"][0]["message"], "this port speaks TLS only: use https://");
    assert_eq!(server.stage.begun(), 0);
    let secure = certificates.client().build().unwrap();
    assert_eq!(secure.get(server.https("/hello")).send().await.unwrap().status(), 200);
    server.end().await;
}

#[tokio::test]
async fn a_clear_port_tells_tls_clients_what_gos_clients_understand() {
    let server = Setup::clear().start();
    let mut stream = server.connect().await;
    send(&mut stream, "\x16\x03\x01\x02\0").await;
    // Go's crypto/tls reads five bytes and looks for `HTTP/`.
    let answer = rest(&mut stream).await.unwrap();
    assert!(answer.starts_with("HTTP/1.0 400 Bad Request\r\n"), "{answer}");
    assert!(answer.contains("X-Content-Type-Options: nosniff\r\n"), "{answer}");
    let body: serde_json::Value = serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap();
    assert_eq!(body["errors"][0]["code"], "UNSUPPORTED");
    server.end().await;
}

#[tokio::test]
async fn a_head_over_the_bound_is_refused() {
    let server = Setup::clear().start();
    let long = "x".repeat(30 * 1024);
    let response = client().get(server.http("/hello")).header("x-long", &long).send().await.unwrap();
    assert_eq!(response.status(), 431);
    let answer = h2_client().get(server.http("/hello")).header("x-long", &long).send().await;
    assert!(answer.is_err() || answer.unwrap().status() == 431);
    assert_eq!(server.stage.begun(), 0);
    server.end().await;
}

#[tokio::test]
async fn nonsense_gets_400_or_nothing_and_never_a_handler() {
    let server = Setup::clear().start();
    for nonsense in ["\0\0\0\0\r\n\r\n", "GET /hello SPDY/9\r\n\r\n", "PRI * HTTP/3.0\r\n\r\n", "\r\n\r\nx y z\r\n\r\n"]
    {
        let mut stream = server.connect().await;
        send(&mut stream, nonsense).await;
        let answer = rest(&mut stream).await.unwrap_or_default();
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400"), "{nonsense:?}: {answer}");
    }
    assert_eq!(server.stage.begun(), 0);
    server.end().await;
}

#[tokio::test]
async fn an_inherited_socket_replaces_the_configured_address() {
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let mut setup = Setup::clear();
    setup.config.listen = vec!["192.0.2.1:1".parse().unwrap()];
    let server = setup.start_with(vec![socket]);
    assert_eq!(server.address, address);
    assert_eq!(client().get(server.http("/hello")).send().await.unwrap().text().await.unwrap(), "hello\n");
    server.end().await;
}
