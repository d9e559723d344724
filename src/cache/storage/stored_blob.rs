//! Verified blobs, open for reading.

use std::{fmt, fs::File, io, sync::Arc};

use super::{DiskStore, blocking, lru_index::IndexKey, recent_uses::touch, verified_at};
use crate::cache::ContentKey;

/// A verified blob, open for reading; it is not evicted before this is dropped.
pub struct StoredBlob {
    pub file: Arc<File>,
    pub len: u64,
    pub pin: Arc<Pin>,
}

/// Keeps one object from being evicted.
pub struct Pin {
    pub(super) store: DiskStore,
    pub(super) key: IndexKey,
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Pin").field(&self.key).finish()
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.store.0.index.lock().unpin(&self.key);
    }
}

impl DiskStore {
    /// Opens a verified blob and notes its use; `None` when it is not cached.
    ///
    /// A file that was deleted or truncated by hand is a miss, not an error.
    pub async fn open_blob(&self, id: &ContentKey) -> io::Result<Option<StoredBlob>> {
        let key = IndexKey::Blob(id.clone());
        // Most misses end here, without a blocking thread.
        if self.is_scanned() && !self.0.index.lock().contains(&key) {
            return Ok(None);
        }
        let store = self.clone();
        blocking(move || store.open_blob_blocking(key)).await
    }

    fn open_blob_blocking(&self, key: IndexKey) -> io::Result<Option<StoredBlob>> {
        let path = self.path(&key);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.0.index.lock().forget(&key);
                self.publish();
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let metadata = file.metadata()?;
        let pinned = {
            let mut index = self.0.index.lock();
            if !self.is_scanned() {
                index.insert(key.clone(), metadata.len());
            }
            index.pin(&key)
        };
        let Some(len) = pinned else {
            // It was evicted between the look into the index and the opening: it is a miss for all other readers as
            // well.
            return Ok(None);
        };
        let pin = Arc::new(Pin { store: self.clone(), key });
        if len != metadata.len() || verified_at::noted(&file).is_some_and(|noted| noted.len != len) {
            self.note_corrupt(&pin.key, &path, "it has another length");
            self.remove_blocking(&pin.key);
            return Ok(None);
        }
        let file = Arc::new(file);
        touch(&file, &metadata);
        Ok(Some(StoredBlob { file, len, pin }))
    }
}
