//! Makes room: which objects go, in which order.
//!
//! What must hold: nothing is evicted if evicting everything would not be enough, but for readers that come meanwhile; a
//! shard is locked for a few victims at a time.

use std::{fs::File, sync::Arc, sync::atomic::Ordering};

use super::{
    IndexKey, LruIndex, NoRoom, SHARDS, allocated,
    shard::Shard,
    stamp::{Class, Stamp},
};

/// An object used within so many minutes is not evicted for a prefetched object.
const MIN_IDLE: u32 = 60;
/// How many victims are taken while a shard is locked once.
const VICTIMS_AT_A_TIME: usize = 16;
/// How often evictions look at everything again: readers may have come and gone meanwhile.
const MAX_PASSES: u32 = 3;

/// An object to unlink; the index has already forgotten it.
#[derive(Debug)]
pub struct Victim {
    pub key: IndexKey,
    pub len: u64,
    /// Its file, if it was kept open: the bytes are free once that is closed.
    pub file: Option<Arc<File>>,
}

/// What has to be unlinked for a reservation; then call [`LruIndex::unlinked`].
#[derive(Debug, Default)]
pub struct Evicted {
    pub victims: Vec<Victim>,
    /// The bytes that the reservation did not need.
    surplus: u64,
    /// The bytes that the reservation still needs.
    debt: u64,
}

impl Evicted {
    pub fn is_empty(&self) -> bool {
        self.victims.is_empty()
    }

    fn bytes(&self) -> u64 {
        self.victims.iter().map(|victim| allocated(victim.len)).sum()
    }
}

impl LruIndex {
    /// Reserves `bytes` if nothing has to be evicted for that.
    ///
    /// `spare` is how many bytes can be written before the free space of the file system falls below `min_free`,
    /// without other reservations subtracted.
    pub fn reserve_free(&self, bytes: u64, spare: u64) -> Result<(), NoRoom> {
        let mut sums = self.sums.lock();
        if sums.short(self.max_size(), bytes, spare) > 0 {
            return Err(NoRoom);
        }
        sums.promise(bytes);
        Ok(())
    }

    /// Reserves `bytes`, and returns the objects to unlink first. If there is no room after all, there may still be
    /// objects to unlink.
    pub fn reserve(&self, bytes: u64, spare: u64) -> (Result<(), NoRoom>, Evicted) {
        self.reserve_from(bytes, spare, None)
    }

    /// The same for an object that no client has requested: it evicts only objects that were idle for a while.
    pub fn reserve_ahead(&self, bytes: u64, spare: u64) -> (Result<(), NoRoom>, Evicted) {
        let Some(idle_since) = self.minute().checked_sub(MIN_IDLE) else {
            return (self.reserve_free(bytes, spare), Evicted::default());
        };
        if !self.has_idle(self.short(bytes, spare), idle_since) {
            return (Err(NoRoom), Evicted::default());
        }
        self.reserve_from(bytes, spare, Some(idle_since))
    }

    /// Forgets and returns the objects to unlink because the cache exceeds its limit, for example after `max_size` was
    /// lowered.
    pub fn shrink(&self) -> Evicted {
        let mut evicted = Evicted::default();
        {
            let mut sums = self.sums.lock();
            let pinned = self.not_evictable();
            let excess = sums.total().saturating_sub(self.max_size()).min(sums.evictable(pinned));
            if sums.promise_for(0, excess, pinned).is_ok() {
                evicted.debt = excess;
            }
        }
        self.pay(&mut evicted, None);
        self.sums.lock().take_back(0, std::mem::take(&mut evicted.debt));
        evicted
    }

    /// The evicted objects are unlinked and closed.
    pub fn unlinked(&self, evicted: &Evicted) {
        self.sums.lock().unlinked(evicted.bytes(), evicted.surplus);
    }

    fn reserve_from(&self, bytes: u64, spare: u64, idle_since: Option<u32>) -> (Result<(), NoRoom>, Evicted) {
        let mut evicted = Evicted::default();
        {
            let mut sums = self.sums.lock();
            let short = sums.short(self.max_size(), bytes, spare);
            if sums.promise_for(bytes, short, self.not_evictable()).is_err() {
                return (Err(NoRoom), evicted);
            }
            evicted.debt = short;
        }
        self.pay(&mut evicted, idle_since);
        if evicted.debt > 0 {
            self.sums.lock().take_back(bytes, std::mem::take(&mut evicted.debt));
            return (Err(NoRoom), evicted);
        }
        (Ok(()), evicted)
    }

    /// Evicts until nothing is owed, as far as possible.
    fn pay(&self, evicted: &mut Evicted, idle_since: Option<u32>) {
        for _ in 0..MAX_PASSES {
            for class in Class::EVERY {
                // What gets a later stamp has readers, or was just used.
                self.pay_from(class, self.next_stamp(class), idle_since, evicted);
            }
            if evicted.debt == 0 {
                return;
            }
        }
    }

    /// Evicts objects of a class that were used before `end`, the least recently used first.
    fn pay_from(&self, class: Class, end: Stamp, idle_since: Option<u32>, evicted: &mut Evicted) {
        let is_idle = |stamp: Stamp| idle_since.is_none_or(|minute| stamp.minute() <= minute);
        while evicted.debt > 0 {
            let (number, oldest, next) = self.oldest_shard(class);
            if oldest >= end || !is_idle(oldest) {
                return;
            }
            self.change_shard(number, |shard| {
                for _ in 0..VICTIMS_AT_A_TIME {
                    let Some(slot) = shard.oldest(class) else { return };
                    let stamp = shard.stamp(slot);
                    if evicted.debt == 0 || stamp >= end || stamp > next || !is_idle(stamp) {
                        return;
                    }
                    self.evict_or_renew(shard, slot, evicted);
                }
            });
        }
    }

    /// The shard with the oldest entry of a class, the stamp of that entry, and the stamp of the oldest one in any other
    /// shard.
    fn oldest_shard(&self, class: Class) -> (usize, Stamp, Stamp) {
        let (mut number, mut oldest, mut next) = (0, Stamp::NEVER, Stamp::NEVER);
        for (other, stamp) in self.oldest[class as usize].iter().enumerate() {
            let stamp = Stamp::from_bits(stamp.load(Ordering::Relaxed));
            if stamp < oldest {
                (number, oldest, next) = (other, stamp, oldest);
            } else {
                next = next.min(stamp);
            }
        }
        (number, oldest, next)
    }

    fn evict_or_renew(&self, shard: &mut Shard, slot: u32, evicted: &mut Evicted) {
        if shard.is_pinned(slot) {
            // A reader uses it still.
            shard.restamp(slot, self.next_stamp(Class::Used));
            return;
        }
        let Some((entry, file)) = self.take(shard, slot) else { return };
        let before = evicted.debt;
        evicted.debt = self.sums.lock().evict(entry.key.kind(), entry.len, before);
        evicted.surplus += allocated(entry.len) - (before - evicted.debt);
        evicted.victims.push(Victim { key: entry.key.key(), len: entry.len, file });
    }

    /// Whether objects without readers that were idle since this minute take so many bytes.
    fn has_idle(&self, bytes: u64, minute: u32) -> bool {
        let mut missing = bytes;
        for number in (0..SHARDS).take_while(|_| bytes > 0) {
            let shard = self.shards[number].lock();
            for class in Class::EVERY {
                let mut next = shard.oldest(class);
                while let Some(slot) = next.filter(|slot| shard.stamp(*slot).minute() <= minute) {
                    if let Some(entry) = shard.at(slot).filter(|_| !shard.is_pinned(slot)) {
                        missing = missing.saturating_sub(allocated(entry.len));
                    }
                    if missing == 0 {
                        return true;
                    }
                    next = shard.newer(slot);
                }
            }
        }
        missing == 0
    }
}
