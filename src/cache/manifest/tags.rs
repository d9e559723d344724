//! What is known of tags, in memory over disk.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use moka::policy::EvictionPolicy;
use tokio::time::Instant;

use super::{ManifestQuery, ManifestRequest, store_async::AsyncStore};
use crate::{
    cache::{
        Config, DiskStore, Visibility,
        freshness::{self, Freshness},
        storage::{
            Landing, blocking,
            index::IndexKey,
            recency::LastUse,
            tag_record::{TagKey, TagRecord},
        },
        write_counter::WriteCounters,
    },
    oci::{AcceptClass, Digest, Reference, Repository},
    upstream::{Principal, Registry},
};

/// How many records are held in memory.
const MAX_RECORDS: u64 = 50_000;
/// Of how many classes of clients the records of one tag are held, in memory and on disk. Programs that pull have a handful.
const MAX_CLASSES: usize = 16;
/// How long the answer about a tag is believed although it came with an older date, or none of use: a tag is asked about
/// no more often than once in this time.
const MIN_ASKING_INTERVAL: Duration = Duration::from_secs(1);
/// How many times `tag_ttl` a tag is believed while little is left of its upstream's limit.
const SCARCE_FACTOR: u32 = 10;
/// How long an upstream that could not answer for a tag is left alone, at most.
const TROUBLE_TTL: Duration = Duration::from_secs(5);

pub(super) struct TagRecords {
    store: DiskStore,
    writer: AsyncStore,
    /// By tag, with the few classes of clients inside: to forget one looks at no other.
    memory: moka::sync::Cache<TagKey, Arc<Vec<Remembered>>>,
    /// Tags whose upstream could not answer a moment ago: what is stale is served without asking again.
    troubled: moka::sync::Cache<UpstreamFailure, ()>,
    writes: Arc<WriteCounters>,
    tag_ttl: Duration,
    stale_if_error: Duration,
}

/// A tag of which a registry could not be asked, as whom where that makes a difference.
type UpstreamFailure = (TagKey, Registry, Option<Principal>);

/// A record in memory, and whether it was used.
#[derive(Clone)]
struct Remembered {
    class: AcceptClass,
    record: Arc<TagRecord>,
    used: LastUse,
    /// How many changes had been made when it was asked for.
    writes: u64,
    /// It is on disk, and no change was made until then: one that comes later forgets it.
    settled: Arc<AtomicBool>,
    /// When the upstream answered this; `None` for what was read from the disk.
    answered: Option<Instant>,
}

impl TagRecords {
    pub(super) fn new(config: &Config, writer: AsyncStore) -> Self {
        // From now on it is known when the clock is set.
        freshness::steady_now();
        let troubled = moka::sync::Cache::builder()
            .max_capacity(MAX_RECORDS)
            .time_to_live(TROUBLE_TTL.min(config.tag_ttl))
            .build();
        Self {
            store: writer.store.clone(),
            writer,
            // The default policy refuses newcomers, which would be asked about each time.
            memory: moka::sync::Cache::builder()
                .max_capacity(MAX_RECORDS)
                .eviction_policy(EvictionPolicy::lru())
                .build(),
            troubled,
            writes: Arc::default(),
            tag_ttl: config.tag_ttl,
            stale_if_error: config.stale_if_error,
        }
    }

    /// The record of a tag, and how far it can be believed. One too old for anything is not given, nor what another registry
    /// answered under this name.
    /// `scarce`: its upstream is to be asked seldom.
    pub(super) async fn get(
        &self,
        key: &TagKey,
        registry: &Registry,
        scarce: bool,
    ) -> (Option<Arc<TagRecord>>, Freshness) {
        let Some(found) = self.find(key, registry).await else { return (None, Freshness::Missing) };
        match self.judge(&found, scarce) {
            Freshness::Missing => (None, Freshness::Missing),
            freshness => (Some(found.record), freshness),
        }
    }

    /// The record of a tag, when it is in memory and fresh.
    pub(super) fn fresh_in_memory(&self, key: &TagKey, registry: &Registry, scarce: bool) -> Option<Arc<TagRecord>> {
        let found = self.remembered(key).filter(|found| self.holds(key, found))?;
        if !found.record.is_of(registry, key.visibility) {
            return None;
        }
        (self.judge(&found, scarce) == Freshness::Fresh).then_some(found.record)
    }

    fn remembered(&self, key: &TagKey) -> Option<Remembered> {
        let classes = self.memory.get(&key.of_all_classes())?;
        let mut found = classes.iter().find(|remembered| remembered.class == key.class)?.clone();
        self.store.note_use(&found.used, || IndexKey::Tag(key.clone()));
        // That a tag points there is true of it for clients of all classes that it pointed there for.
        let same = classes.iter().filter(|other| other.record.digest == found.record.digest && self.holds(key, other));
        found.answered = same.filter_map(|other| other.answered).max().max(found.answered);
        Some(found)
    }

    /// Whether no change was made between the question and the record's being on disk.
    fn holds(&self, key: &TagKey, found: &Remembered) -> bool {
        found.settled.load(Ordering::SeqCst) || found.writes == self.writes(&key.upstream, &key.repository)
    }

    fn remember(&self, key: &TagKey, remembered: Remembered) {
        self.memory.entry(key.of_all_classes()).and_upsert_with(|former| {
            let mut classes = former.map(|former| former.into_value().as_ref().clone()).unwrap_or_default();
            classes.retain(|other| other.class != key.class);
            if classes.len() >= MAX_CLASSES {
                classes.remove(0);
            }
            classes.push(remembered);
            Arc::new(classes)
        });
    }

    /// Puts a record into memory unless there is one; the one that is there then.
    fn remember_first(&self, key: &TagKey, remembered: Remembered) -> Remembered {
        let mut first = remembered.clone();
        self.memory.entry(key.of_all_classes()).and_upsert_with(|former| {
            let Some(former) = former.map(moka::Entry::into_value) else { return Arc::new(vec![remembered]) };
            if let Some(found) = former.iter().find(|other| other.class == key.class) {
                first = found.clone();
                return former;
            }
            Arc::new(former.iter().rev().take(MAX_CLASSES - 1).rev().cloned().chain([remembered]).collect())
        });
        first
    }

    /// How many changes were made through us in a repository. What was asked, or read, when there were fewer may be
    /// outdated.
    pub(super) fn writes(&self, upstream: &Arc<str>, repository: &Repository) -> u64 {
        self.writes.of(upstream, Some(repository))
    }

    /// A change was made that moved no tag.
    pub(super) fn note_write(&self, upstream: &Arc<str>, repository: &Repository) {
        self.writes.note(upstream, repository);
    }

    /// What this question was answered says that a change was made elsewhere, unless one was made through us meanwhile.
    pub(super) fn note_elsewhere(&self, question: &mut ManifestQuery) {
        if let Some(writes) = self.writes.advance(question.registry.name(), &question.repository, question.writes) {
            question.writes = writes;
        }
    }

    async fn find(&self, key: &TagKey, registry: &Registry) -> Option<Remembered> {
        self.find_of_any(key).await.filter(|found| found.record.is_of(registry, key.visibility))
    }

    async fn find_of_any(&self, key: &TagKey) -> Option<Remembered> {
        if let Some(found) = self.remembered(key) {
            // What is being written was outdated meanwhile: it does not land, and what lies there is being removed.
            return self.holds(key, &found).then_some(found);
        }
        let writes = self.writes(&key.upstream, &key.repository);
        let record = Arc::new(self.on_disk(key).await?);
        self.believe(key, writes, record)
    }

    /// Takes a record that was read from the disk, where `writes` changes had been made before. One that the upstream gave
    /// meanwhile is newer, and is the one that counts.
    fn believe(&self, key: &TagKey, writes: u64, record: Arc<TagRecord>) -> Option<Remembered> {
        let (class, used, settled) = (key.class, LastUse::default(), Arc::<AtomicBool>::default());
        let read = Remembered { class, record, used, writes, settled, answered: None };
        let first = self.remember_first(key, read.clone());
        if !Arc::ptr_eq(&first.settled, &read.settled) {
            return self.holds(key, &first).then_some(first);
        }
        if self.writes(&key.upstream, &key.repository) != writes {
            // It may have been removed while it was read: the next one looks again.
            self.memory.invalidate(&key.of_all_classes());
            return None;
        }
        read.settled.store(true, Ordering::SeqCst);
        Some(read)
    }

    async fn on_disk(&self, key: &TagKey) -> Option<TagRecord> {
        match self.store.read(IndexKey::Tag(key.clone()), TagRecord::MAX_LEN).await {
            Ok(bytes) => TagRecord::decode(&bytes?),
            Err(error) => {
                tracing::error!(%error, tag = ?key, "cannot read a tag's record");
                None
            }
        }
    }

    /// The records of the same tag for clients that accept other types.
    pub(super) async fn other_classes(&self, key: &TagKey, registry: &Registry) -> Vec<(Arc<TagRecord>, Freshness)> {
        let mut found = Vec::new();
        for other in self.store.tag_classes(key).await {
            if let Some(other) = self.find(&other, registry).await {
                let freshness = self.judge(&other, false);
                found.push((other.record, freshness));
            }
        }
        found
    }

    /// Keeps what the upstream answered; a question by digest leaves no record.
    pub(super) async fn put(
        &self,
        wanted: &ManifestRequest,
        question: &ManifestQuery,
        record: TagRecord,
    ) -> Arc<TagRecord> {
        let registry = wanted.upstream.registry();
        let record = Arc::new(TagRecord { urls: registry.url_hashes().clone(), ..record });
        if let Reference::Tag(tag) = &question.reference {
            let key = wanted.key(tag);
            self.troubled.invalidate(&trouble(wanted, &key));
            self.keep(&key, question.writes, record.clone()).await;
        }
        record
    }

    /// Keeps a record that was asked for at `writes` changes.
    async fn keep(&self, key: &TagKey, writes: u64, record: Arc<TagRecord>) {
        let is_outdated = || self.writes(&key.upstream, &key.repository) != writes;
        if is_outdated() {
            return;
        }
        let (class, used, settled) = (key.class, LastUse::default(), Arc::<AtomicBool>::default());
        let (now, kept) = (Some(Instant::now()), record.clone());
        let remembered = Remembered { class, record: kept, used, writes, settled: settled.clone(), answered: now };
        self.remember(key, remembered);
        let gate = self.gate(&key.upstream, &key.repository, writes);
        self.writer.write_when(IndexKey::Tag(key.clone()), record.encode(), gate).await;
        self.remove_surplus_classes(key).await;
        if is_outdated() {
            self.memory.invalidate(&key.of_all_classes());
        } else {
            settled.store(true, Ordering::SeqCst);
        }
    }

    /// Each `Accept` that a client makes up is a class of its own.
    async fn remove_surplus_classes(&self, key: &TagKey) {
        let surplus = self.store.surplus_classes(key, MAX_CLASSES);
        if surplus.is_empty() {
            return;
        }
        let store = self.store.clone();
        let removed = async move {
            for other in surplus {
                store.remove(IndexKey::Tag(other)).await;
            }
            Ok(())
        };
        self.writer.run(IndexKey::Tag(key.clone()), removed).await;
    }

    /// Lets what was asked for at `writes` changes land on disk, unless one was made since.
    pub(super) fn gate(
        &self,
        upstream: &Arc<str>,
        repository: &Repository,
        writes: u64,
    ) -> impl FnOnce(Landing<'_>) -> io::Result<()> + Send + use<> {
        let (counts, upstream, repository) = (self.writes.clone(), upstream.clone(), repository.clone());
        move |land: Landing<'_>| counts.land(&upstream, &repository, writes, land).unwrap_or(Ok(()))
    }

    /// The upstream said again what it said before.
    pub(super) async fn confirm(
        &self,
        wanted: &ManifestRequest,
        question: &ManifestQuery,
        record: &TagRecord,
        confirmed: SystemTime,
    ) -> Arc<TagRecord> {
        self.put(wanted, question, TagRecord { confirmed, ..record.clone() }).await
    }

    /// A change was made: nothing of what it outdates is left, in memory, on disk, or on its way to either.
    pub(super) async fn forget(&self, key: &TagKey) {
        self.begin_change(&key.upstream, &key.repository).await;
        self.remove(key).await;
        self.end_change(&key.upstream, &key.repository, [key]);
    }

    /// A manifest was deleted: the same, for the tags of a repository that point at it.
    pub(super) async fn forget_pointing_at(
        &self,
        visibility: Visibility,
        upstream: &Arc<str>,
        repository: &Repository,
        digest: &Digest,
    ) {
        self.begin_change(upstream, repository).await;
        for (key, classes) in &self.memory {
            let of_it = key.visibility == visibility && key.upstream == *upstream && key.repository == *repository;
            if of_it && classes.iter().any(|remembered| remembered.record.digest == *digest) {
                self.memory.invalidate(&*key);
            }
        }
        let mut removed = Vec::new();
        for key in self.store.tags_of(visibility, upstream, repository).await {
            if self.on_disk(&key).await.is_some_and(|record| record.digest == *digest) {
                self.store.remove(IndexKey::Tag(key.clone())).await;
                removed.push(key);
            }
        }
        self.end_change(upstream, repository, &removed);
    }

    pub(super) async fn begin_change(&self, upstream: &Arc<str>, repository: &Repository) {
        self.writes.note(upstream, repository);
        let (writes, upstream, repository) = (self.writes.clone(), upstream.clone(), repository.clone());
        blocking(move || writes.settle(&upstream, &repository)).await;
    }

    /// What was read from the disk before it was removed is outdated as well.
    fn end_change<'a>(
        &self,
        upstream: &Arc<str>,
        repository: &Repository,
        removed: impl IntoIterator<Item = &'a TagKey>,
    ) {
        self.writes.note(upstream, repository);
        for key in removed {
            self.memory.invalidate(&key.of_all_classes());
        }
    }

    /// The upstream says that there is no such tag: for nobody, whatever they accept.
    pub(super) async fn remove(&self, key: &TagKey) {
        // Records that found no room on disk are in memory alone.
        self.memory.invalidate(&key.of_all_classes());
        let mut keys = self.store.tag_classes(key).await;
        keys.push(key.clone());
        for key in keys {
            self.store.remove(IndexKey::Tag(key)).await;
        }
        // A record may have been read from the disk before it was removed.
        self.memory.invalidate(&key.of_all_classes());
    }

    pub(super) fn note_trouble(&self, wanted: &ManifestRequest, key: &TagKey) {
        if !self.tag_ttl.is_zero() {
            self.troubled.insert(trouble(wanted, key), ());
        }
    }

    pub(super) fn is_troubled(&self, wanted: &ManifestRequest, key: &TagKey) -> bool {
        self.troubled.contains_key(&trouble(wanted, key))
    }

    fn judge(&self, found: &Remembered, scarce: bool) -> Freshness {
        let tag_ttl = if scarce { self.tag_ttl.saturating_mul(SCARCE_FACTOR) } else { self.tag_ttl };
        let interval = MIN_ASKING_INTERVAL.min(self.tag_ttl);
        let (now, steady) = (SystemTime::now(), freshness::steady_now());
        match freshness::judge_steadily(found.record.confirmed, now, steady, tag_ttl, self.stale_if_error) {
            Freshness::Fresh => Freshness::Fresh,
            _ if found.answered.is_some_and(|answered| answered.elapsed() < interval) => Freshness::Fresh,
            old => old,
        }
    }
}

fn trouble(wanted: &ManifestRequest, key: &TagKey) -> UpstreamFailure {
    (key.clone(), wanted.upstream.registry().clone(), wanted.upstream.principal())
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use tokio_util::task::TaskTracker;

    use super::*;
    use crate::{
        metrics::Metrics,
        oci::{Accept, Algorithm, MediaType},
    };

    struct Tags {
        directory: tempfile::TempDir,
        tasks: TaskTracker,
        records: TagRecords,
        key: TagKey,
    }

    /// Tags on a disk that was not scanned yet: what is to be written waits for that.
    fn tags() -> Tags {
        let directory = tempfile::tempdir().unwrap();
        let hour = Duration::from_secs(3600);
        let config = Config {
            max_size: 100 << 20,
            tag_ttl: hour,
            stale_if_error: hour,
            negative_ttl: hour,
            ..Config::at(directory.path())
        };
        let store = DiskStore::open(&config, Metrics::new().unwrap()).unwrap();
        let tasks = TaskTracker::new();
        let records = TagRecords::new(&config, AsyncStore { store, tasks: tasks.clone() });
        let key = TagKey {
            visibility: Visibility::Shared,
            upstream: "hub".into(),
            repository: "team/app".parse().unwrap(),
            tag: "1".parse().unwrap(),
            class: Accept::default().class(),
        };
        Tags { directory, tasks, records, key }
    }

    impl Tags {
        fn writes(&self) -> u64 {
            self.records.writes(&self.key.upstream, &self.key.repository)
        }

        fn answered(&self) -> Instant {
            self.records.remembered(&self.key).and_then(|found| found.answered).unwrap()
        }

        async fn digest(&self) -> Option<Digest> {
            self.records.get(&self.key, &registry(), false).await.0.map(|record| record.digest.clone())
        }

        /// Has the disk do what it has to, then looks at that alone.
        async fn digest_on_disk(&self) -> Option<Digest> {
            self.records.store.scan().await;
            self.tasks.close();
            self.tasks.wait().await;
            self.records.memory.invalidate(&self.key.of_all_classes());
            let left = std::fs::read_dir(self.directory.path().join("tmp")).unwrap();
            assert_eq!(left.count(), 0, "a record that did not land left its file");
            self.digest().await
        }
    }

    fn registry() -> Registry {
        Registry::new(&"hub".into(), &["https://hub.example".parse().unwrap()])
    }

    fn pointing_at(content: &str) -> Arc<TagRecord> {
        let digest = Digest::of(Algorithm::Sha256, content.as_bytes());
        Arc::new(TagRecord {
            digest,
            media_type: MediaType::OCI_INDEX,
            size: 1,
            confirmed: SystemTime::now(),
            urls: Arc::default(),
        })
    }

    #[tokio::test(start_paused = true)]
    async fn a_record_whose_write_comes_after_a_push_does_not_stay() {
        let tags = tags();
        tags.records.keep(&tags.key, tags.writes(), pointing_at("old")).await;
        assert_eq!(tags.digest().await, Some(pointing_at("old").digest.clone()), "its write is still waited for");
        tags.records.forget(&tags.key).await;
        assert_eq!(tags.digest().await, None);
        assert_eq!(tags.digest_on_disk().await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_record_from_before_a_push_replaces_none_from_after() {
        let tags = tags();
        let before = tags.writes();
        tags.records.keep(&tags.key, before, pointing_at("old")).await;
        tags.records.forget(&tags.key).await;
        tags.records.keep(&tags.key, tags.writes(), pointing_at("new")).await;
        tags.records.keep(&tags.key, before, pointing_at("late")).await;
        assert_eq!(tags.digest().await, Some(pointing_at("new").digest.clone()));
        assert_eq!(tags.digest_on_disk().await, Some(pointing_at("new").digest.clone()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_deleted_manifest_takes_the_records_on_their_way() {
        let tags = tags();
        tags.records.keep(&tags.key, tags.writes(), pointing_at("old")).await;
        let (upstream, repository) = (&tags.key.upstream, &tags.key.repository);
        tags.records.forget_pointing_at(Visibility::Shared, upstream, repository, &pointing_at("old").digest).await;
        assert_eq!(tags.digest().await, None);
        assert_eq!(tags.digest_on_disk().await, None);
    }

    #[tokio::test]
    async fn a_record_read_while_a_push_removes_it_is_not_believed() {
        let tags = tags();
        let (records, key) = (&tags.records, &tags.key);
        records.store.scan().await;
        records.keep(key, tags.writes(), pointing_at("old")).await;
        records.begin_change(&key.upstream, &key.repository).await;
        let (writes, read) = (tags.writes(), records.on_disk(key).await.unwrap());
        records.remove(key).await;
        records.end_change(&key.upstream, &key.repository, [key]);
        assert!(records.believe(key, writes, Arc::new(read)).is_none());
        assert_eq!(tags.digest().await, None);
    }

    #[tokio::test]
    async fn a_record_read_from_disk_replaces_none_in_memory() {
        let tags = tags();
        let (records, key) = (&tags.records, &tags.key);
        records.store.scan().await;
        records.keep(key, tags.writes(), pointing_at("old")).await;
        let read = records.on_disk(key).await.unwrap();
        records.keep(key, tags.writes(), pointing_at("new")).await;
        let new = Some(pointing_at("new").digest.clone());
        assert_eq!(records.believe(key, tags.writes(), Arc::new(read)).map(|found| found.record.digest.clone()), new);
        assert_eq!(tags.digest().await, new);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_of_any_age_is_believed_for_a_second() {
        let tags = tags();
        let long_ago = TagRecord { confirmed: UNIX_EPOCH, ..(*pointing_at("old")).clone() };
        tags.records.keep(&tags.key, tags.writes(), Arc::new(long_ago)).await;
        let just_before = MIN_ASKING_INTERVAL - Duration::from_millis(1);
        tokio::time::advance(just_before.saturating_sub(tags.answered().elapsed())).await;
        assert_eq!(tags.records.get(&tags.key, &registry(), false).await.1, Freshness::Fresh);
        assert!(tags.records.fresh_in_memory(&tags.key, &registry(), false).is_some());
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(tags.records.get(&tags.key, &registry(), false).await, (None, Freshness::Missing));
        assert!(tags.records.fresh_in_memory(&tags.key, &registry(), false).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_tag_is_believed_tenfold_while_its_limit_is_scarce() {
        use Freshness::{Fresh, Missing, Stale};
        let hour = Duration::from_secs(3600);
        for (hours, usual, scarce) in
            [(0.5, Fresh, Fresh), (1.5, Stale, Fresh), (9.5, Missing, Fresh), (10.5, Missing, Stale)]
        {
            let tags = tags();
            let confirmed = SystemTime::now() - hour.mul_f64(hours);
            tags.records
                .keep(&tags.key, tags.writes(), Arc::new(TagRecord { confirmed, ..(*pointing_at("a")).clone() }))
                .await;
            tokio::time::advance(MIN_ASKING_INTERVAL).await;
            let judged = async |scarce| tags.records.get(&tags.key, &registry(), scarce).await.1;
            assert_eq!((judged(false).await, judged(true).await), (usual, scarce), "{hours} hours");
        }
    }
}
