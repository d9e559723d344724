//! Writes to disk that no client has to wait for.
//!
//! The response is in memory already. A disk that is slow, hangs, or is still being scanned must not delay it.

use std::{io, time::Duration};

use tokio_util::task::TaskTracker;

use crate::cache::{
    DiskStore,
    storage::{Landing, lru_index::IndexKey},
};

/// How long a response waits for its write, so that usually what was served is on disk.
const WRITE_TIMEOUT: Duration = Duration::from_millis(250);

/// Writes small objects.
#[derive(Clone)]
pub(super) struct BackgroundWriter {
    pub store: DiskStore,
    pub tasks: TaskTracker,
}

impl BackgroundWriter {
    /// Writes an object as [`BackgroundWriter::run`] does. Once the bytes are written, `gate` decides whether the file
    /// gets its name.
    pub(super) async fn write_when(
        &self,
        key: IndexKey,
        bytes: Vec<u8>,
        gate: impl FnOnce(Landing<'_>) -> io::Result<()> + Send + 'static,
    ) {
        let (store, object) = (self.store.clone(), key.clone());
        self.run(key, async move { store.write_when(object, bytes, gate).await }).await;
    }

    /// Runs a write; returns when it is done, or after [`WRITE_TIMEOUT`]. A write that fails is logged: the client is
    /// served nevertheless.
    pub(super) async fn run(&self, key: IndexKey, write: impl Future<Output = io::Result<()>> + Send + 'static) {
        let store = self.store.clone();
        let writing = self.tasks.spawn(async move {
            if let Err(error) = write.await {
                store.disk_failed("cannot write into the cache", &key, &error);
            }
        });
        let _ = tokio::time::timeout(WRITE_TIMEOUT, writing).await;
    }
}
