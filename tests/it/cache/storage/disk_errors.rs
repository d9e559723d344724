//! A disk that fails, or is tampered with, turns caching off and not pulling.

use std::{fs, os::unix::fs::symlink};

use forebay_test_support::{
    blob::{self, add, path},
    fake_registry::FakeRegistry,
    mirror::Mirror,
    raw::Raw,
};

const LEN: usize = 300_000;
const COMPLETE: &[(&str, &str)] = &[("result", "complete")];

/// Gets a new blob, which must be right, twice.
async fn pull(registry: &FakeRegistry, mirror: &Mirror, seed: u64) -> [Option<String>; 2] {
    let (digest, content) = add(registry, LEN, seed);
    let mut outcomes = [const { None }; 2];
    for outcome in &mut outcomes {
        let answer = mirror.get(&path(&digest)).await;
        assert!(answer.status == 200 && answer.body == content);
        *outcome = answer.header("cache-status").map(str::to_owned);
        mirror.until_metric("forebay_fills_in_flight", &[], 0.0).await;
    }
    let ranged = mirror.get_with(&path(&digest), &[("range", "bytes=9-19")]).await;
    assert_eq!((ranged.status, ranged.body), (206, content.slice(9..=19)));
    outcomes
}

fn stored() -> [Option<String>; 2] {
    [Some("forebay; fwd=miss; stored".to_owned()), Some("forebay; hit".to_owned())]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_was_deleted_by_hand_is_a_miss() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    let (digest, content) = add(&registry, LEN, 1);
    for round in 1..=3 {
        let answer = mirror.get(&path(&digest)).await;
        assert_eq!((answer.header("cache-status"), &answer.body), (stored()[0].as_deref(), &content));
        mirror.until_metric("forebay_fills_total", COMPLETE, f64::from(round)).await;
        mirror.until_metric("forebay_fills_in_flight", &[], 0.0).await;
        assert_eq!(mirror.metric("forebay_cache_bytes", &[("kind", "blob")]).await, LEN.next_multiple_of(4096) as f64);
        fs::remove_file(blob::file(&mirror.cache_dir(), &digest)).unwrap();
    }
    assert_eq!(mirror.head(&path(&digest)).await.header("cache-status"), Some("forebay; fwd=miss"));
    assert_eq!(mirror.metric("forebay_cache_bytes", &[("kind", "blob")]).await, 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_was_cut_by_hand_is_a_miss() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    let (digest, content) = add(&registry, LEN, 1);
    mirror.get(&path(&digest)).await;
    mirror.until_metric("forebay_fills_total", COMPLETE, 1.0).await;
    mirror.until_metric("forebay_fills_in_flight", &[], 0.0).await;
    let file = blob::file(&mirror.cache_dir(), &digest);
    fs::File::options().write(true).open(&file).unwrap().set_len(1000).unwrap();
    let answer = mirror.get(&path(&digest)).await;
    assert_eq!((answer.header("cache-status"), &answer.body), (stored()[0].as_deref(), &content));
    mirror.until_metric("forebay_fills_total", COMPLETE, 2.0).await;
    assert_eq!(fs::read(&file).unwrap(), content);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_is_cut_while_it_is_read_breaks_the_response() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    // More than the sockets between take.
    let (digest, _) = add(&registry, 24 * 1024 * 1024, 1);
    mirror.get(&path(&digest)).await;
    mirror.until_metric("forebay_fills_total", COMPLETE, 1.0).await;
    let mut reader = Raw::get(mirror.address(), &path(&digest), &[]).await;
    reader.read(1000).await;
    let file = blob::file(&mirror.cache_dir(), &digest);
    fs::File::options().write(true).open(&file).unwrap().set_len(2000).unwrap();
    assert!(!reader.rest().await.is_whole());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn directories_that_were_removed_are_made_again() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    assert_eq!(pull(&registry, &mirror, 1).await, stored());
    fs::remove_dir_all(mirror.cache_dir().join("blobs")).unwrap();
    assert_eq!(pull(&registry, &mirror, 1).await, stored());
    assert_eq!(pull(&registry, &mirror, 2).await, stored());
    // Without a place for bytes in flight nothing is kept, and everything comes.
    fs::remove_dir_all(mirror.cache_dir().join("tmp")).unwrap();
    pull(&registry, &mirror, 3).await;
    fs::remove_dir_all(mirror.cache_dir()).unwrap();
    pull(&registry, &mirror, 4).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_in_the_place_of_a_directory_turns_caching_off() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    for (seed, name) in ["tmp", "blobs"].into_iter().enumerate() {
        let directory = mirror.cache_dir().join(name);
        fs::remove_dir_all(&directory).unwrap();
        fs::write(&directory, "not a directory").unwrap();
        let outcomes = pull(&registry, &mirror, seed as u64).await;
        assert_ne!(outcomes[1], stored()[1], "{name}");
        fs::remove_file(&directory).unwrap();
        fs::create_dir(&directory).unwrap();
        assert_eq!(pull(&registry, &mirror, 10 + seed as u64).await, stored(), "{name} is back");
    }
    assert!(blob::files(&mirror.cache_dir().join("tmp")).is_empty());
}

/// A link in the place of a directory below the topmost ones: what it leads to is not forebay's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_written_behind_a_link_in_a_shards_place() {
    for depth in [1, 2] {
        let registry = FakeRegistry::start().await;
        let mut mirror = Mirror::of(&registry).await;
        let image = registry.add_image("team/app", "1", &[b"layer"]);
        let others = tempfile::tempdir().unwrap();
        let links: Vec<_> = [("blobs", &image.layers[0]), ("manifests", &image.manifest)]
            .into_iter()
            .map(|(kind, digest)| {
                let shard = mirror.cache_dir().join(kind).join("sha256").join(&digest.hex()[..2]);
                if depth == 1 { shard.parent().unwrap().to_owned() } else { shard }
            })
            .collect();
        for link in &links {
            fs::create_dir_all(link.parent().unwrap()).unwrap();
            symlink(others.path(), link).unwrap();
        }
        for _ in 0..2 {
            let layer = mirror.get(&format!("/v2/team/app/blobs/{}", image.layers[0])).await;
            assert_eq!((layer.status, layer.text()), (200, "layer"));
            assert_eq!(mirror.get(&format!("/v2/team/app/manifests/{}", image.manifest)).await.status, 200);
            // With a link so far up, a start may refuse the directory.
            if depth == 2 {
                mirror.restart().await;
            } else {
                mirror.until_metric("forebay_fills_in_flight", &[], 0.0).await;
            }
            let found: Vec<_> = fs::read_dir(others.path()).unwrap().collect();
            assert!(found.is_empty(), "{found:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_turns_caching_off() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::of(&registry).await;
    for len in [1000, LEN, 4_000_000] {
        let (digest, content) = add(&registry, len, 1);
        // Every write fails as it does on a disk without room.
        symlink("/dev/full", blob::partial(&mirror.cache_dir(), &digest)).unwrap();
        let address = mirror.address();
        let clients: Vec<_> = (0..4)
            .map(|_| {
                let target = path(&digest);
                tokio::spawn(async move { Raw::get(address, &target, &[]).await.rest().await })
            })
            .collect();
        for client in clients {
            let end = client.await.unwrap();
            assert!(end.is_whole() && end.bytes() == content, "{len}");
        }
        mirror.until_metric("forebay_fills_in_flight", &[], 0.0).await;
        let again = mirror.get(&path(&digest)).await;
        assert!(again.body == content);
    }
    blob::assert_verified(&mirror.cache_dir());
}
