//! The names of images, with what each leads to and how it was used (pure).
//!
//! What must hold: a look-up of a known name takes one hash, one small lock and no allocation; there are at most
//! [`MAX_NAMES`] names and [`MAX_TEXTS`] bytes of their texts, and a few more that came since [`Names::trim`].

use std::{
    hash::{BuildHasher as _, RandomState},
    sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
};

use hashbrown::{HashTable, hash_table::Entry};
use parking_lot::Mutex;

use super::{
    name::{ImageName, NameRef},
    repositories::{Repositories, text_memory},
};
use crate::{
    cache::{Visibility, storage::lru_index::CompactKey},
    oci::{Reference, Repository},
};

/// How many names are remembered.
pub(super) const MAX_NAMES: usize = 100_000;
/// How many bytes their texts may take: 300 for each, which is more than most have.
pub(super) const MAX_TEXTS: usize = 32 << 20;
/// One part in so many is dropped at a time.
const DROPPED_PART: usize = 16;
/// How many names and texts may be there before [`Names::trim`]; more are not taken.
const MAX_UNTRIMMED: usize = MAX_NAMES + MAX_NAMES / DROPPED_PART;
const MAX_UNTRIMMED_TEXTS: usize = MAX_TEXTS + MAX_TEXTS / DROPPED_PART;
/// So many that a shard is small: names are read shard by shard.
pub(super) const SHARDS: usize = 64;

/// A name, and what is known of it.
#[derive(Clone, Debug)]
pub(super) struct Named {
    pub name: ImageName,
    pub state: NameState,
}

/// What a name leads to, and how it was used. Times are in seconds since 1970; 0: never.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct NameState {
    /// The manifest or index; `None` if it is not known, or there is none any more.
    pub manifest: Option<CompactKey>,
    pub pulls: u64,
    pub last_use: u32,
    /// When the upstream last confirmed the tag.
    pub confirmed: u32,
    /// What the reader has to read of it.
    pub unread: Unread,
    /// Whether an operator's pin is about it.
    pub is_pinned: bool,
}

impl NameState {
    /// Has the name mean a manifest; whether it meant another one, or none.
    pub(super) fn means(&mut self, manifest: CompactKey) -> bool {
        let is_news = self.manifest.as_ref() != Some(&manifest);
        if is_news {
            (self.manifest, self.unread) = (Some(manifest), Unread::Manifest);
        }
        is_news
    }
}

/// What is to be read of a name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Unread {
    #[default]
    Nothing,
    /// What its manifest names.
    Manifest,
    /// What its tag's record says, and then its manifest.
    Record,
}

#[derive(Default)]
struct Shard {
    table: Mutex<HashTable<Named>>,
    has_unread: AtomicBool,
}

pub(super) struct Names {
    shards: Box<[Shard]>,
    hasher: RandomState,
    repositories: Repositories,
    len: AtomicUsize,
    /// The bytes of tags and digests.
    references: AtomicUsize,
    /// How many names were dropped, or not taken, because there are too many.
    left_out: AtomicU64,
    /// Whether anything changed that is kept on disk.
    is_changed: AtomicBool,
}

impl Default for Names {
    fn default() -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Shard::default()).collect(),
            hasher: RandomState::new(),
            repositories: Repositories::default(),
            len: AtomicUsize::new(0),
            references: AtomicUsize::new(0),
            left_out: AtomicU64::new(0),
            is_changed: AtomicBool::new(false),
        }
    }
}

impl Names {
    /// Works on a known name.
    pub(super) fn with<T>(&self, name: NameRef<'_>, work: impl FnOnce(&mut NameState) -> T) -> Option<T> {
        let hash = self.hasher.hash_one(name);
        let shard = &self.shards[shard_of(hash)];
        let mut table = shard.table.lock();
        let state = &mut table.find_mut(hash, |other| other.name.borrow() == name)?.state;
        let done = work(state);
        note_unread(shard, state);
        Some(done)
    }

    /// Works on a name, which is added if it is not known. `None`: there are too many.
    pub(super) fn with_new<T>(
        &self,
        name: NameRef<'_>,
        owned: impl FnOnce() -> ImageName,
        work: impl FnOnce(&mut NameState) -> T,
    ) -> Option<T> {
        let hash = self.hasher.hash_one(name);
        let shard = &self.shards[shard_of(hash)];
        let mut table = shard.table.lock();
        let is_it = |other: &Named| other.name.borrow() == name;
        let mut entry = match table.entry(hash, is_it, |other| self.hasher.hash_one(other.name.borrow())) {
            Entry::Occupied(entry) => entry,
            Entry::Vacant(_) if self.len() >= MAX_UNTRIMMED || self.texts() >= MAX_UNTRIMMED_TEXTS => {
                self.left_out.fetch_add(1, Ordering::Relaxed);
                return None;
            }
            Entry::Vacant(entry) => {
                self.len.fetch_add(1, Ordering::Relaxed);
                self.references.fetch_add(text_memory(name.reference()), Ordering::Relaxed);
                let owned = owned();
                let (upstream, repository) =
                    self.repositories.add(owned.visibility, &owned.upstream, &owned.repository);
                entry.insert(Named { name: ImageName { upstream, repository, ..owned }, state: NameState::default() })
            }
        };
        let state = &mut entry.get_mut().state;
        let done = work(state);
        note_unread(shard, state);
        Some(done)
    }

    /// Drops a name; returns whether it was known.
    pub(super) fn remove(&self, name: NameRef<'_>) -> bool {
        let hash = self.hasher.hash_one(name);
        let mut table = self.shards[shard_of(hash)].table.lock();
        let Ok(entry) = table.find_entry(hash, |other| other.name.borrow() == name) else { return false };
        let (removed, _) = entry.remove();
        self.forget_texts(&removed.name);
        self.len.fetch_sub(1, Ordering::Relaxed);
        self.note_change();
        true
    }

    /// Works on all names; drops those of which `keep` says no.
    pub(super) fn retain(&self, mut keep: impl FnMut(&ImageName, &mut NameState) -> bool) {
        for shard in &self.shards {
            let mut table = shard.table.lock();
            let before = table.len();
            table.retain(|named| {
                let is_kept = keep(&named.name, &mut named.state);
                note_unread(shard, &named.state);
                if !is_kept {
                    self.forget_texts(&named.name);
                }
                is_kept
            });
            let dropped = before - table.len();
            if dropped > 0 {
                self.len.fetch_sub(dropped, Ordering::Relaxed);
                self.note_change();
            }
        }
        self.repositories.prune();
    }

    fn forget_texts(&self, ImageName { visibility, upstream, repository, reference }: &ImageName) {
        self.references.fetch_sub(text_memory(reference.as_str()), Ordering::Relaxed);
        self.repositories.remove(*visibility, upstream, repository);
    }

    /// Whether any name of a repository is known.
    pub(super) fn has_repository(&self, visibility: Visibility, upstream: &str, repository: &Repository) -> bool {
        self.repositories.has(visibility, upstream, repository)
    }

    /// Takes out what is to be read of one of [`SHARDS`] shards.
    pub(super) fn take_unread(&self, shard: usize) -> Vec<Named> {
        let Some(shard) = self.shards.get(shard) else { return Vec::new() };
        if !shard.has_unread.swap(false, Ordering::AcqRel) {
            return Vec::new();
        }
        let mut table = shard.table.lock();
        let unread = table.iter_mut().filter(|named| named.state.unread != Unread::Nothing);
        let taken = unread.map(|named| {
            let taken = named.clone();
            named.state.unread = Unread::Nothing;
            taken
        });
        taken.collect()
    }

    /// Whether something of any name is to be read.
    pub(super) fn has_unread(&self) -> bool {
        self.shards.iter().any(|shard| shard.has_unread.load(Ordering::Acquire))
    }

    /// Copies of the names that are `wanted`.
    pub(super) fn list(&self, mut wanted: impl FnMut(&ImageName, &NameState) -> bool) -> Vec<Named> {
        let mut list = Vec::new();
        for shard in &self.shards {
            list.extend(shard.table.lock().iter().filter(|named| wanted(&named.name, &named.state)).cloned());
        }
        list
    }

    /// Whether there are more names than are remembered.
    pub(super) fn are_too_many(&self) -> bool {
        self.len() > MAX_NAMES || self.texts() > MAX_TEXTS
    }

    /// Drops a part of the names, at least one: those by digest that were pulled once come first, since any client may
    /// pull any digest; then those that were used, or else confirmed, the longest time ago; pinned ones last.
    pub(super) fn trim(&self) {
        let mut worths = Vec::with_capacity(self.len());
        self.retain(|name, state| {
            worths.push(worth(name, state));
            true
        });
        let mut left = worths.len().saturating_sub(MAX_NAMES).max(worths.len().div_ceil(DROPPED_PART));
        if left == 0 {
            return;
        }
        let (_, limit, _) = worths.select_nth_unstable(left - 1);
        let limit = *limit;
        // Of those that are worth as much as the last one to go, any may stay.
        self.retain(|name, state| {
            let is_dropped = left > 0 && worth(name, state) <= limit;
            left -= usize::from(is_dropped);
            self.left_out.fetch_add(u64::from(is_dropped), Ordering::Relaxed);
            !is_dropped
        });
    }

    pub(super) fn len(&self) -> usize {
        self.len.load(Ordering::Relaxed)
    }

    pub(super) fn left_out(&self) -> u64 {
        self.left_out.load(Ordering::Relaxed)
    }

    /// Notes that something changed that is kept on disk.
    pub(super) fn note_change(&self) {
        // A plain load comes first, so that the cores of busy clients share the flag's cache line.
        if !self.is_changed.load(Ordering::Relaxed) {
            self.is_changed.store(true, Ordering::Release);
        }
    }

    /// Whether something changed since the last call.
    pub(super) fn take_change(&self) -> bool {
        self.is_changed.swap(false, Ordering::AcqRel)
    }

    /// The bytes that the names take in memory.
    pub(super) fn memory(&self) -> usize {
        let table = |shard: &Shard| shard.table.lock().allocation_size() + size_of::<Shard>();
        let tables: usize = self.shards.iter().map(table).sum();
        tables + self.references.load(Ordering::Relaxed) + self.repositories.memory()
    }

    /// The bytes of the texts of names.
    fn texts(&self) -> usize {
        self.references.load(Ordering::Relaxed) + self.repositories.texts()
    }
}

/// What goes first is worth least.
fn worth(name: &ImageName, state: &NameState) -> (bool, bool, u32) {
    let is_settled = matches!(name.reference, Reference::Tag(_)) || state.pulls > 1;
    (state.is_pinned, is_settled, state.last_use.max(state.confirmed))
}

fn note_unread(shard: &Shard, state: &NameState) {
    if state.unread != Unread::Nothing {
        shard.has_unread.store(true, Ordering::Release);
    }
}

/// The table of a shard uses the lowest and the highest bits.
fn shard_of(hash: u64) -> usize {
    (hash >> 32) as usize % SHARDS
}

const _: () = assert!(size_of::<Named>() <= 136, "the memory of 100 000 names");
