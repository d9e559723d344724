//! Transfers that break, and clients that do not notice; upstreams that say wrong or no lengths.

use forebay_test_support::{
    blob::{self, add, path},
    fake_registry::{Auth, Bearer, FakeRegistry, Fault, Gate, Server, To, When},
    mirror::Mirror,
    raw::Raw,
    until::bounded,
};

const LEN: usize = 400_000;

async fn until_stored(mirror: &Mirror) {
    mirror.until_metric("forebay_fills_total", &[("result", "complete")], 1.0).await;
}

fn ranges(registry: &FakeRegistry) -> Vec<String> {
    registry.requests().iter().filter_map(|request| Some(request.header("range")?.to_owned())).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cut_at_any_byte_the_client_gets_all_by_one_request() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    for (seed, at) in [0, 1, 4095, 4096, 65_535, 65_536, 200_000, LEN - 16_385, LEN - 1].into_iter().enumerate() {
        for chunked in [false, true] {
            registry.heal();
            registry.forget_requests();
            let (digest, content) = add(&registry, LEN, (2 * seed + usize::from(chunked)) as u64);
            if chunked {
                registry.fault(When::blobs(), Fault::NoContentLength);
            }
            registry.fault_times(1, When::blobs(), Fault::Truncate { at });
            let end = Raw::get(mirror.address(), &path(&digest), &[]).await.rest().await;
            assert!(end.is_whole() && end.bytes() == content, "cut at {at}, chunked: {chunked}");
            let expected = if at == 0 { vec![] } else { vec![format!("bytes={at}-")] };
            assert_eq!(ranges(&registry), expected);
            assert_eq!(registry.count(|_| true), 2);
        }
    }
    mirror.until_metric("forebay_fills_in_flight", &[], 0.0).await;
    blob::assert_verified(&mirror.cache_dir());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cut_again_and_again() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    let (digest, content) = add(&registry, LEN, 1);
    registry.fault(When::blobs(), Fault::Truncate { at: LEN / 10 + 7 });
    let answer = bounded(mirror.get(&path(&digest))).await;
    assert_eq!(answer.body, content);
    assert_eq!(ranges(&registry).len(), 9);
    assert_eq!(mirror.metric("forebay_upstream_received_bytes_total", &[]).await, LEN as f64, "no byte twice");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upstream_without_progress_ends_in_a_broken_body() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    let (digest, content) = add(&registry, LEN, 1);
    let gate = Gate::new();
    registry.fault(When::blobs(), Fault::HoldBody { at: 1, gate: gate.clone() });
    registry.fault(When::blobs(), Fault::Truncate { at: 1 });
    let http1 = Raw::get(mirror.address(), &path(&digest), &[]).await;
    let client = reqwest::Client::builder().no_proxy().http2_prior_knowledge().build().unwrap();
    let http2 = client.get(format!("{}{}", mirror.url(), path(&digest))).send().await.unwrap();
    assert_eq!((http2.version(), http2.status().as_u16()), (http::Version::HTTP_2, 200));
    gate.open();
    let (http1, http2) = tokio::join!(http1.rest(), bounded(http2.bytes()));
    assert!(!http1.is_whole() && http1.bytes().len() < LEN, "{} bytes", http1.bytes().len());
    assert!(http2.is_err());
    mirror.until_metric("forebay_fills_total", &[("result", "upstream_failed")], 1.0).await;
    assert!(blob::files(&mirror.cache_dir().join("blobs")).is_empty());
    registry.heal();
    assert_eq!(mirror.get(&path(&digest)).await.body, content);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_404_to_a_resumed_transfer_breaks_the_response() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    let (digest, content) = add(&registry, LEN, 1);
    for status in [403, 404] {
        registry.heal();
        registry.forget_requests();
        let gate = Gate::new();
        registry.fault_times(1, When::blobs(), Fault::HoldBody { at: 300_000, gate: gate.clone() });
        registry.fault_times(1, When::blobs(), Fault::Truncate { at: 300_000 });
        let client = Raw::get(mirror.address(), &path(&digest), &[]).await;
        gate.reached().await;
        // The part and the whole.
        registry.fault(When::blobs(), Fault::status(status));
        gate.open();
        let end = client.rest().await;
        assert!(!end.is_whole() && end.bytes() == &content[..end.bytes().len()]);
        mirror.until_metric("forebay_fills_in_flight", &[], 0.0).await;
        assert_eq!(registry.count(|_| true), 3);
        // What is there is kept for when it is back.
        registry.heal();
        registry.forget_requests();
        if status == 404 {
            assert_eq!(mirror.get(&path(&digest)).await.body, content);
            assert_eq!(ranges(&registry), ["bytes=300000-"]);
        } else {
            assert!(blob::partial(&mirror.cache_dir(), &digest).exists());
            std::fs::remove_file(blob::partial(&mirror.cache_dir(), &digest)).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upstream_that_ignores_range_is_read_from_the_front() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    let (digest, content) = add(&registry, LEN, 1);
    registry.fault(When::blobs(), Fault::IgnoreRange);
    registry.fault_times(1, When::blobs(), Fault::Truncate { at: 300_000 });
    let end = Raw::get(mirror.address(), &path(&digest), &[]).await.rest().await;
    assert!(end.is_whole() && end.bytes() == content);
    assert_eq!(registry.count(|_| true), 2);
    until_stored(&mirror).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_in_the_middle_is_only_a_pause() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    let (digest, content) = add(&registry, LEN, 1);
    let gate = Gate::new();
    registry.fault_times(1, When::blobs(), Fault::HoldBody { at: 200_000, gate: gate.clone() });
    let client = Raw::get(mirror.address(), &path(&digest), &[]).await;
    gate.reached().await;
    registry.take_down(Server::Api).await;
    let refused = [("operation", "blob"), ("status", "error")];
    let asked_in_vain = async || mirror.metric("forebay_upstream_requests_total", &refused).await >= 2.0;
    forebay_test_support::until::until("the upstream was asked in vain", asked_in_vain).await;
    registry.bring_up(Server::Api).await;
    // It is back, and not quite itself yet.
    registry.fault_times(1, When::blobs(), Fault::status(503));
    registry.fault_times(1, When::blobs(), Fault::too_many("1"));
    registry.fault_times(1, When::blobs(), Fault::html());
    let end = client.rest().await;
    assert!(end.is_whole() && end.bytes() == content);
    until_stored(&mirror).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_expired_meanwhile_is_renewed() {
    let registry = FakeRegistry::start().await;
    registry.require(Auth::Bearer(Bearer::default()));
    let mirror = Mirror::of(&registry).await;
    let (digest, content) = add(&registry, LEN, 1);
    let gate = Gate::new();
    // The challenge is answered first; the GET that is held is the second.
    mirror.get("/v2/team/app/tags/list").await;
    registry.fault_times(1, When::blobs(), Fault::HoldBody { at: 200_000, gate: gate.clone() });
    registry.fault_times(1, When::blobs(), Fault::Truncate { at: 200_000 });
    let client = Raw::get(mirror.address(), &path(&digest), &[]).await;
    gate.reached().await;
    registry.revoke_tokens();
    let tokens = registry.count(|request| request.server == Server::Realm);
    gate.open();
    let end = client.rest().await;
    assert!(end.is_whole() && end.bytes() == content);
    assert_eq!(registry.count(|request| request.server == Server::Realm), tokens + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_expired_signed_url_is_requested_anew() {
    let registry = FakeRegistry::start().await;
    registry.fault(When::blobs(), Fault::Redirect { status: 307, to: To::Cdn });
    let mirror = Mirror::of(&registry).await;
    let (digest, content) = add(&registry, LEN, 1);
    let gate = Gate::new();
    let host = || When::blobs().at(Server::Cdn);
    registry.fault_times(1, host(), Fault::HoldBody { at: 200_000, gate: gate.clone() });
    registry.fault_times(1, host(), Fault::Truncate { at: 200_000 });
    let client = Raw::get(mirror.address(), &path(&digest), &[]).await;
    gate.reached().await;
    registry.expire();
    gate.open();
    let end = client.rest().await;
    assert!(end.is_whole() && end.bytes() == content);
    assert_eq!(registry.count(|request| request.is_blob_get(&digest)), 2, "the registry itself was asked again");
    assert!(client_saw_no_redirect(&registry));
}

/// The blob host saw forebay alone, which never sends its credentials there.
fn client_saw_no_redirect(registry: &FakeRegistry) -> bool {
    registry
        .requests()
        .iter()
        .all(|request| request.header("via").is_some() && request.header("authorization").is_none())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blob_without_a_length_comes_whole_and_is_cached() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    let (digest, content) = add(&registry, LEN, 1);
    registry.fault(When::blobs(), Fault::NoContentLength);
    // A part would tell the length, and so does the end.
    let gate = Gate::new();
    registry.fault(When::blobs(), Fault::IgnoreRange);
    registry.fault(When::blobs(), Fault::HoldBody { at: 1000, gate: gate.clone() });
    let client = Raw::get(mirror.address(), &path(&digest), &[]).await;
    assert_eq!((client.status, client.header("transfer-encoding")), (200, Some("chunked")));
    gate.open();
    let end = client.rest().await;
    assert!(end.is_whole() && end.bytes() == content);
    until_stored(&mirror).await;
    let hit = mirror.get(&path(&digest)).await;
    assert_eq!((hit.header("content-length"), &hit.body), (Some("400000"), &content));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_length_too_long_breaks_one_response_only() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    let (digest, content) = add(&registry, LEN, 1);
    let gate = Gate::new();
    registry.fault_times(1, When::blobs(), Fault::ContentLength(LEN as u64 + 10));
    registry.fault_times(1, When::blobs(), Fault::HoldBody { at: LEN, gate: gate.clone() });
    let client = Raw::get(mirror.address(), &path(&digest), &[]).await;
    assert_eq!(client.header("content-length"), Some("400010"));
    mirror.until_metric("forebay_upstream_received_bytes_total", &[], LEN as f64).await;
    gate.open();
    assert!(!client.rest().await.is_whole(), "the length that was announced is not the blob's");
    until_stored(&mirror).await;
    let hit = mirror.get(&path(&digest)).await;
    assert_eq!((hit.header("cache-status"), &hit.body), (Some("forebay; hit"), &content));
    blob::assert_verified(&mirror.cache_dir());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_small_blob_is_verified_first_and_has_its_true_length() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    let (digest, content) = add(&registry, 5000, 1);
    let gate = Gate::new();
    registry.fault_times(1, When::blobs(), Fault::ContentLength(5010));
    registry.fault_times(1, When::blobs(), Fault::HoldBody { at: 5000, gate: gate.clone() });
    let opener = async {
        mirror.until_metric("forebay_upstream_received_bytes_total", &[], 5000.0).await;
        gate.open();
    };
    let target = path(&digest);
    let (answer, ()) = tokio::join!(bounded(mirror.get(&target)), opener);
    assert_eq!((answer.header("content-length"), &answer.body), (Some("5000"), &content));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_length_that_is_too_short_breaks_the_response() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    let (digest, content) = add(&registry, LEN, 1);
    registry.fault_times(1, When::blobs(), Fault::ContentLength(LEN as u64 - 10));
    assert!(Raw::fails(mirror.address(), &path(&digest)).await);
    mirror.until_metric("forebay_fills_total", &[("result", "mismatch")], 1.0).await;
    mirror.until_metric("forebay_fills_in_flight", &[], 0.0).await;
    assert!(blob::is_empty(&mirror.cache_dir()));
    assert_eq!(mirror.get(&path(&digest)).await.body, content);
}
