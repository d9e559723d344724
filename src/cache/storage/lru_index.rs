//! The objects on disk, how recently each was used, and which of them to evict to make room (pure).
//!
//! Space is reserved before bytes arrive, so `used + reserved` never exceeds `max_size`: the limit covers writes in
//! flight, too. The index *names* victims; the store unlinks them. An object that is being read is never named:
//! unlinking an open file frees nothing.

mod key;
mod overhead;
#[cfg(test)]
mod tests;

use std::collections::HashMap;

use lru::LruCache;

pub use self::{
    key::{CompactKey, IndexKey},
    overhead::Overhead,
};
use crate::{
    cache::{ObjectKind, storage::tag_record::TagKey},
    oci::AcceptClass,
};

/// The unit in which file systems allocate: a file's last block counts in full, and a directory takes at least one
/// block.
pub const BLOCK: u64 = 4096;
/// The bytes that a file of `len` bytes takes on disk. An upstream may claim any length, so the result saturates.
pub const fn allocated(len: u64) -> u64 {
    len.div_ceil(BLOCK).saturating_mul(BLOCK)
}

/// An object used within so many minutes is not evicted for a prefetched object.
const MIN_IDLE: u32 = 60;
/// How many such objects one reservation skips before it fails.
const MAX_PASSED_OVER: usize = 4096;

struct IndexEntry {
    len: u64,
    /// How many readers have it open.
    pins: u32,
    /// When it was added or last used, in minutes since 1970.
    used: u32,
}

/// Bytes on disk and number of the objects of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub bytes: u64,
    pub objects: u64,
}

/// Evictions cannot make the requested room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoRoom;

/// The index of everything on disk, in order of last use.
pub struct LruIndex {
    max_size: u64,
    /// The current time in minutes since 1970, a few minutes off at most.
    minute: u32,
    entries: LruCache<CompactKey, IndexEntry>,
    /// Bytes allocated by entries.
    used: u64,
    /// The part of `used` that cannot be evicted now.
    pinned: u64,
    /// Bytes reserved for downloads and writes in flight.
    reserved: u64,
    /// The part of `reserved` that is on disk already.
    written: u64,
    overhead: Overhead,
    totals: [Totals; ObjectKind::EVERY.len()],
    /// The classes of clients that a tag has records for; the class in the map's key has no meaning.
    classes: HashMap<TagKey, Vec<AcceptClass>>,
}

impl LruIndex {
    pub fn new(max_size: u64) -> Self {
        Self {
            max_size,
            minute: 0,
            entries: LruCache::unbounded(),
            used: 0,
            pinned: 0,
            reserved: 0,
            written: 0,
            overhead: Overhead::default(),
            totals: Default::default(),
            classes: HashMap::new(),
        }
    }

    /// A minute passed, whatever the clock says: a step of the system clock must not make objects look idle.
    pub fn pass_minute(&mut self) {
        self.minute = self.minute.saturating_add(1);
    }

    /// Sets the current time, in minutes since 1970.
    pub fn set_minute(&mut self, minute: u32) {
        self.minute = minute;
    }

    /// The records of a tag for all classes of clients.
    pub fn tag_classes(&self, tag: &TagKey) -> Vec<TagKey> {
        let name = tag.of_all_classes();
        let classes = self.classes.get(&name).into_iter().flatten();
        classes.map(|class| TagKey { class: *class, ..name.clone() }).collect()
    }

    /// The surplus records of a tag if it has more than `most`: those that were used the longest time ago, never this
    /// one.
    pub fn surplus_classes(&self, tag: &TagKey, most: usize) -> Vec<TagKey> {
        let mut keys = self.tag_classes(tag);
        let surplus = keys.len().saturating_sub(most);
        if surplus > 0 {
            let used = |key: &TagKey| {
                self.entries.peek(&CompactKey::from(&IndexKey::Tag(key.clone()))).map(|entry| entry.used)
            };
            keys.retain(|key| key.class != tag.class);
            keys.sort_by_cached_key(used);
        }
        keys.truncate(surplus);
        keys
    }

    /// Bytes on disk and reserved.
    pub fn total(&self) -> u64 {
        self.used + self.reserved + self.overhead.bytes()
    }

    pub fn totals(&self, kind: ObjectKind) -> Totals {
        self.totals[kind as usize]
    }

    pub fn contains(&self, key: &IndexKey) -> bool {
        self.entries.contains(&key.into())
    }

    /// The length of an object; this does not count as a use.
    pub fn len_of(&self, key: &IndexKey) -> Option<u64> {
        self.entries.peek(&key.into()).map(|entry| entry.len)
    }

    /// The bytes on disk that belong to no object.
    pub fn overhead(&self) -> &Overhead {
        &self.overhead
    }

    pub fn overhead_mut(&mut self) -> &mut Overhead {
        &mut self.overhead
    }

    /// Adds an object as the most recently used; an object that is already in the index counts as used.
    pub fn insert(&mut self, key: IndexKey, len: u64) {
        let key = CompactKey::from(&key);
        if let Some(entry) = self.entries.get_mut(&key)
            && entry.len == len
        {
            entry.used = self.minute;
            return;
        }
        let pins = self.remove(&key).map_or(0, |entry| entry.pins);
        self.add(key, len, pins, self.minute);
    }

    /// Adds an object that no client has requested: it is evicted first.
    pub fn insert_unused(&mut self, key: IndexKey, len: u64) {
        self.insert(key.clone(), len);
        self.entries.demote(&(&key).into());
    }

    fn add(&mut self, key: CompactKey, len: u64, pins: u32, used: u32) {
        self.used += allocated(len);
        if pins > 0 {
            self.pinned += allocated(len);
        }
        let totals = &mut self.totals[key.kind() as usize];
        totals.bytes += allocated(len);
        totals.objects += 1;
        if let Some(tag) = key.tag() {
            self.classes.entry(tag.of_all_classes()).or_default().push(tag.class);
        }
        self.entries.put(key, IndexEntry { len, pins, used });
    }

    /// Adds objects that the start-up scan found, with their lengths and the minutes of their last uses, the most
    /// recently used first: each is inserted as the least recently used. The scan may call this once per portion. The
    /// index's time is never earlier than a last use: if the clock was not set yet, it becomes the time of the latest
    /// use.
    pub fn insert_scanned(&mut self, found: impl IntoIterator<Item = (CompactKey, u64, u32)>) {
        for (key, len, used) in found {
            self.minute = self.minute.max(used);
            if !self.entries.contains(&key) {
                self.add(key.clone(), len, 0, used);
                self.entries.demote(&key);
            }
        }
    }

    /// Marks an object as used now and keeps it from being evicted until [`LruIndex::unpin`]; returns its length, if it
    /// is in the index.
    pub fn pin(&mut self, key: &IndexKey) -> Option<u64> {
        let entry = self.entries.get_mut(&key.into())?;
        entry.used = self.minute;
        entry.pins += 1;
        if entry.pins == 1 {
            self.pinned += allocated(entry.len);
        }
        Some(entry.len)
    }

    pub fn unpin(&mut self, key: &IndexKey) {
        // The object is missing if its file was deleted by hand meanwhile.
        if let Some(entry) = self.entries.peek_mut(&key.into())
            && entry.pins > 0
        {
            entry.pins -= 1;
            if entry.pins == 0 {
                self.pinned -= allocated(entry.len);
            }
        }
    }

    /// Forgets an object whose file is gone; returns its length, if it was in the index.
    pub fn forget(&mut self, key: &IndexKey) -> Option<u64> {
        self.remove(&key.into()).map(|entry| entry.len)
    }

    fn remove(&mut self, key: &CompactKey) -> Option<IndexEntry> {
        let entry = self.entries.pop(key)?;
        if let Some(tag) = key.tag() {
            let name = tag.of_all_classes();
            if let Some(classes) = self.classes.get_mut(&name) {
                classes.retain(|class| *class != tag.class);
                if classes.is_empty() {
                    self.classes.remove(&name);
                }
            }
        }
        self.used -= allocated(entry.len);
        if entry.pins > 0 {
            self.pinned -= allocated(entry.len);
        }
        let totals = &mut self.totals[key.kind() as usize];
        totals.bytes -= allocated(entry.len);
        totals.objects -= 1;
        Some(entry)
    }

    /// Reserves `bytes` and returns the objects to unlink first; the index has already forgotten these.
    ///
    /// `spare` is how many bytes can be written before the free space of the file system falls below `min_free`,
    /// without other reservations subtracted. Nothing is evicted if evicting everything would not be enough.
    pub fn reserve(&mut self, bytes: u64, spare: u64) -> Result<Vec<(IndexKey, u64)>, NoRoom> {
        self.reserve_from(bytes, spare, |_| true)
    }

    /// The same for an object that no client has requested: it evicts only objects that were idle for a while.
    pub fn reserve_ahead(&mut self, bytes: u64, spare: u64) -> Result<Vec<(IndexKey, u64)>, NoRoom> {
        let minute = self.minute;
        self.reserve_from(bytes, spare, |entry| minute.saturating_sub(entry.used) >= MIN_IDLE)
    }

    fn reserve_from(
        &mut self,
        bytes: u64,
        spare: u64,
        may_go: impl Fn(&IndexEntry) -> bool,
    ) -> Result<Vec<(IndexKey, u64)>, NoRoom> {
        let mut short = self.short(bytes, spare);
        if short > self.used - self.pinned {
            return Err(NoRoom);
        }
        let (mut victims, mut passed_over) = (Vec::new(), 0);
        for (key, entry) in self.entries.iter().rev() {
            if short == 0 || passed_over == MAX_PASSED_OVER {
                break;
            }
            if !may_go(entry) {
                passed_over += 1;
            } else if entry.pins == 0 {
                short = short.saturating_sub(allocated(entry.len));
                victims.push((key.clone(), entry.len));
            }
        }
        if short > 0 {
            return Err(NoRoom);
        }
        for (key, _) in &victims {
            self.remove(key);
        }
        self.reserved += bytes;
        Ok(victims.into_iter().map(|(key, len)| (key.key(), len)).collect())
    }

    /// How many bytes must be evicted to make room for `bytes`.
    pub fn short(&self, bytes: u64, spare: u64) -> u64 {
        let over_size = self.total().saturating_add(bytes).saturating_sub(self.max_size);
        let over_disk = (self.reserved - self.written).saturating_add(bytes).saturating_sub(spare);
        over_size.max(over_disk)
    }

    /// How many bytes of room are missing even if everything that may be evicted is evicted.
    pub fn missing(&self, bytes: u64, spare: u64) -> u64 {
        self.short(bytes, spare).saturating_sub(self.used - self.pinned)
    }

    /// How many bytes cannot be evicted because clients read them.
    pub fn kept_by_readers(&self) -> u64 {
        self.pinned
    }

    /// How many bytes are reserved.
    pub fn reserved(&self) -> u64 {
        self.reserved
    }

    /// How many bytes an object takes on disk, if it has readers.
    pub fn pinned_bytes(&self, key: &IndexKey) -> Option<u64> {
        self.entries.peek(&key.into()).filter(|entry| entry.pins > 0).map(|entry| allocated(entry.len))
    }

    /// Forgets and returns the objects to unlink because the cache exceeds its limit, for example after `max_size` was
    /// lowered.
    pub fn shrink(&mut self) -> Vec<(IndexKey, u64)> {
        let excess = self.total().saturating_sub(self.max_size).min(self.used - self.pinned);
        let target = self.total() - excess;
        let limit = std::mem::replace(&mut self.max_size, target);
        let victims = self.reserve(0, u64::MAX).unwrap_or_default();
        self.max_size = limit;
        victims
    }

    /// Reserves bytes that are on disk already: those of an object that the index just forgot but whose file stays.
    pub fn promise(&mut self, bytes: u64) {
        self.reserved += bytes;
    }

    /// Reserved bytes were written: the file system's free space no longer includes them.
    pub fn note_written(&mut self, bytes: u64) {
        self.written = self.written.saturating_add(bytes).min(self.reserved);
    }

    /// Releases a reservation of `bytes`, of which `written` were on disk.
    pub fn release(&mut self, bytes: u64, written: u64) {
        self.reserved = self.reserved.saturating_sub(bytes);
        self.written = self.written.saturating_sub(written).min(self.reserved);
    }
}
