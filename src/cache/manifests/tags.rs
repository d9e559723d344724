//! What is known of tags, in memory over disk.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use super::{Question, Wanted, writer::Writer};
use crate::{
    cache::{
        Config, DiskStore, Pool,
        freshness::{self, Freshness},
        lru::Key,
        recency::LastUse,
        tag_record::{TagKey, TagRecord},
        writes::Writes,
    },
    oci::{AcceptClass, Digest, Reference, Repository},
};

/// How many records are held in memory.
const MOST_RECORDS: u64 = 50_000;
/// Of how many classes of clients the records of one tag are held in memory.
const MAX_CLASSES: usize = 16;
/// How long an upstream that could not answer for a tag is left alone, at most.
const TROUBLE_TTL: Duration = Duration::from_secs(5);

pub(super) struct TagRecords {
    store: DiskStore,
    writer: Writer,
    /// By tag, with the few classes of clients inside: to forget one looks at no other.
    memory: moka::sync::Cache<TagKey, Arc<Vec<Remembered>>>,
    /// Tags whose upstream could not answer a moment ago: what is stale is served without asking again.
    troubled: moka::sync::Cache<TagKey, ()>,
    writes: Writes,
    tag_ttl: Duration,
    stale_if_error: Duration,
}

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
}

impl TagRecords {
    pub fn new(config: &Config, writer: Writer) -> Self {
        let troubled = moka::sync::Cache::builder()
            .max_capacity(MOST_RECORDS)
            .time_to_live(TROUBLE_TTL.min(config.tag_ttl))
            .build();
        Self {
            store: writer.store.clone(),
            writer,
            memory: moka::sync::Cache::builder().max_capacity(MOST_RECORDS).build(),
            troubled,
            writes: Writes::default(),
            tag_ttl: config.tag_ttl,
            stale_if_error: config.stale_if_error,
        }
    }

    /// The record of a tag, and how far it can be believed. One too old for anything is not given.
    pub async fn get(&self, key: &TagKey) -> (Option<Arc<TagRecord>>, Freshness) {
        let Some(record) = self.find(key).await else { return (None, Freshness::Missing) };
        match self.judge(&record) {
            Freshness::Missing => (None, Freshness::Missing),
            freshness => (Some(record), freshness),
        }
    }

    /// The record of a tag, when it is in memory and fresh.
    pub fn fresh_in_memory(&self, key: &TagKey) -> Option<Arc<TagRecord>> {
        self.in_memory(key).filter(|record| self.judge(record) == Freshness::Fresh)
    }

    fn in_memory(&self, key: &TagKey) -> Option<Arc<TagRecord>> {
        self.remembered(key).filter(|found| self.holds(key, found)).map(|found| found.record)
    }

    fn remembered(&self, key: &TagKey) -> Option<Remembered> {
        let classes = self.memory.get(&key.of_all_classes())?;
        let found = classes.iter().find(|remembered| remembered.class == key.class)?;
        self.store.note_use(&found.used, || Key::Tag(key.clone()));
        Some(found.clone())
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

    /// How many changes were made through us in a repository. What was asked, or read, when there were fewer may be
    /// outdated.
    pub fn writes(&self, upstream: &Arc<str>, repository: &Repository) -> u64 {
        self.writes.of(upstream, Some(repository))
    }

    /// A change was made: to be called before anything is removed because of it.
    pub fn note_write(&self, upstream: &Arc<str>, repository: &Repository) {
        self.writes.note(upstream, repository);
    }

    async fn find(&self, key: &TagKey) -> Option<Arc<TagRecord>> {
        if let Some(found) = self.remembered(key) {
            // What is being written was outdated meanwhile, on disk as well: it is removed when it is there.
            return self.holds(key, &found).then_some(found.record);
        }
        let writes = self.writes(&key.upstream, &key.repository);
        let bytes = match self.store.read(Key::Tag(key.clone()), TagRecord::MAX_LEN).await {
            Ok(bytes) => bytes?,
            Err(error) => {
                tracing::error!(%error, tag = ?key, "cannot read a tag's record");
                return None;
            }
        };
        let record = Arc::new(TagRecord::decode(&bytes)?);
        let (class, used, settled) = (key.class, LastUse::default(), Arc::new(AtomicBool::new(false)));
        self.remember(key, Remembered { class, record: record.clone(), used, writes, settled: settled.clone() });
        if self.writes(&key.upstream, &key.repository) != writes {
            // It may have been removed while it was read: the next one looks again.
            self.memory.invalidate(&key.of_all_classes());
            return None;
        }
        settled.store(true, Ordering::SeqCst);
        Some(record)
    }

    /// The records of the same tag for clients that accept other types.
    pub async fn other_classes(&self, key: &TagKey) -> Vec<(Arc<TagRecord>, Freshness)> {
        let mut found = Vec::new();
        for other in self.store.tag_classes(key).await {
            if let Some(record) = self.find(&other).await {
                let freshness = self.judge(&record);
                found.push((record, freshness));
            }
        }
        found
    }

    /// Keeps what the upstream answered; a question by digest leaves no record.
    pub async fn put(&self, wanted: &Wanted, question: &Question, record: TagRecord) -> Arc<TagRecord> {
        let record = Arc::new(record);
        if let Reference::Tag(tag) = &question.reference
            && question.writes == self.writes(&question.upstream, &question.repository)
        {
            let key = wanted.key(tag);
            let (class, writes) = (key.class, question.writes);
            let (used, settled) = (LastUse::default(), Arc::new(AtomicBool::new(false)));
            self.remember(&key, Remembered { class, record: record.clone(), used, writes, settled: settled.clone() });
            self.troubled.invalidate(&key);
            self.writer.write(Key::Tag(key.clone()), record.encode()).await;
            if question.writes != self.writes(&question.upstream, &question.repository) {
                self.remove(&key).await;
            } else {
                settled.store(true, Ordering::SeqCst);
            }
        }
        record
    }

    /// The upstream said again what it said before.
    pub async fn confirm(&self, wanted: &Wanted, question: &Question, record: &TagRecord) -> Arc<TagRecord> {
        self.put(wanted, question, TagRecord { confirmed: SystemTime::now(), ..record.clone() }).await
    }

    /// Forgets the tags of a repository that point at a manifest.
    pub async fn remove_pointing_at(&self, pool: Pool, upstream: &Arc<str>, repository: &Repository, digest: &Digest) {
        for (key, classes) in &self.memory {
            let of_it = key.pool == pool && key.upstream == *upstream && key.repository == *repository;
            if of_it && classes.iter().any(|remembered| remembered.record.digest == *digest) {
                self.memory.invalidate(&*key);
            }
        }
        for key in self.store.tags_of(pool, upstream, repository).await {
            if self.find(&key).await.is_some_and(|record| record.digest == *digest) {
                self.memory.invalidate(&key.of_all_classes());
                self.store.remove(Key::Tag(key)).await;
            }
        }
    }

    /// The upstream says that there is no such tag: for nobody, whatever they accept.
    pub async fn remove(&self, key: &TagKey) {
        // Records that found no room on disk are in memory alone.
        self.memory.invalidate(&key.of_all_classes());
        let mut keys = self.store.tag_classes(key).await;
        keys.push(key.clone());
        for key in keys {
            self.store.remove(Key::Tag(key)).await;
        }
        // A record may have been read from the disk before it was removed.
        self.memory.invalidate(&key.of_all_classes());
    }

    pub fn note_trouble(&self, key: &TagKey) {
        if !self.tag_ttl.is_zero() {
            self.troubled.insert(key.clone(), ());
        }
    }

    pub fn is_troubled(&self, key: &TagKey) -> bool {
        self.troubled.contains_key(key)
    }

    fn judge(&self, record: &TagRecord) -> Freshness {
        freshness::judge(record.confirmed, SystemTime::now(), self.tag_ttl, self.stale_if_error)
    }
}
