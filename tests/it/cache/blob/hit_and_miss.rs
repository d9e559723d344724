//! Blobs that come as they should: hit, joined, miss; HEAD; conditions; what every answer says.

use forebay::oci::{Algorithm, Digest};
use http::Method;

use forebay_test_support::{
    blob::{self, REPOSITORY, add, path},
    fake_registry::{FakeRegistry, Fault, Gate, When},
    mirror::{Mirror, UPSTREAM},
    raw::Raw,
    until::bounded,
};

const COMPLETE: &[(&str, &str)] = &[("upstream", UPSTREAM), ("result", "complete")];

fn requests(outcome: &str) -> [(&str, &str); 4] {
    [("upstream", UPSTREAM), ("operation", "blob"), ("outcome", outcome), ("status", "200")]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_miss_is_kept_and_is_a_hit_from_then_on() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    for len in [1, 1000, 64 * 1024, 64 * 1024 + 1, 3_000_000] {
        let (digest, content) = add(&registry, len, 1);
        let miss = mirror.get(&path(&digest)).await;
        assert_eq!((miss.status, &miss.body), (200, &content));
        assert_eq!(miss.header("cache-status"), Some("forebay; fwd=miss; stored"));
        let hit = mirror.get(&path(&digest)).await;
        assert_eq!((hit.status, &hit.body), (200, &content));
        assert_eq!(hit.header("cache-status"), Some("forebay; hit"));
        for answer in [miss, hit] {
            assert_eq!(answer.header("content-length"), Some(&*len.to_string()));
            assert_eq!(answer.header("content-type"), Some("application/octet-stream"));
            assert_eq!(answer.header("docker-content-digest"), Some(digest.as_str()));
            assert_eq!(answer.header("etag"), Some(&*format!("\"{digest}\"")));
            assert_eq!(answer.header("accept-ranges"), Some("bytes"));
            assert_eq!(answer.header("docker-distribution-api-version"), Some("registry/2.0"));
        }
        assert_eq!(registry.count(|request| request.is_blob_get(&digest)), 1);
    }
    mirror.until_metric("forebay_fills_total", COMPLETE, 5.0).await;
    mirror.until_metric("forebay_requests_total", &requests("miss"), 5.0).await;
    mirror.until_metric("forebay_requests_total", &requests("hit"), 5.0).await;
    let bytes = 1 + 1000 + 64 * 1024 + 64 * 1024 + 1 + 3_000_000;
    let sent = mirror.metric("forebay_sent_bytes_total", &[("operation", "blob"), ("outcome", "hit")]).await;
    assert_eq!(sent, f64::from(bytes));
    // As the file system allocates: in blocks of 4 KiB.
    let blocks = 1 + 1 + 16 + 17 + 733;
    assert_eq!(mirror.metric("forebay_cache_bytes", &[("kind", "blob")]).await, f64::from(blocks * 4096));
    assert_eq!(mirror.metric("forebay_cache_objects", &[("kind", "blob")]).await, 5.0);
    blob::assert_verified(&mirror.cache_dir());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_during_the_download_joins_it() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    let (digest, content) = add(&registry, 1_000_000, 1);
    let gate = Gate::new();
    registry.fault(When::blobs(), Fault::HoldBody { at: 500_000, gate: gate.clone() });
    let first = Raw::get(mirror.address(), &path(&digest), &[]).await;
    gate.reached().await;
    let mut second = Raw::get(mirror.address(), &path(&digest), &[]).await;
    assert_eq!(second.header("cache-status"), Some("forebay; fwd=miss; collapsed"));
    // What is here is sent, whatever the upstream does now.
    assert_eq!(second.read(400_000).await, &content[..400_000]);
    assert_eq!(mirror.metric("forebay_fills_in_flight", &[]).await, 1.0);
    gate.open();
    for client in [first, second] {
        let end = client.rest().await;
        assert!(end.is_whole() && end.bytes() == content);
    }
    mirror.until_metric("forebay_requests_total", &requests("joined"), 1.0).await;
    mirror.until_metric("forebay_fills_in_flight", &[], 0.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_empty_blob_is_a_blob() {
    let registry = FakeRegistry::start().await;
    let mut mirror = Mirror::of(&registry).await;
    let (digest, _) = add(&registry, 0, 1);
    for status in ["forebay; fwd=miss; stored", "forebay; hit"] {
        let answer = bounded(mirror.get(&path(&digest))).await;
        assert_eq!((answer.status, answer.body.len()), (200, 0));
        assert_eq!((answer.header("content-length"), answer.header("cache-status")), (Some("0"), Some(status)));
    }
    assert_eq!(mirror.get_with(&path(&digest), &[("range", "bytes=0-")]).await.status, 416);
    mirror.until_metric("forebay_fills_total", COMPLETE, 1.0).await;
    mirror.restart().await;
    assert_eq!(mirror.head(&path(&digest)).await.header("content-length"), Some("0"));
    assert_eq!(mirror.get(&path(&digest)).await.header("cache-status"), Some("forebay; hit"));
    assert_eq!(registry.count(|request| request.is_blob_get(&digest)), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sha512_is_as_good() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    let content = blob::content(200_000, 1);
    let digest = Digest::of(Algorithm::Sha512, &content);
    registry.put_blob(REPOSITORY, &digest, content.clone());
    for status in ["forebay; fwd=miss; stored", "forebay; hit"] {
        let answer = mirror.get(&path(&digest)).await;
        assert_eq!((answer.header("cache-status"), &answer.body), (Some(status), &content));
    }
    mirror.until_metric("forebay_fills_total", COMPLETE, 1.0).await;
    assert_eq!(std::fs::read(blob::file(&mirror.cache_dir(), &digest)).unwrap(), content);
    // The digest is looked at, not only its form.
    let other = Digest::of(Algorithm::Sha512, b"something else");
    registry.put_blob(REPOSITORY, &other, content);
    assert!(Raw::fails(mirror.address(), &path(&other)).await);
    mirror.until_metric("forebay_fills_in_flight", &[], 0.0).await;
    blob::assert_verified(&mirror.cache_dir());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn head_never_downloads() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    let (digest, _) = add(&registry, 300_000, 1);
    let missed = mirror.head(&path(&digest)).await;
    assert_eq!((missed.status, missed.header("content-length")), (200, Some("300000")));
    assert_eq!(missed.header("docker-content-digest"), Some(digest.as_str()));
    assert_eq!(missed.header("cache-status"), Some("forebay; fwd=miss"));
    assert!(registry.requests().iter().all(|request| request.method == Method::HEAD));
    let gate = Gate::new();
    registry.fault(When::blobs(), Fault::HoldBody { at: 200_000, gate: gate.clone() });
    let client = Raw::get(mirror.address(), &path(&digest), &[]).await;
    gate.reached().await;
    let in_flight = mirror.head(&path(&digest)).await;
    assert_eq!((in_flight.status, in_flight.header("content-length")), (200, Some("300000")));
    gate.open();
    assert!(client.rest().await.is_whole());
    mirror.until_metric("forebay_fills_total", COMPLETE, 1.0).await;
    let hit = mirror.head(&path(&digest)).await;
    assert_eq!((hit.header("cache-status"), hit.header("content-length")), (Some("forebay; hit"), Some("300000")));
    assert_eq!(registry.count(|request| request.method == Method::HEAD), 1);
    assert_eq!(registry.count(|request| request.method == Method::GET), 1);
    let (unknown, _) = add(&FakeRegistry::start().await, 10, 2);
    let answer = mirror.head(&path(&unknown)).await;
    assert_eq!((answer.status, answer.body.len()), (404, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_matching_etag_is_a_304() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    let (digest, content) = add(&registry, 100_000, 1);
    let etag = format!("\"{digest}\"");
    let get = async || mirror.get_with(&path(&digest), &[("if-none-match", &etag)]).await;
    let cold = get().await;
    assert_eq!((cold.status, cold.body.len(), cold.header("etag")), (304, 0, Some(&*etag)));
    assert_eq!(registry.count(|request| request.is_blob_get(&digest)), 0, "nothing is downloaded for it");
    let other = mirror.get_with(&path(&digest), &[("if-none-match", "\"sha256:other\"")]).await;
    assert_eq!((other.status, other.body), (200, content));
    mirror.until_metric("forebay_fills_total", COMPLETE, 1.0).await;
    assert_eq!(get().await.status, 304);
    assert_eq!(registry.count(|_| true), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blob_is_the_same_in_every_repository() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    let (digest, content) = add(&registry, 100_000, 1);
    assert_eq!(mirror.get(&path(&digest)).await.body, content);
    mirror.until_metric("forebay_fills_total", COMPLETE, 1.0).await;
    let elsewhere = mirror.get(&format!("/v2/other/repository/blobs/{digest}")).await;
    assert_eq!((elsewhere.status, elsewhere.header("cache-status")), (200, Some("forebay; hit")));
}
