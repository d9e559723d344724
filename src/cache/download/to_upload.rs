//! Which downloads are uploaded to the object store.

use super::Downloads;
use crate::cache::{Source, UploadQueue, storage::lru_index::IndexKey};

impl Downloads {
    /// From now on, notes here what is to be uploaded to the object store.
    pub(crate) fn upload_by(&self, queue: UploadQueue) {
        // There is one queue.
        let _ = self.uploads().set(queue);
    }

    /// A blob is on disk: this forebay uploads it, or another one does, or it came from the store.
    pub(super) fn to_be_uploaded(&self, source: &Source) {
        if let Some(queue) = self.uploads().get()
            && source.upstream.is_to_be_uploaded(&source.digest)
        {
            queue.add(&IndexKey::Blob(source.id()));
        }
    }
}
