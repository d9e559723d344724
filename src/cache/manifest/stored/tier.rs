//! The manifests and tags in the object store: what all of this cache shares of it.

use std::{
    hash::{BuildHasher as _, RandomState},
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{MissedTickBehavior, interval},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    background::Background,
    known::Known,
    removals::{Removal, Removals},
    signed_record::{self, Refusal},
};
use crate::{
    bounded_cache,
    cache::{
        ContentKey,
        context::ObjectSources,
        manifest::content::VerifiedManifest,
        storage::tag_record::{TagKey, TagRecord},
    },
    cluster::Cluster,
    line_limit::{LINE_INTERVAL, LineLimit},
    metrics::Metrics,
    oci::Repository,
    single_flight::SingleFlight,
    store::{Error, ErrorKind, ObjectName, Store},
};

/// How long a client waits for the store before the registry is asked.
pub(super) const READ_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a change waits until what it outdates is removed.
const REMOVAL_TIMEOUT: Duration = Duration::from_secs(1);
/// How often what could not be removed is tried again.
const RETRY_INTERVAL: Duration = Duration::from_secs(30);
/// Of how many records it is known what the store has: some 300 bytes each.
const MAX_KNOWN: u64 = 50_000;
/// How many manifests are read at a time.
const MAX_READS: usize = 16;
/// Locks for all tags. Tags that share a lock wait for each other.
const LOCKS: usize = 64;
/// How many pages of a listing, of 1000 objects each, a removal looks at.
const MAX_PAGES: usize = 10_000;

/// Cheap to clone.
#[derive(Clone)]
pub(in crate::cache::manifest) struct ObjectTier(pub(super) Arc<TierInner>);

pub(super) struct TierInner {
    pub objects: Store,
    /// Signs records; `None`: there is no key, and no tag is read or written.
    pub signer: Option<Cluster>,
    pub metrics: Metrics,
    pub background: Background,
    tasks: TaskTracker,
    pub known: moka::sync::Cache<TagKey, Known>,
    pub lookups: SingleFlight<TagKey, Option<Arc<TagRecord>>>,
    pub contents: SingleFlight<ContentKey, Option<Arc<VerifiedManifest>>>,
    pub reads: Semaphore,
    pub removals: Removals,
    /// Which records that do not count get a line in the log.
    pub lines: LineLimit<Refusal>,
    locks: Box<[Arc<Semaphore>]>,
    hasher: RandomState,
}

impl ObjectTier {
    /// `None`: there is no store. Blocks on a small file. Work that no client waits for runs as tasks of `tasks`; all of it ends with `end`.
    pub(in crate::cache::manifest) fn new(
        sources: ObjectSources,
        metrics: Metrics,
        tasks: TaskTracker,
        end: CancellationToken,
    ) -> Option<Self> {
        let ObjectSources { store, cluster, state, .. } = sources;
        let objects = store?;
        metrics.with_stored_records::<Refusal>();
        let tier = Self(Arc::new(TierInner {
            objects,
            signer: cluster,
            metrics,
            background: Background::new(tasks.clone(), end.clone()),
            known: bounded_cache::lru_of(MAX_KNOWN),
            lookups: SingleFlight::new(tasks.clone(), end.clone()),
            contents: SingleFlight::new(tasks.clone(), end.clone()),
            reads: Semaphore::new(MAX_READS),
            removals: Removals::read(state),
            lines: LineLimit::new(LINE_INTERVAL, Refusal::COUNT),
            locks: (0..LOCKS).map(|_| Arc::new(Semaphore::new(1))).collect(),
            hasher: RandomState::new(),
            tasks: tasks.clone(),
        }));
        let retried = tier.clone();
        tasks.spawn(async move { end.run_until_cancelled(retried.retry_removals()).await });
        Some(tier)
    }

    /// Writes and removals of a tag do not overlap: a write that is under way when the tag changes is removed afterwards.
    pub(super) async fn lock(&self, key: &TagKey) -> Option<OwnedSemaphorePermit> {
        let hash = self.0.hasher.hash_one(key.of_all_classes());
        let number = usize::try_from(hash % LOCKS as u64).unwrap_or_default();
        self.0.locks.get(number)?.clone().acquire_owned().await.ok()
    }

    /// A tag changed, or is no more.
    pub(in crate::cache::manifest) async fn remove_tag(&self, key: &TagKey) {
        if self.0.signer.is_some() {
            self.remove(Removal::of_tag(key)).await;
        }
    }

    /// The upstream has no such tag. Clients make up names, so that only a record that is known to be there is removed, no client
    /// waits for it, and one that cannot be removed now stays: it ages as one on the disk of another forebay.
    pub(in crate::cache::manifest) fn remove_missing_tag(&self, key: &TagKey) {
        if self.known(key).says.is_none() {
            return;
        }
        let (tier, removal) = (self.clone(), Removal::of_tag(key));
        self.0.background.run(0, async move {
            if let Err(error) = tier.remove_now(&removal).await {
                tracing::debug!(?removal, %error, "a tag that is no more stays in the object store");
            }
        });
    }

    /// A manifest of a repository was deleted, and with it the tags that point at it. Those of other manifests are written
    /// again when they are requested.
    pub(in crate::cache::manifest) async fn remove_manifest(
        &self,
        id: &ContentKey,
        (upstream, repository): (&Arc<str>, &Repository),
    ) {
        let (visibility, upstream, repository) = (id.visibility, upstream.clone(), repository.clone());
        if self.0.signer.is_some() {
            self.remove(Removal::Repository { visibility, upstream, repository }).await;
        }
        self.remove(Removal::Manifest(id.clone())).await;
    }

    /// Removes what must not be read any more. Waits for it no longer than [`REMOVAL_TIMEOUT`].
    async fn remove(&self, removal: Removal) {
        if !self.0.removals.add(&removal) {
            tracing::error!(
                ?removal,
                "the object store could not be told of so many changes that this one may come back from it"
            );
        }
        let tier = self.clone();
        let removing = self.0.tasks.spawn(async move {
            if !tier.try_removal(&removal).await {
                // The next process tries again.
                tier.0.removals.write().await;
            }
        });
        if tokio::time::timeout(REMOVAL_TIMEOUT, removing).await.is_err() {
            // The change is answered now: the next process has to know of it, too.
            self.0.removals.write().await;
        }
    }

    /// Returns whether it is removed.
    async fn try_removal(&self, removal: &Removal) -> bool {
        let removed = self.remove_now(removal).await;
        match &removed {
            Ok(()) => self.0.removals.done(removal),
            Err(error) => {
                // An earlier attempt for the same may have succeeded since this one was added.
                self.0.removals.add(removal);
                tracing::debug!(?removal, %error, "to be removed from the object store later");
            }
        }
        removed.is_ok()
    }

    async fn remove_now(&self, removal: &Removal) -> Result<(), Error> {
        match removal {
            Removal::Tag(key) => {
                let _lock = self.lock(key).await;
                self.remove_records(&signed_record::prefix_of_tag(key), |_| true).await
            }
            Removal::Repository { visibility, upstream, repository } => {
                let prefix = signed_record::prefix_of_repository(*visibility, upstream, repository);
                self.remove_records(&prefix, |key| key.repository == *repository).await
            }
            Removal::Manifest(id) => self.0.objects.delete(&signed_record::manifest_name(id)).await,
        }
    }

    async fn remove_records(&self, prefix: &str, is_it: impl Fn(&TagKey) -> bool) -> Result<(), Error> {
        let mut token = None;
        for _ in 0..MAX_PAGES {
            let page = self.0.objects.list(prefix, token.take()).await?;
            let found = page.objects.iter().filter_map(|object| signed_record::tag_of(&object.name));
            for key in found.filter(|key| is_it(key)) {
                self.0.objects.delete(&signed_record::name(&key)).await?;
                self.0.known.invalidate(&key);
            }
            token = page.next;
            if token.is_none() {
                return Ok(());
            }
        }
        Err(Error::new(ErrorKind::Failed, "the listing of a tag's records does not end"))
    }

    /// Never returns.
    async fn retry_removals(&self) {
        let mut ticks = interval(RETRY_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let mut is_changed = false;
            for removal in self.0.removals.all() {
                if self.0.objects.delete_pause().is_some() {
                    break;
                }
                is_changed |= self.try_removal(&removal).await;
            }
            if is_changed {
                self.0.removals.write().await;
            }
        }
    }

    pub(super) fn known(&self, key: &TagKey) -> Known {
        self.0.known.get(key).unwrap_or_default()
    }

    /// Changes what is known of a record.
    pub(super) fn note<T>(&self, key: &TagKey, change: impl FnOnce(&mut Known) -> T) -> Option<T> {
        let mut result = None;
        self.0.known.entry(key.clone()).and_upsert_with(|entry| {
            let mut known = entry.map(moka::Entry::into_value).unwrap_or_default();
            result = Some(change(&mut known));
            known
        });
        result
    }

    /// The object of a record's own name, for what has no code.
    pub(super) fn name(key: &TagKey) -> ObjectName {
        signed_record::name(key)
    }
}
