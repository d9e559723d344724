use std::{os::unix::fs::FileExt, path::Path, time::SystemTime};

use super::*;
use crate::{
    cache::{
        Visibility,
        storage::{file_names, partial_attributes::REGISTRY, tests::store},
    },
    oci::{Algorithm, Digest},
};

fn registry() -> Registry {
    Registry::new(&"docker.io".into(), &["https://registry-1.docker.io".parse().unwrap()])
}

/// A store before its scan, in whose `tmp/` an earlier store left 100 kB of a blob.
fn with_leftovers(directory: &Path) -> (DiskStore, ContentKey) {
    let digest = Visibility::Shared.key(&Digest::of(Algorithm::Sha256, b"whatever"));
    drop(store(directory));
    let path = directory.join("tmp").join(file_names::partial(&digest, false));
    std::fs::write(&path, vec![7; 100_000]).unwrap();
    note_registry(&File::open(path).unwrap(), &registry().fingerprint());
    (store(directory), digest)
}

#[tokio::test]
async fn a_download_before_the_scan_ends_resumes_a_leftover() {
    let directory = tempfile::tempdir().unwrap();
    let (store, digest) = with_leftovers(directory.path());
    let registry = registry();
    let (resumed, ()) = tokio::join!(store.resume(&digest, &registry), store.scan());
    assert_eq!(resumed.map(|(_, len)| len), Some(100_000));
    assert!(!store.0.index.contains(&IndexKey::Partial(digest)), "what is being written is no leftover");
}

#[tokio::test]
async fn late_leftovers_are_overwritten_and_not_evicted_meanwhile() {
    let directory = tempfile::tempdir().unwrap();
    let (store, digest) = with_leftovers(directory.path());
    store.scan().await;
    let key = IndexKey::Blob(digest.clone());
    let before = store.0.index.total();
    let temp = store.create(&digest, &registry(), store.reserve(&key, 10).await.unwrap()).await.unwrap();
    assert_eq!(temp.file().metadata().unwrap().len(), 0);
    assert!(!store.0.index.contains(&IndexKey::Partial(digest.clone())));
    temp.file().write_all_at(b"0123456789", 0).unwrap();
    drop(temp.commit(Purpose::Client, 10).unwrap());
    assert_eq!(store.open_blob(&digest).await.unwrap().map(|blob| blob.len), Some(10));
    assert!(store.0.index.total() < before);
}

#[tokio::test]
async fn what_is_dropped_leaves_neither_file_nor_promise() {
    let directory = tempfile::tempdir().unwrap();
    let store = store(directory.path());
    store.scan().await;
    let digest = Visibility::Shared.key(&Digest::of(Algorithm::Sha256, b"whatever"));
    let before = store.0.index.total();
    for keep in [None, Some(0), Some(WORTH_KEEPING - 1)] {
        let reservation = store.reserve(&IndexKey::Blob(digest.clone()), 200_000).await.unwrap();
        let temp = store.create(&digest, &registry(), reservation).await.unwrap();
        assert!(store.0.index.total() > before + 200_000);
        temp.name().allow_gaps().unwrap();
        match keep {
            None => drop(temp),
            Some(len) => temp.keep(Purpose::Client, len, false).unwrap(),
        }
        assert_eq!(store.0.index.total(), before);
        assert_eq!(std::fs::read_dir(directory.path().join("tmp")).unwrap().count(), 0);
    }
}

#[tokio::test]
async fn what_is_kept_is_gone_on_with_where_its_holes_begin() {
    let directory = tempfile::tempdir().unwrap();
    let store = store(directory.path());
    store.scan().await;
    let digest = Visibility::Shared.key(&Digest::of(Algorithm::Sha256, b"whatever"));
    let reservation = store.reserve(&IndexKey::Blob(digest.clone()), 500_000).await.unwrap();
    let temp = store.create(&digest, &registry(), reservation).await.unwrap();
    temp.name().allow_gaps().unwrap();
    temp.file().write_all_at(&[1; 100_000], 0).unwrap();
    temp.file().write_all_at(&[1; 1000], 400_000).unwrap();
    // The page may be queued in a socket for a client whose reader has ended: not a byte of it may change.
    let path = directory.path().join("tmp").join(file_names::partial(&digest, true));
    let before = std::fs::read(path).unwrap();
    temp.keep(Purpose::Client, 100_000, false).unwrap();
    assert_eq!(std::fs::read(directory.path().join("tmp").join(file_names::partial(&digest, false))).unwrap(), before);
    drop(store);
    let store = self::store(directory.path());
    store.scan().await;
    let (temp, prefix) = store.resume(&digest, &registry()).await.unwrap();
    assert_eq!(prefix, 100_000);
    // The download breaks again, a little later.
    temp.file().write_all_at(&[1; 50_000], 100_000).unwrap();
    temp.keep(Purpose::Client, 150_000, true).unwrap();
    let (temp, prefix) = store.resume(&digest, &registry()).await.unwrap();
    assert_eq!(prefix, 150_000);
    // The file is complete now: after a kill, the next start must trust all of it.
    temp.name().close_gaps(temp.file()).unwrap();
    assert_eq!(noted_prefix(temp.file()), None);
    drop(temp);
    assert!(store.resume(&digest, &registry()).await.is_none());
}

#[tokio::test]
async fn what_is_left_goes_when_it_was_in_vain_twice() {
    let directory = tempfile::tempdir().unwrap();
    let (store, digest) = with_leftovers(directory.path());
    store.scan().await;
    // Outages, a response, a response with one byte more, and two responses with an outage between them.
    let downloads = [(false, 0), (false, 0), (true, 0), (false, 0), (true, 1), (true, 0), (false, 0), (true, 0)];
    for (answered, more) in downloads {
        let (temp, prefix) = store.resume(&digest, &registry()).await.unwrap();
        temp.file().write_all_at(&vec![1; more], prefix).unwrap();
        temp.keep(Purpose::Client, prefix + more as u64, answered).unwrap();
    }
    assert!(store.resume(&digest, &registry()).await.is_none());
    assert!(std::fs::read_dir(directory.path().join("tmp")).unwrap().next().is_none());
}

#[tokio::test]
async fn what_another_registry_left_is_not_gone_on_with() {
    let directory = tempfile::tempdir().unwrap();
    let (store, digest) = with_leftovers(directory.path());
    store.scan().await;
    let url = |url: &str| [url.parse().unwrap()];
    let others = [
        Registry::new(&"evil.example".into(), &url("https://registry-1.docker.io")),
        Registry::new(&"docker.io".into(), &url("https://evil.example")),
    ];
    for other in &others {
        assert!(store.resume(&digest, other).await.is_none());
    }
    assert!(store.resume(&digest, &registry()).await.is_some());
    // A file that an earlier version of forebay left does not name its registry.
    let directory = tempfile::tempdir().unwrap();
    let (store, digest) = with_leftovers(directory.path());
    let path = directory.path().join("tmp").join(file_names::partial(&digest, false));
    rustix::fs::removexattr(path, REGISTRY).unwrap();
    store.scan().await;
    assert!(store.resume(&digest, &registry()).await.is_none());
}

#[tokio::test]
async fn what_a_client_has_stays_used_when_it_also_comes_ahead() {
    let directory = tempfile::tempdir().unwrap();
    let store = store(directory.path());
    store.scan().await;
    let digest = Visibility::Shared.key(&Digest::of(Algorithm::Sha256, b"whatever"));
    let key = IndexKey::Blob(digest.clone());
    let modified = || std::fs::metadata(store.path(&key)).unwrap().modified().unwrap();
    for (purpose, is_used) in [(Purpose::Ahead, false), (Purpose::Client, true), (Purpose::Ahead, true)] {
        let temp = store.create(&digest, &registry(), store.reserve(&key, 10).await.unwrap()).await.unwrap();
        temp.file().write_all_at(b"0123456789", 0).unwrap();
        drop(temp.commit(purpose, 10).unwrap());
        assert_eq!(modified() > SystemTime::UNIX_EPOCH, is_used, "{purpose:?}");
    }
}

#[tokio::test]
async fn two_fills_of_one_content_do_not_share_a_file() {
    let directory = tempfile::tempdir().unwrap();
    let store = store(directory.path());
    store.scan().await;
    let digest = Visibility::Shared.key(&Digest::of(Algorithm::Sha256, b"whatever"));
    let before = store.0.index.total();
    let reserve = async || store.reserve(&IndexKey::Blob(digest.clone()), 100_000).await.unwrap();
    let first = store.create(&digest, &registry(), reserve().await).await.unwrap();
    let second = store.create_beside(&digest, reserve().await).await.unwrap();
    for (temp, byte) in [(&first, 1), (&second, 2)] {
        temp.name().allow_gaps().unwrap();
        temp.file().write_all_at(&[byte; 100_000], 0).unwrap();
    }
    drop(second.commit(Purpose::Client, 100_000).unwrap());
    let once = store.0.index.total();
    assert_eq!(std::fs::read(store.path(&IndexKey::Blob(digest.clone()))).unwrap(), [2; 100_000]);
    drop(first.commit(Purpose::Client, 100_000).unwrap());
    assert!(store.0.index.total() <= once, "one blob is counted once");
    let given_up = store.create_beside(&digest, reserve().await).await.unwrap();
    given_up.file().write_all_at(&[1; 100_000], 0).unwrap();
    given_up.keep(Purpose::Client, 100_000, false).unwrap();
    assert!(store.resume(&digest, &registry()).await.is_none());
    assert_eq!(std::fs::read_dir(directory.path().join("tmp")).unwrap().count(), 0);
    store.remove(IndexKey::Blob(digest)).await;
    assert!(store.0.index.total() <= before + 8192, "but for directories");
}
