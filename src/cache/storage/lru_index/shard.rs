//! A part of the index: its entries, their two lists in the order of last use, and what is open of them (pure).
//!
//! What must hold: an entry takes at most 80 bytes of memory, the share of the hash table included; nothing here walks
//! over memory that grows by more than the shard.

use std::{
    collections::HashMap,
    fs::File,
    hash::{BuildHasher as _, RandomState},
    sync::Arc,
};

use hashbrown::HashTable;

use super::{
    key::CompactKey,
    stamp::{Class, Stamp},
    usage::OnDisk,
};
use crate::cache::storage::tag_record::TagKey;

/// How many entries are allocated at a time.
const CHUNK: usize = 8;
/// No entry.
const NONE: u32 = u32::MAX;

/// An object on disk.
pub(super) struct Entry {
    pub(super) key: CompactKey,
    pub(super) len: u64,
    stamp: Stamp,
    newer: u32,
    older: u32,
}

impl Entry {
    pub(super) fn new(key: CompactKey, len: u64, stamp: Stamp) -> Self {
        Self { key, len, stamp, newer: NONE, older: NONE }
    }
}

/// What is only known of an object that has readers, or a file that is kept open.
pub(super) struct Kept {
    /// Tells the readers of this object from those of an earlier one of the same name.
    pub(super) serial: u64,
    /// How many readers it has.
    pub(super) pins: u32,
    pub(super) file: Option<Arc<File>>,
    /// Whether a reader got the file since [`Shard::file_to_close`] or [`Shard::idle_files`] last looked.
    pub(super) was_read: bool,
}

/// The ends of a list of entries.
#[derive(Clone, Copy)]
struct List {
    newest: u32,
    oldest: u32,
}

pub(super) struct Shard {
    hasher: RandomState,
    /// The slots of the entries.
    table: HashTable<u32>,
    #[allow(clippy::vec_box, reason = "a vector of arrays doubles by copying all entries, and is half empty then")]
    chunks: Vec<Box<[Option<Entry>; CHUNK]>>,
    free: Vec<u32>,
    lists: [List; Class::EVERY.len()],
    kept: HashMap<u32, Kept>,
    serials: u64,
}

impl Shard {
    pub(super) fn new(hasher: RandomState) -> Self {
        Self {
            hasher,
            table: HashTable::new(),
            chunks: Vec::new(),
            free: Vec::new(),
            lists: [List { newest: NONE, oldest: NONE }; Class::EVERY.len()],
            kept: HashMap::new(),
            serials: 0,
        }
    }

    pub(super) fn at(&self, slot: u32) -> Option<&Entry> {
        at(&self.chunks, slot)
    }

    pub(super) fn at_mut(&mut self, slot: u32) -> Option<&mut Entry> {
        let slot = slot as usize;
        self.chunks.get_mut(slot / CHUNK)?[slot % CHUNK].as_mut()
    }

    pub(super) fn find(&self, hash: u64, key: &CompactKey) -> Option<u32> {
        self.table.find(hash, |slot| self.at(*slot).is_some_and(|entry| entry.key == *key)).copied()
    }

    /// The tags whose records are here.
    pub(super) fn tags(&self) -> Vec<TagKey> {
        let entries = self.chunks.iter().flat_map(|chunk| chunk.iter().flatten());
        entries.filter_map(|entry| entry.key.tag().cloned()).collect()
    }

    /// The objects that are wanted.
    pub(super) fn objects(&self, wanted: &impl Fn(&CompactKey, OnDisk) -> bool) -> Vec<(CompactKey, OnDisk)> {
        let entries = self.chunks.iter().flat_map(|chunk| chunk.iter().flatten());
        let all = entries.map(|entry| (&entry.key, OnDisk { len: entry.len, minute: entry.stamp.minute() }));
        all.filter(|(key, object)| wanted(key, *object)).map(|(key, object)| (key.clone(), object)).collect()
    }

    /// Adds an entry as the most recently used one of its class; it is not in the shard yet.
    pub(super) fn add(&mut self, hash: u64, entry: Entry) -> u32 {
        self.make_room_in_table();
        let slot = self.free.pop().unwrap_or_else(|| {
            let next = self.chunks.len() * CHUNK;
            self.chunks.push(Box::new([const { None }; CHUNK]));
            // The others of the new chunk are free; the lowest is taken first.
            self.free.extend((next + 1..next + CHUNK).rev().filter_map(|slot| u32::try_from(slot).ok()));
            u32::try_from(next).unwrap_or(NONE)
        });
        if let Some(chunk) = self.chunks.get_mut(slot as usize / CHUNK) {
            chunk[slot as usize % CHUNK] = Some(entry);
        }
        let Self { table, chunks, hasher, .. } = self;
        table.insert_unique(hash, slot, |slot| at(chunks, *slot).map_or(0, |entry| hasher.hash_one(&entry.key)));
        self.link(slot);
        slot
    }

    /// Makes room for one more in the table. The table hashes its entries in the order of the table, and so reads memory
    /// at random; this reads it from front to end, and holds the lock for a fraction of the time.
    fn make_room_in_table(&mut self) {
        if self.table.len() < self.table.capacity() {
            return;
        }
        // Up to seven eighths of the buckets are used. If nearly all of these are, and not the marks of removed ones,
        // the table grows.
        let most = self.table.num_buckets() / 8 * 7;
        let grows = self.table.len() >= most / 8 * 7;
        let capacity = if grows { most.max(self.table.len()) + 1 } else { self.table.len() + 1 };
        let mut table = HashTable::with_capacity(capacity);
        let hash_of = |slot: &u32| at(&self.chunks, *slot).map_or(0, |entry| self.hasher.hash_one(&entry.key));
        for (slot, entry) in self.chunks.iter().flat_map(|chunk| chunk.iter()).enumerate() {
            if entry.is_some()
                && let Ok(slot) = u32::try_from(slot)
            {
                table.insert_unique(hash_of(&slot), slot, hash_of);
            }
        }
        self.table = table;
    }

    /// Removes an entry, and what is kept of it.
    pub(super) fn remove(&mut self, slot: u32) -> Option<(Entry, Option<Kept>)> {
        self.unlink(slot);
        let hash = self.hasher.hash_one(&self.at(slot)?.key);
        if let Ok(found) = self.table.find_entry(hash, |other| *other == slot) {
            found.remove();
        }
        let entry = self.chunks.get_mut(slot as usize / CHUNK)?[slot as usize % CHUNK].take()?;
        self.free.push(slot);
        Some((entry, self.kept.remove(&slot)))
    }

    pub(super) fn stamp(&self, slot: u32) -> Stamp {
        self.at(slot).map_or(Stamp::NEVER, |entry| entry.stamp)
    }

    /// Gives an entry a new stamp, later than those of its class.
    pub(super) fn restamp(&mut self, slot: u32, stamp: Stamp) {
        self.unlink(slot);
        if let Some(entry) = self.at_mut(slot) {
            entry.stamp = stamp;
        }
        self.link(slot);
    }

    /// The entry of a class that was used the longest time ago.
    pub(super) fn oldest(&self, class: Class) -> Option<u32> {
        Some(self.lists[class as usize].oldest).filter(|slot| *slot != NONE)
    }

    /// The next entry of the same class, used later.
    pub(super) fn newer(&self, slot: u32) -> Option<u32> {
        self.at(slot).map(|entry| entry.newer).filter(|slot| *slot != NONE)
    }

    /// Sorts both lists. What this process stamped moves to `minute`, which is after all uses that files tell.
    pub(super) fn sort(&mut self, minute: u32) {
        for class in Class::EVERY {
            let mut order = Vec::new();
            let mut next = self.oldest(class);
            while let Some(slot) = next {
                next = self.newer(slot);
                let stamp = self.stamp(slot);
                let stamp = if stamp.is_live() { stamp.moved_to(minute) } else { stamp };
                order.push((stamp, slot));
            }
            order.sort_unstable();
            self.lists[class as usize] = List { newest: NONE, oldest: NONE };
            for (stamp, slot) in order {
                if let Some(entry) = self.at_mut(slot) {
                    entry.stamp = stamp;
                }
                self.link(slot);
            }
        }
    }

    /// Puts an entry at the newer end of the list of its class.
    fn link(&mut self, slot: u32) {
        let class = self.stamp(slot).class() as usize;
        let newest = self.lists[class].newest;
        if let Some(entry) = self.at_mut(slot) {
            (entry.newer, entry.older) = (NONE, newest);
        }
        self.lists[class].newest = slot;
        match self.at_mut(newest) {
            Some(entry) => entry.newer = slot,
            None => self.lists[class].oldest = slot,
        }
    }

    fn unlink(&mut self, slot: u32) {
        let Some(entry) = self.at(slot) else { return };
        let (newer, older, class) = (entry.newer, entry.older, entry.stamp.class() as usize);
        match self.at_mut(newer) {
            Some(entry) => entry.older = older,
            None => self.lists[class].newest = older,
        }
        match self.at_mut(older) {
            Some(entry) => entry.newer = newer,
            None => self.lists[class].oldest = newer,
        }
    }

    pub(super) fn kept(&self, slot: u32) -> Option<&Kept> {
        self.kept.get(&slot)
    }

    pub(super) fn kept_mut(&mut self, slot: u32) -> Option<&mut Kept> {
        self.kept.get_mut(&slot)
    }

    /// Counts one more reader.
    pub(super) fn pin(&mut self, slot: u32) -> &mut Kept {
        let serials = &mut self.serials;
        let kept = self.kept.entry(slot).or_insert_with(|| {
            *serials += 1;
            Kept { serial: *serials, pins: 0, file: None, was_read: false }
        });
        kept.pins += 1;
        kept
    }

    pub(super) fn is_pinned(&self, slot: u32) -> bool {
        self.kept.get(&slot).is_some_and(|kept| kept.pins > 0)
    }

    /// Forgets what is kept of an entry, if that is neither a reader nor a file.
    pub(super) fn tidy(&mut self, slot: u32) {
        if self.kept.get(&slot).is_some_and(|kept| kept.pins == 0 && kept.file.is_none()) {
            self.kept.remove(&slot);
        }
    }

    /// Takes the file of the entry that needs it least: one without readers that no reader got since the last look,
    /// and of those the one used the longest time ago. Never that of `other`.
    pub(super) fn file_to_close(&mut self, other: Option<u32>) -> Option<Arc<File>> {
        let candidates = self.kept.iter().filter(|(slot, kept)| kept.file.is_some() && Some(**slot) != other);
        let slot = *candidates.min_by_key(|(slot, kept)| (kept.pins > 0, kept.was_read, self.stamp(**slot)))?.0;
        for kept in self.kept.values_mut() {
            kept.was_read = false;
        }
        let file = self.kept.get_mut(&slot)?.file.take();
        self.tidy(slot);
        file
    }

    /// Takes the files that no reader has, or got since the last look.
    pub(super) fn idle_files(&mut self) -> Vec<Arc<File>> {
        let is_read = |kept: &mut Kept| std::mem::take(&mut kept.was_read) || kept.pins > 0;
        let idle = self.kept.values_mut().filter_map(|kept| if is_read(kept) { None } else { kept.file.take() });
        let files = idle.collect();
        self.kept.retain(|_, kept| kept.pins > 0 || kept.file.is_some());
        files
    }

    /// The bytes that the entries take in memory, without the objects that keys of rare kinds point to.
    pub(super) fn memory(&self) -> usize {
        self.table.allocation_size()
            + self.chunks.len() * size_of::<[Option<Entry>; CHUNK]>()
            + self.chunks.capacity() * size_of::<Box<[Option<Entry>; CHUNK]>>()
            + self.free.capacity() * size_of::<u32>()
    }
}

fn at(chunks: &[Box<[Option<Entry>; CHUNK]>], slot: u32) -> Option<&Entry> {
    let slot = slot as usize;
    chunks.get(slot / CHUNK)?[slot % CHUNK].as_ref()
}

const _: () = assert!(size_of::<Option<Entry>>() == 64, "the memory of a million blobs");
