//! What a restart finds: the index, the order of use, and what broken fills left.

use std::{
    fs::{self, File},
    os::unix::fs::PermissionsExt as _,
    time::{Duration, SystemTime},
};

use forebay::{app, cache::storage};

use forebay_test_support::{
    blob::{self, add, path},
    fake_registry::{FakeRegistry, Fault, Gate, When},
    mirror::Mirror,
    raw::Raw,
    until::until,
};

const MIB: usize = 1024 * 1024;
const COMPLETE: &[(&str, &str)] = &[("result", "complete")];

/// How many bytes the scan has found.
async fn until_scanned(mirror: &Mirror, kind: &str, objects: f64) {
    // Told once the scan is complete.
    let oldest = "forebay_cache_oldest_use_timestamp_seconds";
    until("the scan is complete", async || mirror.metric(oldest, &[]).await > 0.0).await;
    mirror.until_metric("forebay_cache_objects", &[("kind", kind)], objects).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_cached_is_a_hit_at_once() {
    let registry = FakeRegistry::start().await;
    let mut mirror = Mirror::of(&registry).await;
    let blobs: Vec<_> = (0..5).map(|seed| add(&registry, 100_000, seed)).collect();
    for (digest, _) in &blobs {
        mirror.get(&path(digest)).await;
    }
    mirror.until_metric("forebay_fills_total", COMPLETE, 5.0).await;
    registry.forget_requests();
    mirror.restart().await;
    // Whether the scan is through or not.
    for (digest, content) in &blobs {
        let answer = mirror.get(&path(digest)).await;
        assert_eq!((answer.header("cache-status"), &answer.body), (Some("forebay; hit"), content));
    }
    until_scanned(&mirror, "blob", 5.0).await;
    assert_eq!(mirror.metric("forebay_cache_bytes", &[("kind", "blob")]).await, 5.0 * 25.0 * 4096.0);
    assert!(registry.requests().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_order_of_use_is_kept() {
    let registry = FakeRegistry::start().await;
    let mut mirror = Mirror::build(&registry).max_size(4 * MIB as u64).start().await;
    let blobs: Vec<_> = (0..3).map(|seed| add(&registry, MIB, seed).0).collect();
    for digest in &blobs {
        mirror.get(&path(digest)).await;
    }
    mirror.until_metric("forebay_fills_total", COMPLETE, 3.0).await;
    mirror.drain().await;
    // As if they had been used at these times: the second longest ago.
    for (digest, hours) in blobs.iter().zip([2, 3, 1]) {
        let used = SystemTime::now() - Duration::from_secs(hours * 3600);
        File::options().write(true).open(blob::file(&mirror.cache_dir(), digest)).unwrap().set_modified(used).unwrap();
    }
    mirror.start().await;
    until_scanned(&mirror, "blob", 3.0).await;
    let there = |mirror: &Mirror| {
        blobs.iter().map(|digest| blob::file(&mirror.cache_dir(), digest).exists()).collect::<Vec<_>>()
    };
    mirror.get(&path(&add(&registry, MIB, 7).0)).await;
    mirror.until_metric("forebay_fills_in_flight", &[], 0.0).await;
    assert_eq!(there(&mirror), [true, false, true]);
    // A use counts, and is noted on disk for the next start.
    mirror.get(&path(&blobs[0])).await;
    mirror.get(&path(&add(&registry, MIB, 8).0)).await;
    mirror.until_metric("forebay_fills_in_flight", &[], 0.0).await;
    assert_eq!(there(&mirror), [true, false, false]);
    until("the use is noted", async || {
        let noted = fs::metadata(blob::file(&mirror.cache_dir(), &blobs[0])).unwrap().modified().unwrap();
        noted.elapsed().unwrap() < Duration::from_secs(600)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_smaller_cache_is_made_so_at_the_start() {
    let registry = FakeRegistry::start().await;
    let mut mirror = Mirror::build(&registry).max_size(4 * MIB as u64).start().await;
    for seed in 0..3 {
        mirror.get(&path(&add(&registry, MIB, seed).0)).await;
    }
    mirror.until_metric("forebay_fills_total", COMPLETE, 3.0).await;
    mirror.restart_with(|config| config.cache.max_size = MIB as u64 + 200_000).await;
    until_scanned(&mirror, "blob", 1.0).await;
    let taken = || blob::allocated(&mirror.cache_dir());
    until("what is too much is unlinked", async || taken() <= MIB as u64 + 200_000).await;
}

/// Leaves the download of a blob of 2 MiB at half, without a reader, and ends the mirror.
async fn leave_partial(registry: &FakeRegistry, mirror: &mut Mirror) -> (forebay::oci::Digest, bytes::Bytes) {
    let (digest, content) = add(registry, 2 * MIB, 1);
    let gate = Gate::new();
    registry.fault_times(1, When::blob(&digest), Fault::HoldBody { at: MIB, gate: gate.clone() });
    let mut client = Raw::get(mirror.address(), &path(&digest), &[]).await;
    client.read(MIB).await;
    drop(client);
    mirror.drain().await;
    assert_eq!(blob::left(&blob::partial(&mirror.cache_dir(), &digest)), &content[..MIB]);
    registry.forget_requests();
    (digest, content)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transfer_goes_on_where_the_last_start_ended_it() {
    let registry = FakeRegistry::start().await;
    let mut mirror = Mirror::of(&registry).await;
    let (digest, content) = leave_partial(&registry, &mut mirror).await;
    mirror.start().await;
    // At once: the scan may not be through.
    let answer = mirror.get(&path(&digest)).await;
    assert!(answer.status == 200 && answer.body == content);
    let ranges: Vec<_> = registry.requests().iter().map(|request| request.header("range").map(str::to_owned)).collect();
    assert_eq!(ranges, [Some(format!("bytes={MIB}-"))]);
    mirror.until_metric("forebay_fills_total", COMPLETE, 1.0).await;
    mirror.until_metric("forebay_fills_in_flight", &[], 0.0).await;
    assert_eq!(mirror.metric("forebay_cache_objects", &[("kind", "partial")]).await, 0.0);
    assert!(blob::files(&mirror.cache_dir().join("tmp")).is_empty());
    blob::assert_verified(&mirror.cache_dir());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_the_upstream_has_no_ranges_it_starts_anew() {
    for fault in [Fault::IgnoreRange, Fault::RefuseRange] {
        let registry = FakeRegistry::start().await;
        let mut mirror = Mirror::of(&registry).await;
        let (digest, content) = leave_partial(&registry, &mut mirror).await;
        registry.fault(When::blobs(), fault.clone());
        mirror.start().await;
        until_scanned(&mirror, "partial", 1.0).await;
        assert!(mirror.get(&path(&digest)).await.body == content, "{fault:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partial_downloads_survive_an_outage_of_the_upstream() {
    let registry = FakeRegistry::start().await;
    let mut mirror = Mirror::of(&registry).await;
    let (digest, content) = leave_partial(&registry, &mut mirror).await;
    mirror.start().await;
    until_scanned(&mirror, "partial", 1.0).await;
    registry.fault(When::blobs(), Fault::status(503));
    for _ in 0..3 {
        assert_eq!(mirror.get(&path(&digest)).await.status, 502);
        mirror.until_metric("forebay_fills_in_flight", &[], 0.0).await;
        until_scanned(&mirror, "partial", 1.0).await;
    }
    registry.heal();
    registry.forget_requests();
    assert!(mirror.get(&path(&digest)).await.body == content);
    assert_eq!(registry.requests()[0].header("range"), Some(&*format!("bytes={MIB}-")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_gone_on_with_is_swept() {
    let registry = FakeRegistry::start().await;
    let mut mirror = Mirror::of(&registry).await;
    let (digest, content) = add(&registry, 200_000, 1);
    mirror.drain().await;
    let cache = mirror.cache_dir();
    let hex = digest.hex();
    let old = blob::partial(&cache, &add(&registry, 10, 2).0);
    let swept = [
        cache.join(format!("tmp/sha256-{hex}.gaps")),
        cache.join("tmp/object-3.new"),
        cache.join("tmp/upload-00000000000000ff.new"),
        old.clone(),
    ];
    for file in &swept {
        fs::write(file, &content[..100_000]).unwrap();
    }
    let long_ago = SystemTime::now() - Duration::from_secs(48 * 3600);
    File::options().write(true).open(&old).unwrap().set_modified(long_ago).unwrap();
    mirror.start().await;
    until("the leftovers are swept", async || swept.iter().all(|file| !file.exists())).await;
    assert_eq!(mirror.get(&path(&digest)).await.body, content);
    assert!(registry.requests().iter().all(|request| request.header("range").is_none()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_mirrors_do_not_share_a_directory() {
    let registry = FakeRegistry::start().await;
    let mut mirror = Mirror::of(&registry).await;
    let refused = mirror.second().await.err();
    assert!(matches!(refused, Some(app::Error::Cache(storage::OpenError::InUse { .. }))), "{refused:?}");
    let (digest, content) = add(&registry, 1000, 1);
    assert_eq!(mirror.get(&path(&digest)).await.body, content);
    mirror.restart().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_truncated_while_stopped_is_a_miss() {
    let registry = FakeRegistry::start().await;
    let mut mirror = Mirror::of(&registry).await;
    let (digest, content) = add(&registry, 100_000, 1);
    mirror.get(&path(&digest)).await;
    mirror.until_metric("forebay_fills_total", COMPLETE, 1.0).await;
    mirror.until_metric("forebay_fills_in_flight", &[], 0.0).await;
    let file = File::options().write(true).open(blob::file(&mirror.cache_dir(), &digest)).unwrap();
    file.set_len(1000).unwrap();
    mirror.restart().await;
    let answer = mirror.get(&path(&digest)).await;
    assert_eq!(answer.header("cache-status"), Some("forebay; fwd=miss; stored"));
    assert!(answer.body == content, "{} bytes", answer.body.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_directory_is_adopted_and_foreign_names_stay() {
    let registry = FakeRegistry::start().await;
    let mut mirror = Mirror::of(&registry).await;
    let (digest, content) = add(&registry, 100_000, 1);
    mirror.get(&path(&digest)).await;
    mirror.until_metric("forebay_fills_total", COMPLETE, 1.0).await;
    mirror.until_metric("forebay_fills_in_flight", &[], 0.0).await;
    mirror.drain().await;
    let cache = mirror.cache_dir();
    for name in ["CACHEDIR.TAG", "forebay-layout"] {
        fs::remove_file(cache.join(name)).unwrap();
    }
    let hex = digest.hex();
    let foreign = [
        "tmp/whatever".to_owned(),
        "tmp/sha256-short.part".to_owned(),
        "tmp/folder/object-1.new".to_owned(),
        "tags/notes.txt".to_owned(),
        "tags/docker.io/a/1@zz".to_owned(),
        "manifests/sha256/README".to_owned(),
        "manifests/sha256/ab/notes".to_owned(),
        "manifests/md5/00/notes".to_owned(),
        "blobs/notes".to_owned(),
        format!("blobs/sha256/{}/{hex}.bak", &hex[..2]),
        format!("blobs/sha256/zz/{hex}"),
        format!("clients/tags/{hex}"),
    ];
    for file in foreign.iter().map(|file| cache.join(file)) {
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, "theirs").unwrap();
    }
    let ours = blob::file(&cache, &digest);
    for (path, mode) in [(&cache, 0o755), (&ours.parent().unwrap().to_owned(), 0o755), (&ours, 0o644)] {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }
    mirror.start().await;
    until_scanned(&mirror, "blob", 1.0).await;
    assert!(cache.join("forebay-layout").exists());
    for file in foreign.iter().map(|file| cache.join(file)) {
        assert_eq!(fs::read(&file).ok().as_deref(), Some(&b"theirs"[..]), "{}", file.display());
    }
    let mode = |path: &std::path::Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&cache), mode(ours.parent().unwrap()), mode(&ours)), (0o700, 0o700, 0o600));
    let answer = mirror.get(&path(&digest)).await;
    assert_eq!((answer.header("cache-status"), &answer.body), (Some("forebay; hit"), &content));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_use_in_the_future_is_the_most_recent_once() {
    let registry = FakeRegistry::start().await;
    let mut mirror = Mirror::of(&registry).await;
    let (digest, _) = add(&registry, 100_000, 1);
    mirror.get(&path(&digest)).await;
    mirror.until_metric("forebay_fills_total", &[("result", "complete")], 1.0).await;
    mirror.drain().await;
    let file = blob::file(&mirror.cache_dir(), &digest);
    let future = SystemTime::now() + Duration::from_secs(1_000_000);
    fs::File::open(&file).unwrap().set_modified(future).unwrap();
    mirror.start().await;
    until("its last use is now", async || fs::metadata(&file).unwrap().modified().unwrap() <= SystemTime::now()).await;
}
