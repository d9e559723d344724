//! Ranges of blobs: cached, in flight, and cold.

pub mod multipart;

use bytes::Bytes;
use forebay::oci::Digest;
use futures_util::StreamExt as _;
use http::Method;

use forebay_test_support::{
    blob::{self, add, path},
    fake_registry::{FakeRegistry, Fault, Gate, When},
    mirror::Mirror,
    raw::Raw,
    until::{bounded, until},
};

const MIB: usize = 1024 * 1024;

/// A blob whose first GET stops after `at` bytes until the gate opens; requests for parts flow.
fn held(registry: &FakeRegistry, len: usize, at: usize) -> (Digest, Bytes, Gate) {
    let (digest, content) = add(registry, len, 1);
    let gate = Gate::new();
    registry.fault_times(1, When::blob(&digest), Fault::HoldBody { at, gate: gate.clone() });
    (digest, content, gate)
}

/// A blob whose length nobody tells, neither by a header nor, until the gate opens, by its end.
fn of_unknown_length(registry: &FakeRegistry) -> (Digest, Bytes, Gate) {
    let (digest, content) = add(registry, 300_000, 1);
    let gate = Gate::new();
    for fault in [Fault::NoContentLength, Fault::IgnoreRange, Fault::HoldBody { at: 100, gate: gate.clone() }] {
        registry.fault(When::blob(&digest), fault);
    }
    (digest, content, gate)
}

fn ranges(registry: &FakeRegistry) -> Vec<String> {
    registry.requests().iter().filter_map(|request| Some(request.header("range")?.to_owned())).collect()
}

async fn received(mirror: &Mirror) -> f64 {
    mirror.metric("forebay_upstream_received_bytes_total", &[]).await
}

async fn until_stored(mirror: &Mirror) {
    mirror.until_metric("forebay_fills_total", &[("result", "complete")], 1.0).await;
    mirror.until_metric("forebay_fills_in_flight", &[], 0.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parts_of_a_cached_blob() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    let (digest, content) = add(&registry, 1000, 1);
    // The first of them is a cold one.
    for (range, first, last) in [
        ("bytes=0-99", 0, 99),
        ("bytes=100-199", 100, 199),
        ("bytes=990-", 990, 999),
        ("bytes=-10", 990, 999),
        ("bytes=-5000", 0, 999),
        ("bytes=0-", 0, 999),
        ("bytes=500-5000", 500, 999),
        ("bytes=999-999", 999, 999),
    ] {
        let answer = mirror.get_with(&path(&digest), &[("range", range)]).await;
        assert_eq!((answer.status, &answer.body), (206, &content.slice(first..=last)), "{range}");
        assert_eq!(answer.header("content-range"), Some(&*format!("bytes {first}-{last}/1000")));
        assert_eq!(answer.header("content-length"), Some(&*(last - first + 1).to_string()));
        assert_eq!(answer.header("docker-content-digest"), Some(digest.as_str()));
    }
    for ignored in ["bytes=0-9,x", "bytes=x-y", "lines=0-9", "bytes", "bytes=-"] {
        let answer = mirror.get_with(&path(&digest), &[("range", ignored)]).await;
        assert_eq!((answer.status, &answer.body), (200, &content), "{ignored}");
        assert!(answer.header("content-range").is_none());
    }
    for nothing in ["bytes=1000-", "bytes=5000-6000", "bytes=-0", "bytes=500-0"] {
        let answer = mirror.get_with(&path(&digest), &[("range", nothing)]).await;
        assert_eq!((answer.status, answer.error_code().as_str()), (416, "SIZE_INVALID"), "{nothing}");
        assert_eq!(answer.header("content-range"), Some("bytes */1000"));
    }
    assert_eq!(registry.count(|request| request.is_blob_get(&digest)), 1, "one GET, whatever parts were asked for");
    assert!(registry.count(|request| request.method == Method::HEAD) <= 1, "{:?}", registry.requests());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn if_range_names_what_the_client_has() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    let (digest, content) = add(&registry, 1000, 1);
    let etag = format!("\"{digest}\"");
    for (condition, status, body) in [(&*etag, 206, content.slice(5..)), ("\"other\"", 200, content.clone())] {
        let headers = [("range", "bytes=5-"), ("if-range", condition)];
        let answer = mirror.get_with(&path(&digest), &headers).await;
        assert_eq!((answer.status, answer.body), (status, body), "{condition}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_part_that_is_there_does_not_wait_for_the_rest() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    let (digest, content, gate) = held(&registry, 2 * MIB, MIB);
    let whole = Raw::get(mirror.address(), &path(&digest), &[]).await;
    gate.reached().await;
    let part = bounded(mirror.get_with(&path(&digest), &[("range", "bytes=100000-500000")])).await;
    assert_eq!((part.status, part.body), (206, content.slice(100_000..=500_000)));
    // One that is not there but near is waited for, not asked for.
    let mut near = Raw::get(mirror.address(), &path(&digest), &[("range", "bytes=900000-1500000")]).await;
    assert_eq!(near.read(100_000).await, &content[900_000..1_000_000]);
    let beyond = bounded(mirror.get_with(&path(&digest), &[("range", "bytes=2097152-")])).await;
    assert_eq!((beyond.status, beyond.header("content-range")), (416, Some("bytes */2097152")));
    gate.open();
    assert_eq!(near.rest().await.bytes(), &content[900_000..=1_500_000]);
    assert_eq!(whole.rest().await.bytes(), content);
    assert_eq!(registry.count(|request| request.is_blob_get(&digest)), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_part_of_a_small_blob_waits_for_its_true_length() {
    // With room in the cache for it, and without.
    for min_free in [0, u64::MAX / 2] {
        let registry = FakeRegistry::start().await;
        let mirror = Mirror::build(&registry).config(|config| config.cache.min_free = min_free).start().await;
        let (digest, content) = add(&registry, 100, 1);
        registry.fault_times(1, When::blob(&digest).method(Method::GET), Fault::ContentLength(93));
        registry.fault_times(1, When::blob(&digest).method(Method::HEAD), Fault::ContentLength(93));
        for status in [502, 206] {
            let answer = mirror.get_with(&path(&digest), &[("range", "bytes=95-99")]).await;
            assert_eq!(answer.status, status, "{min_free}");
            assert!(status != 206 || answer.body == content.slice(95..), "{min_free}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_of_a_cold_blob_does_not_wait_for_its_beginning() {
    for (range, first, last) in
        [("bytes=-4096", 8 * MIB - 4096, 8 * MIB - 1), ("bytes=3000000-", 3_000_000, 8 * MIB - 1)]
    {
        let registry = FakeRegistry::start().await;
        let mirror = Mirror::of(&registry).await;
        let (digest, content, gate) = held(&registry, 8 * MIB, 64 * 1024);
        let whole = Raw::get(mirror.address(), &path(&digest), &[]).await;
        gate.reached().await;
        let part = bounded(mirror.get_with(&path(&digest), &[("range", range)])).await;
        assert_eq!((part.status, &part.body), (206, &content.slice(first..=last)));
        gate.open();
        assert!(whole.rest().await.bytes() == content);
        until_stored(&mirror).await;
        let hit = mirror.get(&path(&digest)).await;
        assert_eq!((hit.header("cache-status"), &hit.body), (Some("forebay; hit"), &content));
        // The chunks of the range, to their ends.
        assert_eq!(ranges(&registry), [format!("bytes={}-{last}", first / MIB * MIB)]);
        let factor = received(&mirror).await / (8 * MIB) as f64;
        assert!((1.0..1.05).contains(&factor), "the upstream sent the blob {factor} times");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_part_in_the_middle_is_fetched_once_and_jumped_over() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    let (digest, content, gate) = held(&registry, 16 * MIB, MIB);
    let whole = Raw::get(mirror.address(), &path(&digest), &[]).await;
    gate.reached().await;
    let range = format!("bytes={}-{}", 4 * MIB, 12 * MIB - 1);
    let part = bounded(mirror.get_with(&path(&digest), &[("range", &range)])).await;
    assert_eq!(part.body, content.slice(4 * MIB..12 * MIB));
    gate.open();
    assert!(whole.rest().await.bytes() == content);
    until_stored(&mirror).await;
    assert_eq!(mirror.get(&path(&digest)).await.body, content);
    assert_eq!(ranges(&registry), [range, format!("bytes={}-", 12 * MIB)]);
    let factor = received(&mirror).await / (16 * MIB) as f64;
    assert!((1.0..1.1).contains(&factor), "the upstream sent the blob {factor} times");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_parts_at_once_and_the_whole_is_right() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    let (digest, content, gate) = held(&registry, 16 * MIB, 10_000);
    let part = async |first: usize, len: usize| {
        let range = format!("bytes={first}-{}", first + len - 1);
        let answer = bounded(mirror.get_with(&path(&digest), &[("range", &range)])).await;
        assert_eq!((answer.status, answer.body), (206, content.slice(first..first + len)));
    };
    // More than there are transfers ahead, overlapping, out of order, across the whole.
    let parts = async {
        tokio::join!(part(15 * MIB, MIB), part(2 * MIB, 5 * MIB), part(6 * MIB, 2 * MIB), part(14 * MIB, 2 * MIB));
    };
    parts.await;
    gate.open();
    tokio::join!(part(0, 16 * MIB), part(9 * MIB, 3 * MIB), part(1, 16 * MIB - 1));
    until_stored(&mirror).await;
    assert_eq!(mirror.get(&path(&digest)).await.body, content);
    let factor = received(&mirror).await / (16 * MIB) as f64;
    assert!((1.0..1.3).contains(&factor), "the upstream sent the blob {factor} times");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_ranges_upstream_a_range_waits_for_the_download() {
    for fault in [Fault::IgnoreRange, Fault::RefuseRange, Fault::ShiftRange(3), Fault::Header("content-range", None)] {
        let registry = FakeRegistry::start().await;
        let mirror = Mirror::of(&registry).await;
        let (digest, content, gate) = held(&registry, 4 * MIB, 64 * 1024);
        registry.fault(When::blobs().ranged(), fault.clone());
        let address = mirror.address();
        let target = path(&digest);
        let part =
            tokio::spawn(async move { Raw::get(address, &target, &[("range", "bytes=-1000")]).await.rest().await });
        registry.wait_for(|seen| seen.len() >= 2).await;
        gate.open();
        let part = part.await.unwrap();
        assert!(part.is_whole() && part.bytes() == &content[4 * MIB - 1000..], "{fault:?}");
        until_stored(&mirror).await;
        assert_eq!(mirror.get(&path(&digest)).await.body, content, "{fault:?}");
        assert_eq!(mirror.metric("forebay_digest_mismatches_total", &[]).await, 0.0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_part_that_breaks_on_its_way_is_resumed() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    let (digest, content, gate) = held(&registry, 8 * MIB, 64 * 1024);
    registry.fault_times(2, When::blobs().ranged(), Fault::Truncate { at: 1_000_000 });
    let part = bounded(mirror.get_with(&path(&digest), &[("range", "bytes=4000000-7999999")])).await;
    assert_eq!((part.status, part.body), (206, content.slice(4_000_000..8_000_000)));
    gate.open();
    until_stored(&mirror).await;
    assert_eq!(mirror.get(&path(&digest)).await.body, content);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_rest_after_a_partial_response_is_requested_with_backoff() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    let (digest, content, gate) = held(&registry, 4 * MIB, 64 * 1024);
    let ahead = Gate::new();
    registry.fault_times(1, When::blobs().ranged(), Fault::HoldBody { at: 100_000, gate: ahead.clone() });
    registry.fault_times(1, When::blobs().ranged(), Fault::Truncate { at: 100_000 });
    let mut part = Raw::get(mirror.address(), &path(&digest), &[("range", "bytes=-1000000")]).await;
    let first = 4 * MIB - 1_000_000;
    part.read(100_000).await;
    gate.open();
    // All the rest is here; the part is what is waited for, breaks, is refused, and then the upstream is away.
    let front = (first - MIB) as f64;
    until("the lead worker is through", async || received(&mirror).await > front).await;
    registry.fault_times(1, When::blobs().ranged(), Fault::status(404));
    registry.fault_times(3, When::blobs().ranged(), Fault::status(503));
    ahead.open();
    let end = part.rest().await;
    assert!(end.is_whole() && end.bytes() == &content[first..]);
    until_stored(&mirror).await;
    assert_eq!(mirror.get(&path(&digest)).await.body, content);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_range_of_unknown_length_returns_the_whole_blob() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    let (digest, content, gate) = of_unknown_length(&registry);
    let cold = Raw::get(mirror.address(), &path(&digest), &[("range", "bytes=5-9")]).await;
    assert_eq!(cold.status, 200);
    gate.open();
    let end = cold.rest().await;
    assert!(end.is_whole() && end.bytes() == content);
    until_stored(&mirror).await;
    let hit = mirror.get_with(&path(&digest), &[("range", "bytes=5-9")]).await;
    assert_eq!((hit.status, hit.body), (206, content.slice(5..=9)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_map_of_a_file_with_a_gap_says_so() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    let (digest, content, gate) = held(&registry, 8 * MIB, 64 * 1024);
    let whole = Raw::get(mirror.address(), &path(&digest), &[]).await;
    gate.reached().await;
    let head = Gate::new();
    registry.fault_times(1, When::blobs().ranged(), Fault::HoldHead(head.clone()));
    let range = format!("bytes={}-{}", 3 * MIB, 4 * MIB - 1);
    let part = Raw::get(mirror.address(), &path(&digest), &[("range", &range)]).await;
    head.reached().await;
    gate.open();
    // What is behind the part can be had, so there is a hole in the file, and its map says so.
    until("the lead worker is through", async || received(&mirror).await >= (7 * MIB) as f64).await;
    let behind = format!("bytes={}-{}", 5 * MIB, 6 * MIB);
    let there = bounded(mirror.get_with(&path(&digest), &[("range", &behind)])).await;
    assert_eq!(there.body, content.slice(5 * MIB..=6 * MIB));
    let file = blob::partial(&mirror.cache_dir(), &digest);
    until("all but the hole is noted", async || blob::written(&file) == 7 * MIB as u64).await;
    assert_eq!(blob::front(&file), 3 * MIB as u64);
    head.open();
    assert_eq!(part.rest().await.bytes(), &content[3 * MIB..4 * MIB]);
    assert!(whole.rest().await.bytes() == content);
    until_stored(&mirror).await;
    assert_eq!(mirror.get(&path(&digest)).await.body, content);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_length_that_ends_within_a_range_blocks_no_client() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    let (digest, content, gate) = held(&registry, 4 * MIB, 64 * 1024);
    let first = 4 * MIB - 1_000_000;
    registry.fault_times(1, When::blobs().ranged(), Fault::Truncate { at: 100_000 });
    let part = Raw::get(mirror.address(), &path(&digest), &[("range", "bytes=-1000000")]).await;
    registry.wait_for(|seen| seen.len() >= 2).await;
    registry.fault(
        When::blobs().ranged(),
        Fault::Answer {
            status: 416,
            headers: vec![("content-range", format!("bytes */{}", first + 100_000))],
            body: String::new(),
        },
    );
    gate.open();
    let end = bounded(part.rest()).await;
    assert!(end.is_whole() && end.bytes() == &content[first..]);
    until_stored(&mirror).await;
    assert_eq!(mirror.get(&path(&digest)).await.body, content);
    assert!(registry.count(|_| true) < 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_parts_come_wrong_the_next_fill_does_without() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    let (digest, content) = add(&registry, 4 * MIB, 1);
    for parts in [1, 0] {
        registry.heal();
        registry.forget_requests();
        let gate = Gate::new();
        registry.fault(When::blobs().ranged(), Fault::Corrupt { at: 1000 });
        registry.fault_times(1, When::blob(&digest), Fault::HoldBody { at: 64 * 1024, gate: gate.clone() });
        let whole = Raw::get(mirror.address(), &path(&digest), &[]).await;
        gate.reached().await;
        let part = Raw::get(mirror.address(), &path(&digest), &[("range", "bytes=-1000000")]).await;
        if parts > 0 {
            registry.wait_for(|seen| seen.len() > parts).await;
        }
        gate.open();
        let whole = bounded(whole.rest()).await;
        let part = bounded(part.rest()).await;
        mirror.until_metric("forebay_fills_in_flight", &[], 0.0).await;
        assert_eq!(registry.count(|request| request.header("range").is_some()), parts);
        assert_eq!(whole.is_whole(), parts == 0);
        assert!(parts > 0 || (whole.bytes() == content && part.bytes() == &content[4 * MIB - 1_000_000..]));
    }
    assert_eq!(mirror.get(&path(&digest)).await.body, content);
}

/// As containerd 2 does it: of an open range it reads the first part, and has the other ones by four requests at a time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_of_parallel_ranges_costs_the_blob_once() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    let (digest, content) = add(&registry, 16 * MIB, 1);
    let path = path(&digest);
    let mut open = Raw::get(mirror.address(), &path, &[("range", "bytes=0-")]).await;
    assert_eq!((open.status, open.header("content-range")), (206, Some("bytes 0-16777215/16777216")));
    assert!(open.read(MIB).await == &content[..MIB]);
    drop(open);
    let parts = futures_util::stream::iter(1..16).for_each_concurrent(4, async |number| {
        let range = format!("bytes={}-{}", number * MIB, (number + 1) * MIB - 1);
        let part = bounded(mirror.get_with(&path, &[("range", &range)])).await;
        assert!(part.status == 206 && part.body == content[number * MIB..(number + 1) * MIB], "{range}");
    });
    parts.await;
    until_stored(&mirror).await;
    let factor = received(&mirror).await / (16 * MIB) as f64;
    assert!((1.0..1.02).contains(&factor), "the upstream sent the blob {factor} times");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_corrupt_parts_a_broken_transfer_is_resumed() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    let (digest, content) = add(&registry, 2 * MIB, 1);
    registry.fault_times(1, When::blobs().ranged(), Fault::Corrupt { at: 1000 });
    for times in [1, 2] {
        registry.fault_times(1, When::blob(&digest), Fault::Truncate { at: MIB });
        let end = Raw::get(mirror.address(), &path(&digest), &[]).await.rest().await;
        mirror.until_metric("forebay_fills_in_flight", &[], 0.0).await;
        assert!(times == 1 || (end.is_whole() && end.bytes() == content));
        assert_eq!(ranges(&registry).len(), times, "the digest decides, not the suspicion");
    }
    assert_eq!(mirror.get(&path(&digest)).await.header("cache-status"), Some("forebay; hit"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_come_does_not_wait_for_the_answer_behind_a_part() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    let (digest, content, gate) = held(&registry, 16 * MIB, MIB);
    let mut whole = Raw::get(mirror.address(), &path(&digest), &[]).await;
    let range = format!("bytes={}-{}", 4 * MIB, 12 * MIB - 1);
    let part = bounded(mirror.get_with(&path(&digest), &[("range", &range)])).await;
    assert_eq!(part.body, content.slice(4 * MIB..12 * MIB));
    let head = Gate::new();
    registry.fault_times(1, When::blobs().ranged(), Fault::HoldHead(head.clone()));
    gate.open();
    head.reached().await;
    // All up to the part is here, and the part is.
    whole.read(12 * MIB).await;
    // Who waits just there does not have it asked for once more.
    let behind = format!("bytes={}-", 12 * MIB);
    let last = Raw::get(mirror.address(), &path(&digest), &[("range", &behind)]).await;
    head.open();
    assert!(whole.rest().await.bytes() == content);
    assert!(last.rest().await.bytes() == &content[12 * MIB..]);
    let ranges: Vec<_> =
        registry.requests().iter().filter_map(|request| Some(request.header("range")?.to_owned())).collect();
    assert_eq!(ranges, [range, behind]);
}

/// A page in place of a part says nothing about further ones.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_part_is_fetched_after_a_page_came_in_its_place() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    let (digest, content, gate) = held(&registry, 8 * MIB, MIB);
    let whole = Raw::get(mirror.address(), &path(&digest), &[]).await;
    gate.reached().await;
    registry.fault_times(1, When::blobs().ranged(), Fault::html());
    let part = bounded(mirror.get_with(&path(&digest), &[("range", "bytes=-1000")])).await;
    assert_eq!((part.status, part.body), (206, content.slice(content.len() - 1000..)));
    gate.open();
    assert!(whole.rest().await.is_whole());
}

/// Each further request for a part would be one for the whole.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upstream_that_ignores_ranges_gets_few_of_them() {
    for chunked in [false, true] {
        let registry = FakeRegistry::start().await;
        let mirror = Mirror::of(&registry).await;
        let (digest, content, gate) = held(&registry, 8 * MIB, MIB);
        let whole = Raw::get(mirror.address(), &path(&digest), &[]).await;
        gate.reached().await;
        registry.fault(When::blobs().ranged(), Fault::IgnoreRange);
        if chunked {
            registry.fault(When::blobs().ranged(), Fault::NoContentLength);
        }
        let part = Raw::get(mirror.address(), &path(&digest), &[("range", "bytes=-1000")]).await;
        registry.wait_for(|records| records.iter().any(|record| record.header("range").is_some())).await;
        gate.open();
        let (whole, part) = (whole.rest().await, part.rest().await);
        assert!(whole.is_whole() && whole.bytes() == content);
        assert!(part.is_whole() && part.bytes() == &content[content.len() - 1000..]);
        // A download that takes long, as on a busy machine, tries a second connection, which asks for a part as well.
        let parts = registry.count(|record| record.header("range").is_some());
        assert!((1..=2).contains(&parts), "chunked: {chunked}, {parts}");
    }
}
