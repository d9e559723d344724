//! Files of manifests, as they are written and removed: what several upstreams said of one digest is added to one file.
//!
//! What must hold: an upstream's record is lost by no other that is written at the same moment, and comes back by none after
//! the manifest was deleted. So what adds to a file takes a turn, from reading it until the new one has landed.

use std::{
    hash::{BuildHasher, RandomState},
    io,
    sync::Arc,
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{Content, file_records};
use crate::{
    cache::{
        ContentKey, DiskStore,
        storage::{Landing, index::IndexKey},
    },
    offload::Offload,
    upstream::Registry,
};

/// Turns of all files: those that share one wait for each other.
const TURNS: usize = 64;

/// A cheap handle.
#[derive(Clone)]
pub(super) struct ManifestFiles {
    store: DiskStore,
    documents: Offload,
    turns: Arc<[Arc<Semaphore>]>,
    hasher: RandomState,
}

impl ManifestFiles {
    pub(super) fn new(store: DiskStore, documents: Offload) -> Self {
        let turns = (0..TURNS).map(|_| Arc::new(Semaphore::new(1))).collect();
        Self { store, documents, turns, hasher: RandomState::new() }
    }

    /// Writes what a registry gave. Where the bytes do not say all that clients get, what other upstreams said stays beside it.
    pub(super) async fn write(
        &self,
        id: ContentKey,
        content: Arc<Content>,
        registry: Registry,
        gate: impl FnOnce(Landing<'_>) -> io::Result<()> + Send + 'static,
    ) -> io::Result<()> {
        let key = IndexKey::Manifest(id.clone());
        let (_turn, others) = match content.own {
            true => (None, None),
            false => {
                let turn = self.turn(&id).await;
                (turn, self.store.read(key.clone(), Content::MAX_FILE_LEN).await.ok().flatten())
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
        // None when the process ends.
        let Some(file) = self.documents.read(len, file).await else { return Ok(()) };
        self.store.write_when(key, file, gate).await
    }

    /// Removes the file of a manifest: what adds to it just now lands before, or finds none.
    pub(super) async fn remove(&self, id: &ContentKey) {
        let _turn = self.turn(id).await;
        self.store.remove(IndexKey::Manifest(id.clone())).await;
    }

    async fn turn(&self, id: &ContentKey) -> Option<OwnedSemaphorePermit> {
        let number = usize::try_from(self.hasher.hash_one(id) % TURNS as u64).unwrap_or_default();
        self.turns.get(number)?.clone().acquire_owned().await.ok()
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
        cache::{Config, Visibility, manifest::content::ManifestFound},
        metrics::Metrics,
        oci::Reference,
        upstream::ManifestBody,
    };

    const UNTYPED: &[u8] = b"{\"schemaVersion\":2,\"layers\":[]}";

    fn shelves() -> (tempfile::TempDir, ManifestFiles) {
        let directory = tempfile::tempdir().unwrap();
        let config = Config { max_size: 100 << 20, ..Config::at(directory.path()) };
        let store = DiskStore::open(&config, Metrics::new().unwrap()).unwrap();
        (directory, ManifestFiles::new(store, Offload::default()))
    }

    fn registry(name: &str) -> Registry {
        Registry::new(&name.into(), &[format!("https://{name}").parse().unwrap()])
    }

    /// The same bytes, to which each registry gives a type of its own.
    fn said_by(name: &str) -> Arc<Content> {
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
        Arc::new(Content::verified(&Reference::Tag("1".parse().unwrap()), body).unwrap())
    }

    fn id() -> ContentKey {
        Visibility::Shared.key(&said_by("a").digest)
    }

    async fn types(shelves: &ManifestFiles, names: &[&str]) -> Vec<Option<String>> {
        let file = shelves.store.read(IndexKey::Manifest(id()), Content::MAX_FILE_LEN).await.unwrap();
        let of = |name: &&str| match Content::decode(&id(), file.clone()?, &registry(name), None) {
            ManifestFound::Whole(content) => Some(content.media_type.to_string()),
            ManifestFound::OfOthers | ManifestFound::Damaged => None,
        };
        names.iter().map(of).collect()
    }

    #[tokio::test]
    async fn upstreams_that_write_one_digest_at_once_lose_nothing() {
        let (_directory, shelves) = shelves();
        let names = ["a.example", "b.example", "c.example", "d.example", "e.example"];
        let write = |name: &&str| shelves.write(id(), said_by(name), registry(name), |land| land());
        // What is written waits for the scan: without turns, all have read by then, and nothing was there.
        let (written, ()) = tokio::join!(join_all(names.iter().map(write)), async {
            tokio::task::yield_now().await;
            shelves.store.scan().await;
        });
        assert!(written.into_iter().all(|written| written.is_ok()));
        let expected: Vec<_> = names.iter().map(|name| Some(format!("application/{name}"))).collect();
        assert_eq!(types(&shelves, &names).await, expected);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_deleted_manifest_does_not_come_back_with_another() {
        let (_directory, shelves) = shelves();
        shelves.store.scan().await;
        shelves.write(id(), said_by("a"), registry("a"), |land| land()).await.unwrap();
        let (landing, lands) = oneshot::channel();
        let (go_on, held) = mpsc::channel();
        let writing = tokio::spawn({
            let shelves = shelves.clone();
            async move {
                let gate = move |land: Landing<'_>| {
                    landing.send(()).unwrap();
                    held.recv().unwrap();
                    land()
                };
                shelves.write(id(), said_by("b"), registry("b"), gate).await
            }
        });
        // It has read what the first one said.
        lands.await.unwrap();
        let id = id();
        let mut removing = Box::pin(shelves.remove(&id));
        assert!(removing.as_mut().now_or_never().is_none(), "what was read before would come back");
        go_on.send(()).unwrap();
        writing.await.unwrap().unwrap();
        removing.await;
        assert_eq!(types(&shelves, &["a", "b"]).await, [None, None]);
    }
}
