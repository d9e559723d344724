//! The disk is bounded, bytes in flight included; no pull fails for it.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use forebay_test_support::{
    blob::{self, Random, add, path},
    fake_registry::{FakeRegistry, Fault, Gate, When},
    mirror::Mirror,
    raw::Raw,
    until::{bounded, until},
};

const MIB: usize = 1024 * 1024;
const COMPLETE: &[(&str, &str)] = &[("result", "complete")];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_pull_never_takes_more_than_allowed() {
    let max_size = 4 * MIB as u64;
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::build(&registry).max_size(max_size).start().await;
    let mut random = Random::new(1);
    for seed in 0..60 {
        let (digest, content) = add(&registry, 1 + random.below(MIB), seed);
        assert_eq!(mirror.get(&path(&digest)).await.body, content);
        mirror.until_metric("forebay_fills_in_flight", &[], 0.0).await;
        let taken = blob::allocated(&mirror.cache_dir());
        assert!(taken <= max_size, "{taken} bytes after {seed} blobs");
        assert_eq!(mirror.metric("forebay_fills_total", COMPLETE).await, (seed + 1) as f64);
        // The newest is there.
        assert_eq!(mirror.head(&path(&digest)).await.header("cache-status"), Some("forebay; hit"));
    }
    assert!(mirror.metric("forebay_evicted_bytes_total", &[]).await > 0.0);
    let kept = mirror.metric("forebay_cache_bytes", &[("kind", "blob")]).await;
    assert!(kept > max_size as f64 / 2.0, "only {kept} bytes are used");
    blob::assert_verified(&mirror.cache_dir());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_small_objects_take_no_more_than_allowed() {
    // Names so long that the directory of the tags takes many blocks.
    let max_size = 1024 * 1024;
    let registry = FakeRegistry::start().await;
    let image = registry.add_image("team/app", "1", &[b"a layer"]);
    let mut mirror = Mirror::build(&registry).max_size(max_size).start().await;
    for number in 0..400 {
        let tag = format!("{number:0>120}");
        registry.tag("team/app", &tag, &image.manifest);
        assert_eq!(mirror.get(&format!("/v2/team/app/manifests/{tag}")).await.status, 200);
    }
    let cache = mirror.cache_dir();
    let tags = cache.join("tags/fake.example/team/app");
    until("no more tags are kept than fit", async || {
        let taken = mirror.metric("forebay_cache_bytes", &[]).await;
        // What the metric says is what `du` says.
        blob::files(&cache.join("tmp")).is_empty() && taken == blob::allocated(&cache) as f64
    })
    .await;
    mirror.drain().await;
    let (taken, kept) = (blob::allocated(&cache), blob::files(&tags).len());
    assert!(taken <= max_size, "{taken} bytes with {kept} tags");
    assert!(kept > 150, "only {kept} tags are kept");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_clients_at_once_never_take_more_than_allowed() {
    let max_size = 6 * MIB as u64;
    let registry = FakeRegistry::start().await;
    let mirror = Arc::new(Mirror::build(&registry).max_size(max_size).start().await);
    let blobs: Arc<Vec<_>> =
        Arc::new((0..24).map(|seed| add(&registry, 50_000 + 97_000 * (seed as usize % 12), seed)).collect());
    let over = Arc::new(AtomicBool::new(false));
    let watching = Arc::new(AtomicBool::new(true));
    let watcher = {
        let (cache, over, watching) = (mirror.cache_dir(), over.clone(), watching.clone());
        std::thread::spawn(move || {
            while watching.load(Ordering::Relaxed) {
                // Files come and go while one looks: only what is seen twice alike was there at one time.
                let seen = blob::allocated_at_once(&cache);
                if seen.is_some_and(|seen| seen > max_size) {
                    over.store(true, Ordering::Relaxed);
                }
            }
        })
    };
    let clients: Vec<_> = (0..12)
        .map(|client| {
            let (mirror, blobs) = (mirror.clone(), blobs.clone());
            tokio::spawn(async move {
                let mut random = Random::new(client);
                for _ in 0..20 {
                    let (digest, content) = &blobs[random.below(blobs.len())];
                    if random.once_in(4) {
                        let first = random.below(content.len());
                        let range = format!("bytes={first}-");
                        let answer = bounded(mirror.get_with(&path(digest), &[("range", &range)])).await;
                        assert_eq!((answer.status, answer.body), (206, content.slice(first..)));
                    } else if random.once_in(4) {
                        let mut raw = Raw::get(mirror.address(), &path(digest), &[]).await;
                        raw.read(random.below(content.len())).await;
                    } else {
                        let answer = bounded(mirror.get(&path(digest))).await;
                        assert!(answer.status == 200 && answer.body == content);
                    }
                }
            })
        })
        .collect();
    for client in clients {
        client.await.unwrap();
    }
    watching.store(false, Ordering::Relaxed);
    watcher.join().unwrap();
    assert!(!over.load(Ordering::Relaxed), "more was taken than allowed");
    mirror.until_metric("forebay_fills_in_flight", &[], 0.0).await;
    blob::assert_verified(&mirror.cache_dir());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_used_longest_ago_goes_first() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::build(&registry).max_size(3 * MIB as u64 + 200_000).start().await;
    let blobs: Vec<_> = (0..3).map(|seed| add(&registry, MIB, seed).0).collect();
    for digest in &blobs {
        mirror.get(&path(digest)).await;
        mirror.until_metric("forebay_fills_in_flight", &[], 0.0).await;
    }
    mirror.get(&path(&blobs[0])).await;
    let (fourth, _) = add(&registry, MIB, 4);
    mirror.get(&path(&fourth)).await;
    mirror.until_metric("forebay_fills_in_flight", &[], 0.0).await;
    let there: Vec<bool> = blobs.iter().map(|digest| blob::file(&mirror.cache_dir(), digest).exists()).collect();
    assert_eq!(there, [true, false, true]);
    assert_eq!(mirror.metric("forebay_evicted_bytes_total", &[]).await, MIB as f64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn eviction_does_not_disturb_a_reader() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::build(&registry).max_size(28 * MIB as u64).start().await;
    // More than the sockets between take.
    let (large, content) = add(&registry, 24 * MIB, 0);
    mirror.get(&path(&large)).await;
    mirror.until_metric("forebay_fills_total", COMPLETE, 1.0).await;
    let mut reader = Raw::get(mirror.address(), &path(&large), &[]).await;
    assert_eq!(reader.header("cache-status"), Some("forebay; hit"));
    reader.read(100_000).await;
    for seed in 1..8 {
        let (digest, content) = add(&registry, 2 * MIB, seed);
        assert_eq!(mirror.get(&path(&digest)).await.body, content);
        mirror.until_metric("forebay_fills_in_flight", &[], 0.0).await;
        assert!(blob::allocated(&mirror.cache_dir()) <= 28 * MIB as u64);
    }
    let end = reader.rest().await;
    assert!(end.is_whole() && end.bytes() == content);
    // Read to its end, it may go.
    mirror.until_metric("forebay_connections", &[], 1.0).await;
    let (last, _) = add(&registry, 20 * MIB, 9);
    mirror.get(&path(&last)).await;
    mirror.until_metric("forebay_fills_in_flight", &[], 0.0).await;
    assert!(!blob::file(&mirror.cache_dir(), &large).exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blob_larger_than_the_cache_evicts_nothing() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::build(&registry).max_size(MIB as u64).start().await;
    let (small, _) = add(&registry, 100_000, 1);
    mirror.get(&path(&small)).await;
    let (large, content) = add(&registry, 3 * MIB, 2);
    for _ in 0..2 {
        let answer = mirror.get(&path(&large)).await;
        assert_eq!((answer.status, answer.header("cache-status")), (200, Some("forebay; fwd=miss")));
        assert_eq!(answer.header("content-length"), Some("3145728"));
        assert_eq!(answer.body, content);
    }
    for (range, first, last) in
        [("bytes=5-9", 5, 9), ("bytes=-9", 3 * MIB - 9, 3 * MIB - 1), ("bytes=0-", 0, 3 * MIB - 1)]
    {
        let answer = mirror.get_with(&path(&large), &[("range", range)]).await;
        assert_eq!((answer.status, &answer.body), (206, &content.slice(first..=last)));
        assert_eq!(answer.header("content-range"), Some(&*format!("bytes {first}-{last}/3145728")));
    }
    let beyond = mirror.get_with(&path(&large), &[("range", "bytes=3145728-")]).await;
    assert_eq!((beyond.status, beyond.header("content-range")), (416, Some("bytes */3145728")));
    assert_eq!(mirror.head(&path(&small)).await.header("cache-status"), Some("forebay; hit"));
    // It is resumed as well.
    registry.fault_times(1, When::blobs(), Fault::Truncate { at: MIB });
    let end = Raw::get(mirror.address(), &path(&large), &[]).await.rest().await;
    assert!(end.is_whole() && end.bytes() == content);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn below_min_free_every_blob_streams_uncached() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::build(&registry).config(|config| config.cache.min_free = u64::MAX / 2).start().await;
    for (seed, len) in [1, 1000, 200_000, 2 * MIB].into_iter().enumerate() {
        let (digest, content) = add(&registry, len, seed as u64);
        for _ in 0..2 {
            let answer = mirror.get(&path(&digest)).await;
            assert_eq!((answer.header("cache-status"), &answer.body), (Some("forebay; fwd=miss"), &content));
        }
    }
    assert!(blob::is_empty(&mirror.cache_dir()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blob_that_outgrows_the_cache_goes_on_uncached() {
    let registry = FakeRegistry::start().await;
    // A download reserves room in steps of 16 MiB while its length is not known.
    let mirror = Mirror::build(&registry).max_size(20 * MIB as u64).start().await;
    let (digest, content) = add(&registry, 24 * MIB, 1);
    registry.fault(When::blobs(), Fault::NoContentLength);
    let gate = Gate::new();
    registry.fault_times(1, When::blobs(), Fault::HoldBody { at: MIB, gate: gate.clone() });
    let mut clients = Vec::new();
    for _ in 0..3 {
        clients.push(Raw::get(mirror.address(), &path(&digest), &[]).await);
    }
    for client in &mut clients {
        client.read(MIB / 2).await;
    }
    gate.open();
    for client in clients {
        let end = client.rest().await;
        assert!(end.is_whole() && end.bytes() == content);
    }
    mirror.until_metric("forebay_fills_in_flight", &[], 0.0).await;
    assert!(blob::is_empty(&mirror.cache_dir()));
}
