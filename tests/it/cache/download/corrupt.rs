//! Bytes that are wrong reach no client as a complete response, and nothing of them is kept.

use bytes::Bytes;
use forebay::oci::Digest;

use forebay_test_support::{
    blob::{self, add, path},
    fake_registry::{FakeRegistry, Fault, Gate, When},
    mirror::{Mirror, UPSTREAM},
    raw::Raw,
    until::bounded,
};

const LEN: usize = 500_000;

/// A blob of which the byte `at` is wrong, and that is held until the gate opens.
fn corrupt(registry: &FakeRegistry, at: usize) -> (Digest, Bytes, Gate) {
    let (digest, content) = add(registry, LEN, at as u64);
    let gate = Gate::new();
    registry.fault(When::blob(&digest), Fault::Corrupt { at });
    registry.fault(When::blob(&digest), Fault::HoldBody { at: LEN / 2, gate: gate.clone() });
    (digest, content, gate)
}

/// Nothing is kept, one mismatch was counted, and after healing all is well.
async fn assert_recovers(mirror: &Mirror, registry: &FakeRegistry, digest: &Digest, content: &Bytes) {
    mirror.until_metric("forebay_fills_total", &[("upstream", UPSTREAM), ("result", "mismatch")], 1.0).await;
    mirror.until_metric("forebay_fills_in_flight", &[], 0.0).await;
    assert_eq!(mirror.metric("forebay_digest_mismatches_total", &[("upstream", UPSTREAM)]).await, 1.0);
    let left = blob::files(&mirror.cache_dir());
    assert!(blob::is_empty(&mirror.cache_dir()), "{left:?}");
    registry.heal();
    let healed = mirror.get(&path(digest)).await;
    assert_eq!((healed.header("cache-status"), &healed.body), (Some("forebay; fwd=miss; stored"), content));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn none_of_eight_clients_gets_a_complete_response() {
    for at in [0, 5, LEN / 2, LEN - 1] {
        let registry = FakeRegistry::start().await;
        let mirror = Mirror::of(&registry).await;
        let (digest, content, gate) = corrupt(&registry, at);
        let mut clients = Vec::new();
        for number in 0..8 {
            // A range that is the whole is the whole.
            let headers: &[(&str, &str)] = if number % 4 == 3 { &[("range", "bytes=0-")] } else { &[] };
            clients.push(Raw::get(mirror.address(), &path(&digest), headers).await);
        }
        gate.open();
        for client in clients {
            assert_eq!(client.header("content-length"), Some("500000"));
            let end = client.rest().await;
            assert!(!end.is_whole() && end.bytes().len() < LEN, "{} bytes", end.bytes().len());
        }
        assert_eq!(registry.count(|request| request.is_blob_get(&digest)), 1);
        assert_recovers(&mirror, &registry, &digest, &content).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_http2_the_stream_is_reset() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    let (digest, content, gate) = corrupt(&registry, 5);
    let client = reqwest::Client::builder().no_proxy().http2_prior_knowledge().build().unwrap();
    let url = format!("{}{}", mirror.url(), path(&digest));
    let mut answers = Vec::new();
    for _ in 0..4 {
        answers.push(client.get(&url).send().await.unwrap());
    }
    assert_eq!(mirror.metric("forebay_connections", &[]).await, 1.0, "they share a connection");
    gate.open();
    for answer in answers {
        assert_eq!((answer.status().as_u16(), answer.version()), (200, http::Version::HTTP_2));
        assert!(bounded(answer.bytes()).await.is_err());
    }
    // The connection itself is as good as ever.
    assert_eq!(client.get(format!("{}/v2/", mirror.url())).send().await.unwrap().status().as_u16(), 200);
    assert_eq!(mirror.metric("forebay_connections", &[]).await, 1.0);
    assert_recovers(&mirror, &registry, &digest, &content).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_length_the_last_chunk_is_missing() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    let (digest, content, gate) = corrupt(&registry, 5);
    registry.fault(When::blobs(), Fault::NoContentLength);
    let client = Raw::get(mirror.address(), &path(&digest), &[]).await;
    assert_eq!(client.header("transfer-encoding"), Some("chunked"));
    gate.open();
    assert!(!client.rest().await.is_whole());
    assert_recovers(&mirror, &registry, &digest, &content).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_part_that_is_wrong_spoils_the_whole_and_nothing_is_kept() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    let (digest, content) = add(&registry, 4_000_000, 1);
    let gate = Gate::new();
    registry.fault_times(1, When::blobs(), Fault::HoldBody { at: 100_000, gate: gate.clone() });
    registry.fault_times(1, When::blobs().ranged(), Fault::Corrupt { at: 5 });
    let whole = Raw::get(mirror.address(), &path(&digest), &[]).await;
    gate.reached().await;
    // A part cannot be verified: it comes as it is, and its reader verifies the whole.
    let chunk = 3 * 1024 * 1024;
    let range = format!("bytes={chunk}-{}", chunk + 999);
    let part = bounded(mirror.get_with(&path(&digest), &[("range", &range)])).await;
    assert_eq!((part.status, part.body.len()), (206, 1000));
    assert_ne!(part.body, content[chunk..chunk + 1000]);
    gate.open();
    assert!(!whole.rest().await.is_whole());
    assert_recovers(&mirror, &registry, &digest, &content).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_goes_wrong_after_a_break_is_found_as_well() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    let (digest, content) = add(&registry, LEN, 1);
    registry.fault_times(1, When::blobs(), Fault::Truncate { at: 200_000 });
    registry.fault(When::blobs().ranged(), Fault::Corrupt { at: 3 });
    assert!(Raw::fails(mirror.address(), &path(&digest)).await);
    assert_recovers(&mirror, &registry, &digest, &content).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blob_that_is_not_cached_is_verified_too() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::build(&registry).max_size(100_000).start().await;
    let (digest, content) = add(&registry, LEN, 1);
    registry.fault(When::blobs(), Fault::Corrupt { at: 5 });
    for headers in [&[][..], &[("range", "bytes=0-")], &[("range", "bytes=0-499999")], &[("range", "bytes=-500000")]] {
        let end = Raw::get(mirror.address(), &path(&digest), headers).await.rest().await;
        assert!(!end.is_whole() && end.bytes().len() < LEN, "{headers:?}");
    }
    assert_eq!(mirror.metric("forebay_digest_mismatches_total", &[]).await, 4.0);
    assert_eq!(mirror.metric("forebay_upstream_errors_total", &[("cause", "not_a_registry")]).await, 4.0);
    registry.heal();
    assert_eq!(mirror.get(&path(&digest)).await.body, content);
}
