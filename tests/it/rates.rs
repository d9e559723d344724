//! Rates: how fast an upstream may send, and clients get what they request.
//!
//! The clock is paused while bytes move: it jumps to the next timer whenever everything waits, so only what a rate holds
//! back takes time. For that, all runs on one thread.

use std::time::Duration;

use bytes::Bytes;
use forebay::{config::Config, oci::Digest, rate::BytesPerSecond};
use http::header;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::Instant,
};

use forebay_test_support::{
    blob::{add, content, path},
    fake_registry::{FakeRegistry, Record},
    manifest::manifest,
    mirror::{Mirror, UPSTREAM},
    program::Program,
    raw::Raw,
    test_ca::TestCa,
    test_server::Certificates,
    until::until,
};

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
/// What may move at once.
const BURST: u64 = 256 * KIB;

fn rate(bytes: u64) -> Option<BytesPerSecond> {
    Some(BytesPerSecond::new(bytes).unwrap())
}

fn set(mirror: &Mirror, change: impl FnOnce(&mut Config)) {
    let mut config = mirror.config().clone();
    change(&mut config);
    mirror.app().reload(config).unwrap();
}

/// A mirror that has a blob of this length.
async fn with_blob(registry: &FakeRegistry, len: u64) -> (Mirror, Digest, Bytes) {
    let mirror = Mirror::of(registry).await;
    let (digest, content) = add(registry, usize::try_from(len).unwrap(), 1);
    assert!(mirror.get(&path(&digest)).await.body == content);
    mirror.until_metric("forebay_fills_in_flight", &[], 0.0).await;
    (mirror, digest, content)
}

/// The seconds that `work` takes on a clock that only timers move.
async fn seconds<T>(work: impl Future<Output = T>) -> (f64, T) {
    tokio::time::pause();
    let begun = Instant::now();
    let value = work.await;
    let seconds = begun.elapsed().as_secs_f64();
    tokio::time::resume();
    (seconds, value)
}

/// So many bytes took at least as long as they must.
#[track_caller]
fn assert_rate(seconds: f64, bytes: u64, rate: u64) {
    let least = (bytes - BURST) as f64 / rate as f64;
    assert!(seconds >= least, "{bytes} bytes came in {seconds} s, not in {least} s");
}

async fn held(mirror: &Mirror, limit: &str) -> f64 {
    mirror.metric("forebay_rate_limited_seconds_total", &[("upstream", UPSTREAM), ("limit", limit)]).await
}

async fn sent_by_kernel(mirror: &Mirror) -> f64 {
    mirror.metric("forebay_sent_by_kernel_bytes_total", &[]).await
}

#[tokio::test]
async fn a_cached_blob_is_sent_at_its_rate_and_by_the_kernel() {
    let registry = FakeRegistry::start().await;
    let (mirror, digest, content) = with_blob(&registry, 8 * MIB).await;
    set(&mirror, |config| config.upstreams[0].max_rate_out = rate(MIB));
    let before = sent_by_kernel(&mirror).await;
    let (seconds, answer) = seconds(mirror.get(&path(&digest))).await;
    assert!(answer.body == content && answer.header("cache-status") == Some("forebay; hit"));
    assert_rate(seconds, 8 * MIB, MIB);
    let (held, by_kernel) = (held(&mirror, "max_rate_out").await, sent_by_kernel(&mirror).await - before);
    assert!(held > 7.0 && held <= seconds, "{held} of {seconds} s");
    assert_eq!(by_kernel, content.len() as f64);
}

#[tokio::test]
async fn a_cold_blob_comes_at_its_rate_over_one_connection() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::build(&registry)
        .config(|config| {
            config.upstreams[0].max_rate_in = rate(2 * MIB);
            config.upstreams[0].connections = 6;
        })
        .start()
        .await;
    let (digest, content) = add(&registry, 24 * MIB as usize, 1);
    let (seconds, answer) = seconds(mirror.get(&path(&digest))).await;
    assert!(answer.body == content);
    assert_rate(seconds, 24 * MIB, 2 * MIB);
    assert_eq!(registry.count(|record| record.is_blob_get(&digest)), 1);
    assert!(held(&mirror, "max_rate_in").await > 11.0);
    assert_eq!(held(&mirror, "max_rate_out").await, 0.0);
}

/// A stream that is held back would fill the window of its HTTP/2 connection, and the others would look silent.
#[tokio::test]
async fn a_rate_keeps_blobs_off_shared_connections() {
    let ca = TestCa::new();
    let registry = FakeRegistry::start_tls(ca.server(&["127.0.0.1"])).await;
    let mirror = Mirror::build(&registry).config(|config| config.upstreams[0].ca = Some(ca.path())).start().await;
    for (seed, limit, over_http1) in [(1, None, 0), (2, rate(64 * MIB), 1)] {
        set(&mirror, |config| config.upstreams[0].max_rate_in = limit);
        let (digest, content) = add(&registry, 100_000, seed);
        assert!(mirror.get(&path(&digest)).await.body == content);
        // HTTP/2 has no such header.
        let is_http1 = |record: &Record| record.is_blob_get(&digest) && record.header("host").is_some();
        assert_eq!(registry.count(is_http1), over_http1, "{limit:?}");
    }
}

#[tokio::test]
async fn an_uncached_blob_comes_at_its_rate() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::build(&registry)
        .max_size(MIB)
        .config(|config| config.upstreams[0].max_rate_in = rate(MIB))
        .start()
        .await;
    let (digest, content) = add(&registry, 8 * MIB as usize, 1);
    let path = path(&digest);
    let both = async { tokio::join!(mirror.get(&path), mirror.get(&path)) };
    let (seconds, (first, second)) = seconds(both).await;
    assert!(first.body == content && second.body == content);
    let transfers = registry.count(|record| record.is_blob_get(&digest)) as u64;
    assert_rate(seconds, 8 * MIB * transfers.min(2), MIB);
}

#[tokio::test]
async fn a_small_blob_is_not_starved_by_ten_large_ones() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::build(&registry).config(|config| config.upstreams[0].max_rate_in = rate(MIB)).start().await;
    let large: Vec<_> = (0..10).map(|seed| add(&registry, 8 * MIB as usize, seed).0).collect();
    let (small, content) = add(&registry, 64 * KIB as usize, 99);
    tokio::time::pause();
    let mut clients = Vec::new();
    for digest in &large {
        let mut client = Raw::get(mirror.address(), &path(digest), &[]).await;
        client.read(1).await;
        clients.push(client);
    }
    let begun = Instant::now();
    assert!(mirror.get(&path(&small)).await.body == content);
    // A share of each of the others, and what the buffers of their connections hold.
    let waited = begun.elapsed();
    assert!(waited < Duration::from_secs(4), "{waited:?}");
}

#[tokio::test]
async fn all_connections_of_a_client_share_its_rate() {
    let registry = FakeRegistry::start().await;
    let (mirror, digest, content) = with_blob(&registry, 4 * MIB).await;
    set(&mirror, |config| config.access.client_rate = rate(MIB));
    let client = reqwest::Client::builder().no_proxy().http2_prior_knowledge().build().unwrap();
    let path = path(&digest);
    let url = format!("{}{path}", mirror.url());
    let http2 = async { client.get(&url).send().await.unwrap().bytes().await.unwrap() };
    let (seconds, (http1, http2)) = seconds(async { tokio::join!(mirror.get(&path), http2) }).await;
    assert!(http1.body == content && http2 == content);
    assert_rate(seconds, 8 * MIB, MIB);
    assert!(held(&mirror, "client_rate").await > 7.0);
}

#[tokio::test]
async fn a_client_in_a_trusted_network_has_no_rate() {
    let registry = FakeRegistry::start().await;
    let (mirror, digest, content) = with_blob(&registry, 2 * MIB).await;
    set(&mirror, |config| {
        config.access.client_rate = rate(64 * KIB);
        config.server.trusted_networks = vec!["127.0.0.0/8".parse().unwrap()];
    });
    assert!(mirror.get(&path(&digest)).await.body == content);
    assert_eq!(held(&mirror, "client_rate").await, 0.0);
}

#[tokio::test]
async fn responses_over_tls_keep_to_their_rates() {
    let registry = FakeRegistry::start().await;
    let certificates = Certificates::new();
    let tls = certificates.config.clone();
    let mirror = Mirror::build(&registry).config(|config| config.server.tls = Some(tls)).start().await;
    let (digest, content) = add(&registry, 4 * MIB as usize, 1);
    assert!(mirror.get(&path(&digest)).await.body == content);
    mirror.until_metric("forebay_fills_in_flight", &[], 0.0).await;
    let url = format!("https://localhost:{}{}", mirror.address().port(), path(&digest));
    for (limit, version) in [
        ("max_rate_out", http::Version::HTTP_11),
        ("max_rate_out", http::Version::HTTP_2),
        ("client_rate", http::Version::HTTP_11),
        ("client_rate", http::Version::HTTP_2),
    ] {
        set(&mirror, |config| match limit {
            "max_rate_out" => config.upstreams[0].max_rate_out = rate(MIB),
            _ => config.access.client_rate = rate(MIB),
        });
        let client = certificates.client();
        let client = if version == http::Version::HTTP_2 { client } else { client.http1_only() }.build().unwrap();
        // The handshake is no part of what is measured.
        assert_eq!(client.head(&url).send().await.unwrap().version(), version);
        let before = held(&mirror, limit).await;
        let get = async { client.get(&url).send().await.unwrap().bytes().await.unwrap() };
        let (seconds, body) = seconds(get).await;
        assert!(body == content, "{limit} {version:?}");
        assert_rate(seconds, 4 * MIB, MIB);
        assert!(held(&mirror, limit).await - before > 3.0, "{limit} {version:?}");
        // The bucket is full again for the next one.
        set(&mirror, |_| {});
    }
    assert_eq!(mirror.metric("forebay_stalls_total", &[]).await, 0.0);
}

#[tokio::test]
async fn several_ranges_come_at_their_rate() {
    let registry = FakeRegistry::start().await;
    let (mirror, digest, content) = with_blob(&registry, 4 * MIB).await;
    set(&mirror, |config| config.upstreams[0].max_rate_out = rate(MIB));
    let ranges = [(0, MIB as usize), (2 * MIB as usize + 7, 4 * MIB as usize)];
    let header = format!("bytes=0-{},{}-", ranges[0].1 - 1, ranges[1].0);
    let path = path(&digest);
    let (seconds, answer) = seconds(mirror.get_with(&path, &[("range", &header)])).await;
    assert_eq!(answer.status, 206);
    assert_rate(seconds, answer.body.len() as u64, MIB);
    let mut rest = &answer.body[..];
    for (first, end) in ranges {
        let head = rest.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
        let part = &content[first..end];
        assert!(rest[head..].starts_with(part));
        rest = &rest[head + part.len()..];
    }
}

/// Longer than the time in which a client has to accept something.
#[tokio::test]
async fn a_rate_looks_like_no_stall() {
    let registry = FakeRegistry::start().await;
    let (mirror, digest, content) = with_blob(&registry, 16 * MIB).await;
    set(&mirror, |config| config.upstreams[0].max_rate_out = rate(64 * KIB));
    let client = reqwest::Client::builder().no_proxy().http2_prior_knowledge().build().unwrap();
    let path = path(&digest);
    let url = format!("{}{path}", mirror.url());
    let http2 = async { client.get(&url).send().await.unwrap().bytes().await.unwrap() };
    let (seconds, (http1, http2)) = seconds(async { tokio::join!(mirror.get(&path), http2) }).await;
    assert!(http1.body == content && http2 == content);
    assert_rate(seconds, 32 * MIB, 64 * KIB);
    assert!(seconds > 240.0);
    assert_eq!(mirror.metric("forebay_stalls_total", &[]).await, 0.0);
}

#[tokio::test]
async fn a_reload_changes_the_rate_of_what_is_under_way() {
    let registry = FakeRegistry::start().await;
    let (mirror, digest, content) = with_blob(&registry, 8 * MIB).await;
    set(&mirror, |config| config.upstreams[0].max_rate_out = rate(64 * KIB));
    let mut client = Raw::get(mirror.address(), &path(&digest), &[]).await;
    client.read(1).await;
    set(&mirror, |config| config.upstreams[0].max_rate_out = None);
    let (fast, end) = seconds(client.rest()).await;
    assert!(end.is_whole() && end.bytes() == content);
    assert!(fast < 10.0, "{fast} s");
    let mut client = Raw::get(mirror.address(), &path(&digest), &[]).await;
    client.read(1).await;
    set(&mirror, |config| config.access.client_rate = rate(MIB));
    // What the socket accepted before is gone.
    let (_, end) = seconds(client.rest()).await;
    assert!(end.is_whole() && end.bytes() == content);
}

#[tokio::test]
async fn requests_in_a_pipeline_are_answered_at_the_rate() {
    let registry = FakeRegistry::start().await;
    let (mirror, digest, content) = with_blob(&registry, 2 * MIB).await;
    set(&mirror, |config| config.upstreams[0].max_rate_out = rate(MIB));
    let request = |more: &str| format!("GET {} HTTP/1.1\r\nHost: {}\r\n{more}\r\n", path(&digest), mirror.address());
    let exchange = async {
        let mut stream = TcpStream::connect(mirror.address()).await.unwrap();
        stream.write_all((request("") + &request("Connection: close\r\n")).as_bytes()).await.unwrap();
        let mut answers = Vec::new();
        stream.read_to_end(&mut answers).await.unwrap();
        answers
    };
    let (seconds, answers) = seconds(exchange).await;
    assert_rate(seconds, 4 * MIB, MIB);
    let head = answers.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
    let second = head + content.len();
    assert!(answers[head..second] == content[..]);
    assert!(answers[second..].starts_with(b"HTTP/1.1 200 OK\r\n") && answers.ends_with(&content));
}

#[tokio::test]
async fn manifests_wait_for_the_rate_of_clients_and_not_of_upstreams() {
    let registry = FakeRegistry::start().await;
    let mirror =
        Mirror::build(&registry).config(|config| config.upstreams[0].max_rate_in = rate(64 * KIB)).start().await;
    let filler = "x".repeat(200 * KIB as usize);
    let document = format!(r#"{{"schemaVersion":2,"annotations":{{"a":"{filler}"}}}}"#);
    for number in 0..4 {
        let document = document.replace("\"a\"", &format!("\"{number}\""));
        let digest = registry.add_manifest("team/app", "application/vnd.oci.image.manifest.v1+json", document);
        registry.tag("team/app", &number.to_string(), &digest);
        assert_eq!(mirror.get(&manifest(number)).await.status, 200);
    }
    assert_eq!(held(&mirror, "max_rate_in").await, 0.0);
    set(&mirror, |config| config.upstreams[0].max_rate_out = rate(64 * KIB));
    let all = async {
        let mut bytes = 0;
        for number in 0..4 {
            let answer = mirror.get(&manifest(number)).await;
            assert_eq!(answer.header(header::CONTENT_LENGTH.as_str()), Some(&*answer.body.len().to_string()));
            assert!(answer.body.ends_with(b"x\"}}"));
            bytes += answer.body.len() as u64;
        }
        bytes
    };
    let (seconds, bytes) = seconds(all).await;
    assert_rate(seconds, bytes, 64 * KIB);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_tells_how_long_a_rate_held_a_response() {
    let registry = FakeRegistry::start().await;
    let (digest, content) = add(&registry, MIB as usize, 1);
    let directory = tempfile::tempdir().unwrap();
    let text = format!(
        "[cache]\nmin_free = 0\n[[upstream]]\nname = \"{UPSTREAM}\"\nurls = [\"{}\"]\ndefault = true\nmax_rate_out = \"1 MB/s\"\n",
        registry.url()
    );
    std::fs::write(directory.path().join("forebay.toml"), text).unwrap();
    let program = Program::serve(directory, "info").await;
    assert_eq!(program.get("/v2/").await.0, 200);
    // Each of them takes more than a burst has.
    for _ in 0..2 {
        assert!(Raw::get(program.registry, &path(&digest), &[]).await.rest().await.bytes() == content);
    }
    let held_of = |path: &str, log: &str| -> Vec<Option<f64>> {
        let lines = log.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        lines.filter(|line| line["path"] == path).map(|line| line["rate_limited_seconds"].as_f64()).collect()
    };
    until("both are logged", async || held_of(&path(&digest), &program.log()).len() == 2).await;
    let log = program.log();
    assert!(held_of(&path(&digest), &log).iter().all(|held| held.is_some_and(|held| held > 0.0)), "{log}");
    assert_eq!(held_of("/v2/", &log), [None]);
}

#[tokio::test]
async fn a_push_is_not_held_back() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::build(&registry)
        .config(|config| {
            config.upstreams[0].push = true;
            config.upstreams[0].max_rate_in = rate(64 * KIB);
            config.upstreams[0].max_rate_out = rate(64 * KIB);
            config.access.client_rate = rate(64 * KIB);
        })
        .start()
        .await;
    let content = content(4 * MIB as usize, 1);
    let digest = Digest::of(forebay::oci::Algorithm::Sha256, &content);
    let upload = mirror.send(http::Method::POST, "/v2/team/app/blobs/uploads/", &[], "").await;
    assert_eq!(upload.status, 202);
    let location = upload.header("location").unwrap();
    let put = format!("{location}{}digest={digest}", if location.contains('?') { '&' } else { '?' });
    assert_eq!(mirror.send(http::Method::PUT, &put, &[], content.clone()).await.status, 201);
    assert!(registry.blob("team/app", &digest).is_some_and(|blob| blob == content));
    for limit in ["max_rate_in", "max_rate_out", "client_rate"] {
        assert_eq!(held(&mirror, limit).await, 0.0, "{limit}");
    }
}

#[tokio::test]
async fn a_range_far_ahead_that_a_rate_holds_back_is_no_stall() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::build(&registry).config(|config| config.upstreams[0].max_rate_in = rate(MIB)).start().await;
    // A range far ahead has a connection of its own, which the rate holds back as well: it looks like no stall.
    let (digest, content) = add(&registry, 64 * MIB as usize, 1);
    tokio::time::pause();
    let mut whole = Raw::get(mirror.address(), &path(&digest), &[]).await;
    whole.read(1).await;
    let from = content.len() - 4 * MIB as usize;
    let range = format!("bytes={from}-");
    let begun = Instant::now();
    let answer = mirror.get_with(&path(&digest), &[("range", &range)]).await;
    assert!(answer.status == 206 && answer.body == content[from..]);
    assert_rate(begun.elapsed().as_secs_f64(), 4 * MIB, MIB);
    let ranged = |record: &Record| record.header("range").is_some();
    assert!(registry.count(ranged) >= 1);
    tokio::time::resume();
}
