//! Downloads of whole blobs into the cache, which no client waits for.
//!
//! What must hold: a fill is a download like any other, which clients join; for its room no reader of a client is ended,
//! and a client that needs the room ends it. One that is dropped ends its download, unless a client has joined that.

use std::sync::Arc;

use super::BlobCache;
use crate::{
    cache::{
        BlobError, ContentKey, Source,
        download::{Download, DownloadError, Downloads, Subscription},
        storage::lru_index::IndexKey,
    },
    upstream::ErrorKind,
};

/// How many downloads of others are waited for that fail for reasons of their own.
const MAX_UNRELATED_FAILURES: usize = 3;

/// Why a blob did not come into the cache.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FillError {
    #[error("the blob cannot be fetched")]
    Blob(#[source] BlobError),
    #[error("the cache has no room")]
    NoRoom,
    #[error("the cache cannot be written")]
    Disk(#[source] Arc<std::io::Error>),
    /// It was written, and is not there.
    #[error("the blob was not kept")]
    NotKept,
}

/// A download that ends with this, unless others have joined it. The subscription is present until this is dropped.
pub(super) struct Filling(Option<Subscription>);

impl BlobCache {
    /// Whether a blob is cached.
    pub(crate) fn has(&self, id: &ContentKey) -> bool {
        self.store.has_blob(id)
    }

    /// Makes a cached blob the most recently used one.
    pub(crate) fn note_used(&self, id: &ContentKey) {
        self.prefetch.taken(id);
        self.store.used(IndexKey::Blob(id.clone()));
    }

    /// Brings a blob into the cache; `begun`: told of each download that is waited for.
    ///
    /// # Errors
    /// The blob is not in the cache.
    pub(crate) async fn fill(&self, source: &Source, begun: impl Fn(Arc<Download>)) -> Result<(), FillError> {
        let id = source.id();
        self.prefetch.taken(&id);
        let mut failures = 0;
        while !self.has(&id) {
            let (_filling, download) = Filling::join(&self.downloads, source).await;
            begun(download.clone());
            failures += 1;
            match download.end().await {
                Ok(()) => {
                    self.downloads.committed(&id).await;
                    return if self.has(&id) { Ok(()) } else { Err(FillError::NotKept) };
                }
                Err(error) if failures < MAX_UNRELATED_FAILURES && says_nothing(&error, &download, source) => {}
                Err(error) => return Err(self.fill_error(error)),
            }
        }
        self.note_used(&id);
        Ok(())
    }

    fn fill_error(&self, error: DownloadError) -> FillError {
        match error {
            DownloadError::Storage(error) => FillError::Disk(error),
            DownloadError::NoRoom => FillError::NoRoom,
            // A client needed the room.
            DownloadError::Abandoned if !self.downloads.shutdown().is_cancelled() => FillError::NoRoom,
            error => FillError::Blob(error.into()),
        }
    }
}

/// Whether a failure may not be that of this blob's repository: a download is shared by all repositories of a registry, and
/// may have begun with damaged bytes of an earlier one.
fn says_nothing(error: &DownloadError, download: &Download, source: &Source) -> bool {
    let is_other_source = !download.source().is_same(source);
    match error {
        DownloadError::Damaged => true,
        DownloadError::Mismatch => is_other_source,
        DownloadError::Upstream(error) => is_other_source || error.kind == ErrorKind::Loop,
        DownloadError::Storage(_) | DownloadError::NoRoom | DownloadError::Abandoned => false,
    }
}

impl From<Subscription> for Filling {
    fn from(subscription: Subscription) -> Self {
        Self(Some(subscription))
    }
}

impl Filling {
    async fn join(downloads: &Downloads, source: &Source) -> (Self, Arc<Download>) {
        let subscription = downloads.join_ahead(source).await.into_subscription();
        // The blob is not evicted before those that clients have requested.
        subscription.want();
        let download = subscription.download().clone();
        (subscription.into(), download)
    }
}

impl Drop for Filling {
    fn drop(&mut self) {
        if let Some(subscription) = self.0.take() {
            subscription.give_up();
        }
    }
}
