//! Writes to the disk that nobody has to wait for.
//!
//! The answer is in memory already; a disk that is slow, hangs, or is still being scanned must not hold it up.

use std::{io, time::Duration};

use tokio_util::task::TaskTracker;

use crate::cache::{
    DiskStore,
    storage::{Landing, index::IndexKey},
};

/// How long an answer waits for its write, so that in the usual case what was served is on disk.
const PATIENCE: Duration = Duration::from_millis(250);

/// Writes small objects.
#[derive(Clone)]
pub(super) struct AsyncStore {
    pub store: DiskStore,
    pub tasks: TaskTracker,
}

impl AsyncStore {
    /// Writes an object, as [`AsyncStore::run`]. A disk that fails turns caching off, not pulling. Once the bytes are written, `gate` decides whether they land.
    pub(super) async fn write_when(
        &self,
        key: IndexKey,
        bytes: Vec<u8>,
        gate: impl FnOnce(Landing<'_>) -> io::Result<()> + Send + 'static,
    ) {
        let (store, to) = (self.store.clone(), key.clone());
        self.run(key, async move { store.write_when(to, bytes, gate).await }).await;
    }

    /// Does what writes an object; returns when it is done, or in a moment.
    pub(super) async fn run(&self, key: IndexKey, write: impl Future<Output = io::Result<()>> + Send + 'static) {
        let writing = self.tasks.spawn(async move {
            if let Err(error) = write.await {
                tracing::error!(%error, ?key, "cannot write into the cache");
            }
        });
        let _ = tokio::time::timeout(PATIENCE, writing).await;
    }
}
