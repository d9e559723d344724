//! What is known of tags, in memory over disk.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::{Question, Wanted, writer::Writer};
use crate::{
    cache::{
        Config, DiskStore,
        freshness::{self, Freshness},
        lru::Key,
        recency::LastUse,
        tag_record::{TagKey, TagRecord},
    },
    oci::Reference,
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

    async fn find(&self, key: &TagKey) -> Option<Arc<TagRecord>> {
        if let Some(record) = self.in_memory(key) {
            return Some(record);
        }
        let bytes = match self.store.read(Key::Tag(key.clone()), TagRecord::MAX_LEN).await {
            Ok(bytes) => bytes?,
            Err(error) => {
                tracing::error!(%error, tag = ?key, "cannot read a tag's record");
                return None;
            }
        };
        let record = Arc::new(TagRecord::decode(&bytes)?);
        self.memory.insert(key.clone(), Remembered::new(record.clone()));
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
        if let Reference::Tag(tag) = &question.reference {
            let key = wanted.key(tag);
            self.memory.insert(key.clone(), Remembered::new(record.clone()));
            self.troubled.invalidate(&key);
            self.writer.write(Key::Tag(key), record.encode()).await;
        }
        record
    }

    /// The upstream said again what it said before.
    pub async fn confirm(&self, wanted: &Wanted, question: &Question, record: &TagRecord) -> Arc<TagRecord> {
        self.put(wanted, question, TagRecord { confirmed: SystemTime::now(), ..record.clone() }).await
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
        let TagKey { upstream, repository, tag, .. } = key.clone();
        let same = move |other: &TagKey, _: &Remembered| {
            other.upstream == upstream && other.repository == repository && other.tag == tag
        };
        if let Err(error) = self.memory.invalidate_entries_if(same) {
            tracing::error!(%error, "cannot forget a tag's records");
        }
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
