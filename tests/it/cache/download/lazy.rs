//! Clients that read small parts of large blobs: stargz, SOCI, partial pulls of podman.

use bytes::Bytes;
use forebay::{cache::Complete, oci::Digest};
use http::Method;

use forebay_test_support::{
    blob::{add, content, path},
    fake_registry::{FakeRegistry, Fault, Gate, When},
    mirror::Mirror,
    raw::Raw,
    until::bounded,
};

const MIB: usize = 1024 * 1024;
const LEN: usize = 16 * MIB;

async fn mirror_with(registry: &FakeRegistry, complete: Complete) -> Mirror {
    Mirror::build(registry).config(move |config| config.cache.complete = complete).start().await
}

async fn received(mirror: &Mirror) -> usize {
    mirror.metric("forebay_upstream_received_bytes_total", &[]).await as usize
}

/// All of the chunks that were requested are here.
async fn until_received(mirror: &Mirror, bytes: usize) {
    mirror.until_metric("forebay_upstream_received_bytes_total", &[], bytes as f64).await;
}

fn ranges(registry: &FakeRegistry) -> Vec<String> {
    registry.requests().iter().filter_map(|request| Some(request.header("range")?.to_owned())).collect()
}

/// Reads a part, which is right and no hit.
async fn read(mirror: &Mirror, digest: &Digest, content: &Bytes, (first, last): (usize, usize)) {
    let range = format!("bytes={first}-{last}");
    let part = bounded(mirror.get_with(&path(digest), &[("range", &range)])).await;
    assert_eq!((part.status, &part.body), (206, &content.slice(first..=last)), "{range}");
    assert!(!part.header("cache-status").unwrap().contains("hit"), "the blob is not verified: {part:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn small_ranges_bring_their_chunks_and_no_more() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    let (digest, content) = add(&registry, LEN, 1);
    read(&mirror, &digest, &content, (5 * MIB + 10, 5 * MIB + 99)).await;
    assert_eq!(ranges(&registry), [format!("bytes={}-{}", 5 * MIB, 6 * MIB - 1)]);
    // What is here is not requested again, and what is beside it is.
    read(&mirror, &digest, &content, (5 * MIB, 5 * MIB + 9)).await;
    read(&mirror, &digest, &content, (LEN - 1000, LEN - 1)).await;
    read(&mirror, &digest, &content, (6 * MIB - 10, 6 * MIB + 10)).await;
    until_received(&mirror, 3 * MIB).await;
    assert_eq!(ranges(&registry).len(), 3);
    // A client of the whole completes it.
    assert!(bounded(mirror.get(&path(&digest))).await.body == content);
    mirror.until_metric("forebay_fills_total", &[("result", "complete")], 1.0).await;
    assert_eq!(received(&mirror).await, LEN, "every byte came once");
    assert_eq!(mirror.get(&path(&digest)).await.header("cache-status"), Some("forebay; hit"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_configuration_says_when_the_rest_comes() {
    for (complete, last, expected) in [
        (Complete::Always, 0, LEN),
        (Complete::WhenHalf, 6 * MIB - 1, 7 * MIB),
        (Complete::WhenHalf, 8 * MIB - 1, LEN),
        (Complete::Never, LEN - 2 * MIB - 1, LEN - MIB),
    ] {
        let registry = FakeRegistry::start().await;
        let mirror = mirror_with(&registry, complete).await;
        let (digest, content) = add(&registry, LEN, 1);
        let range = format!("bytes=0-{last}");
        let part = bounded(mirror.get_with(&path(&digest), &[("range", &range)])).await;
        assert_eq!((part.status, &part.body), (206, &content.slice(0..=last)), "{complete:?} {last}");
        if expected == LEN {
            mirror.until_metric("forebay_fills_total", &[("result", "complete")], 1.0).await;
        } else {
            // A download that goes on would have requested what follows before this.
            until_received(&mirror, last + 1).await;
            read(&mirror, &digest, &content, (LEN - 100, LEN - 1)).await;
            let requested = ranges(&registry);
            let expected = [format!("bytes=0-{last}"), format!("bytes={}-", LEN - MIB)];
            let is_expected = requested.iter().zip(&expected).all(|(range, expected)| range.starts_with(expected));
            assert!(requested.len() == 2 && is_expected, "{complete:?}: {requested:?}");
        }
        until_received(&mirror, expected).await;
        assert_eq!(mirror.metric("forebay_fills_in_flight", &[]).await > 0.0, expected < LEN, "{complete:?} {last}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_lazy_clients_read_outlives_a_restart() {
    let registry = FakeRegistry::start().await;
    let mut mirror = Mirror::of(&registry).await;
    let (digest, content) = add(&registry, LEN, 1);
    for first in [3 * MIB, 9 * MIB] {
        read(&mirror, &digest, &content, (first, first + 100)).await;
    }
    until_received(&mirror, 2 * MIB).await;
    mirror.restart().await;
    registry.forget_requests();
    // Also while the registry could not send it.
    registry.fault_times(1, When::blobs().method(Method::GET), Fault::status(503));
    read(&mirror, &digest, &content, (9 * MIB + 50, 10 * MIB - 1)).await;
    assert_eq!(ranges(&registry), Vec::<String>::new());
    registry.heal();
    assert!(bounded(mirror.get(&path(&digest))).await.body == content);
    assert_eq!(received(&mirror).await, LEN - 2 * MIB, "only what was missing came: {:?}", ranges(&registry));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_in_an_outage_brings_no_bytes() {
    let registry = FakeRegistry::start().await;
    let mut mirror = Mirror::of(&registry).await;
    let (digest, content) = add(&registry, LEN, 1);
    let head_of_whole = async |mirror: &Mirror| bounded(mirror.head(&path(&digest))).await;
    read(&mirror, &digest, &content, (3 * MIB, 3 * MIB + 100)).await;
    until_received(&mirror, MIB).await;
    registry.fault(When::blobs().method(Method::HEAD), Fault::status(503));
    // The download in flight knows the size.
    let told = head_of_whole(&mirror).await;
    assert_eq!((told.status, told.header("content-length")), (200, Some(&*LEN.to_string())));
    mirror.restart().await;
    registry.forget_requests();
    // What is left does not prove it.
    assert!(head_of_whole(&mirror).await.status >= 500);
    assert_eq!(registry.count(|request| request.is_blob_get(&digest)), 0);
    read(&mirror, &digest, &content, (3 * MIB, 3 * MIB + 100)).await;
    let told = head_of_whole(&mirror).await;
    assert_eq!((told.status, told.header("content-length")), (200, Some(&*LEN.to_string())));
    assert_eq!((received(&mirror).await, ranges(&registry)), (0, Vec::new()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blob_that_ends_before_the_range_is_not_downloaded() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    let (digest, _) = add(&registry, LEN, 1);
    let refused = mirror.get_with(&path(&digest), &[("range", &format!("bytes={LEN}-"))]).await;
    assert_eq!((refused.status, refused.header("content-range")), (416, Some(&*format!("bytes */{LEN}"))));
    assert_eq!((received(&mirror).await, registry.count(|request| request.is_blob_get(&digest))), (0, 0));
}

/// A part has no digest by which a client could tell.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lie_of_one_registry_reaches_no_client_of_another() {
    let (liar, honest) = (FakeRegistry::start().await, FakeRegistry::start().await);
    let text = format!(
        "[[upstream]]\nname = \"liar.example\"\nurls = [\"{}\"]\n[[upstream]]\nname = \"honest.example\"\nurls = [\"{}\"]\ndefault = true\n",
        liar.url(),
        honest.url()
    );
    let mut mirror = Mirror::parse(&text).start().await;
    for is_restarted in [false, true] {
        let content = content(LEN, u64::from(is_restarted));
        let digest = liar.add_blob("team/app", content.clone());
        honest.add_blob("team/app", content.clone());
        liar.fault(When::blob(&digest).ranged(), Fault::Corrupt { at: 1000 });
        let (first, last) = (3 * MIB + 900, 3 * MIB + 1100);
        let range = [("range", &*format!("bytes={first}-{last}"))];
        let of_liar = format!("{}?ns=liar.example", path(&digest));
        let lie = bounded(mirror.get_with(&of_liar, &range)).await;
        assert!(lie.status == 206 && lie.body != content[first..=last], "its own clients get what it sends");
        if is_restarted {
            mirror.restart().await;
        }
        let right = bounded(mirror.get_with(&path(&digest), &range)).await;
        assert!(right.status == 206 && right.body == content[first..=last], "restarted: {is_restarted}");
        assert!(bounded(mirror.get(&path(&digest))).await.body == content);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_connection_serves_a_range_far_ahead_without_a_second() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::build(&registry).config(|config| config.upstreams[0].connections = 1).start().await;
    let (digest, content) = add(&registry, LEN, 1);
    let gate = Gate::new();
    registry.fault_times(1, When::blob(&digest), Fault::HoldBody { at: MIB, gate: gate.clone() });
    let whole = Raw::get(mirror.address(), &path(&digest), &[]).await;
    gate.reached().await;
    let head = Gate::new();
    registry.fault_times(1, When::blobs().ranged(), Fault::HoldHead(head.clone()));
    let range = format!("bytes={}-{}", 12 * MIB, 12 * MIB + 99);
    let part = Raw::get(mirror.address(), &path(&digest), &[("range", &range)]).await;
    assert_eq!(part.status, 206);
    gate.open();
    head.reached().await;
    // The first request is over: it brings nothing more while the second one waits for its response.
    assert!(received(&mirror).await < LEN / 2);
    head.open();
    assert!(part.rest().await.bytes() == &content[12 * MIB..12 * MIB + 100]);
    assert!(whole.rest().await.bytes() == content);
    mirror.until_metric("forebay_fills_total", &[("result", "complete")], 1.0).await;
    let gets = registry.count(|request| request.is_blob_get(&digest));
    assert!((3..=4).contains(&gets), "{gets} requests, one after the other");
}
