//! Bodies without a length that end before the blob does, in ways that look like an end.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use forebay_test_support::{
    blob::{self, add, path},
    fake_registry::{FakeRegistry, Fault, Gate, When},
    mirror::{Builder, Mirror, UPSTREAM},
    raw::Raw,
    test_ca::TestCa,
};

const LEN: usize = 400_000;

/// Where the cache has room for the blob, and where it has not.
const SIZES: [u64; 2] = [1 << 30, 100_000];

fn ranges(registry: &FakeRegistry) -> usize {
    registry.count(|request| request.header("range").is_some())
}

async fn assert_whole(mirror: &Mirror, digest: &forebay::oci::Digest, content: &Bytes) {
    let end = Raw::get(mirror.address(), &path(digest), &[]).await.rest().await;
    assert!(end.is_whole() && end.bytes() == content, "{} bytes", end.bytes().len());
    assert_eq!(mirror.metric("forebay_digest_mismatches_total", &[]).await, 0.0);
}

/// Resets the stream of the next answer after `at` bytes.
fn end_early(registry: &FakeRegistry, digest: &forebay::oci::Digest, at: usize) -> Gate {
    let gate = Gate::new();
    registry.fault_times(1, When::blob(digest), Fault::HoldBody { at, gate: gate.clone() });
    registry.fault_times(1, When::blob(digest), Fault::EndEarly { at });
    gate
}

async fn received(mirror: &Mirror) -> f64 {
    mirror.metric("forebay_upstream_received_bytes_total", &[]).await
}

/// Lets the stream be reset when so many bytes have come in all.
async fn open_at(mirror: &Mirror, gate: &Gate, bytes: f64) {
    gate.reached().await;
    mirror.until_metric("forebay_upstream_received_bytes_total", &[], bytes).await;
    gate.open();
}

async fn over_http2(size: u64) -> (FakeRegistry, Mirror) {
    let ca = TestCa::new();
    let registry = FakeRegistry::start_tls(ca.server(&["127.0.0.1"])).await;
    let text = format!(
        "[[upstream]]\nname = \"{UPSTREAM}\"\nurls = [\"{}\"]\nca = \"{}\"\ndefault = true\n",
        registry.url(),
        ca.path().display()
    );
    let mirror = Mirror::parse(&text).max_size(size).start().await;
    (registry, mirror)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_reset_without_an_error_is_resumed() {
    for size in SIZES {
        let (registry, mirror) = over_http2(size).await;
        for (seed, at) in [1, 70_000, 200_000, LEN - 1, LEN].into_iter().enumerate() {
            registry.heal();
            registry.forget_requests();
            let (digest, content) = add(&registry, LEN, seed as u64);
            registry.fault_times(1, When::blob(&digest), Fault::NoContentLength);
            let gate = end_early(&registry, &digest, at);
            let bytes = received(&mirror).await + at as f64;
            tokio::join!(assert_whole(&mirror, &digest, &content), open_at(&mirror, &gate, bytes));
            assert!(ranges(&registry) <= 1 && registry.count(|_| true) <= 2, "{at}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_is_reset_again_and_again_is_resumed_as_often() {
    let (registry, mirror) = over_http2(1 << 30).await;
    let (digest, content) = add(&registry, LEN, 1);
    registry.fault(When::blob(&digest), Fault::NoContentLength);
    // Before the client asks.
    let mut gate = end_early(&registry, &digest, LEN / 4);
    let resets = async {
        for part in 1..=4 {
            gate.reached().await;
            let next = end_early(&registry, &digest, LEN / 4);
            open_at(&mirror, &gate, (LEN / 4 * part) as f64).await;
            gate = next;
        }
        std::future::pending().await
    };
    // All of the last part may be taken, and its stream be gone, before the registry comes to its end.
    tokio::select! {
        () = assert_whole(&mirror, &digest, &content) => {}
        () = resets => {}
    }
    assert_eq!(ranges(&registry), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_no_part_is_given_the_whole_is_read_once_more() {
    for fault in [Fault::IgnoreRange, Fault::status(403), Fault::status(500), Fault::Header("content-range", None)] {
        let (registry, mirror) = over_http2(1 << 30).await;
        let (digest, content) = add(&registry, LEN, 1);
        registry.fault(When::blob(&digest), Fault::NoContentLength);
        registry.fault(When::blob(&digest).ranged(), fault);
        let gate = end_early(&registry, &digest, LEN / 2);
        tokio::join!(assert_whole(&mirror, &digest, &content), open_at(&mirror, &gate, (LEN / 2) as f64));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_bytes_without_a_length_are_still_found_at_once() {
    for size in SIZES {
        let (registry, mirror) = over_http2(size).await;
        let (digest, _) = add(&registry, LEN, 1);
        registry.fault(When::blob(&digest), Fault::NoContentLength);
        registry.fault(When::blob(&digest), Fault::Corrupt { at: 7 });
        assert!(!Raw::get(mirror.address(), &path(&digest), &[]).await.rest().await.is_whole());
        mirror.until_metric("forebay_digest_mismatches_total", &[], 1.0).await;
        // The end was asked for once more: there is none.
        assert_eq!((ranges(&registry), registry.count(|_| true)), (1, 2));
        assert!(blob::files(&mirror.cache_dir().join("tmp")).is_empty());
    }
}

/// An upstream whose first body ends with its connection, after `at` bytes; it gives parts of `content`, and notes them.
async fn by_the_connection(content: Bytes, at: usize) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let ranges = Arc::new(Mutex::new(Vec::new()));
    let noted = ranges.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            answer(stream, &content, at, &noted).await;
        }
    });
    (url, ranges)
}

async fn answer(mut stream: TcpStream, content: &Bytes, at: usize, noted: &Mutex<Vec<String>>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if !matches!(stream.read_buf(&mut head).await, Ok(read) if read > 0) {
            return;
        }
    }
    let head = String::from_utf8(head).unwrap().to_lowercase();
    let range = head.lines().find_map(|line| line.strip_prefix("range: ")).map(str::to_owned);
    let (start, body) = match &range {
        None => ("200 OK\r\n".to_owned(), content.slice(..at)),
        Some(range) => {
            noted.lock().unwrap().push(range.clone());
            let first: usize = range.trim_start_matches("bytes=").trim_end_matches('-').parse().unwrap();
            match content.len() - first {
                0 => (format!("416 No\r\nContent-Range: bytes */{LEN}\r\n"), Bytes::new()),
                _ => {
                    (format!("206 Part\r\nContent-Range: bytes {first}-{}/{LEN}\r\n", LEN - 1), content.slice(first..))
                }
            }
        }
    };
    let _ = stream.write_all(format!("HTTP/1.1 {start}Connection: close\r\n\r\n").as_bytes()).await;
    let _ = stream.write_all(&body).await;
    let _ = stream.shutdown().await;
    // Until the other side has closed as well: what it has not read must not be lost.
    let _ = stream.read_to_end(&mut Vec::new()).await;
}

fn mirror_of(url: &str, size: u64) -> Builder {
    Mirror::parse(&format!("[[upstream]]\nname = \"{UPSTREAM}\"\nurls = [\"{url}\"]\ndefault = true\n")).max_size(size)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_ends_with_its_connection_is_resumed() {
    for size in SIZES {
        for at in [1, 70_000, LEN - 1, LEN] {
            let content = blob::content(LEN, at as u64);
            let digest = forebay::oci::Digest::of(forebay::oci::Algorithm::Sha256, &content);
            let (url, ranges) = by_the_connection(content.clone(), at).await;
            let mirror = mirror_of(&url, size).start().await;
            assert_whole(&mirror, &digest, &content).await;
            let expected = if at < LEN { vec![format!("bytes={at}-")] } else { vec![] };
            assert_eq!(*ranges.lock().unwrap(), expected);
        }
    }
}
