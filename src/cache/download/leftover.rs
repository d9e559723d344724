//! Continues with the bytes that an earlier download of the blob left.

use std::{
    convert::Infallible,
    fs::File,
    io,
    sync::{Arc, atomic::Ordering},
};

use super::{Download, Downloads, hasher, state::TempContent};
use crate::cache::{
    hash::{TURNS, read_each},
    storage::{ChunkRecord, Leftover, TempBlob, blocking, change},
};

/// How many chunks are checked before forebay looks again for one that a reader waits for.
const BATCH: usize = 16;

/// Takes the bytes of an earlier download, if there are any. Returns how many there are.
pub(super) async fn resume(downloads: &Downloads, download: &Arc<Download>, slot: &mut Option<TempBlob>) -> u64 {
    let source = &download.source;
    // Only one of the concurrent downloads of a blob resumes it.
    if download.beside {
        return 0;
    }
    let left = downloads.store().resume(&source.id(), &source.origin()).await;
    let Some((temp, left)) = left else { return 0 };
    let written = download.update(|state| {
        match left {
            Leftover::Chunks(map) => state.chunks.restore(map.chunk, map.total, map.records),
            Leftover::Verified(len) => state.chunks.set_whole(len),
        }
        state.file = Some(content_of(&temp, None));
        state.chunks.written()
    });
    *slot = Some(temp);
    written
}

/// What the workers and readers of the download need of the file.
pub(super) fn content_of(temp: &TempBlob, map: Option<(u64, u64)>) -> TempContent {
    let notes = map.and_then(|(chunk, total)| temp.notes(chunk, total));
    TempContent { file: temp.file().clone(), room: Some(temp.room().clone()), notes: notes.map(Arc::new) }
}

/// Compares the chunks that an earlier download left with their checksums: first those that readers wait for. Never
/// returns; drop it with the download.
pub(super) async fn check(download: &Arc<Download>) -> Infallible {
    loop {
        let (chunks, size, file) = download
            .when(|state| {
                let chunks = state.chunks.to_check(BATCH);
                let file = state.file.as_ref().map(|content| content.file.clone())?;
                (!chunks.is_empty()).then(|| (chunks, state.chunks.size(), file))
            })
            .await;
        // The semaphore is never closed.
        let turn = TURNS.clone().acquire_owned().await.ok();
        let checked = blocking(move || {
            let checked: Vec<_> = chunks
                .into_iter()
                .map(|(index, record)| (index, record.written, is_right(&file, index as u64 * size, record)))
                .collect();
            drop(turn);
            checked
        })
        .await;
        download.update(|state| {
            for (index, len, is_right) in checked {
                if !is_right {
                    tracing::warn!(digest = %download.source.digest, chunk = index, "the disk has damaged what an earlier download left; it is fetched again");
                }
                state.chunks.checked(index, is_right);
                download.checked.fetch_add(len, Ordering::Relaxed);
            }
        });
        hasher::go_on(download);
    }
}

fn is_right(file: &File, start: u64, record: ChunkRecord) -> bool {
    let mut crc = 0;
    let read = read_each(file, start, start + record.written, |bytes| crc = crc32c::crc32c_append(crc, bytes));
    read.is_ok() && crc == record.crc
}

/// Whether the first `len` bytes are the whole blob.
pub(super) async fn is_whole(download: &Arc<Download>, len: u64) -> io::Result<bool> {
    download.hash.digest(download, len).await.map(|digest| digest == download.source.digest)
}

/// Restarts the download without the bytes of an earlier one.
pub(super) async fn forget(download: &Download, slot: &mut Option<TempBlob>) {
    discard(slot.take()).await;
    download.update(|state| {
        state.chunks.forget_bytes();
        state.file = None;
    });
    download.hash.restart(download.source.digest.algorithm()).await;
}

/// Removes the file, which can take a while if it is large; also if the download is cancelled meanwhile.
pub(super) fn discard(temp: Option<TempBlob>) -> impl Future<Output = ()> {
    let doomed = temp.map(TempBlob::doomed);
    async move {
        if let Some(doomed) = doomed {
            change(move || drop(doomed)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cache::{Config, DiskStore, Origin, Visibility, storage::lru_index::IndexKey},
        metrics::Metrics,
        oci::{Algorithm, Digest},
        upstream::Registry,
    };

    #[tokio::test]
    async fn a_cancelled_download_leaves_no_file_that_it_discards() {
        let directory = tempfile::tempdir().unwrap();
        let store = DiskStore::open(&Config::at(directory.path()), Metrics::new().unwrap()).unwrap();
        let id = Visibility::Shared.key(&Digest::of(Algorithm::Sha256, b"x"));
        let origin = Origin::of_registry(&Registry::new(
            &"registry.example".into(),
            &["https://registry.example".parse().unwrap()],
        ));
        let files = || std::fs::read_dir(directory.path().join("tmp")).unwrap().count();
        let reservation = store.reserve(&IndexKey::Blob(id.clone()), 1).await.unwrap();
        let temp = store.create(&id, &origin, reservation).await.unwrap();
        assert_eq!(files(), 1);
        // It may still wait for its turn.
        drop(discard(Some(temp)));
        assert_eq!(files(), 0);
    }
}
