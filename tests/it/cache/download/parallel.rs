//! One blob over several connections: where it helps, and where the upstream will not have it.

use std::time::Duration;

use bytes::Bytes;
use forebay::oci::Digest;
use futures_util::{StreamExt as _, stream};

use forebay_test_support::{
    blob::{self, add, path},
    fake_registry::{FakeRegistry, Fault, Gate, Record, Server, To, When},
    mirror::Mirror,
    raw::Raw,
    until::{bounded, until},
};

const MIB: usize = 1024 * 1024;
const LEN: usize = 24 * MIB;

/// At most 4 MB/s for each connection: several together are far from what a busy machine can do.
const SLOW: Fault = Fault::Throttle { piece: 32 * 1024, pause: Duration::from_millis(8) };

fn slow(registry: &FakeRegistry) -> (Digest, Bytes) {
    registry.fault(When::blobs(), SLOW);
    add(registry, LEN, 1)
}

fn ranges(registry: &FakeRegistry, server: Server) -> Vec<(usize, usize)> {
    let range = |record: &Record| {
        let (first, last) = record.header("range")?.strip_prefix("bytes=")?.split_once('-')?;
        Some((first.parse().unwrap(), last.parse().unwrap_or(LEN - 1)))
    };
    let mut ranges: Vec<_> =
        registry.requests().iter().filter(|record| record.server == server).filter_map(range).collect();
    // Requests of several connections come in any order.
    ranges.sort_unstable();
    ranges
}

async fn received(mirror: &Mirror) -> f64 {
    mirror.metric("forebay_upstream_received_bytes_total", &[]).await
}

async fn until_stored(mirror: &Mirror) {
    mirror.until_metric("forebay_fills_total", &[("result", "complete")], 1.0).await;
    mirror.until_metric("forebay_fills_in_flight", &[], 0.0).await;
}

/// The client has everything, and so has the cache, from one fill.
async fn assert_right(mirror: &Mirror, digest: &Digest, content: &Bytes) {
    let answer = bounded(mirror.get(&path(digest))).await;
    assert!(answer.status == 200 && answer.body == content);
    until_stored(mirror).await;
    let hit = mirror.get(&path(digest)).await;
    assert!(hit.header("cache-status") == Some("forebay; hit") && hit.body == content);
    assert_eq!(mirror.metric("forebay_fills_total", &[]).await, 1.0);
    assert_eq!(mirror.metric("forebay_digest_mismatches_total", &[]).await, 0.0);
    assert!(blob::files(&mirror.cache_dir().join("tmp")).is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_connections_share_a_blob_and_send_each_byte_once() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    let (digest, content) = slow(&registry);
    assert_right(&mirror, &digest, &content).await;
    let asked = ranges(&registry, Server::Api);
    assert!(asked.len() >= 2, "{asked:?}");
    assert_eq!(registry.count(|record| record.header("range").is_none()), 1, "one for the whole");
    assert!(asked.windows(2).all(|pair| pair[0].1 < pair[1].0), "no byte is asked for twice: {asked:?}");
    assert_eq!(asked.last().unwrap().1, LEN - 1);
    let factor = received(&mirror).await / LEN as f64;
    assert!((1.0..1.05).contains(&factor), "the upstream sent the blob {factor} times");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_segment_follows_the_redirect_anew() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    let (digest, content) = add(&registry, LEN, 1);
    registry.fault(When::blobs(), Fault::Redirect { status: 307, to: To::Cdn });
    registry.fault(When::blobs().at(Server::Cdn), SLOW);
    assert_right(&mirror, &digest, &content).await;
    assert!(ranges(&registry, Server::Cdn).len() >= 2);
    assert_eq!(ranges(&registry, Server::Cdn), ranges(&registry, Server::Api));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_connection_is_one_connection() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::build(&registry).config(|config| config.upstreams[0].connections = 1).start().await;
    let (digest, content) = slow(&registry);
    assert_right(&mirror, &digest, &content).await;
    assert_eq!(registry.count(|_| true), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upstream_that_gives_no_more_connections_loses_nothing() {
    let faults = [
        Fault::IgnoreRange,
        Fault::RefuseRange,
        Fault::status(403),
        Fault::status(404),
        Fault::status(500),
        Fault::too_many("1"),
        Fault::ShiftRange(7),
        Fault::Disconnect,
        Fault::html(),
        Fault::Truncate { at: 5 },
    ];
    stream::iter(faults)
        .for_each_concurrent(3, async |fault| {
            let registry = FakeRegistry::start().await;
            let mirror = Mirror::of(&registry).await;
            let (digest, content) = slow(&registry);
            registry.fault(When::blobs().ranged(), fault.clone());
            assert_right(&mirror, &digest, &content).await;
            assert_eq!(registry.count(|record| record.header("range").is_none()), 1, "{fault:?}");
            assert!(registry.count(|record| record.header("range").is_some()) > 0, "{fault:?}: it was tried");
            assert_eq!(mirror.metric("forebay_upstream_up", &[]).await, 1.0, "{fault:?}: the upstream is well");
            let factor = received(&mirror).await / LEN as f64;
            assert!((1.0..1.1).contains(&factor), "{fault:?}: the upstream sent the blob {factor} times");
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ranges_that_are_refused_after_a_while_are_done_without() {
    let faults = [Fault::status(403), Fault::IgnoreRange, Fault::RefuseRange];
    let cases = faults.into_iter().flat_map(|fault| [(fault.clone(), false), (fault, true)]);
    let runs = stream::iter(cases).for_each_concurrent(2, async |(fault, is_held)| {
        let registry = FakeRegistry::start().await;
        let mirror = Mirror::of(&registry).await;
        let (digest, content) = slow(&registry);
        let client = Raw::get(mirror.address(), &path(&digest), &[]).await;
        // On a busy machine one more connection may bring too little for a third one.
        registry.wait_for(|seen| seen.iter().any(|record| record.header("range").is_some())).await;
        if is_held {
            // If one more worker starts, it dies: what it leaves undone is in front of what the lead worker is about to fetch.
            let gate = Gate::new();
            registry.fault_times(1, When::blobs().ranged(), Fault::HoldBody { at: 100_000, gate: gate.clone() });
            if tokio::time::timeout(Duration::from_secs(1), gate.reached()).await.is_err() {
                println!("{fault:?}: no other worker was started: this is the case without one");
            }
        }
        registry.fault(When::blobs().ranged(), fault.clone());
        let end = client.rest().await;
        assert!(end.is_whole() && end.bytes() == content, "{fault:?}");
        until_stored(&mirror).await;
        assert_eq!(mirror.get(&path(&digest)).await.body, content);
        assert_once_more(&registry, &mirror, &fault).await;
    });
    runs.await;
}

/// The whole was asked for at the start and once more at most: what each connection had, and all of it once more.
async fn assert_once_more(registry: &FakeRegistry, mirror: &Mirror, fault: &Fault) {
    let wholes = registry.count(|record| record.header("range").is_none());
    assert!(wholes <= 2, "{fault:?}: the whole was asked for {wholes} times");
    let factor = received(mirror).await / LEN as f64;
    assert!((1.0..2.1).contains(&factor), "{fault:?}: the upstream sent the blob {factor} times");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_break_are_made_up_for() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    let (digest, content) = slow(&registry);
    registry.fault_times(3, When::blobs().ranged(), Fault::Truncate { at: 700_000 });
    assert_right(&mirror, &digest, &content).await;
    let factor = received(&mirror).await / LEN as f64;
    assert!((1.0..1.1).contains(&factor), "the upstream sent the blob {factor} times");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_corrupt_segment_fails_the_blob_for_every_client() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    let (digest, content) = slow(&registry);
    registry.fault_times(1, When::blobs().ranged(), Fault::Corrupt { at: 1000 });
    let end = Raw::get(mirror.address(), &path(&digest), &[]).await.rest().await;
    assert!(!end.is_whole());
    mirror.until_metric("forebay_fills_total", &[("result", "mismatch")], 1.0).await;
    assert!(blob::is_empty(&mirror.cache_dir()));
    registry.heal();
    assert_eq!(bounded(mirror.get(&path(&digest))).await.body, content);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_line_that_stands_still_is_not_helped_by_more_connections() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    let (digest, content) = add(&registry, LEN, 1);
    let gate = Gate::new();
    registry.fault_times(1, When::blobs(), Fault::HoldBody { at: MIB, gate: gate.clone() });
    let client = Raw::get(mirror.address(), &path(&digest), &[]).await;
    gate.reached().await;
    until("it was received", async || received(&mirror).await >= MIB as f64).await;
    // As long as it takes to judge a line that moves.
    tokio::time::sleep(Duration::from_millis(700)).await;
    gate.open();
    let end = client.rest().await;
    assert!(end.is_whole() && end.bytes() == content);
    assert_eq!(registry.count(|_| true), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_in_the_middle_loses_no_byte() {
    let registry = FakeRegistry::start().await;
    let mut mirror =
        Mirror::build(&registry).config(|config| config.server.drain_timeout = Duration::ZERO).start().await;
    let (digest, content) = slow(&registry);
    let client = Raw::get(mirror.address(), &path(&digest), &[]).await;
    registry.wait_for(|seen| seen.iter().filter(|record| record.header("range").is_some()).count() >= 2).await;
    mirror.drain().await;
    assert!(!client.rest().await.is_whole());
    let kept = blob::files(&mirror.cache_dir().join("tmp"));
    assert!(kept.iter().all(|file| *file == blob::partial(&mirror.cache_dir(), &digest)), "{kept:?}");
    let front = kept.first().map_or(0, |file| blob::front(file));
    let kept = kept.first().map_or(0, |file| blob::written(file));
    assert!(front > 0 && kept > front, "several workers wrote {kept} bytes, {front} of them in front of the first gap");
    registry.heal();
    registry.forget_requests();
    mirror.start().await;
    assert_eq!(bounded(mirror.get(&path(&digest))).await.body, content);
    assert_eq!(ranges(&registry, Server::Api).first().map_or(0, |(first, _)| *first), usize::try_from(front).unwrap());
    let received = received(&mirror).await;
    assert!(received <= (LEN as u64 - kept) as f64 * 1.05, "{received} bytes for the rest after {kept}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn faults_on_several_connections_corrupt_no_response() {
    let runs = stream::iter(0..6).for_each_concurrent(2, async |seed| {
        let registry = FakeRegistry::start().await;
        let mirror = Mirror::of(&registry).await;
        let mut random = blob::Random::new(seed);
        let (digest, content) = slow(&registry);
        for _ in 0..1 + random.below(3) {
            let fault = match random.below(6) {
                0 => Fault::status(503),
                1 => Fault::too_many("0"),
                2 => Fault::Disconnect,
                3 => Fault::IgnoreRange,
                _ => Fault::Truncate { at: random.below(2 * MIB) },
            };
            registry.fault_times(1 + random.below(3), When::blobs().ranged(), fault);
        }
        let part = format!("bytes={}-", random.below(LEN));
        let first: usize = part["bytes=".len()..part.len() - 1].parse().unwrap();
        let target = path(&digest);
        let headers = [("range", part.as_str())];
        let (whole, tail) =
            tokio::join!(mirror.try_get(&target), mirror.try_request(http::Method::GET, &target, &headers));
        for (answer, expected) in [(whole, content.clone()), (tail, content.slice(first..))] {
            // A response that is complete is right.
            if let Ok(answer) = answer {
                assert!(answer.status >= 400 || answer.body == expected, "seed {seed}: {}", answer.status);
            }
        }
        registry.heal();
        mirror.until_metric("forebay_fills_in_flight", &[], 0.0).await;
        assert_eq!(bounded(mirror.get(&target)).await.body, content, "seed {seed}");
        mirror.until_metric("forebay_fills_in_flight", &[], 0.0).await;
        blob::assert_verified(&mirror.cache_dir());
    });
    runs.await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stalled_connection_does_not_delay_the_others() {
    let faults = [
        Fault::HoldBody { at: 100_000, gate: Gate::new() },
        Fault::HoldHead(Gate::new()),
        Fault::Throttle { piece: 1024, pause: Duration::from_millis(20) },
    ];
    stream::iter(faults)
        .for_each_concurrent(3, async |fault| {
            let registry = FakeRegistry::start().await;
            let mirror = Mirror::of(&registry).await;
            let (digest, content) = slow(&registry);
            let client = Raw::get(mirror.address(), &path(&digest), &[]).await;
            registry.wait_for(|seen| seen.iter().filter(|record| record.header("range").is_some()).count() >= 2).await;
            registry.fault_times(1, When::blobs().ranged(), fault.clone());
            let end = bounded(client.rest()).await;
            assert!(end.is_whole() && end.bytes() == content, "{fault:?}");
            until_stored(&mirror).await;
            assert_eq!(mirror.metric("forebay_digest_mismatches_total", &[]).await, 0.0);
            let factor = received(&mirror).await / LEN as f64;
            assert!((1.0..1.2).contains(&factor), "{fault:?}: the upstream sent the blob {factor} times");
        })
        .await;
}
