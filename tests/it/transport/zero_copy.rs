//! However a blob's bytes leave, a client sees the same: sent by the kernel, copied, encrypted, from pages in memory or
//! not, over every version of HTTP.

use std::{fs::File, net::SocketAddr, path::Path};

use bytes::Bytes;
use forebay::oci::Digest;
use http::header;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use forebay_test_support::{
    blob::{self, add, path},
    fake_registry::{FakeRegistry, Fault, Gate, When},
    mirror::Mirror,
    test_server::Certificates,
    until::{bounded, until},
    wire::send,
};

/// A way for bytes to leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// Clear HTTP/1.1, pages in memory: the kernel sends them.
    Kernel,
    /// Clear HTTP/1.1, pages on disk: the kernel sends them once the disk has brought them.
    Cold,
    ClearHttp2,
    TlsHttp1,
    /// Pages on disk.
    TlsCold,
    TlsHttp2,
}

const WAYS: [Way; 6] = [Way::Kernel, Way::Cold, Way::ClearHttp2, Way::TlsHttp1, Way::TlsCold, Way::TlsHttp2];

/// Around what is sent in one piece, and what is copied because it is small.
const LENGTHS: [usize; 8] = [1, 4096, 32 * 1024, 32 * 1024 + 1, 256 * 1024, 2 << 20, (2 << 20) + 1, 5_000_001];

/// What is always copied.
const SMALL: usize = 32 * 1024;

struct Stage {
    registry: FakeRegistry,
    mirror: Mirror,
    certificates: Certificates,
}

impl Stage {
    async fn set() -> Self {
        let registry = FakeRegistry::start().await;
        let certificates = Certificates::new();
        let tls = certificates.config.clone();
        let mirror = Mirror::build(&registry).config(|config| config.server.tls = Some(tls)).start().await;
        Self { registry, mirror, certificates }
    }

    /// A client of this way; it keeps its connections.
    fn client(&self, way: Way) -> reqwest::Client {
        let builder = self.certificates.client();
        match way {
            Way::Kernel | Way::Cold => builder,
            Way::ClearHttp2 => builder.http2_prior_knowledge(),
            Way::TlsHttp1 | Way::TlsCold => builder.http1_only(),
            Way::TlsHttp2 => builder,
        }
        .build()
        .unwrap()
    }

    fn url(&self, way: Way, path: &str) -> String {
        let port = self.mirror.address().port();
        match way {
            Way::Kernel | Way::Cold | Way::ClearHttp2 => format!("http://127.0.0.1:{port}{path}"),
            Way::TlsHttp1 | Way::TlsCold | Way::TlsHttp2 => format!("https://localhost:{port}{path}"),
        }
    }

    async fn get(&self, client: &reqwest::Client, way: Way, digest: &Digest, range: Option<&str>) -> reqwest::Response {
        if matches!(way, Way::Cold | Way::TlsCold) {
            chill(&self.mirror.cache_dir(), digest);
        }
        let mut request = client.get(self.url(way, &path(digest)));
        if let Some(range) = range {
            request = request.header(header::RANGE, range);
        }
        let response = bounded(request.send()).await.unwrap();
        let expected = matches!(way, Way::ClearHttp2 | Way::TlsHttp2);
        assert_eq!(response.version() == http::Version::HTTP_2, expected, "{way:?}");
        response
    }

    /// A blob that is in the cache.
    async fn cached(&self, len: usize, seed: u64) -> (Digest, Bytes) {
        let (digest, content) = add(&self.registry, len, seed);
        assert!(self.mirror.get(&path(&digest)).await.body == content);
        self.mirror.until_metric("forebay_fills_in_flight", &[], 0.0).await;
        (digest, content)
    }
}

/// How many bytes the kernel sent from the page cache.
async fn sent_by_kernel(mirror: &Mirror) -> f64 {
    mirror.metric("forebay_sent_by_kernel_bytes_total", &[]).await
}

/// Takes a blob's pages out of memory.
fn chill(cache: &Path, digest: &Digest) {
    let file = File::open(blob::file(cache, digest)).unwrap();
    file.sync_all().unwrap();
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
}

/// All that came, and whether it was whole.
async fn read(mut response: reqwest::Response) -> (Vec<u8>, bool) {
    let mut all = Vec::new();
    loop {
        match bounded(response.chunk()).await {
            Ok(Some(bytes)) => all.extend_from_slice(&bytes),
            Ok(None) => return (all, true),
            Err(_) => return (all, false),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_length_arrives_whole_again_and_again_on_one_connection() {
    let stage = Stage::set().await;
    for (seed, len) in LENGTHS.into_iter().enumerate() {
        let (digest, content) = stage.cached(len, seed as u64).await;
        for way in WAYS {
            let client = stage.client(way);
            for _ in 0..2 {
                let mut attempts = 0;
                let by_kernel = loop {
                    let head = client.head(stage.url(way, &path(&digest))).send().await.unwrap();
                    assert_eq!(head.headers()[header::CONTENT_LENGTH], *len.to_string());
                    let before = sent_by_kernel(&stage.mirror).await;
                    let response = stage.get(&client, way, &digest, None).await;
                    assert_eq!(response.headers()["cache-status"], "forebay; hit");
                    assert_eq!(response.content_length(), Some(len as u64));
                    let (body, whole) = read(response).await;
                    assert!(whole && body == content, "{way:?}, {len} bytes");
                    let by_kernel = sent_by_kernel(&stage.mirror).await - before;
                    attempts += 1;
                    // A kernel that is short of memory may drop pages before they are sent; forebay then reads the rest.
                    if !matches!(way, Way::Cold) || by_kernel + SMALL as f64 >= len as f64 || attempts == 10 {
                        break by_kernel;
                    }
                };
                match way {
                    // But for a short end.
                    Way::Kernel | Way::Cold if len > SMALL => {
                        assert!(by_kernel + SMALL as f64 >= len as f64, "{way:?}: {by_kernel} of {len}")
                    }
                    Way::Kernel | Way::Cold | Way::ClearHttp2 | Way::TlsHttp1 | Way::TlsCold | Way::TlsHttp2 => {
                        assert_eq!(by_kernel, 0.0, "{way:?}")
                    }
                }
            }
        }
    }
}

/// tmpfs refuses RWF_NOWAIT; all of it is in memory.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_kernel_sends_from_a_cache_on_tmpfs() {
    let (registry, folder) = (FakeRegistry::start().await, tempfile::tempdir_in("/dev/shm").unwrap());
    let cache = folder.path().join("cache");
    let mirror = Mirror::build(&registry).config(|config| config.cache.directory = cache).start().await;
    let len = 5_000_001;
    let (digest, content) = add(&registry, len, 1);
    assert!(mirror.get(&path(&digest)).await.body == content);
    mirror.until_metric("forebay_fills_in_flight", &[], 0.0).await;
    let before = sent_by_kernel(&mirror).await;
    assert!(mirror.get(&path(&digest)).await.body == content);
    let by_kernel = sent_by_kernel(&mirror).await - before;
    assert!(by_kernel + SMALL as f64 >= len as f64, "{by_kernel} of {len}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_range_is_the_part_it_names() {
    let stage = Stage::set().await;
    let len = 5_000_001;
    let (digest, content) = stage.cached(len, 1).await;
    for way in WAYS {
        let client = stage.client(way);
        for (first, last) in [
            (0, 0),
            (0, len - 1),
            (1, len - 1),
            (4095, 4096),
            (100_000, 100_000 + (2 << 20)),
            (2_097_151, 2_097_152),
            (len - 40_000, len - 1),
            (len - 1, len - 1),
        ] {
            let response = stage.get(&client, way, &digest, Some(&format!("bytes={first}-{last}"))).await;
            assert_eq!(response.status(), 206);
            let (body, whole) = read(response).await;
            assert!(whole && body == content[first..=last], "{way:?}, {first} to {last}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_growing_blob_is_followed_closely_and_to_its_end() {
    for way in WAYS.into_iter().filter(|way| !matches!(way, Way::Cold | Way::TlsCold)) {
        let stage = Stage::set().await;
        let (digest, content) = add(&stage.registry, 5_000_001, 7);
        let (gate, half) = (Gate::new(), content.len() / 2);
        stage.registry.fault(When::blob(&digest), Fault::HoldBody { at: half, gate: gate.clone() });
        let client = stage.client(way);
        let mut response = stage.get(&client, way, &digest, None).await;
        let mut body = Vec::new();
        while body.len() < half {
            body.extend_from_slice(&bounded(response.chunk()).await.unwrap().unwrap());
        }
        assert_eq!(body.len(), half, "{way:?}: no more than the upstream has sent");
        gate.open();
        let (rest, whole) = read(response).await;
        body.extend(rest);
        assert!(whole && body == content, "{way:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blob_that_is_cut_on_disk_is_never_a_whole_response() {
    let stage = Stage::set().await;
    // More than all buffers between the disk and the client.
    let len = 64 << 20;
    let (digest, content) = stage.cached(len, 3).await;
    for way in WAYS {
        let client = stage.client(way);
        let mut response = stage.get(&client, way, &digest, None).await;
        let mut body = bounded(response.chunk()).await.unwrap().unwrap().to_vec();
        let file = blob::file(&stage.mirror.cache_dir(), &digest);
        let kept = 1 << 20;
        File::options().write(true).open(&file).unwrap().set_len(kept).unwrap();
        let (rest, whole) = read(response).await;
        body.extend(rest);
        assert!(!whole && body.len() < len && content.starts_with(&body), "{way:?}: {} bytes", body.len());
        // It is found out, fetched again, and right.
        let response = stage.get(&stage.client(Way::Kernel), Way::Kernel, &digest, None).await;
        assert_eq!(response.headers()["cache-status"], "forebay; fwd=miss; stored", "{way:?}");
        let (body, whole) = read(response).await;
        assert!(whole && body == content, "{way:?}");
        stage.mirror.until_metric("forebay_fills_in_flight", &[], 0.0).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_waits_or_leaves_disturbs_no_other() {
    let stage = Stage::set().await;
    let len = 64 << 20;
    let (digest, content) = stage.cached(len, 5).await;
    for way in WAYS {
        let client = stage.client(way);
        let mut slow = stage.get(&client, way, &digest, None).await;
        let mut begun = bounded(slow.chunk()).await.unwrap().unwrap().to_vec();
        let mut leaving = stage.get(&stage.client(way), way, &digest, None).await;
        bounded(leaving.chunk()).await.unwrap();
        drop(leaving);
        let (body, whole) = read(stage.get(&stage.client(way), way, &digest, None).await).await;
        assert!(whole && body == content, "{way:?}");
        let (rest, whole) = read(slow).await;
        begun.extend(rest);
        assert!(whole && begun == content, "{way:?}: the slow one");
    }
    until("all connections but the test's own are gone", async || {
        stage.mirror.metric("forebay_connections", &[]).await <= 1.0
    })
    .await;
}

/// Requests sent at once are answered in order, each whole, whatever the kernel sends of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pipelined_requests_are_answered_in_order() {
    let stage = Stage::set().await;
    let (large, large_content) = stage.cached(5_000_001, 1).await;
    let (small, small_content) = stage.cached(100, 2).await;
    let address = stage.mirror.address();
    let order =
        [(&large, &large_content), (&small, &small_content), (&large, &large_content), (&large, &large_content)];
    for cold in [false, true] {
        if cold {
            chill(&stage.mirror.cache_dir(), &large);
        }
        let mut stream = ask_for(address, &order.map(|(digest, _)| digest)).await;
        for (digest, content) in order {
            let body = bounded(next_body(&mut stream)).await;
            assert!(body == *content, "{digest}");
        }
    }
}

async fn ask_for(address: SocketAddr, digests: &[&Digest]) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let requests: String =
        digests.iter().map(|digest| format!("GET {} HTTP/1.1\r\nHost: x\r\n\r\n", path(digest))).collect();
    stream.write_all(requests.as_bytes()).await.unwrap();
    stream
}

async fn next_body(stream: &mut TcpStream) -> Vec<u8> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    let head = String::from_utf8(head).unwrap().to_lowercase();
    let len = head.split("content-length: ").nth(1).unwrap().lines().next().unwrap().parse().unwrap();
    let mut body = vec![0; len];
    stream.read_exact(&mut body).await.unwrap();
    body
}

/// HTTP/1.0 knows no chunks, and names no host; a client that takes it for a proxy writes the whole URL.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_of_http_1_0_and_of_a_proxy_get_all_of_it() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    let close = "Connection: close\r\n\r\n";
    let mut seed = 0;
    for (len, is_length_told) in [(100, true), (100, false), (300_000, true), (300_000, false)] {
        for (way, is_old) in [
            (" HTTP/1.0\r\n\r\n".to_owned(), true),
            (" HTTP/1.0\r\nHost: mirror.lan\r\n\r\n".to_owned(), true),
            (format!(" HTTP/1.1\r\nHost: mirror.lan\r\n{close}"), false),
        ] {
            for host in ["", "http://mirror.lan", "http://mirror.lan:5000"] {
                registry.heal();
                if !is_length_told {
                    registry.fault(When::blobs(), Fault::NoContentLength);
                }
                seed += 1;
                let (digest, content) = add(&registry, len, seed);
                for what in ["cold", "cached"] {
                    let answer = send(mirror.address(), &format!("GET {host}{}{way}", path(&digest))).await;
                    let shown = format!("{host} {way:?} {len} {is_length_told} {what}");
                    assert_eq!(answer.status, 200, "{shown}");
                    if is_old || is_length_told || what == "cached" {
                        assert_eq!(answer.header("transfer-encoding"), None, "{shown}");
                        assert!(answer.body == content, "{shown}");
                    }
                    mirror.until_metric("forebay_fills_in_flight", &[], 0.0).await;
                }
            }
        }
    }
}
