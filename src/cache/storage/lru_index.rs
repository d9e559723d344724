//! The objects on disk, how recently each was used, and which of them to evict to make room (pure).
//!
//! Space is reserved before bytes arrive, so `used + reserved` never exceeds `max_size`: the limit covers writes in
//! flight, too. The index *names* victims; the store unlinks them. An object that is being read is never named:
//! unlinking an open file frees nothing.
//!
//! The index is divided into shards, each behind a lock that is held for the work on one entry, or on a few. All sums are
//! exact, behind one more lock that is held for an addition. Recency is approximate: a use writes nothing if it comes
//! within the same minute, and after fewer uses of other objects than an eighth of all objects. So the victim of an
//! eviction is not always the least recently used object, but one of the eighth that was not used for the longest time.
//!
//! What must hold: the order of locks is shard, sums; no two shards are locked at a time; nothing here does I/O, except
//! that a file is closed if its last owner drops it.

mod evict;
mod holds;
mod key;
mod overhead;
mod readers;
mod shard;
mod stamp;
mod sums;
#[cfg(test)]
mod tests;
mod usage;

use std::{
    collections::HashMap,
    fs::File,
    hash::{BuildHasher as _, RandomState},
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering},
    },
};

use parking_lot::Mutex;

pub use self::{
    evict::{Evicted, Victim},
    holds::max_operator_bytes,
    key::{CompactKey, IndexKey},
    overhead::Overhead,
    readers::Pinned,
    usage::{OnDisk, Totals, Usage},
};
use self::{
    holds::Holds,
    shard::{Entry, Shard},
    stamp::{Class, Stamp},
    sums::Sums,
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

/// So many that a shard of ten million objects grows within a millisecond.
const SHARDS: usize = 1024;
/// A use is not noted if it comes after fewer uses of other objects than this part of all objects.
const RECENT_PART: usize = 8;

/// Evictions cannot make the requested room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoRoom;

/// Why there is no room, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shortage {
    /// What is missing even if everything that may be evicted is evicted.
    pub missing: u64,
    /// What will be free once what was evicted for others is unlinked.
    pub unlinking: u64,
}

/// An object that the index forgot.
#[derive(Debug)]
pub struct Forgotten {
    pub len: u64,
    /// Its file, if it was kept open. The last owner frees the bytes on disk, which takes time.
    pub file: Option<Arc<File>>,
}

/// The index of everything on disk, in order of last use.
pub struct LruIndex {
    max_size: AtomicU64,
    /// How many files are kept open.
    max_open: usize,
    /// The current time in minutes since 1970, a few minutes off at most.
    minute: AtomicU32,
    /// The number of the next use that is noted.
    next_use: AtomicU32,
    objects: AtomicUsize,
    open: AtomicUsize,
    /// Bytes of objects that cannot be evicted now.
    pinned: AtomicU64,
    holds: Holds,
    hasher: RandomState,
    shards: Box<[Mutex<Shard>]>,
    /// The stamp of the oldest entry of each shard, by class; changed under the lock of the shard.
    oldest: [Box<[AtomicU64]>; Class::EVERY.len()],
    sums: Mutex<Sums>,
    /// The classes of clients that a tag has records for; the class in the map's key has no meaning.
    classes: Mutex<HashMap<TagKey, Vec<AcceptClass>>>,
}

impl LruIndex {
    /// An index that keeps at most so many files open.
    pub fn new(max_size: u64, max_open: usize) -> Self {
        let hasher = RandomState::new();
        let none = || (0..SHARDS).map(|_| AtomicU64::new(Stamp::NEVER.bits())).collect();
        Self {
            max_size: AtomicU64::new(max_size),
            max_open,
            minute: AtomicU32::new(0),
            next_use: AtomicU32::new(0),
            objects: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
            pinned: AtomicU64::new(0),
            holds: Holds::default(),
            shards: (0..SHARDS).map(|_| Mutex::new(Shard::new(hasher.clone()))).collect(),
            hasher,
            oldest: [none(), none()],
            sums: Mutex::default(),
            classes: Mutex::default(),
        }
    }

    /// The most bytes on disk and reserved.
    pub fn max_size(&self) -> u64 {
        self.max_size.load(Ordering::Relaxed)
    }

    /// Changes the limit; [`LruIndex::shrink`] evicts what exceeds a lower one.
    pub fn set_max_size(&self, max_size: u64) {
        self.max_size.store(max_size, Ordering::Relaxed);
        self.settle_holds();
    }

    /// A minute passed, whatever the clock says: a step of the system clock must not make objects look idle.
    pub fn pass_minute(&self) {
        self.minute.fetch_add(1, Ordering::Relaxed);
    }

    /// Sets the current time, in minutes since 1970.
    pub fn set_minute(&self, minute: u32) {
        self.minute.store(minute, Ordering::Relaxed);
    }

    fn minute(&self) -> u32 {
        self.minute.load(Ordering::Relaxed)
    }

    /// The records of a tag for all classes of clients.
    pub fn tag_classes(&self, tag: &TagKey) -> Vec<TagKey> {
        let name = tag.of_all_classes();
        let classes = self.classes.lock().get(&name).cloned().unwrap_or_default();
        classes.into_iter().map(|class| TagKey { class, ..name.clone() }).collect()
    }

    /// The tags that have records in one of [`SHARDS`] shards, once for each class: a lock of all of them would keep clients
    /// waiting.
    fn tags_in(&self, shard: usize) -> Vec<TagKey> {
        self.shards.get(shard).map(|shard| shard.lock().tags()).unwrap_or_default()
    }

    /// All tags that have records, once for each class.
    pub fn tags(&self) -> impl Iterator<Item = TagKey> {
        (0..SHARDS).flat_map(|shard| self.tags_in(shard))
    }

    /// All objects that are wanted: a lock of all shards would keep clients waiting.
    pub fn objects(&self, wanted: impl Fn(&CompactKey, OnDisk) -> bool) -> impl Iterator<Item = (CompactKey, OnDisk)> {
        self.shards.iter().flat_map(move |shard| shard.lock().objects(&wanted))
    }

    /// The surplus records of a tag if it has more than `most`: those that were used the longest time ago, never this
    /// one.
    pub fn surplus_classes(&self, tag: &TagKey, most: usize) -> Vec<TagKey> {
        let mut keys = self.tag_classes(tag);
        let surplus = keys.len().saturating_sub(most);
        if surplus > 0 {
            keys.retain(|key| key.class != tag.class);
            keys.sort_by_cached_key(|key| self.look(&IndexKey::Tag(key.clone()), Shard::stamp));
        }
        keys.truncate(surplus);
        keys
    }

    /// Bytes on disk and reserved.
    pub fn total(&self) -> u64 {
        self.sums.lock().total()
    }

    pub fn totals(&self, kind: ObjectKind) -> Totals {
        self.sums.lock().totals[kind as usize]
    }

    /// What [`LruIndex::total`] is made of, at one moment.
    pub fn usage(&self) -> Usage {
        self.sums.lock().usage()
    }

    /// When the object was used that was used the longest time ago, in minutes since 1970; `None`: no client has used
    /// any.
    pub fn oldest_use(&self) -> Option<u32> {
        let stamps = self.oldest[Class::Used as usize].iter();
        let oldest = stamps.map(|stamp| Stamp::from_bits(stamp.load(Ordering::Relaxed))).min();
        oldest.filter(|oldest| *oldest != Stamp::NEVER).map(Stamp::minute)
    }

    pub fn contains(&self, key: &IndexKey) -> bool {
        self.look(key, |_, _| ()).is_some()
    }

    /// The length of an object; this does not count as a use.
    pub fn len_of(&self, key: &IndexKey) -> Option<u64> {
        self.look(key, |shard, slot| shard.at(slot).map(|entry| entry.len)).flatten()
    }

    /// How many bytes an object takes on disk, if it is there; this does not count as a use.
    pub fn bytes_of(&self, key: &CompactKey) -> Option<u64> {
        self.look_compact(key, |shard, slot| shard.at(slot).map(|entry| allocated(entry.len))).flatten()
    }

    /// When an object was last used, in minutes since 1970.
    pub fn used_at(&self, key: &IndexKey) -> Option<u32> {
        self.look(key, |shard, slot| shard.stamp(slot).minute())
    }

    /// How many bytes on disk the end of an object's readers makes evictable.
    pub fn pinned_bytes(&self, key: &IndexKey) -> Option<u64> {
        let is_of_readers = |shard: &Shard, entry: &Entry, slot| shard.is_pinned(slot) && !self.is_held(&entry.key);
        let bytes = |shard: &Shard, slot| {
            shard.at(slot).filter(|entry| is_of_readers(shard, entry, slot)).map(|entry| allocated(entry.len))
        };
        self.look(key, bytes).flatten()
    }

    /// Works on what is on disk but belongs to no object.
    pub fn overhead<T>(&self, work: impl FnOnce(&mut Overhead) -> T) -> T {
        work(&mut self.sums.lock().overhead)
    }

    /// The bytes that the entries take in memory.
    pub fn memory(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().memory() + size_of::<Mutex<Shard>>()).sum()
    }

    fn look<T>(&self, key: &IndexKey, look: impl FnOnce(&Shard, u32) -> T) -> Option<T> {
        self.look_compact(&CompactKey::from(key), look)
    }

    fn look_compact<T>(&self, key: &CompactKey, look: impl FnOnce(&Shard, u32) -> T) -> Option<T> {
        let hash = self.hasher.hash_one(key);
        let shard = self.shards[shard_of(hash)].lock();
        shard.find(hash, key).map(|slot| look(&shard, slot))
    }

    /// Works on the shard of a key.
    fn change<T>(&self, key: &CompactKey, work: impl FnOnce(&mut Shard, u64) -> T) -> T {
        let hash = self.hasher.hash_one(key);
        self.change_shard(shard_of(hash), |shard| work(shard, hash))
    }

    fn change_shard<T>(&self, number: usize, work: impl FnOnce(&mut Shard) -> T) -> T {
        let mut shard = self.shards[number].lock();
        let done = work(&mut shard);
        for class in Class::EVERY {
            let oldest = shard.oldest(class).map_or(Stamp::NEVER, |slot| shard.stamp(slot)).bits();
            let published = &self.oldest[class as usize][number];
            if published.load(Ordering::Relaxed) != oldest {
                published.store(oldest, Ordering::Relaxed);
            }
        }
        done
    }

    fn next_stamp(&self, class: Class) -> Stamp {
        Stamp::live(class, self.minute(), self.next_use.fetch_add(1, Ordering::Relaxed))
    }

    /// Notes a use, unless the last one was noted lately; returns whether it is the first within this minute.
    fn renew(&self, shard: &mut Shard, slot: u32) -> bool {
        let stamp = shard.stamp(slot);
        let is_first = stamp.class() == Class::Unused || !stamp.is_live() || stamp.minute() != self.minute();
        let since = stamp.uses_since(self.next_use.load(Ordering::Relaxed)) as usize;
        if is_first || since > self.objects.load(Ordering::Relaxed) / RECENT_PART {
            shard.restamp(slot, self.next_stamp(Class::Used));
        }
        is_first
    }

    /// Adds an object as the most recently used; an object that is already in the index counts as used. A file that was
    /// kept open is another one's now.
    pub fn insert(&self, key: IndexKey, len: u64) {
        self.insert_for(&CompactKey::from(&key), len, Class::Used, Mark::None);
    }

    /// Adds an object that no client has requested: it is evicted first.
    pub fn insert_unused(&self, key: IndexKey, len: u64) {
        self.insert_for(&CompactKey::from(&key), len, Class::Unused, Mark::None);
    }

    /// Adds an object whose bytes were reserved, and pins it; returns its serial number.
    pub fn fulfil(&self, key: &CompactKey, len: u64, is_used: bool, (bytes, written): (u64, u64)) -> u64 {
        let class = if is_used { Class::Used } else { Class::Unused };
        self.insert_for(key, len, class, Mark::Reserved { bytes, written })
    }

    fn insert_for(&self, key: &CompactKey, len: u64, class: Class, mark: Mark) -> u64 {
        let (serial, file) = self.change(key, |shard, hash| {
            let slot = match shard.find(hash, key) {
                Some(slot) => {
                    self.change_len(shard, slot, len, mark);
                    match class {
                        Class::Used => drop(self.renew(shard, slot)),
                        Class::Unused => shard.restamp(slot, self.next_stamp(class)),
                    }
                    slot
                }
                None => self.add(shard, hash, Entry::new(key.clone(), len, self.next_stamp(class)), mark),
            };
            let file = shard.kept_mut(slot).and_then(|kept| kept.file.take());
            let serial = if let Mark::Reserved { .. } = mark { self.pin_slot(shard, slot) } else { 0 };
            shard.tidy(slot);
            (serial, file)
        });
        self.closed(file.as_ref());
        serial
    }

    fn change_len(&self, shard: &mut Shard, slot: u32, len: u64, mark: Mark) {
        let is_pinned = shard.is_pinned(slot);
        let Some(entry) = shard.at_mut(slot) else { return };
        let (kind, before) = (entry.key.kind(), std::mem::replace(&mut entry.len, len));
        let mut sums = self.sums.lock();
        sums.remove(kind, before);
        sums.add(kind, len);
        mark.release(&mut sums);
        if is_pinned {
            self.pinned.fetch_add(allocated(len), Ordering::Relaxed);
            self.pinned.fetch_sub(allocated(before), Ordering::Relaxed);
        }
    }

    fn add(&self, shard: &mut Shard, hash: u64, entry: Entry, mark: Mark) -> u32 {
        {
            let mut sums = self.sums.lock();
            sums.add(entry.key.kind(), entry.len);
            mark.release(&mut sums);
        }
        if let Some(tag) = entry.key.tag() {
            self.classes.lock().entry(tag.of_all_classes()).or_default().push(tag.class);
        }
        self.objects.fetch_add(1, Ordering::Relaxed);
        let slot = shard.add(hash, entry);
        self.pin_held(shard, slot);
        slot
    }

    /// Adds objects that the start-up scan found, with their lengths and the times of their last uses in nanoseconds
    /// since 1970, in any order. The index's time is never earlier than a last use: if the clock was not set yet, it
    /// becomes the time of the latest use. Call [`LruIndex::finish_scan`] after the last ones.
    pub fn insert_scanned(&self, found: impl IntoIterator<Item = (CompactKey, u64, i64)>) {
        for (key, len, used) in found {
            let stamp = Stamp::of_file(used);
            self.minute.fetch_max(stamp.minute(), Ordering::Relaxed);
            self.change(&key, |shard, hash| {
                if shard.find(hash, &key).is_none() {
                    self.add(shard, hash, Entry::new(key.clone(), len, stamp), Mark::None);
                }
            });
        }
    }

    /// Brings what the scan found into its order; before that, nothing may be evicted.
    pub fn finish_scan(&self) {
        for number in 0..SHARDS {
            self.change_shard(number, |shard| shard.sort(self.minute()));
        }
        self.overhead(Overhead::finish_scan);
    }

    /// Marks an object as used now; returns whether it is in the index.
    pub fn touch(&self, key: &IndexKey) -> bool {
        let key = CompactKey::from(key);
        let touched = self.change(&key, |shard, hash| Some(self.renew(shard, shard.find(hash, &key)?)));
        touched.is_some()
    }

    /// Forgets an object whose file is gone.
    pub fn forget(&self, key: &IndexKey) -> Option<Forgotten> {
        self.forget_or_adopt(key, |_, _| ())
    }

    /// Forgets an object whose file stays: its bytes become a reservation.
    pub fn adopt(&self, key: &IndexKey) -> Option<Forgotten> {
        self.forget_or_adopt(key, |sums, len| {
            sums.promise(allocated(len));
            sums.note_written(allocated(len));
        })
    }

    fn forget_or_adopt(&self, key: &IndexKey, adopt: impl FnOnce(&mut Sums, u64)) -> Option<Forgotten> {
        let key = CompactKey::from(key);
        self.change(&key, |shard, hash| {
            let slot = shard.find(hash, &key)?;
            let (entry, file) = self.take(shard, slot)?;
            let mut sums = self.sums.lock();
            sums.remove(key.kind(), entry.len);
            adopt(&mut sums, entry.len);
            Some(Forgotten { len: entry.len, file })
        })
    }

    /// Takes an entry out of its shard and of all but the sums.
    fn take(&self, shard: &mut Shard, slot: u32) -> Option<(Entry, Option<Arc<File>>)> {
        let (entry, kept) = shard.remove(slot)?;
        self.objects.fetch_sub(1, Ordering::Relaxed);
        if let Some(tag) = entry.key.tag() {
            let name = tag.of_all_classes();
            let mut classes = self.classes.lock();
            if let Some(of_tag) = classes.get_mut(&name) {
                of_tag.retain(|class| *class != tag.class);
                if of_tag.is_empty() {
                    classes.remove(&name);
                }
            }
        }
        if kept.as_ref().is_some_and(|kept| kept.pins > 0) {
            self.pinned.fetch_sub(allocated(entry.len), Ordering::Relaxed);
            self.unpin_taken(&entry.key);
        }
        let file = kept.and_then(|kept| kept.file);
        self.closed(file.as_ref());
        Some((entry, file))
    }

    /// How many bytes must be evicted to make room for `bytes`. `spare`: see [`LruIndex::reserve`].
    pub fn short(&self, bytes: u64, spare: u64) -> u64 {
        self.sums.lock().short(self.max_size(), bytes, spare)
    }

    /// Why there is no room for `bytes`.
    pub fn shortage(&self, bytes: u64, spare: u64) -> Shortage {
        let sums = self.sums.lock();
        let missing = sums.short(self.max_size(), bytes, spare).saturating_sub(sums.evictable(self.not_evictable()));
        Shortage { missing, unlinking: sums.surplus() }
    }

    /// How many bytes cannot be evicted because clients read them, or because they are held.
    pub fn not_evictable(&self) -> u64 {
        self.pinned.load(Ordering::Relaxed)
    }

    /// How many bytes cannot be evicted only because clients read them.
    pub fn kept_by_readers(&self) -> u64 {
        self.not_evictable().saturating_sub(self.held_bytes())
    }

    /// How many bytes are reserved.
    pub fn reserved(&self) -> u64 {
        self.sums.lock().reserved
    }

    /// Reserved bytes were written: the file system's free space no longer includes them.
    pub fn note_written(&self, bytes: u64) {
        self.sums.lock().note_written(bytes);
    }

    /// Releases a reservation of `bytes`, of which `written` were on disk.
    pub fn release(&self, bytes: u64, written: u64) {
        self.sums.lock().release(bytes, written);
    }
}

/// What becomes of the room of an object that is added.
#[derive(Clone, Copy)]
enum Mark {
    None,
    Reserved { bytes: u64, written: u64 },
}

impl Mark {
    fn release(self, sums: &mut Sums) {
        if let Self::Reserved { bytes, written } = self {
            sums.release(bytes, written);
        }
    }
}

/// The table of a shard uses the lowest and the highest bits.
fn shard_of(hash: u64) -> usize {
    (hash >> 32) as usize % SHARDS
}
