//! Writes and removes the files of manifests; adds the record of each upstream for one digest to one file.
//!
//! What must hold: two upstreams whose records are written at the same time do not overwrite each other's, and a write
//! that overlaps a deletion does not bring a deleted record back. So a write that adds to a file holds its lock from
//! reading the file until the new one has its name.

use std::{
    hash::{BuildHasher, RandomState},
    io,
    sync::Arc,
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{content::VerifiedManifest, file_records};
use crate::{
    cache::{
        ContentKey, DiskStore,
        storage::{Landing, lru_index::IndexKey},
    },
    offload::Offload,
    upstream::Registry,
};

/// Locks for all files. Files that share a lock wait for each other.
const LOCKS: usize = 64;

/// Cheap to clone.
#[derive(Clone)]
pub(super) struct ManifestFiles {
    store: DiskStore,
    documents: Offload,
    locks: Arc<[Arc<Semaphore>]>,
    hasher: RandomState,
}

impl ManifestFiles {
    pub(super) fn new(store: DiskStore, documents: Offload) -> Self {
        let locks = (0..LOCKS).map(|_| Arc::new(Semaphore::new(1))).collect();
        Self { store, documents, locks, hasher: RandomState::new() }
    }

    /// Writes what a registry gave. If the bytes do not determine everything that clients get, the records of other
    /// upstreams stay in the file.
    pub(super) async fn write(
        &self,
        id: ContentKey,
        content: Arc<VerifiedManifest>,
        registry: Registry,
        gate: impl FnOnce(Landing<'_>) -> io::Result<()> + Send + 'static,
    ) -> io::Result<()> {
        let key = IndexKey::Manifest(id.clone());
        let (_lock, others) = match content.is_self_described {
            true => (None, None),
            false => {
                let lock = self.lock(&id).await;
                (lock, self.store.read(key.clone(), VerifiedManifest::MAX_FILE_LEN).await.ok().flatten())
            }
        };
        let len = content.bytes.len() + others.as_ref().map_or(0, Vec::len);
        let file = move || {
            let record = content.encode(&registry);
            match others {
                Some(others) => file_records::with(&others, registry.name(), record),
                None => record,
            }
        };
        // `None` when the process ends.
        let Some(file) = self.documents.read(len, file).await else { return Ok(()) };
        self.store.write_when(key, file, gate).await
    }

    /// Removes the file of a manifest. A write that adds to the file ends before, or finds no file.
    pub(super) async fn remove(&self, id: &ContentKey) {
        let _lock = self.lock(id).await;
        self.store.remove(IndexKey::Manifest(id.clone())).await;
    }

    async fn lock(&self, id: &ContentKey) -> Option<OwnedSemaphorePermit> {
        let number = usize::try_from(self.hasher.hash_one(id) % LOCKS as u64).unwrap_or_default();
        self.locks.get(number)?.clone().acquire_owned().await.ok()
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, time::Duration};

    use bytes::Bytes;
    use futures_util::{FutureExt as _, future::join_all};
    use tokio::sync::oneshot;

    use super::*;
    use crate::{
        cache::{Config, Visibility, manifest::content_file::StoredManifest},
        metrics::Metrics,
        oci::Reference,
        upstream::ManifestBody,
    };

    const UNTYPED: &[u8] = b"{\"schemaVersion\":2,\"layers\":[]}";

    fn files() -> (tempfile::TempDir, ManifestFiles) {
        let directory = tempfile::tempdir().unwrap();
        let config = Config { max_size: 100 << 20, ..Config::at(directory.path()) };
        let store = DiskStore::open(&config, Metrics::new().unwrap()).unwrap();
        (directory, ManifestFiles::new(store, Offload::default()))
    }

    fn registry(name: &str) -> Registry {
        Registry::new(&name.into(), &[format!("https://{name}").parse().unwrap()])
    }

    /// The same bytes, to which each registry gives its own media type.
    fn typed_by(name: &str) -> Arc<VerifiedManifest> {
        let media_type = Some(format!("application/{name}").parse().unwrap());
        let body = ManifestBody {
            media_type,
            digest: None,
            bytes: Bytes::from_static(UNTYPED),
            age: Duration::ZERO,
            resident_time: Duration::ZERO,
            notes: Default::default(),
            room: Default::default(),
        };
        Arc::new(VerifiedManifest::verified(&Reference::Tag("1".parse().unwrap()), body).unwrap())
    }

    fn id() -> ContentKey {
        Visibility::Shared.key(&typed_by("a").digest)
    }

    async fn types(files: &ManifestFiles, names: &[&str]) -> Vec<Option<String>> {
        let file = files.store.read(IndexKey::Manifest(id()), VerifiedManifest::MAX_FILE_LEN).await.unwrap();
        let of = |name: &&str| match VerifiedManifest::decode(&id(), file.clone()?, &registry(name), None) {
            StoredManifest::Whole(content) => Some(content.media_type.to_string()),
            StoredManifest::OfOtherRegistry | StoredManifest::Damaged => None,
        };
        names.iter().map(of).collect()
    }

    #[tokio::test]
    async fn upstreams_that_write_one_digest_at_once_lose_no_record() {
        let (_directory, files) = files();
        let names = ["a.example", "b.example", "c.example", "d.example", "e.example"];
        let write = |name: &&str| files.write(id(), typed_by(name), registry(name), |land| land());
        // A write waits for the scan. Without locks, all would have read the file by then, and found none.
        let (written, ()) = tokio::join!(join_all(names.iter().map(write)), async {
            tokio::task::yield_now().await;
            files.store.scan().await;
        });
        assert!(written.into_iter().all(|written| written.is_ok()));
        let expected: Vec<_> = names.iter().map(|name| Some(format!("application/{name}"))).collect();
        assert_eq!(types(&files, &names).await, expected);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_deleted_record_does_not_come_back_with_another() {
        let (_directory, files) = files();
        files.store.scan().await;
        files.write(id(), typed_by("a"), registry("a"), |land| land()).await.unwrap();
        let (landing, lands) = oneshot::channel();
        let (go_on, held) = mpsc::channel();
        let writing = tokio::spawn({
            let files = files.clone();
            async move {
                let gate = move |land: Landing<'_>| {
                    landing.send(()).unwrap();
                    held.recv().unwrap();
                    land()
                };
                files.write(id(), typed_by("b"), registry("b"), gate).await
            }
        });
        // This write has read the first record.
        lands.await.unwrap();
        let id = id();
        let mut removing = Box::pin(files.remove(&id));
        assert!(removing.as_mut().now_or_never().is_none(), "the first record would come back");
        go_on.send(()).unwrap();
        writing.await.unwrap().unwrap();
        removing.await;
        assert_eq!(types(&files, &["a", "b"]).await, [None, None]);
    }
}
