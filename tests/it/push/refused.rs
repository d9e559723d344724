//! Pushes are refused before their bodies are read.

use http::Method;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use forebay_test_support::manifest::manifest;
use forebay_test_support::{fake_registry::FakeRegistry, mirror::Mirror, raw::Raw, until::bounded};

#[tokio::test]
async fn every_way_to_write_is_refused() {
    let registry = FakeRegistry::start().await;
    let image = registry.add_image("team/app", "1", &[b"a layer"]);
    let mirror = Mirror::of(&registry).await;
    let uploads = "/v2/team/app/blobs/uploads/";
    let layer = format!("/v2/team/app/blobs/{}", image.layers[0]);
    for (method, path) in [
        (Method::POST, uploads.to_owned()),
        (Method::POST, uploads.trim_end_matches('/').to_owned()),
        (Method::POST, format!("{uploads}?mount={}&from=other/app", image.layers[0])),
        (Method::PATCH, format!("{uploads}session-1")),
        (Method::PUT, format!("{uploads}session-1?digest={}", image.layers[0])),
        (Method::GET, format!("{uploads}session-1")),
        (Method::DELETE, format!("{uploads}session-1")),
        (Method::PUT, manifest(1)),
        (Method::PUT, manifest(&image.manifest)),
        (Method::DELETE, manifest(1)),
        (Method::DELETE, manifest(&image.manifest)),
        (Method::DELETE, layer.clone()),
        (Method::PUT, layer),
        (Method::DELETE, "/v2/team/app/tags/list".to_owned()),
        (Method::OPTIONS, manifest(1)),
    ] {
        let refused = mirror.request(method.clone(), &path, &[]).await;
        assert_eq!((refused.status, &*refused.error_code()), (405, "UNSUPPORTED"), "{method} {path}");
        assert_eq!(refused.header("allow"), Some("GET, HEAD"), "{method} {path}");
    }
    assert!(registry.requests().is_empty());
    mirror.until_metric("forebay_requests_total", &[("operation", "push"), ("status", "405")], 15.0).await;
}

/// A client that announces a gigabyte and sends next to nothing of it gets its answer all the same.
#[tokio::test]
async fn a_large_body_is_not_waited_for() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    for (expect, body) in [("", "some of the body"), ("expect: 100-continue\r\n", "")] {
        let mut stream = TcpStream::connect(mirror.address()).await.unwrap();
        let head = format!(
            "PATCH /v2/team/app/blobs/uploads/1 HTTP/1.1\r\nhost: x\r\ncontent-length: 1073741824\r\n{expect}\r\n{body}"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let answer = bounded(Raw::answer(stream)).await.unwrap();
        // The first head is the answer itself, no 100 Continue that would invite the body.
        assert_eq!((answer.status, answer.header("allow")), (405, Some("GET, HEAD")), "{expect}");
        assert!(answer.rest().await.is_whole());
    }
    // The connection is of no more use, and is closed rather than drained.
    let mut stream = TcpStream::connect(mirror.address()).await.unwrap();
    let head = "POST /v2/team/app/blobs/uploads/ HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // A reset is as good an end as any.
    let _ = bounded(stream.read_to_end(&mut answer)).await;
    assert!(answer.starts_with(b"HTTP/1.1 405 "), "{}", String::from_utf8_lossy(&answer));
}
