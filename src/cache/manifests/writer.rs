//! Writes to the disk that nobody has to wait for.
//!
//! The answer is in memory already; a disk that is slow, hangs, or is still being scanned must not hold it up.

use std::time::Duration;

use tokio_util::task::TaskTracker;

use crate::cache::{DiskStore, lru::Key};

/// How long an answer waits for its write, so that in the usual case what was served is on disk.
const PATIENCE: Duration = Duration::from_millis(250);

/// Writes small objects.
#[derive(Clone)]
pub(super) struct Writer {
    pub store: DiskStore,
    pub tasks: TaskTracker,
}

impl Writer {
    /// Writes an object; returns when it is on disk, or in a moment. A disk that fails turns caching off, not pulling.
    pub async fn write(&self, key: Key, bytes: Vec<u8>) {
        let store = self.store.clone();
        let writing = self.tasks.spawn(async move {
            if let Err(error) = store.write(key.clone(), bytes).await {
                tracing::error!(%error, ?key, "cannot write into the cache");
            }
        });
        let _ = tokio::time::timeout(PATIENCE, writing).await;
    }
}
