//! Verified blobs, open for reading.
//!
//! The files of blobs that were read lately stay open, so that a hit on one of them opens nothing and takes no thread.
//! What must hold: the file of a blob that leaves the index is closed when its readers are gone. Each hit looks whether
//! a file that stayed open was deleted or cut by hand.

use std::{fmt, fs::File, io, sync::Arc};

use rustix::fs::{AtFlags, StatxFlags};

use super::{
    DiskStore, blocking,
    lru_index::{CompactKey, IndexKey, Pinned},
    recent_uses, verified_at,
};
use crate::cache::ContentKey;

/// How many files of blobs stay open without readers.
pub const MAX_OPEN: usize = 4096;

/// A verified blob, open for reading; it is not evicted before this is dropped.
pub struct StoredBlob {
    pub file: Arc<File>,
    pub len: u64,
    pub pin: Arc<Pin>,
}

/// Keeps one object from being evicted.
pub struct Pin {
    pub(super) store: DiskStore,
    pub(super) key: CompactKey,
    pub(super) serial: u64,
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Pin").field(&self.key).finish()
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.store.0.index.unpin(&self.key, self.serial);
    }
}

impl DiskStore {
    /// Opens a verified blob and notes its use; `None` when it is not cached. Does not wait if the file is open.
    ///
    /// A file that was deleted or truncated by hand is a miss, not an error.
    pub async fn open_blob(&self, id: &ContentKey) -> io::Result<Option<StoredBlob>> {
        let key = IndexKey::Blob(id.clone());
        if let Some(blob) = self.open_already(&CompactKey::from(&key)) {
            return Ok(Some(blob));
        }
        // Most misses end here, without a blocking thread.
        if self.is_scanned() && !self.0.index.contains(&key) {
            return Ok(None);
        }
        let store = self.clone();
        blocking(move || store.open_blob_blocking(key)).await
    }

    /// A blob whose file is open; `None` if it is not, or if it was deleted or changed by hand.
    fn open_already(&self, key: &CompactKey) -> Option<StoredBlob> {
        let pinned = self.0.index.pin_open(key)?;
        let pin = self.pin(key, &pinned);
        let file = pinned.file?;
        if !is_whole(&file, pinned.len) {
            return None;
        }
        if pinned.is_first {
            recent_uses::note_on_disk(&file);
        }
        Some(StoredBlob { file, len: pinned.len, pin })
    }

    fn pin(&self, key: &CompactKey, pinned: &Pinned) -> Arc<Pin> {
        Arc::new(Pin { store: self.clone(), key: key.clone(), serial: pinned.serial })
    }

    fn open_blob_blocking(&self, key: IndexKey) -> io::Result<Option<StoredBlob>> {
        let compact = CompactKey::from(&key);
        if let Some(blob) = self.open_already(&compact) {
            return Ok(Some(blob));
        }
        // If a file is still open, it was changed by hand.
        drop(self.0.index.take_open(&compact));
        let path = self.path(&key);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.0.index.forget(&key);
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let metadata = file.metadata()?;
        if !self.is_scanned() && !self.0.index.contains(&key) {
            self.0.index.insert(key.clone(), metadata.len());
        }
        let Some(pinned) = self.0.index.pin(&compact) else {
            // It was evicted between the look into the index and the opening: it is a miss for all other readers as
            // well.
            return Ok(None);
        };
        let pin = self.pin(&compact, &pinned);
        let len = pinned.len;
        if len != metadata.len() || verified_at::noted(&file).is_some_and(|noted| noted.len != len) {
            self.note_corrupt(&key, &path, "it has another length");
            self.remove_blocking(&key);
            return Ok(None);
        }
        let file = Arc::new(file);
        recent_uses::touch(&file, &metadata);
        self.0.index.keep_open(&compact, pinned.serial, &file);
        Ok(Some(StoredBlob { file, len, pin }))
    }
}

/// Whether an open file has a name and this length. Takes what the kernel knows, and so waits for no disk and no server.
fn is_whole(file: &File, len: u64) -> bool {
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    match rustix::fs::statx(file, "", flags, StatxFlags::NLINK | StatxFlags::SIZE) {
        Ok(known) => known.stx_nlink > 0 && known.stx_size == len,
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::FileExt as _, path::Path};

    use futures_util::FutureExt as _;

    use super::*;
    use crate::{
        cache::{
            Visibility,
            storage::{Purpose, lru_index::allocated, tests::store},
        },
        oci::{Algorithm, Digest},
    };

    const LEN: u64 = 100_000;

    async fn cached(store: &DiskStore) -> ContentKey {
        let id = Visibility::Shared.key(&Digest::of(Algorithm::Sha256, b"whatever"));
        let reservation = store.reserve(&IndexKey::Blob(id.clone()), LEN).await.unwrap();
        let temp = store.create_beside(&id, reservation).await.unwrap();
        temp.file().write_all_at(&[7; LEN as usize], 0).unwrap();
        drop(temp.commit(Purpose::Client, LEN).unwrap());
        id
    }

    /// The descriptors of this process on files below a directory.
    fn descriptors(directory: &Path) -> usize {
        let links = std::fs::read_dir("/proc/self/fd").unwrap();
        let targets = links.filter_map(|link| std::fs::read_link(link.unwrap().path()).ok());
        targets.filter(|target| target.starts_with(directory.join("blobs"))).count()
    }

    #[tokio::test]
    async fn a_second_hit_waits_for_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let store = store(directory.path());
        store.scan().await;
        let id = cached(&store).await;
        assert_eq!(store.open_blob(&id).await.unwrap().unwrap().len, LEN);
        for _ in 0..3 {
            let blob = store.open_blob(&id).now_or_never().unwrap().unwrap().unwrap();
            assert_eq!(store.0.index.kept_by_readers(), allocated(LEN));
            drop(blob);
            assert_eq!(store.0.index.kept_by_readers(), 0);
        }
    }

    #[tokio::test]
    async fn an_open_file_of_a_blob_that_goes_is_closed() {
        for evicted in [true, false] {
            let directory = tempfile::tempdir().unwrap();
            let store = store(directory.path());
            store.scan().await;
            let id = cached(&store).await;
            drop(store.open_blob(&id).await.unwrap());
            assert_eq!(descriptors(directory.path()), 1);
            if evicted {
                drop(store.reserve(&IndexKey::Partial(id.clone()), 1_000_000).await.unwrap());
            } else {
                store.remove(IndexKey::Blob(id.clone())).await;
            }
            assert_eq!(descriptors(directory.path()), 0, "{evicted}");
            assert!(store.open_blob(&id).await.unwrap().is_none());
        }
    }

    #[tokio::test]
    async fn an_open_file_that_was_changed_by_hand_is_looked_at() {
        for (how, expected) in [("deleted", None), ("cut", None), ("replaced", Some(9))] {
            let directory = tempfile::tempdir().unwrap();
            let store = store(directory.path());
            store.scan().await;
            let id = cached(&store).await;
            let key = IndexKey::Blob(id.clone());
            drop(store.open_blob(&id).await.unwrap());
            let path = store.path(&key);
            match how {
                "deleted" => std::fs::remove_file(path).unwrap(),
                "cut" => File::options().write(true).open(path).unwrap().set_len(1000).unwrap(),
                _ => {
                    let other = directory.path().join("other");
                    std::fs::write(&other, [9; LEN as usize]).unwrap();
                    std::fs::rename(other, path).unwrap();
                }
            }
            let first = store.open_blob(&id).await.unwrap().map(|blob| {
                let mut byte = [0];
                blob.file.read_exact_at(&mut byte, 0).unwrap();
                byte[0]
            });
            assert_eq!((first, store.has(&key)), (expected, expected.is_some()), "{how}");
            assert_eq!(descriptors(directory.path()), usize::from(expected.is_some()), "{how}");
        }
    }
}
