//! Content passes as a stream: as fast as both sides go, and not before it is wanted.

use bytes::Bytes;
use futures_util::stream;
use http::Method;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::mpsc,
};

use super::{begin, digest, location, mirror_of, with_digest};
use forebay_test_support::{
    fake_registry::{Auth, Bearer, FakeRegistry, Fault, Gate, When},
    mirror::Mirror,
    raw::Raw,
    until::bounded,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_upstream_has_the_beginning_before_the_client_has_the_end() {
    let registry = FakeRegistry::start().await;
    let mirror = mirror_of(&registry).await;
    let place = begin(&mirror).await;
    let gate = Gate::new();
    registry.fault(When::uploads().method(Method::PATCH), Fault::HoldContent { at: 100_000, gate: gate.clone() });
    let (pieces, mut wanted) = mpsc::channel::<Result<Bytes, std::io::Error>>(1);
    let stream = stream::poll_fn(move |cx| wanted.poll_recv(cx));
    let sending = mirror.send(Method::PATCH, &place, &[], reqwest::Body::wrap_stream(stream));
    let feeding = async {
        pieces.send(Ok(Bytes::from(vec![1; 100_000]))).await.unwrap();
        bounded(gate.reached()).await;
        gate.open();
        pieces.send(Ok(Bytes::from(vec![2; 100_000]))).await.unwrap();
        drop(pieces);
    };
    let (patched, ()) = tokio::join!(sending, feeding);
    assert_eq!((patched.status, patched.header("range")), (202, Some("0-199999")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_leaves_leaves_nothing_and_may_come_back() {
    let registry = FakeRegistry::start().await;
    let mirror = mirror_of(&registry).await;
    let place = begin(&mirror).await;
    let gate = Gate::new();
    registry.fault(When::uploads().method(Method::PATCH), Fault::HoldContent { at: 5, gate: gate.clone() });
    let mut stream = TcpStream::connect(mirror.address()).await.unwrap();
    let head = format!("PATCH {place} HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n12345");
    stream.write_all(head.as_bytes()).await.unwrap();
    bounded(gate.reached()).await;
    drop(stream);
    gate.open();
    registry.wait_for_broken(1).await;
    registry.heal();
    let asked = mirror.get(&place).await;
    assert_eq!((asked.status, asked.header("range")), (204, Some("0-0")), "nothing of it was kept");
    let put = mirror.send(Method::PUT, &with_digest(&location(&asked), &digest(b"whole")), &[], "whole").await;
    assert_eq!(put.status, 201);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_100_continue_waits_for_the_upstream_to_authenticate() {
    let registry = FakeRegistry::start().await;
    registry.require(Auth::Bearer(Bearer::default()));
    let mirror = mirror_of(&registry).await;
    let place = begin(&mirror).await;
    registry.revoke_tokens();
    let mut mirror = mirror;
    mirror.restart().await;
    registry.forget_requests();
    let gate = Gate::new();
    registry.fault(When::tokens(), Fault::HoldHead(gate.clone()));
    let mut stream = TcpStream::connect(mirror.address()).await.unwrap();
    let place = with_digest(&place, &digest(b"content"));
    let head = format!("PUT {place} HTTP/1.1\r\nhost: x\r\ncontent-length: 7\r\nexpect: 100-continue\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    bounded(gate.reached()).await;
    assert_eq!(registry.count(|request| request.method == Method::PUT), 0, "there is no token yet");
    let mut buffer = [0; 256];
    assert!(stream.try_read(&mut buffer).is_err(), "nothing was said yet");
    gate.open();
    let read = bounded(stream.read(&mut buffer)).await.unwrap();
    assert!(buffer[..read].starts_with(b"HTTP/1.1 100 "), "{}", String::from_utf8_lossy(&buffer[..read]));
    stream.write_all(b"content").await.unwrap();
    assert_eq!(bounded(Raw::answer(stream)).await.unwrap().status, 201);
    let put = registry.requests().into_iter().find(|request| request.method == Method::PUT).unwrap();
    assert_eq!((put.header("content-length"), put.header("expect")), (Some("7"), None));

    // A client that may not push gets the refusal instead.
    registry.heal();
    registry.require(Auth::Bearer(Bearer { anonymous: false, ..Bearer::default() }));
    registry.revoke_tokens();
    mirror.restart().await;
    let mut stream = TcpStream::connect(mirror.address()).await.unwrap();
    let head = "PUT /v2/team/app/manifests/1 HTTP/1.1\r\nhost: x\r\ncontent-length: 7\r\nexpect: 100-continue\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    assert_eq!(bounded(Raw::answer(stream)).await.unwrap().status, 403);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_http_2_content_passes_as_well() {
    let registry = FakeRegistry::start().await;
    let mirror = mirror_of(&registry).await;
    let client = reqwest::Client::builder().no_proxy().http2_prior_knowledge().build().unwrap();
    let content: Vec<u8> = (0..5_000_000_u32).flat_map(u32::to_le_bytes).collect();
    let digest = digest(&content);
    let begun = client.post(format!("{}{}", mirror.url(), super::UPLOADS)).send().await.unwrap();
    assert_eq!((begun.version(), begun.status().as_u16()), (reqwest::Version::HTTP_2, 202));
    let place = begun.headers()["location"].to_str().unwrap();
    let url = format!("{}{}", mirror.url(), with_digest(place, &digest));
    let put = client.put(url).body(content.clone()).send().await.unwrap();
    assert_eq!(put.status().as_u16(), 201);
    assert_eq!(registry.blob("team/app", &digest).unwrap(), content);
    let sent = registry.requests().into_iter().find(|request| request.method == Method::PUT).unwrap();
    assert_eq!(sent.header("content-length"), Some("20000000"), "its length is told on");
}

/// Sends all of this at once and reads until the connection ends: the statuses that came, and whether the first answer
/// said that it is the last.
async fn exchange(mirror: &Mirror, sent: &str) -> (Vec<u16>, bool) {
    let mut stream = TcpStream::connect(mirror.address()).await.unwrap();
    stream.write_all(sent.as_bytes()).await.unwrap();
    let mut received = Vec::new();
    // A connection that is reset has ended, too.
    let _ = bounded(stream.read_to_end(&mut received)).await;
    let text = String::from_utf8_lossy(&received).to_ascii_lowercase();
    let answers: Vec<&str> = text.split("http/1.1 ").skip(1).collect();
    let statuses = answers.iter().map(|answer| answer[..3].parse().unwrap()).collect();
    (statuses, answers.first().is_some_and(|first| first.contains("\r\nconnection: close\r\n")))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_body_is_drained_or_its_connection_closed() {
    let registry = FakeRegistry::start().await;
    let mirror = mirror_of(&registry).await;
    let next = "GET /v2/ HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    for (line, status) in [
        ("PUT /v2/team/app/manifests/sha256:none", 400),
        ("PATCH /v2/team/app/blobs/uploads/1?_state=none", 404),
        ("POST /v2/", 405),
        ("GET /v2/", 200),
    ] {
        // More than is read at once with the head.
        let content = "x".repeat(200_000);
        let len = content.len();
        let sent = format!("{line} HTTP/1.1\r\nhost: x\r\ncontent-length: {len}\r\n\r\n{content}{next}");
        assert_eq!(exchange(&mirror, &sent).await.0, [status, 200], "{line}");
        let sent = format!(
            "{line} HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n{len:x}\r\n{content}\r\n0\r\n\r\n{next}"
        );
        assert_eq!(exchange(&mirror, &sent).await.0, [status, 200], "{line}, chunked");
        for (what, head) in [
            ("too much to be read", "content-length: 1000000"),
            ("does not come", "content-length: 5"),
            ("is held back", "content-length: 5\r\nexpect: 100-continue"),
        ] {
            let sent = format!("{line} HTTP/1.1\r\nhost: x\r\n{head}\r\n\r\n");
            assert_eq!(exchange(&mirror, &sent).await, (vec![status], true), "{line}, {what}");
        }
    }
}

/// Where nothing may be pushed, that is said before any byte of it is read.
#[tokio::test]
async fn what_may_not_be_pushed_is_not_read() {
    let registry = FakeRegistry::start().await;
    let mirror = forebay_test_support::mirror::Mirror::of(&registry).await;
    let next = "GET /v2/ HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    let content = "x".repeat(5000);
    for line in
        ["PUT /v2/team/app/manifests/1", "POST /v2/team/app/blobs/uploads/", "PATCH /v2/team/app/blobs/uploads/1"]
    {
        let sent = format!("{line} HTTP/1.1\r\nhost: x\r\ncontent-length: 5000\r\n\r\n{content}{next}");
        assert_eq!(exchange(&mirror, &sent).await, (vec![405], true), "{line}");
    }
    assert!(registry.requests().is_empty());
}
