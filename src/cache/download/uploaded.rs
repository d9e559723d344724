//! A pushed blob: clients can read it while it is still being synced.

use std::{fs::File, sync::Arc};

use tokio::sync::oneshot;

use super::{Download, Downloads, Progress, end::DownloadEnd, state::TempContent};
use crate::cache::{
    Source,
    storage::{TempUpload, change, lru_index::IndexKey},
};

impl Downloads {
    /// Adds a pushed blob of `len` bytes whose digest was verified. A blob that is already cached or being downloaded
    /// stays as it is. `found` is dropped as soon as clients can find the blob, before it is synced.
    pub(crate) async fn adopt(&self, source: &Source, upload: TempUpload, len: u64, found: oneshot::Sender<()>) {
        let whole = Download::found(self, source, upload.file().clone(), len);
        let Some(subscription) = self.enter_new(whole) else { return discard(upload).await };
        drop(found);
        let download = subscription.download().clone();
        let ended = DownloadEnd { downloads: self.clone(), download: download.clone() };
        if matches!(self.store().open_blob(&source.id()).await, Ok(Some(_))) {
            return discard(upload).await;
        }
        let key = IndexKey::Blob(source.id());
        match change(move || upload.commit(key, len)).await {
            Ok(pin) => {
                download.update(|state| state._pin = Some(pin));
                self.to_be_uploaded(source);
            }
            Err(error) => {
                self.store().disk_failed("a pushed blob cannot be put into the cache", &source.digest, &error);
            }
        }
        drop(ended);
    }
}

impl Download {
    /// A download that is already complete.
    fn found(downloads: &Downloads, source: &Source, file: Arc<File>, len: u64) -> Arc<Self> {
        let download = Self::new(source.clone(), false, true, downloads.shutdown().child_token());
        download.update(|state| {
            state.chunks.set_whole(len);
            state.file = Some(TempContent::whole(file));
            state.was_cached = true;
            state.progress = Progress::Complete;
        });
        Arc::new(download)
    }
}

/// Removes the file, which can take a while if it is large.
async fn discard(upload: TempUpload) {
    change(move || drop(upload)).await;
}
