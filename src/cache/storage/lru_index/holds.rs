//! Objects that are held: they are not evicted, as if each had a reader (pure).
//!
//! Rules hold what they serve, and the operator holds images.
//!
//! What must hold: what rules hold takes at most half of the cache, what the operator holds at most four fifths, and all
//! that is held at most nine tenths; what is over that is evicted like the rest. An object may be held before it is in the
//! index. The lock of the holds is taken under that of a shard, never before it.

use std::{
    collections::{HashMap, HashSet},
    sync::atomic::{AtomicUsize, Ordering},
};

use parking_lot::Mutex;

use super::{CompactKey, LruIndex, allocated, shard::Shard};

/// Which part of the cache rules may hold: one in so many.
const MAX_RULE_PART: u64 = 2;

/// How many bytes of a cache of this size the operator may hold.
pub const fn max_operator_bytes(max_size: u64) -> u64 {
    max_size / 5 * 4
}

/// Who holds an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Holder {
    Rules,
    Operator,
}

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
    bytes: HeldBytes,
}

/// What the pinned objects take on disk, by who holds them.
#[derive(Clone, Copy, Default)]
struct HeldBytes {
    rules: u64,
    operator: u64,
}

#[derive(Default)]
struct HeldKey {
    /// How often rules hold it.
    rules: u32,
    is_of_operator: bool,
    pin: Option<HoldPin>,
}

/// The pin of a held object that is in the index.
struct HoldPin {
    serial: u64,
    bytes: u64,
    holder: Holder,
}

impl HeldBytes {
    fn of(&mut self, holder: Holder) -> &mut u64 {
        match holder {
            Holder::Rules => &mut self.rules,
            Holder::Operator => &mut self.operator,
        }
    }

    /// On whose account an object of so many bytes is held; `None`: it would be too much.
    fn holder_of(self, key: &HeldKey, bytes: u64, max_size: u64) -> Option<Holder> {
        let fits = |held: u64, most: u64| held.saturating_add(bytes) <= most;
        if !fits(self.rules + self.operator, max_size / 10 * 9) {
            return None;
        }
        if key.is_of_operator && fits(self.operator, max_operator_bytes(max_size)) {
            return Some(Holder::Operator);
        }
        (key.rules > 0 && fits(self.rules, max_size / MAX_RULE_PART)).then_some(Holder::Rules)
    }
}

impl LruIndex {
    /// Keeps an object from being evicted until [`LruIndex::release_held`] was called as often; also one that is not in
    /// the index yet.
    pub fn hold(&self, key: &CompactKey) {
        self.change_hold(key, |of_key| of_key.rules = of_key.rules.saturating_add(1));
    }

    /// Ends one hold of an object.
    pub fn release_held(&self, key: &CompactKey) {
        self.change_hold(key, |of_key| of_key.rules = of_key.rules.saturating_sub(1));
    }

    /// Has the operator hold these objects, also those that are not in the index yet, and no others.
    pub fn hold_for_operator(&self, wanted: &HashSet<CompactKey>) {
        let released: Vec<CompactKey> = {
            let held = self.holds.held.lock();
            let released = held.keys.iter().filter(|(key, of_key)| of_key.is_of_operator && !wanted.contains(*key));
            released.map(|(key, _)| key.clone()).collect()
        };
        for key in released {
            self.change_hold(&key, |of_key| of_key.is_of_operator = false);
        }
        for key in wanted {
            self.change_hold(key, |of_key| of_key.is_of_operator = true);
        }
    }

    /// How many bytes on disk the operator holds.
    pub fn operator_bytes(&self) -> u64 {
        self.holds.held.lock().bytes.operator
    }

    /// How many bytes on disk are held.
    pub fn held_bytes(&self) -> u64 {
        let HeldBytes { rules, operator } = self.holds.held.lock().bytes;
        rules + operator
    }

    /// Pins an object that is added to a shard, if it is held and if that is not too much.
    pub(super) fn pin_held(&self, shard: &mut Shard, slot: u32) {
        if self.holds.len.load(Ordering::Relaxed) == 0 {
            return;
        }
        let Some(key) = shard.at(slot).map(|entry| entry.key.clone()) else { return };
        self.settle_hold(&mut self.holds.held.lock(), shard, Some(slot), &key);
    }

    /// Decides anew what is held, after the limit changed.
    pub(super) fn settle_holds(&self) {
        let keys: Vec<CompactKey> = self.holds.held.lock().keys.keys().cloned().collect();
        // The second time, what was released makes room for others.
        for key in keys.iter().chain(&keys) {
            self.change(key, |shard, hash| {
                let slot = shard.find(hash, key);
                self.settle_hold(&mut self.holds.held.lock(), shard, slot, key);
            });
        }
    }

    /// Whether an object cannot be evicted even if it has no reader.
    pub(super) fn is_held(&self, key: &CompactKey) -> bool {
        self.holds.len.load(Ordering::Relaxed) > 0
            && self.holds.held.lock().keys.get(key).is_some_and(|of_key| of_key.pin.is_some())
    }

    /// Whether the operator wants to keep an object, whether there is room for that or not.
    pub fn is_held_for_operator(&self, key: &CompactKey) -> bool {
        self.holds.len.load(Ordering::Relaxed) > 0
            && self.holds.held.lock().keys.get(key).is_some_and(|of_key| of_key.is_of_operator)
    }

    /// An object left the index, and its pins with it.
    pub(super) fn unpin_taken(&self, key: &CompactKey) {
        if self.holds.len.load(Ordering::Relaxed) == 0 {
            return;
        }
        let mut held = self.holds.held.lock();
        if let Some(pin) = held.keys.get_mut(key).and_then(|of_key| of_key.pin.take()) {
            *held.bytes.of(pin.holder) -= pin.bytes;
        }
    }

    fn change_hold(&self, key: &CompactKey, change: impl FnOnce(&mut HeldKey)) {
        self.change(key, |shard, hash| {
            let slot = shard.find(hash, key);
            let mut held = self.holds.held.lock();
            change(held.keys.entry(key.clone()).or_default());
            self.settle_hold(&mut held, shard, slot, key);
            self.holds.len.store(held.keys.len(), Ordering::Relaxed);
        });
    }

    /// Pins an object or ends its pin, by who wants to hold it and how much is held already; forgets a key that none holds.
    fn settle_hold(&self, held: &mut Held, shard: &mut Shard, slot: Option<u32>, key: &CompactKey) {
        let Held { keys, bytes } = held;
        let Some(of_key) = keys.get_mut(key) else { return };
        let before = of_key.pin.take();
        if let Some(pin) = &before {
            *bytes.of(pin.holder) -= pin.bytes;
        }
        if let Some(slot) = slot {
            let len = allocated(shard.at(slot).map_or(0, |entry| entry.len));
            match (before, bytes.holder_of(of_key, len, self.max_size())) {
                (before, Some(holder)) => {
                    let serial = before.map_or_else(|| self.pin_slot(shard, slot), |pin| pin.serial);
                    of_key.pin = Some(HoldPin { serial, bytes: len, holder });
                    *bytes.of(holder) += len;
                }
                (Some(pin), None) => self.unpin_slot(shard, slot, pin.serial),
                (None, None) => {}
            }
        }
        if of_key.rules == 0 && !of_key.is_of_operator {
            keys.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{
        super::{
            BLOCK,
            tests::{PLENTY, blob, compact, index, reserve},
        },
        *,
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
        assert_eq!((index.held_bytes(), index.not_evictable()), (0, 0));
        // More releases than holds do nothing.
        index.release_held(&compact(0));
    }

    #[test]
    fn what_comes_again_is_held_again() {
        let index = index(4 * BLOCK);
        index.hold(&compact(0));
        for _ in 0..3 {
            index.insert(blob(0), BLOCK);
            assert_eq!((index.held_bytes(), index.not_evictable()), (BLOCK, BLOCK));
            index.forget(&blob(0));
            assert_eq!((index.held_bytes(), index.not_evictable()), (0, 0));
        }
        index.insert_scanned([(compact(0), BLOCK, 0)]);
        assert_eq!(index.held_bytes(), BLOCK);
    }

    #[test]
    fn rules_hold_no_more_than_half_of_the_cache() {
        let index = index(4 * BLOCK);
        for number in 0..4 {
            index.hold(&compact(number));
            index.insert(blob(number), BLOCK);
        }
        assert_eq!((index.held_bytes(), index.not_evictable()), (2 * BLOCK, 2 * BLOCK));
        assert_eq!(reserve(&index, 2 * BLOCK, PLENTY), Ok(vec![blob(2), blob(3)]));
        for number in 0..4 {
            index.release_held(&compact(number));
        }
        assert_eq!((index.held_bytes(), index.not_evictable()), (0, 0));
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
        assert_eq!((index.held_bytes(), index.not_evictable()), (BLOCK, BLOCK));
        index.unlinked(&index.shrink());
        assert_eq!(index.total(), 2 * BLOCK);
        for number in 0..4 {
            index.release_held(&compact(number));
        }
        assert_eq!((index.held_bytes(), index.not_evictable()), (0, 0));
    }

    #[test]
    fn a_reader_of_what_is_held_ends_no_hold() {
        let index = index(4 * BLOCK);
        index.insert(blob(0), BLOCK);
        index.hold(&compact(0));
        let reader = index.pin(&compact(0)).unwrap();
        index.unpin(&compact(0), reader.serial);
        assert_eq!((index.pinned_bytes(&blob(0)), index.not_evictable()), (None, BLOCK));
        let reader = index.pin(&compact(0)).unwrap();
        index.release_held(&compact(0));
        assert_eq!(index.pinned_bytes(&blob(0)), Some(BLOCK), "the reader is there still");
        index.unpin(&compact(0), reader.serial);
        assert_eq!((index.pinned_bytes(&blob(0)), index.not_evictable()), (None, 0));
    }

    fn keys(numbers: std::ops::Range<u64>) -> HashSet<CompactKey> {
        numbers.map(compact).collect()
    }

    #[test]
    fn the_operator_holds_four_fifths_and_no_reader_of_it_is_ended() {
        let index = index(10 * BLOCK);
        index.hold_for_operator(&keys(0..9));
        for number in 0..10 {
            index.insert(blob(number), BLOCK);
        }
        assert_eq!((index.operator_bytes(), index.not_evictable(), index.kept_by_readers()), (8 * BLOCK, 8 * BLOCK, 0));
        let readers = [compact(0), compact(9)].map(|key| (index.pin(&key).unwrap().serial, key));
        assert_eq!((index.pinned_bytes(&blob(0)), index.pinned_bytes(&blob(9))), (None, Some(BLOCK)));
        assert_eq!((index.not_evictable(), index.kept_by_readers()), (9 * BLOCK, BLOCK));
        readers.iter().for_each(|(serial, key)| index.unpin(key, *serial));
        // The ninth of them is more than may be held.
        assert_eq!(reserve(&index, 2 * BLOCK, PLENTY), Ok(vec![blob(8), blob(9)]));
        assert!(reserve(&index, BLOCK, PLENTY).is_err());
        index.release(2 * BLOCK, 0);
        // What is not wanted any more makes room for what did not fit.
        index.insert(blob(8), BLOCK);
        index.hold_for_operator(&keys(1..9));
        assert_eq!(index.operator_bytes(), 8 * BLOCK);
        assert_eq!(reserve(&index, 2 * BLOCK, PLENTY), Ok(vec![blob(0)]));
        index.hold_for_operator(&HashSet::new());
        assert_eq!((index.operator_bytes(), index.not_evictable()), (0, 0));
        assert!(index.holds.held.lock().keys.is_empty());
    }

    #[test]
    fn what_rules_and_the_operator_hold_stays_for_either() {
        let index = index(10 * BLOCK);
        index.insert(blob(0), BLOCK);
        index.hold(&compact(0));
        index.hold_for_operator(&keys(0..1));
        assert_eq!((index.held_bytes(), index.operator_bytes()), (BLOCK, BLOCK));
        index.release_held(&compact(0));
        assert_eq!((index.held_bytes(), index.operator_bytes()), (BLOCK, BLOCK));
        index.hold(&compact(0));
        index.hold_for_operator(&HashSet::new());
        assert_eq!((index.held_bytes(), index.operator_bytes()), (BLOCK, 0));
        index.release_held(&compact(0));
        assert_eq!((index.held_bytes(), index.not_evictable()), (0, 0));
    }

    #[test]
    fn both_together_leave_a_tenth_to_others() {
        let index = index(10 * BLOCK);
        for number in 0..10 {
            index.insert(blob(number), BLOCK);
        }
        (0..5).for_each(|number| index.hold(&compact(number)));
        index.hold_for_operator(&keys(5..10));
        assert_eq!((index.held_bytes(), index.operator_bytes()), (9 * BLOCK, 4 * BLOCK));
        // A greater cache holds the rest, too, and a smaller one less.
        index.set_max_size(20 * BLOCK);
        assert_eq!((index.held_bytes(), index.operator_bytes()), (10 * BLOCK, 5 * BLOCK));
        index.set_max_size(5 * BLOCK);
        assert_eq!(index.held_bytes(), 4 * BLOCK);
        assert_eq!(index.not_evictable(), index.held_bytes());
    }

    proptest! {
        #[test]
        fn sums_are_those_of_what_is_held(steps in prop::collection::vec((0u8..7, 0u64..12), 0..200)) {
            let index = index(10 * BLOCK);
            let mut readers = Vec::new();
            for (step, number) in steps {
                let key = compact(number);
                match step {
                    0 => index.hold(&key),
                    1 => index.release_held(&key),
                    2 => index.hold_for_operator(&keys(number..12)),
                    3 => index.insert(blob(number), (number % 3) * BLOCK),
                    4 => drop(index.forget(&blob(number))),
                    5 => readers.extend(index.pin(&key).map(|pinned| (key, pinned.serial))),
                    _ => index.set_max_size((5 + number) * BLOCK),
                }
            }
            readers.iter().for_each(|(key, serial)| index.unpin(key, *serial));
            index.settle_holds();
            let held = index.held_bytes();
            prop_assert!(held <= index.max_size() / 10 * 9 && index.operator_bytes() <= max_operator_bytes(index.max_size()));
            prop_assert_eq!((index.not_evictable(), index.kept_by_readers()), (held, 0));
            index.hold_for_operator(&HashSet::new());
            for number in 0..12 {
                (0..200).for_each(|_| index.release_held(&compact(number)));
            }
            prop_assert_eq!((index.held_bytes(), index.not_evictable()), (0, 0));
            prop_assert!(index.holds.held.lock().keys.is_empty());
        }
    }
}
