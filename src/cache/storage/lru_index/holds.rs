//! Objects that a rule holds: they are not evicted, as if each had a reader (pure).
//!
//! What must hold: all that is held takes at most half of the cache; what is over that is evicted like the rest. An object
//! may be held before it is in the index. The lock of the holds is taken under that of a shard, never before it.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::atomic::{AtomicUsize, Ordering},
};

use parking_lot::Mutex;

use super::{CompactKey, LruIndex, allocated, shard::Shard};

/// Which part of the cache may be held: one in so many.
const MAX_PART: u64 = 2;

/// What is held.
#[derive(Default)]
pub(super) struct Holds {
    held: Mutex<Held>,
    /// The number of keys, so that usually no lock is taken.
    len: AtomicUsize,
}

#[derive(Default)]
struct Held {
    keys: HashMap<CompactKey, HeldKey>,
    /// What the pinned ones take on disk.
    bytes: u64,
}

#[derive(Default)]
struct HeldKey {
    /// How often it is held.
    count: u32,
    pin: Option<HoldPin>,
}

/// The pin of a held object that is in the index.
struct HoldPin {
    serial: u64,
    bytes: u64,
}

impl LruIndex {
    /// Keeps an object from being evicted until [`LruIndex::release_held`] was called as often; also one that is not in
    /// the index yet.
    pub fn hold(&self, key: &CompactKey) {
        self.change(key, |shard, hash| {
            {
                let mut held = self.holds.held.lock();
                held.keys.entry(key.clone()).or_default().count += 1;
                self.holds.len.store(held.keys.len(), Ordering::Relaxed);
            }
            if let Some(slot) = shard.find(hash, key) {
                self.pin_held(shard, slot);
            }
        });
    }

    /// Ends one hold of an object.
    pub fn release_held(&self, key: &CompactKey) {
        let pin = self.change(key, |_, _| {
            let mut held = self.holds.held.lock();
            let Entry::Occupied(mut entry) = held.keys.entry(key.clone()) else { return None };
            entry.get_mut().count -= 1;
            let pin = if entry.get().count == 0 { entry.remove().pin } else { None };
            held.bytes -= pin.as_ref().map_or(0, |pin| pin.bytes);
            self.holds.len.store(held.keys.len(), Ordering::Relaxed);
            pin
        });
        if let Some(pin) = pin {
            self.unpin(key, pin.serial);
        }
    }

    /// How many bytes on disk are held.
    pub fn held_bytes(&self) -> u64 {
        self.holds.held.lock().bytes
    }

    /// Pins an object of a shard if it is held, and if that is not too much.
    pub(super) fn pin_held(&self, shard: &mut Shard, slot: u32) {
        if self.holds.len.load(Ordering::Relaxed) == 0 {
            return;
        }
        let Some(entry) = shard.at(slot) else { return };
        let (key, bytes) = (entry.key.clone(), allocated(entry.len));
        let mut held = self.holds.held.lock();
        if held.bytes.saturating_add(bytes) > self.max_size() / MAX_PART {
            return;
        }
        let Some(of_key) = held.keys.get_mut(&key).filter(|of_key| of_key.pin.is_none()) else { return };
        of_key.pin = Some(HoldPin { serial: self.pin_slot(shard, slot), bytes });
        held.bytes += bytes;
    }

    /// Unpins held objects that are more than may be held now.
    pub(super) fn unpin_excess(&self) {
        let most = self.max_size() / MAX_PART;
        let mut excess = Vec::new();
        {
            let mut held = self.holds.held.lock();
            let Held { keys, bytes } = &mut *held;
            for (key, of_key) in keys {
                if *bytes <= most {
                    break;
                }
                if let Some(pin) = of_key.pin.take() {
                    *bytes -= pin.bytes;
                    excess.push((key.clone(), pin.serial));
                }
            }
        }
        for (key, serial) in excess {
            self.unpin(&key, serial);
        }
    }

    /// An object left the index, and its pins with it.
    pub(super) fn unpin_taken(&self, key: &CompactKey) {
        if self.holds.len.load(Ordering::Relaxed) == 0 {
            return;
        }
        let mut held = self.holds.held.lock();
        let pin = held.keys.get_mut(key).and_then(|of_key| of_key.pin.take());
        held.bytes -= pin.map_or(0, |pin| pin.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::super::{
        BLOCK,
        tests::{PLENTY, blob, compact, index, reserve},
    };

    #[test]
    fn what_is_held_stays_and_goes_when_it_is_released() {
        let index = index(4 * BLOCK);
        // Twice, and before it is there.
        index.hold(&compact(0));
        index.hold(&compact(0));
        for number in 0..4 {
            index.insert(blob(number), BLOCK);
        }
        index.hold(&compact(1));
        assert_eq!(index.held_bytes(), 2 * BLOCK);
        assert_eq!(reserve(&index, 2 * BLOCK, PLENTY), Ok(vec![blob(2), blob(3)]));
        assert!(reserve(&index, 3 * BLOCK, PLENTY).is_err(), "two blocks are reserved, and two are held");
        index.release(2 * BLOCK, 0);
        index.release_held(&compact(0));
        index.release_held(&compact(1));
        assert_eq!(index.held_bytes(), BLOCK);
        assert_eq!(reserve(&index, 3 * BLOCK, PLENTY), Ok(vec![blob(1)]));
        index.release_held(&compact(0));
        assert_eq!((index.held_bytes(), index.kept_by_readers()), (0, 0));
        // More releases than holds do nothing.
        index.release_held(&compact(0));
    }

    #[test]
    fn what_comes_again_is_held_again() {
        let index = index(4 * BLOCK);
        index.hold(&compact(0));
        for _ in 0..3 {
            index.insert(blob(0), BLOCK);
            assert_eq!((index.held_bytes(), index.kept_by_readers()), (BLOCK, BLOCK));
            index.forget(&blob(0));
            assert_eq!((index.held_bytes(), index.kept_by_readers()), (0, 0));
        }
        index.insert_scanned([(compact(0), BLOCK, 0)]);
        assert_eq!(index.held_bytes(), BLOCK);
    }

    #[test]
    fn no_more_than_half_of_the_cache_is_held() {
        let index = index(4 * BLOCK);
        for number in 0..4 {
            index.hold(&compact(number));
            index.insert(blob(number), BLOCK);
        }
        assert_eq!((index.held_bytes(), index.kept_by_readers()), (2 * BLOCK, 2 * BLOCK));
        assert_eq!(reserve(&index, 2 * BLOCK, PLENTY), Ok(vec![blob(2), blob(3)]));
        for number in 0..4 {
            index.release_held(&compact(number));
        }
        assert_eq!((index.held_bytes(), index.kept_by_readers()), (0, 0));
    }

    #[test]
    fn a_lower_limit_holds_less() {
        let index = index(8 * BLOCK);
        for number in 0..4 {
            index.hold(&compact(number));
            index.insert(blob(number), BLOCK);
        }
        assert_eq!(index.held_bytes(), 4 * BLOCK);
        index.set_max_size(2 * BLOCK);
        assert_eq!((index.held_bytes(), index.kept_by_readers()), (BLOCK, BLOCK));
        index.unlinked(&index.shrink());
        assert_eq!(index.total(), 2 * BLOCK);
        for number in 0..4 {
            index.release_held(&compact(number));
        }
        assert_eq!((index.held_bytes(), index.kept_by_readers()), (0, 0));
    }

    #[test]
    fn a_reader_of_what_is_held_ends_no_hold() {
        let index = index(4 * BLOCK);
        index.insert(blob(0), BLOCK);
        index.hold(&compact(0));
        let reader = index.pin(&compact(0)).unwrap();
        index.unpin(&compact(0), reader.serial);
        assert_eq!(index.pinned_bytes(&blob(0)), Some(BLOCK));
        let reader = index.pin(&compact(0)).unwrap();
        index.release_held(&compact(0));
        assert_eq!(index.pinned_bytes(&blob(0)), Some(BLOCK), "the reader is there still");
        index.unpin(&compact(0), reader.serial);
        assert_eq!(index.pinned_bytes(&blob(0)), None);
    }
}
