//! What is known of tags, in memory over disk.

use std::{
    sync::Arc,
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
    oci::{Digest, Reference, Repository},
};

/// How many records are held in memory.
const MOST_RECORDS: u64 = 50_000;
/// How long an upstream that could not answer for a tag is left alone, at most.
const TROUBLE_TTL: Duration = Duration::from_secs(5);

pub(super) struct TagRecords {
    store: DiskStore,
    writer: Writer,
    memory: moka::sync::Cache<TagKey, Remembered>,
    /// Tags whose upstream could not answer a moment ago: what is stale is served without asking again.
    troubled: moka::sync::Cache<TagKey, ()>,
    writes: Writes,
    tag_ttl: Duration,
    stale_if_error: Duration,
}

/// A record in memory, and whether it was used.
#[derive(Clone)]
struct Remembered {
    record: Arc<TagRecord>,
    used: LastUse,
}

impl Remembered {
    fn new(record: Arc<TagRecord>) -> Self {
        Self { record, used: LastUse::default() }
    }
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
            memory: moka::sync::Cache::builder().max_capacity(MOST_RECORDS).support_invalidation_closures().build(),
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
        let Remembered { record, used } = self.memory.get(key)?;
        self.store.note_use(&used, || Key::Tag(key.clone()));
        Some(record)
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
        if let Some(record) = self.in_memory(key) {
            return Some(record);
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
        self.memory.insert(key.clone(), Remembered::new(record.clone()));
        if self.writes(&key.upstream, &key.repository) != writes {
            // It may have been removed while it was read: the next one looks again.
            self.memory.invalidate(key);
        }
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
            self.memory.insert(key.clone(), Remembered::new(record.clone()));
            self.troubled.invalidate(&key);
            self.writer.write(Key::Tag(key.clone()), record.encode()).await;
            if question.writes != self.writes(&question.upstream, &question.repository) {
                self.remove(&key).await;
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
        let (at, of, to) = (upstream.clone(), repository.clone(), digest.clone());
        self.forget_in_memory(move |key, record| {
            key.pool == pool && key.upstream == at && key.repository == of && record.digest == to
        });
        for key in self.store.tags_of(pool, upstream, repository).await {
            if self.find(&key).await.is_some_and(|record| record.digest == *digest) {
                self.memory.invalidate(&key);
                self.store.remove(Key::Tag(key)).await;
            }
        }
    }

    fn forget_in_memory(&self, is: impl Fn(&TagKey, &TagRecord) -> bool + Send + Sync + 'static) {
        let gone = move |key: &TagKey, remembered: &Remembered| is(key, &remembered.record);
        if let Err(error) = self.memory.invalidate_entries_if(gone) {
            tracing::error!(%error, "cannot forget the records of tags");
        }
    }

    /// The upstream says that there is no such tag: for nobody, whatever they accept.
    pub async fn remove(&self, key: &TagKey) {
        let mut keys = self.store.tag_classes(key).await;
        keys.push(key.clone());
        for key in keys {
            self.memory.invalidate(&key);
            self.store.remove(Key::Tag(key)).await;
        }
        // Records that found no room on disk are in memory alone.
        let TagKey { pool, upstream, repository, tag, .. } = key.clone();
        self.forget_in_memory(move |other, _| {
            other.pool == pool && other.upstream == upstream && other.repository == repository && other.tag == tag
        });
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
