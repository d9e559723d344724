use std::{os::unix::fs::FileExt as _, path::Path, time::SystemTime};

use super::*;
use crate::{
    cache::{
        Visibility,
        storage::{file_names, tests::store},
    },
    oci::{Algorithm, Digest},
    upstream::Registry,
};

const CHUNK: u64 = 1 << 20;

fn origin() -> Origin {
    origin_of("docker.io", "https://registry-1.docker.io")
}

fn origin_of(name: &str, url: &str) -> Origin {
    Origin::of_registry(&Registry::new(&name.into(), &[url.parse().unwrap()]))
}

fn whatever() -> ContentKey {
    Visibility::Shared.key(&Digest::of(Algorithm::Sha256, b"whatever"))
}

/// One chunk with bytes from its start, and one further on.
fn map(written: u64) -> PartialMap {
    let record = |written| ChunkRecord { written, crc: 7 };
    PartialMap { chunk: CHUNK, total: Some(3 * CHUNK), records: vec![record(written), record(0), record(0)] }
}

/// A store before its scan, in whose `tmp/` an earlier store left 100 kB of a blob.
async fn with_leftovers(directory: &Path) -> (DiskStore, ContentKey) {
    let id = whatever();
    {
        let store = store(directory);
        store.scan().await;
        let temp = store.create(&id, &origin(), store.reserve_ahead_of_test(&id).await).await.unwrap();
        temp.file().write_all_at(&[7; 100_000], 0).unwrap();
        temp.keep(Purpose::Client, &map(100_000), false).unwrap();
    }
    (store(directory), id)
}

impl DiskStore {
    async fn reserve_ahead_of_test(&self, id: &ContentKey) -> Reservation {
        self.reserve(&IndexKey::Blob(id.clone()), 500_000).await.unwrap()
    }
}

fn written(left: Option<(TempBlob, Leftover)>) -> Option<(TempBlob, u64)> {
    left.map(|(temp, left)| match left {
        Leftover::Chunks(map) => (temp, map.records.iter().map(|record| record.written).sum()),
        Leftover::Verified(len) => (temp, len),
    })
}

fn files(directory: &Path) -> usize {
    std::fs::read_dir(directory.join("tmp")).unwrap().count()
}

#[tokio::test]
async fn a_download_before_the_scan_ends_resumes_a_leftover() {
    let directory = tempfile::tempdir().unwrap();
    let (store, id) = with_leftovers(directory.path()).await;
    let origin = origin();
    let (resumed, ()) = tokio::join!(store.resume(&id, &origin), store.scan());
    let resumed = written(resumed).unwrap();
    assert_eq!(resumed.1, 100_000);
    assert!(!store.0.index.contains(&IndexKey::Partial(id)), "what is being written is no leftover");
}

#[tokio::test]
async fn a_file_that_is_not_resumed_is_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let (store, id) = with_leftovers(directory.path()).await;
    store.scan().await;
    let before = store.0.index.total();
    let temp =
        store.create(&id, &origin(), store.reserve(&IndexKey::Blob(id.clone()), 10).await.unwrap()).await.unwrap();
    assert_eq!(temp.file().metadata().unwrap().len(), 0);
    assert!(!store.0.index.contains(&IndexKey::Partial(id.clone())));
    temp.file().write_all_at(b"0123456789", 0).unwrap();
    drop(temp.commit(Purpose::Client, 10).unwrap());
    assert_eq!(store.open_blob(&id).await.unwrap().map(|blob| blob.len), Some(10));
    assert!(store.0.index.total() < before);
}

#[tokio::test]
async fn what_is_discarded_leaves_neither_file_nor_promise() {
    let directory = tempfile::tempdir().unwrap();
    let store = store(directory.path());
    store.scan().await;
    let before = store.0.index.total();
    for keep in [None, Some(0), Some(WORTH_KEEPING - 1)] {
        let reservation = store.reserve_ahead_of_test(&whatever()).await;
        let temp = store.create(&whatever(), &origin(), reservation).await.unwrap();
        assert!(store.0.index.total() > before + 200_000);
        match keep {
            None => drop(temp.doomed()),
            Some(len) => temp.keep(Purpose::Client, &map(len), false).unwrap(),
        }
        assert_eq!(store.0.index.total(), before);
        assert_eq!(files(directory.path()), 0);
    }
}

#[tokio::test]
async fn what_is_kept_changes_no_byte_and_counts_what_it_allocates() {
    let directory = tempfile::tempdir().unwrap();
    let store = store(directory.path());
    store.scan().await;
    let temp = store.create(&whatever(), &origin(), store.reserve_ahead_of_test(&whatever()).await).await.unwrap();
    temp.file().write_all_at(&[1; 100_000], 0).unwrap();
    temp.file().write_all_at(&[1; 100_000], 2 * CHUNK).unwrap();
    // The page may be queued in a socket for a client whose reader has ended: not a byte of it may change.
    let path = directory.path().join("tmp").join(file_names::partial(&whatever()));
    let before = std::fs::read(&path).unwrap();
    let mut kept = map(100_000);
    kept.records[2].written = 100_000;
    temp.keep(Purpose::Client, &kept, false).unwrap();
    assert_eq!(std::fs::read(&path).unwrap()[..before.len()], before);
    let counted = store.0.index.totals(crate::cache::ObjectKind::Partial).bytes;
    let allocated = std::fs::metadata(&path).unwrap().blocks() * 512;
    assert!(counted == allocated && (200_000..400_000).contains(&counted), "{counted} {allocated}");
    drop(store);
    let store = self::store(directory.path());
    store.scan().await;
    assert_eq!(store.0.index.totals(crate::cache::ObjectKind::Partial).bytes, allocated);
    let (_, left) = store.resume(&whatever(), &origin()).await.unwrap();
    assert!(matches!(left, Leftover::Chunks(left) if left == kept));
}

#[tokio::test]
async fn chunks_that_were_noted_outlive_the_process() {
    let directory = tempfile::tempdir().unwrap();
    let store = store(directory.path());
    store.scan().await;
    let temp = store.create(&whatever(), &origin(), store.reserve_ahead_of_test(&whatever()).await).await.unwrap();
    let notes = temp.notes(CHUNK, 3 * CHUNK).unwrap();
    let record = ChunkRecord { written: CHUNK, crc: 9 };
    notes.note(2, record, || map(50).records).unwrap();
    notes.note(1, record, || panic!("the others are there")).unwrap();
    // The process ends at once: the file is neither discarded nor kept in order.
    drop(temp);
    drop(store);
    std::fs::remove_file(directory.path().join("lock")).unwrap();
    let store = self::store(directory.path());
    store.scan().await;
    let (_, left) = store.resume(&whatever(), &origin()).await.unwrap();
    let Leftover::Chunks(left) = left else { panic!("nothing was verified") };
    assert_eq!(left, PartialMap { records: vec![map(50).records[0], record, record], ..map(50) });
}

/// A file that cannot be written is like a disk without room for the map.
#[tokio::test]
async fn without_room_for_the_map_the_noted_chunks_are_kept() {
    for is_noted in [true, false] {
        let directory = tempfile::tempdir().unwrap();
        let store = store(directory.path());
        store.scan().await;
        let reservation = store.reserve_ahead_of_test(&whatever()).await;
        let mut temp = store.create(&whatever(), &origin(), reservation).await.unwrap();
        temp.file().write_all_at(&[7; 100_000], 0).unwrap();
        let record = ChunkRecord { written: CHUNK, crc: 9 };
        if is_noted {
            temp.notes(CHUNK, 3 * CHUNK).unwrap().note(2, record, || map(0).records).unwrap();
        }
        let path = directory.path().join("tmp").join(file_names::partial(&whatever()));
        temp.temp.file = Arc::new(File::open(path).unwrap());
        assert_eq!(temp.keep(Purpose::Client, &map(100_000), false).is_ok(), is_noted);
        let left = store.resume(&whatever(), &origin()).await;
        let Some((_, Leftover::Chunks(left))) = left else {
            assert!(!is_noted && files(directory.path()) == 0);
            continue;
        };
        assert_eq!(left.records, [map(0).records[0], map(0).records[1], record]);
    }
}

#[tokio::test]
async fn what_is_left_goes_when_it_was_in_vain_twice() {
    let directory = tempfile::tempdir().unwrap();
    let (store, id) = with_leftovers(directory.path()).await;
    store.scan().await;
    // Outages, a response, a response with one byte more, and two responses with an outage between them.
    let downloads = [(false, 0), (false, 0), (true, 0), (false, 0), (true, 1), (true, 0), (false, 0), (true, 0)];
    for (answered, more) in downloads {
        let (temp, before) = written(store.resume(&id, &origin()).await).unwrap();
        temp.keep(Purpose::Client, &map(before + more), answered).unwrap();
    }
    assert!(store.resume(&id, &origin()).await.is_none());
    assert_eq!(files(directory.path()), 0);
}

#[tokio::test]
async fn what_another_registry_left_is_not_gone_on_with() {
    let directory = tempfile::tempdir().unwrap();
    let (store, id) = with_leftovers(directory.path()).await;
    store.scan().await;
    let others = [
        origin_of("evil.example", "https://registry-1.docker.io"),
        origin_of("docker.io", "https://evil.example"),
        origin().in_repository("team/app"),
    ];
    for other in &others {
        assert!(store.resume(&id, other).await.is_none());
    }
    assert!(store.resume(&id, &origin()).await.is_some());
    // A file without a map does not say whose bytes it has.
    let directory = tempfile::tempdir().unwrap();
    let (store, id) = with_leftovers(directory.path()).await;
    std::fs::write(directory.path().join("tmp").join(file_names::partial(&id)), [7; 100_000]).unwrap();
    store.scan().await;
    assert!(store.resume(&id, &origin()).await.is_none());
}

#[tokio::test]
async fn what_a_client_has_stays_used_when_it_also_comes_ahead() {
    let directory = tempfile::tempdir().unwrap();
    let store = store(directory.path());
    store.scan().await;
    let id = whatever();
    let key = IndexKey::Blob(id.clone());
    let modified = || std::fs::metadata(store.path(&key)).unwrap().modified().unwrap();
    for (purpose, is_used) in [(Purpose::Ahead, false), (Purpose::Client, true), (Purpose::Ahead, true)] {
        let temp = store.create(&id, &origin(), store.reserve(&key, 10).await.unwrap()).await.unwrap();
        temp.file().write_all_at(b"0123456789", 0).unwrap();
        drop(temp.commit(purpose, 10).unwrap());
        assert_eq!(modified() > SystemTime::UNIX_EPOCH, is_used, "{purpose:?}");
    }
}

#[tokio::test]
async fn two_downloads_of_one_content_do_not_share_a_file() {
    let directory = tempfile::tempdir().unwrap();
    let store = store(directory.path());
    store.scan().await;
    let id = whatever();
    let before = store.0.index.total();
    let reserve = async || store.reserve(&IndexKey::Blob(id.clone()), 100_000).await.unwrap();
    let first = store.create(&id, &origin(), reserve().await).await.unwrap();
    let second = store.create_beside(&id, reserve().await).await.unwrap();
    assert!(second.notes(CHUNK, 3 * CHUNK).is_none(), "it is never kept");
    for (temp, byte) in [(&first, 1), (&second, 2)] {
        temp.file().write_all_at(&[byte; 100_000], 0).unwrap();
    }
    drop(second.commit(Purpose::Client, 100_000).unwrap());
    let once = store.0.index.total();
    assert_eq!(std::fs::read(store.path(&IndexKey::Blob(id.clone()))).unwrap(), [2; 100_000]);
    drop(first.commit(Purpose::Client, 100_000).unwrap());
    assert!(store.0.index.total() <= once, "one blob is counted once");
    let given_up = store.create_beside(&id, reserve().await).await.unwrap();
    given_up.file().write_all_at(&[1; 100_000], 0).unwrap();
    given_up.keep(Purpose::Client, &map(100_000), false).unwrap();
    assert!(store.resume(&id, &origin()).await.is_none());
    assert_eq!(files(directory.path()), 0);
    store.remove(IndexKey::Blob(id)).await;
    assert!(store.0.index.total() <= before + 8192, "but for directories");
}
