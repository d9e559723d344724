//! Whole blobs that stay in the cache as long as a task needs them.

use super::{BlobCache, MAX_UNRELATED_FAILURES, fill::Filling};
use crate::cache::{
    ContentKey, Source,
    download::{DownloadError, Need},
    storage::StoredBlob,
};

impl BlobCache {
    /// A cached blob, which is not evicted before the value is dropped; `None` if it is not here.
    pub(crate) async fn kept(&self, id: &ContentKey) -> Option<StoredBlob> {
        self.stored(id).await.ok().flatten()
    }

    /// The same for a blob that is downloaded first if it is not here. When the wait for it is dropped, the download ends,
    /// unless others have joined it.
    ///
    /// # Errors
    /// The upstream does not send the blob, or there is no room for it.
    pub(crate) async fn fetch_kept(&self, source: &Source) -> Result<StoredBlob, DownloadError> {
        let id = source.id();
        for _ in 0..MAX_UNRELATED_FAILURES {
            if let Some(blob) = self.kept(&id).await {
                return Ok(blob);
            }
            let subscription = self.downloads.join(source, Need::Whole).await.into_subscription();
            let download = subscription.download().clone();
            let _filling = Filling::from(subscription);
            match download.end().await {
                Ok(()) => self.downloads.committed(&id).await,
                // It says nothing about this upstream, or is removed by now.
                Err(_) if !download.source().is_same(source) => {}
                Err(DownloadError::Damaged) => {}
                Err(error) => return Err(error),
            }
        }
        self.kept(&id).await.ok_or(DownloadError::NoRoom)
    }
}
