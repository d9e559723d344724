//! What a client is told when there is no blob for it: before the head, in the words of the specification.

use forebay_test_support::{
    blob::{self, add, path},
    fake_registry::{FakeRegistry, Fault, Server, When},
    mirror::{Answer, Mirror, UPSTREAM},
};

/// An error that a client can read: its form, its length, its code.
fn assert_error(answer: &Answer, status: u16, code: &str) {
    assert_eq!(answer.status, status, "{}", answer.text());
    assert_eq!(answer.error_code(), code);
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_eq!(answer.header("content-length"), Some(&*answer.body.len().to_string()));
    assert!(answer.header("docker-content-digest").is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blob_that_is_nowhere_is_unknown() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    let digest = FakeRegistry::start().await.add_blob("team/app", "elsewhere");
    assert_error(&mirror.get(&path(&digest)).await, 404, "BLOB_UNKNOWN");
    let ranged = mirror.get_with(&path(&digest), &[("range", "bytes=2-")]).await;
    assert_error(&ranged, 404, "BLOB_UNKNOWN");
    // It may be pushed any moment: that it was not there is not kept.
    registry.add_blob("team/app", "elsewhere");
    assert_eq!(mirror.get(&path(&digest)).await.text(), "elsewhere");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_upstream_answers_is_passed_on_in_our_words() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    let (digest, content) = add(&registry, 200_000, 1);
    for (fault, status, code) in [
        (Fault::status(401), 403, "DENIED"),
        (Fault::challenge("Basic realm=\"x\""), 403, "DENIED"),
        (Fault::status(403), 403, "DENIED"),
        (Fault::too_many("17"), 429, "TOOMANYREQUESTS"),
        (Fault::status(500), 502, "UNAVAILABLE"),
        (Fault::status(502), 502, "UNAVAILABLE"),
        (Fault::status(503), 502, "UNAVAILABLE"),
        (Fault::html(), 502, "UNAVAILABLE"),
        (Fault::Disconnect, 502, "UNAVAILABLE"),
        (Fault::status(204), 502, "UNAVAILABLE"),
    ] {
        registry.heal();
        registry.fault(When::blobs(), fault.clone());
        let answer = mirror.get(&path(&digest)).await;
        assert_error(&answer, status, code);
        let retry = if status == 429 { Some("17") } else { None };
        assert_eq!(answer.header("retry-after"), retry, "{fault:?}");
        assert_error(&mirror.get_with(&path(&digest), &[("range", "bytes=-5")]).await, status, code);
        assert_eq!(mirror.head(&path(&digest)).await.status, status, "{fault:?}");
    }
    mirror.until_metric("forebay_fills_in_flight", &[], 0.0).await;
    assert!(blob::files(&mirror.cache_dir().join("blobs")).is_empty());
    registry.heal();
    assert_eq!(mirror.get(&path(&digest)).await.body, content);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_is_a_502_and_cached_blobs_are_served() {
    let registry = FakeRegistry::start().await;
    let mut mirror = Mirror::of(&registry).await;
    let (cached, content) = add(&registry, 200_000, 1);
    let (other, _) = add(&registry, 200_000, 2);
    mirror.get(&path(&cached)).await;
    mirror.until_metric("forebay_fills_total", &[("result", "complete")], 1.0).await;
    registry.take_down(Server::Api).await;
    for _ in 0..2 {
        assert_error(&mirror.get(&path(&other)).await, 502, "UNAVAILABLE");
        assert_eq!(mirror.get(&path(&cached)).await.body, content);
        assert_eq!(mirror.get_with(&path(&cached), &[("range", "bytes=5-9")]).await.body, content[5..=9]);
        mirror.restart().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_corrupt_small_blob_is_an_error_response() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    let (digest, content) = add(&registry, 64 * 1024, 1);
    registry.fault(When::blobs(), Fault::Corrupt { at: 7 });
    assert_error(&mirror.get(&path(&digest)).await, 502, "UNAVAILABLE");
    assert_eq!(mirror.metric("forebay_digest_mismatches_total", &[("upstream", UPSTREAM)]).await, 1.0);
    assert!(blob::files(&mirror.cache_dir().join("blobs")).is_empty());
    registry.heal();
    assert_eq!(mirror.get(&path(&digest)).await.body, content);
}
