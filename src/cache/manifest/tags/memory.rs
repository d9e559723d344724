//! The records of tags in memory.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use tokio::time::Instant;

use crate::{
    bounded_cache,
    cache::{
        Visibility,
        storage::{
            recent_uses::LastUse,
            tag_record::{TagKey, TagRecord},
        },
    },
    oci::{AcceptClass, Digest, Repository},
};

/// How many records are held.
pub(super) const MAX_RECORDS: u64 = 50_000;
/// For how many `Accept` classes the records of one tag are held, in memory and on disk. Container clients use a
/// handful.
pub(super) const MAX_CLASSES: usize = 16;

/// By tag, with the records of the few classes inside: to forget a tag is one removal.
pub(super) struct RecordMemory(moka::sync::Cache<TagKey, Arc<Vec<MemoryRecord>>>);

/// A record, and its use.
#[derive(Clone)]
pub(super) struct MemoryRecord {
    pub class: AcceptClass,
    pub record: Arc<TagRecord>,
    pub used: LastUse,
    /// How many changes had been made to the repository when the upstream was asked.
    pub writes: u64,
    /// The record was on disk before any change was made. A later change forgets it.
    pub is_settled: Arc<AtomicBool>,
    /// When the upstream gave it; `None` if it was read from disk.
    pub answered: Option<Instant>,
}

impl MemoryRecord {
    pub(super) fn new(class: AcceptClass, record: Arc<TagRecord>, writes: u64, answered: Option<Instant>) -> Self {
        Self { class, record, used: LastUse::default(), writes, is_settled: Arc::default(), answered }
    }

    pub(super) fn settle(&self) {
        self.is_settled.store(true, Ordering::SeqCst);
    }

    /// Whether no change was made between the upstream request and the write to disk; `writes` counts the changes until
    /// now, which a settled record does not need.
    pub(super) fn is_current(&self, writes: impl Fn() -> u64) -> bool {
        self.is_settled.load(Ordering::SeqCst) || self.writes == writes()
    }
}

impl RecordMemory {
    pub(super) fn new() -> Self {
        Self(bounded_cache::lru_of(MAX_RECORDS))
    }

    /// The record of a tag for a class; `writes` counts the changes that were made to the repository until now.
    pub(super) fn get(&self, key: &TagKey, writes: impl Fn() -> u64) -> Option<MemoryRecord> {
        let classes = self.0.get(&key.of_all_classes())?;
        let mut found = classes.iter().find(|other| other.class == key.class)?.clone();
        // If clients of another class were given the same digest since, the tag still points there.
        let same =
            classes.iter().filter(|other| other.record.digest == found.record.digest && other.is_current(&writes));
        found.answered = same.filter_map(|other| other.answered).max().max(found.answered);
        Some(found)
    }

    pub(super) fn insert(&self, key: &TagKey, record: MemoryRecord) {
        self.0.entry(key.of_all_classes()).and_upsert_with(|entry| {
            let mut classes = entry.map(|entry| entry.into_value().as_ref().clone()).unwrap_or_default();
            classes.retain(|other| other.class != key.class);
            if classes.len() >= MAX_CLASSES {
                classes.remove(0);
            }
            classes.push(record);
            Arc::new(classes)
        });
    }

    /// Inserts a record unless the class has one; returns the record that is there then.
    pub(super) fn get_or_insert(&self, key: &TagKey, record: MemoryRecord) -> MemoryRecord {
        let mut present = record.clone();
        self.0.entry(key.of_all_classes()).and_upsert_with(|entry| {
            let Some(classes) = entry.map(moka::Entry::into_value) else { return Arc::new(vec![record]) };
            if let Some(found) = classes.iter().find(|other| other.class == key.class) {
                present = found.clone();
                return classes;
            }
            Arc::new(classes.iter().rev().take(MAX_CLASSES - 1).rev().cloned().chain([record]).collect())
        });
        present
    }

    /// Removes the records of all classes of a tag.
    pub(super) fn remove(&self, key: &TagKey) {
        self.0.invalidate(&key.of_all_classes());
    }

    /// Removes the tags of a repository that point at this digest.
    pub(super) fn remove_pointing_at(
        &self,
        visibility: Visibility,
        upstream: &Arc<str>,
        repository: &Repository,
        digest: &Digest,
    ) {
        for (key, classes) in &self.0 {
            let in_repository =
                key.visibility == visibility && key.upstream == *upstream && key.repository == *repository;
            if in_repository && classes.iter().any(|other| other.record.digest == *digest) {
                self.0.invalidate(&*key);
            }
        }
    }
}
