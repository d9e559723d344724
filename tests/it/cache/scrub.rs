//! What is cached rots: the scrub finds it, and clients get the right bytes again.

use std::{
    fs::{self, File},
    os::unix::fs::{FileExt as _, MetadataExt as _},
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use forebay::oci::Digest;
use rustix::fs::XattrFlags;

use forebay_test_support::{
    blob::{self, add, path},
    fake_registry::FakeRegistry,
    mirror::Mirror,
    until::until,
};

const LEN: usize = 3_000_000;
const SOON: Duration = Duration::from_millis(500);
const CORRUPT: &str = "forebay_cache_corrupt_objects_total";
const SCRUBBED: &str = "forebay_scrub_bytes_total";
const OLDEST: &str = "forebay_scrub_oldest_verification_timestamp_seconds";
const HIT: Option<&str> = Some("forebay; hit");

/// A blob that is in the cache.
async fn pulled(registry: &FakeRegistry, mirror: &Mirror, len: usize, seed: u64) -> (Digest, Bytes) {
    let (digest, content) = add(registry, len, seed);
    assert_eq!(mirror.get(&path(&digest)).await.body, content);
    let file = blob::file(&mirror.cache_dir(), &digest);
    until("the blob is in its place", async || file.exists()).await;
    mirror.until_metric("forebay_fills_in_flight", &[], 0.0).await;
    (digest, content)
}

/// Changes one bit of a file, and neither its length nor its times.
fn rot(file: &Path) {
    let opened = File::options().read(true).write(true).open(file).unwrap();
    let (mut byte, modified) = ([0], opened.metadata().unwrap().modified().unwrap());
    let middle = opened.metadata().unwrap().len() / 2;
    opened.read_exact_at(&mut byte, middle).unwrap();
    opened.write_all_at(&[byte[0] ^ 1], middle).unwrap();
    opened.set_modified(modified).unwrap();
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// Lets an object have been verified at another time; `None`: nothing tells when.
fn note(file: &Path, verified: Option<u64>) {
    let len = fs::metadata(file).unwrap().len();
    let value = verified.map_or(len.to_string(), |verified| format!("{len} {verified}"));
    rustix::fs::setxattr(file, "user.forebay.length", value.as_bytes(), XattrFlags::empty()).unwrap();
}

fn noted(file: &Path) -> String {
    let mut value = [0; 48];
    let read = rustix::fs::getxattr(file, "user.forebay.length", &mut value).unwrap();
    String::from_utf8(value[..read].to_vec()).unwrap()
}

fn soon(registry: &FakeRegistry) -> forebay_test_support::mirror::Builder {
    Mirror::build(registry).config(|config| config.cache.verify_every = SOON)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_comes_again_has_a_rotten_blob_removed() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    let (digest, content) = pulled(&registry, &mirror, LEN, 1).await;
    let file = blob::file(&mirror.cache_dir(), &digest);
    rot(&file);
    for time in 1..=2 {
        let hit = mirror.get(&path(&digest)).await;
        assert!(hit.header("cache-status") == HIT && hit.body != content, "time {time}");
    }
    mirror.until_metric(CORRUPT, &[("kind", "blob")], 1.0).await;
    until("the file is gone", async || !file.exists()).await;
    let anew = mirror.get(&path(&digest)).await;
    assert_eq!((anew.header("cache-status"), &anew.body), (Some("forebay; fwd=miss; stored"), &content));
    assert_eq!(registry.count(|request| request.is_blob_get(&digest)), 2);
    until("it is back", async || mirror.get(&path(&digest)).await.header("cache-status") == HIT).await;
    assert_eq!(mirror.metric(CORRUPT, &[]).await, 1.0);
    blob::assert_verified(&mirror.cache_dir());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_whole_hits_make_a_blob_suspect_and_once_an_hour() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    let (parts, _) = pulled(&registry, &mirror, 100_000, 1).await;
    let (whole, _) = pulled(&registry, &mirror, 200_000, 2).await;
    let (last, content) = pulled(&registry, &mirror, 400_000, 3).await;
    for _ in 0..3 {
        mirror.get_with(&path(&parts), &[("range", "bytes=0-99998")]).await;
        mirror.get_with(&path(&parts), &[("if-none-match", &format!("\"{parts}\""))]).await;
        mirror.head(&path(&parts)).await;
    }
    // A range that is the whole is the whole. The first of each kind is that of a client who had not got it from here.
    for _ in 0..2 {
        mirror.get_with(&path(&whole), &[("range", "bytes=0-")]).await;
    }
    // They are verified in the order in which they were suspected.
    mirror.until_metric(SCRUBBED, &[], 200_000.0).await;
    for _ in 0..2 {
        mirror.get(&path(&whole)).await;
    }
    for _ in 0..2 {
        assert_eq!(mirror.get(&path(&last)).await.body, content);
    }
    mirror.until_metric(SCRUBBED, &[], 600_000.0).await;
    assert_eq!(mirror.metric(CORRUPT, &[]).await, 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_rots_is_found_without_a_client() {
    let registry = FakeRegistry::start().await;
    let image = registry.add_image("team/app", "1", &[b"layer"]);
    let manifest = format!("/v2/team/app/manifests/{}", image.manifest);
    let mut mirror = soon(&registry).start().await;
    assert_eq!(mirror.get(&manifest).await.body, image.manifest_bytes);
    let (rotten, content) = pulled(&registry, &mirror, LEN, 1).await;
    let (cut, _) = pulled(&registry, &mirror, 100_000, 2).await;
    let (sound, _) = pulled(&registry, &mirror, 100_001, 3).await;
    let (unread, _) = pulled(&registry, &mirror, 100_002, 4).await;
    let file = |digest: &Digest| blob::file(&mirror.cache_dir(), digest);
    let document = blob::files(&mirror.cache_dir().join("manifests")).remove(0);
    // What cannot be read stops nothing.
    fs::remove_file(file(&unread)).unwrap();
    fs::create_dir(file(&unread)).unwrap();
    rot(&file(&rotten));
    rot(&document);
    File::options().write(true).open(file(&cut)).unwrap().set_len(50_000).unwrap();
    mirror.until_metric(CORRUPT, &[("kind", "blob")], 2.0).await;
    mirror.until_metric(CORRUPT, &[("kind", "manifest")], 1.0).await;
    until("they are gone", async || [&file(&rotten), &file(&cut), &document].iter().all(|file| !file.exists())).await;
    assert_eq!(mirror.metric("forebay_cache_objects", &[("kind", "manifest")]).await, 0.0);
    // Those that are right are verified again, and nothing else is said of them.
    let before = mirror.metric(SCRUBBED, &[]).await;
    until("the sound one is verified again", async || mirror.metric(SCRUBBED, &[]).await >= before + 200_002.0).await;
    assert_eq!(mirror.metric(CORRUPT, &[]).await, 3.0);
    assert!(file(&sound).exists());
    let anew = mirror.get(&path(&rotten)).await;
    assert_eq!((anew.header("cache-status"), &anew.body), (Some("forebay; fwd=miss; stored"), &content));
    mirror.restart().await;
    assert_eq!(mirror.get(&manifest).await.body, image.manifest_bytes);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn to_verify_is_no_use_and_is_noted() {
    let registry = FakeRegistry::start().await;
    let mut mirror = soon(&registry).start().await;
    let (digest, _) = pulled(&registry, &mirror, LEN, 1).await;
    mirror.drain().await;
    let file = blob::file(&mirror.cache_dir(), &digest);
    let (long_ago, used) = (1_000_000_000, UNIX_EPOCH + Duration::from_secs(1_500_000_000));
    File::open(&file).unwrap().set_modified(used).unwrap();
    // Also where an earlier forebay noted no time.
    for verified in [Some(long_ago), None] {
        note(&file, verified);
        mirror.start().await;
        until("the verification is noted", async || {
            let (noted, now) = (noted(&file), seconds(SystemTime::now()));
            let time = noted.split_once(' ').map(|(_, time)| time.parse::<u64>().unwrap());
            time.is_some_and(|time| time != long_ago && (now - 60..=now).contains(&time))
        })
        .await;
        until("the oldest is that one", async || mirror.metric(OLDEST, &[]).await > 1_600_000_000.0).await;
        mirror.drain().await;
    }
    assert_eq!(fs::metadata(&file).unwrap().mtime(), 1_500_000_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_keeps_the_times_of_verification() {
    let registry = FakeRegistry::start().await;
    let mut mirror = Mirror::of(&registry).await;
    let before = seconds(SystemTime::now());
    let (first, _) = pulled(&registry, &mirror, 100_000, 1).await;
    let (second, _) = pulled(&registry, &mirror, 100_001, 2).await;
    for digest in [&first, &second] {
        let noted = noted(&blob::file(&mirror.cache_dir(), digest));
        let time: u64 = noted.split_once(' ').unwrap().1.parse().unwrap();
        assert!((before..=seconds(SystemTime::now())).contains(&time), "{noted}");
    }
    mirror.drain().await;
    let days_ago = before - 3 * 24 * 60 * 60;
    note(&blob::file(&mirror.cache_dir(), &first), Some(days_ago));
    for _ in 0..2 {
        mirror.start().await;
        mirror.until_metric(OLDEST, &[], days_ago as f64).await;
        assert_eq!(mirror.metric(SCRUBBED, &[]).await, 0.0, "none of them is due");
        mirror.drain().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_it_is_off_nothing_is_verified_again() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::build(&registry).config(|config| config.cache.verify_every = Duration::ZERO).start().await;
    let (digest, content) = pulled(&registry, &mirror, LEN, 1).await;
    let file = blob::file(&mirror.cache_dir(), &digest);
    note(&file, Some(1));
    rot(&file);
    for _ in 0..4 {
        let hit = mirror.get(&path(&digest)).await;
        assert!(hit.header("cache-status") == HIT && hit.body != content);
    }
    let metrics = mirror.metrics().await;
    assert!(
        metrics.contains(&format!("{SCRUBBED} 0\n")) && metrics.contains(&format!("{CORRUPT}{{kind=\"blob\"}} 0\n"))
    );
    assert!(!metrics.contains(OLDEST));
    assert_eq!(noted(&file), format!("{LEN} 1"));
}
