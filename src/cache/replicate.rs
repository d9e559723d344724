//! Uploads what is cached to the object store, in the background.
//!
//! What must hold: an upload reads the disk and no client waits for it; while the store refuses, all uploads pause
//! together, and nothing is taken from the queue.

use std::{os::unix::fs::FileExt as _, sync::Arc, time::Duration};

use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    ContentKey, DiskStore, Visibility,
    manifest::VerifiedManifest,
    storage::{
        NotOpened, blocking,
        lru_index::{CompactKey, IndexKey},
    },
    uploads::UploadQueue,
};
use crate::{
    file_slice::FileSlice,
    metrics::Metrics,
    store::{self, ErrorKind, ObjectName, Pool, Store, UploadResult},
};

/// How many uploads run at a time, each with a part of 16 MiB in memory.
const UPLOADS: usize = 4;
/// The shortest wait after a failure: a probe of another upload may run.
const MIN_WAIT: Duration = Duration::from_millis(200);

/// Uploads what waits in a queue.
#[derive(Clone)]
pub(crate) struct Replication(Arc<Inner>);

struct Inner {
    queue: UploadQueue,
    disk: DiskStore,
    store: Store,
    metrics: Metrics,
}

impl Replication {
    pub(crate) fn new(queue: UploadQueue, disk: DiskStore, store: Store, metrics: Metrics) -> Self {
        Self(Arc::new(Inner { queue, disk, store, metrics }))
    }

    /// Uploads until `end`, and keeps the store in order.
    pub(crate) fn run(&self, tasks: &TaskTracker, end: &CancellationToken) {
        let (replication, over) = (self.clone(), end.clone());
        tasks.spawn(async move {
            over.run_until_cancelled(replication.keep()).await;
        });
        for _ in 0..UPLOADS {
            let (replication, end) = (self.clone(), end.clone());
            tasks.spawn(async move {
                end.run_until_cancelled(replication.work()).await;
            });
        }
    }

    async fn keep(&self) {
        let cut = self.0.store.begin().await;
        // A start knows nothing else of the queue of the last one.
        self.0.disk.until_scanned().await;
        cut.iter().filter_map(key_of).for_each(|key| _ = self.0.queue.add(&key));
        let (never, _) = tokio::join!(self.0.store.delete_wrong(), self.0.store.abort_again());
        match never {}
    }

    async fn work(&self) {
        loop {
            // Without a key in hand, so that the queue is all that waits.
            while let Some(pause) = self.0.store.write_pause() {
                tokio::time::sleep(pause.max(MIN_WAIT)).await;
            }
            let upload = self.0.queue.next().await;
            match self.upload(&upload.key).await {
                Ok(result) => self.0.metrics.store_upload(result),
                Err(error) if error.kind == ErrorKind::NotAsked => {
                    self.0.queue.put_back(upload);
                    tokio::time::sleep(MIN_WAIT).await;
                }
                Err(error) => {
                    self.0.metrics.store_upload(UploadResult::Failed);
                    tracing::debug!(%error, "an upload to the object store failed");
                    if error.is_of_store() {
                        self.0.queue.put_back(upload);
                    }
                }
            }
        }
    }

    async fn upload(&self, key: &CompactKey) -> Result<UploadResult, store::Error> {
        let key = key.key();
        let Some(name) = object_of(&key) else { return Ok(UploadResult::Gone) };
        let disk = self.0.disk.clone();
        let opened = blocking(move || {
            let opened = disk.inspect(&key).map_err(|_: NotOpened| UploadResult::Gone)?;
            let content = opened.into_slice();
            match &key {
                IndexKey::Manifest(id) => document_of(id, content),
                _ => Ok(content),
            }
        });
        match opened.await {
            Ok(content) => self.0.store.upload(&name, &content).await,
            Err(result) => Ok(result),
        }
    }
}

/// The document in the file of a manifest. One that does not tell its own type is in no store. Blocks.
fn document_of(id: &ContentKey, file: FileSlice) -> Result<FileSlice, UploadResult> {
    let len = usize::try_from(file.len.min(VerifiedManifest::MAX_FILE_LEN)).unwrap_or_default();
    let mut content = vec![0; len];
    file.file.read_exact_at(&mut content, file.offset).map_err(|_| UploadResult::Gone)?;
    let begin = VerifiedManifest::self_described_in(&id.digest, &content).ok_or(UploadResult::Unfit)? as u64;
    Ok(FileSlice { offset: file.offset + begin, len: file.len.saturating_sub(begin), ..file })
}

/// Where content is in the store; `None`: it is in no store.
pub(crate) fn object_of(key: &IndexKey) -> Option<ObjectName> {
    match key {
        IndexKey::Blob(ContentKey { visibility, digest }) => Some(ObjectName::blob(pool_of(*visibility), digest)),
        IndexKey::Manifest(ContentKey { visibility, digest }) => {
            Some(ObjectName::manifest(pool_of(*visibility), digest))
        }
        IndexKey::Tag(_) | IndexKey::Partial(_) => None,
    }
}

/// The content of an object of the store.
pub(crate) fn key_of(name: &ObjectName) -> Option<IndexKey> {
    if let Some((pool, digest)) = name.as_blob() {
        return Some(IndexKey::Blob(ContentKey { visibility: visibility_of(pool), digest }));
    }
    let (pool, digest) = name.as_manifest()?;
    Some(IndexKey::Manifest(ContentKey { visibility: visibility_of(pool), digest }))
}

pub(super) fn visibility_of(pool: Pool) -> Visibility {
    match pool {
        Pool::Shared => Visibility::Shared,
        Pool::Clients => Visibility::PerClient,
    }
}

pub(super) fn pool_of(visibility: Visibility) -> Pool {
    match visibility {
        Visibility::Shared => Pool::Shared,
        Visibility::PerClient => Pool::Clients,
    }
}
