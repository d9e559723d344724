use std::collections::HashSet;

use proptest::prelude::*;

use super::*;
use crate::{
    cache::Visibility,
    oci::{Algorithm, Digest},
};

pub(super) fn blob(number: u64) -> IndexKey {
    IndexKey::Blob(Visibility::Shared.key(&Digest::of(Algorithm::Sha256, &number.to_be_bytes())))
}

pub(super) fn compact(number: u64) -> CompactKey {
    CompactKey::from(&blob(number))
}

pub(super) const PLENTY: u64 = u64::MAX / 4;
const MINUTE: i64 = 60_000_000_000;

pub(super) fn index(max_size: u64) -> LruIndex {
    LruIndex::new(max_size, 4)
}

/// The victims of a reservation, whose files are unlinked at once.
fn unlinked(index: &LruIndex, (reserved, evicted): (Result<(), NoRoom>, Evicted)) -> Result<Vec<IndexKey>, NoRoom> {
    index.unlinked(&evicted);
    reserved.map(|()| evicted.victims.into_iter().map(|victim| victim.key).collect())
}

pub(super) fn reserve(index: &LruIndex, bytes: u64, spare: u64) -> Result<Vec<IndexKey>, NoRoom> {
    unlinked(index, index.reserve(bytes, spare))
}

fn reserve_ahead(index: &LruIndex, bytes: u64) -> Result<Vec<IndexKey>, NoRoom> {
    unlinked(index, index.reserve_ahead(bytes, PLENTY))
}

fn use_once(index: &LruIndex, number: u64) {
    let pinned = index.pin(&compact(number)).unwrap();
    index.unpin(&compact(number), pinned.serial);
}

#[test]
fn the_classes_of_a_tag_are_those_that_have_a_record() {
    let of = |tag: &str, class: &str| {
        TagKey::from_path(Visibility::Shared, std::path::Path::new(&format!("u/team/app/{tag}@{class}"))).unwrap()
    };
    let index = index(4 * BLOCK);
    for key in [of("1", "01"), of("1", "02"), of("2", "01"), of("1", "02")] {
        index.insert(IndexKey::Tag(key), 10);
    }
    assert_eq!(index.tag_classes(&of("1", "80")), [of("1", "01"), of("1", "02")]);
    let tags: HashSet<_> = index.tags().collect();
    assert!(tags.len() >= 2 && tags.contains(&of("1", "01")) && tags.contains(&of("1", "02")), "{tags:?}");
    index.forget(&IndexKey::Tag(of("1", "01")));
    assert_eq!(index.tag_classes(&of("1", "80")), [of("1", "02")]);
    // If a tag has too many records, those are removed that were used the longest time ago, never the newly written
    // record.
    for class in ["05", "06", "04"] {
        index.insert(IndexKey::Tag(of("3", class)), 10);
    }
    assert_eq!(index.surplus_classes(&of("3", "06"), 3), []);
    assert_eq!(index.surplus_classes(&of("3", "06"), 2), [of("3", "05")]);
    assert_eq!(index.surplus_classes(&of("3", "05"), 1), [of("3", "06"), of("3", "04")]);
    for class in ["04", "05", "06"] {
        index.forget(&IndexKey::Tag(of("3", class)));
    }
    // The eviction also removes the classes of the tag.
    assert_eq!(reserve(&index, 4 * BLOCK, PLENTY).unwrap().len(), 2);
    assert!(index.tag_classes(&of("1", "80")).is_empty() && index.classes.lock().is_empty());
}

#[test]
fn the_least_recently_used_goes_first_and_no_more_than_needed() {
    let index = index(4 * BLOCK);
    for number in 0..4 {
        index.insert(blob(number), BLOCK);
    }
    index.insert(blob(0), BLOCK);
    assert_eq!(reserve(&index, 2 * BLOCK, PLENTY), Ok(vec![blob(1), blob(2)]));
    assert_eq!(index.total(), 4 * BLOCK);
    assert!(index.contains(&blob(0)) && index.contains(&blob(3)));
}

#[test]
fn what_no_client_used_goes_first_until_one_does() {
    for is_used in [false, true] {
        let index = index(3 * BLOCK);
        for number in 0..2 {
            index.insert(blob(number), BLOCK);
        }
        index.insert_unused(blob(2), BLOCK);
        if is_used {
            use_once(&index, 2);
        }
        let first = if is_used { 0 } else { 2 };
        assert_eq!(reserve(&index, BLOCK, PLENTY), Ok(vec![blob(first)]));
    }
}

#[test]
fn room_ahead_is_made_of_what_was_idle_for_an_hour() {
    // The last use of each, the oldest first; the current minute; the victims for one block and for two.
    for (used, now, one, two) in [
        ([100, 100, 100], 159, None, None),
        ([99, 100, 100], 159, Some(0), None),
        ([99, 99, 100], 159, Some(0), Some([0, 1])),
        // The clock was set back.
        ([100, 100, 100], 50, None, None),
    ] {
        for (blocks, expected) in [(1, one.map(|one| vec![one])), (2, two.map(|two| two.to_vec()))] {
            let index = index(3 * BLOCK);
            for (number, minute) in (0..).zip(used) {
                index.set_minute(minute);
                index.insert(blob(number), BLOCK);
            }
            index.set_minute(now);
            let room = reserve_ahead(&index, blocks * BLOCK);
            let expected = expected.map(|gone| gone.into_iter().map(blob).collect()).ok_or(NoRoom);
            assert_eq!(room, expected, "{used:?} {now} {blocks}");
            // Without room, nothing is evicted and nothing reserved.
            assert_eq!(index.total(), 3 * BLOCK);
        }
    }
    let index = index(2 * BLOCK);
    index.set_minute(100);
    index.insert_scanned([(compact(0), BLOCK, 90 * MINUTE), (compact(1), BLOCK, 0)]);
    index.finish_scan();
    // A client used it again.
    index.insert(blob(1), BLOCK);
    assert_eq!(reserve_ahead(&index, BLOCK), Err(NoRoom));
    index.insert_unused(blob(1), BLOCK);
    assert_eq!(reserve_ahead(&index, BLOCK), Err(NoRoom), "one layer does not drive out the one before it");
}

#[test]
fn room_ahead_is_the_same_whatever_the_clock_says() {
    const USED: u32 = 30_000_000;
    for (clock, passed, gone) in [
        (USED, 0, None),
        (USED, 59, None),
        (USED, 60, Some(1)),
        // A machine whose clock is not set before the network is up: the index takes the time of the latest use.
        (0, 0, None),
        (0, 59, None),
        (0, 60, Some(1)),
        (15_000_000, 60, Some(1)),
        // It was used 40 minutes before the start.
        (USED + 40, 19, None),
        (USED + 40, 20, Some(1)),
    ] {
        let index = index(2 * BLOCK);
        index.set_minute(clock);
        let scanned = |number, used| (compact(number), BLOCK, i64::from(used) * MINUTE);
        index.insert_scanned([scanned(0, USED), scanned(1, USED)]);
        index.finish_scan();
        // A client uses one of them all the time.
        for _ in 0..passed {
            index.pass_minute();
            use_once(&index, 0);
        }
        let expected = gone.map(|number| vec![blob(number)]).ok_or(NoRoom);
        assert_eq!(reserve_ahead(&index, BLOCK), expected, "{clock} {passed}");
        assert!(index.contains(&blob(0)));
    }
}

#[test]
fn what_is_being_read_stays() {
    let index = index(2 * BLOCK);
    index.insert(blob(0), BLOCK);
    index.insert(blob(1), BLOCK);
    let pinned = index.pin(&compact(0)).unwrap();
    assert_eq!(pinned.len, BLOCK);
    assert_eq!(reserve(&index, 2 * BLOCK, PLENTY), Err(NoRoom), "evicting the other alone is not enough");
    assert!(index.contains(&blob(1)), "and then nothing is evicted in vain");
    assert_eq!(reserve(&index, BLOCK, PLENTY), Ok(vec![blob(1)]));
    index.unpin(&compact(0), pinned.serial);
    index.release(BLOCK, 0);
    assert_eq!(reserve(&index, 2 * BLOCK, PLENTY), Ok(vec![blob(0)]));
}

#[test]
fn too_large_for_the_whole_cache_evicts_nothing() {
    let index = index(10 * BLOCK);
    index.insert(blob(0), 3 * BLOCK);
    assert_eq!(reserve(&index, 11 * BLOCK, PLENTY), Err(NoRoom));
    assert!(index.contains(&blob(0)));
}

#[test]
fn a_nearly_full_disk_evicts_although_max_size_is_far() {
    let index = index(1000 * BLOCK);
    index.insert(blob(0), 3 * BLOCK);
    index.insert(blob(1), 3 * BLOCK);
    assert_eq!(reserve(&index, 2 * BLOCK, BLOCK), Ok(vec![blob(0)]));
    assert_eq!(reserve(&index, 20 * BLOCK, BLOCK), Err(NoRoom));
}

#[test]
fn scanned_objects_are_older_than_those_used_since_the_start() {
    let index = index(4 * BLOCK);
    index.insert(blob(9), BLOCK);
    for (number, used) in [(2, 20), (9, 90), (1, 10), (3, 30)] {
        index.insert_scanned([(compact(number), BLOCK, used * MINUTE)]);
    }
    index.finish_scan();
    assert_eq!(index.total(), 4 * BLOCK);
    assert_eq!(reserve(&index, 3 * BLOCK, PLENTY), Ok([1, 2, 3].map(blob).to_vec()));
}

#[test]
fn what_is_not_unlinked_yet_is_no_room_for_others() {
    let index = index(10 * BLOCK);
    index.insert(blob(0), 8 * BLOCK);
    let (reserved, evicted) = index.reserve(4 * BLOCK, PLENTY);
    assert_eq!((reserved, evicted.victims.len()), (Ok(()), 1));
    // Eight blocks are on disk still. Two were free before; the first reservation has them, and two of the victim's.
    assert_eq!((index.total(), index.reserve_free(BLOCK, PLENTY)), (10 * BLOCK, Err(NoRoom)));
    assert_eq!(index.shortage(BLOCK, PLENTY), Shortage { missing: BLOCK, unlinking: 6 * BLOCK });
    index.unlinked(&evicted);
    assert_eq!(index.total(), 4 * BLOCK);
    assert_eq!(index.reserve_free(6 * BLOCK, PLENTY), Ok(()));
    assert_eq!(index.shortage(BLOCK, PLENTY), Shortage { missing: BLOCK, unlinking: 0 });
}

#[test]
fn a_use_that_comes_soon_again_writes_nothing() {
    let index = index(PLENTY);
    for number in 0..800 {
        index.insert(blob(number), BLOCK);
    }
    let noted = || index.next_use.load(Ordering::Relaxed);
    use_once(&index, 0);
    let before = noted();
    for _ in 0..1000 {
        use_once(&index, 0);
    }
    assert_eq!(noted(), before);
    // Other objects are used, up to an eighth of all.
    for number in 1..=101 {
        use_once(&index, number);
        use_once(&index, 0);
    }
    assert_eq!(noted(), before + 102);
    index.pass_minute();
    use_once(&index, 0);
    assert_eq!(noted(), before + 103);
}

#[test]
fn an_entry_takes_eighty_bytes_at_most() {
    // A shard of a million objects has a thousand. Before and after its table grows, and after many evictions.
    let hasher = RandomState::new();
    let mut shard = Shard::new(hasher.clone());
    let add = |shard: &mut Shard, number| {
        let entry = Entry::new(compact(number), BLOCK, Stamp::of_file(0));
        shard.add(hasher.hash_one(compact(number)), entry)
    };
    let mut slots = Vec::new();
    for len in 1..=4000 {
        slots.push(add(&mut shard, len));
        assert!(len < 500 || shard.memory() as u64 <= 80 * len, "{len}");
    }
    for number in 0..10_000 {
        shard.remove(slots[number % slots.len()]).unwrap();
        let at = number % slots.len();
        slots[at] = add(&mut shard, 10_000 + number as u64);
        assert!(shard.memory() <= 80 * slots.len(), "after {number}");
    }
}

#[derive(Clone, Debug)]
enum Step {
    Insert(u64, u64),
    Pin(u64),
    Unpin(u64),
    Forget(u64),
    Reserve(u64),
    Release,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..12u64, 0..40_000u64).prop_map(|(number, len)| Step::Insert(number, len)),
        (0..12u64).prop_map(Step::Pin),
        (0..12u64).prop_map(Step::Unpin),
        (0..12u64).prop_map(Step::Forget),
        (0..90_000u64).prop_map(Step::Reserve),
        Just(Step::Release),
    ]
}

proptest! {
    /// The steps follow the store: it inserts an object only out of room reserved for it.
    #[test]
    fn never_over_the_limit_and_the_sums_are_those_of_a_plain_list(steps in proptest::collection::vec(step(), 1..200)) {
        let max = 100_000;
        let index = index(max);
        let mut model: Vec<(IndexKey, u64, Vec<u64>)> = Vec::new();
        let mut promised: Vec<u64> = Vec::new();
        for step in steps {
            match step {
                Step::Insert(number, len) => {
                    let key = blob(number);
                    if model.iter().any(|(known, ..)| *known == key) {
                        continue;
                    }
                    if let Ok(victims) = reserve(&index, allocated(len), PLENTY) {
                        for victim in &victims {
                            let at = model.iter().position(|(known, _, pins)| known == victim && pins.is_empty());
                            prop_assert!(at.is_some(), "a victim is known and not being read");
                            model.remove(at.unwrap());
                        }
                        let serial = index.fulfil(&compact(number), len, true, (allocated(len), 0));
                        index.unpin(&compact(number), serial);
                        model.push((key, len, Vec::new()));
                    }
                }
                Step::Pin(number) => {
                    let key = blob(number);
                    let found = model.iter_mut().find(|(known, ..)| *known == key);
                    let pinned = index.pin(&compact(number));
                    prop_assert_eq!(pinned.is_some(), found.is_some());
                    if let Some(entry) = found { entry.2.push(pinned.unwrap().serial); }
                }
                Step::Unpin(number) => {
                    let key = blob(number);
                    if let Some(entry) = model.iter_mut().find(|(known, ..)| *known == key)
                        && let Some(serial) = entry.2.pop()
                    {
                        index.unpin(&compact(number), serial);
                    }
                }
                Step::Forget(number) => {
                    let key = blob(number);
                    prop_assert_eq!(index.forget(&key).is_some(), model.iter().any(|(known, ..)| *known == key));
                    model.retain(|(known, ..)| *known != key);
                }
                Step::Reserve(bytes) => {
                    if let Ok(victims) = reserve(&index, bytes, PLENTY) {
                        model.retain(|(known, ..)| !victims.contains(known));
                        promised.push(bytes);
                    }
                }
                Step::Release => {
                    if let Some(bytes) = promised.pop() { index.release(bytes, 0); }
                }
            }
            prop_assert!(index.total() <= max);
            let used: u64 = model.iter().map(|(_, len, _)| allocated(*len)).sum();
            let pinned: u64 = model.iter().filter(|(.., pins)| !pins.is_empty()).map(|(_, len, _)| allocated(*len)).sum();
            prop_assert_eq!(index.totals(ObjectKind::Blob).bytes, used);
            prop_assert_eq!(index.total(), used + promised.iter().sum::<u64>());
            prop_assert_eq!(index.not_evictable(), pinned);
            prop_assert_eq!(index.totals(ObjectKind::Blob).objects, model.len() as u64);
        }
    }

    /// Against a list in the exact order of use: a victim is one of the eighth that was used the longest time ago.
    #[test]
    fn victims_are_among_the_eighth_used_longest_ago(
        objects in 1..200u64,
        uses in proptest::collection::vec((any::<proptest::sample::Index>(), 0..4u8), 1..600),
    ) {
        let index = index(objects * BLOCK);
        let mut model: Vec<u64> = (0..objects).collect();
        let mut next = objects;
        for number in 0..objects {
            index.insert(blob(number), BLOCK);
        }
        for (which, kind) in uses {
            // A few objects are used much more often than others.
            let which = which.index(if kind == 1 { model.len().min(4) } else { model.len() });
            if kind > 0 {
                let number = model.remove(which);
                use_once(&index, number);
                model.push(number);
                continue;
            }
            let victims = reserve(&index, BLOCK, PLENTY).unwrap();
            prop_assert_eq!(victims.len(), 1);
            let at = model.iter().position(|number| blob(*number) == victims[0]).unwrap();
            prop_assert!(at <= model.len() / RECENT_PART, "number {} of {}", at, model.len());
            model.remove(at);
            let serial = index.fulfil(&compact(next), BLOCK, true, (BLOCK, 0));
            index.unpin(&compact(next), serial);
            model.push(next);
            next += 1;
        }
    }
}

#[test]
fn threads_at_once_leave_the_sums_right() {
    const THREADS: u64 = 8;
    let (index, max) = (index(64 * BLOCK), 64 * BLOCK);
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let index = &index;
            scope.spawn(move || {
                for round in 0..2000 {
                    let (number, bytes) = (thread * 10_000 + round, (1 + round % 7) * BLOCK);
                    let (reserved, evicted) = index.reserve(bytes, PLENTY);
                    index.unlinked(&evicted);
                    if reserved.is_ok() {
                        let serial = index.fulfil(&compact(number), bytes, true, (bytes, 0));
                        index.unpin(&compact(number), serial);
                    }
                    if let Some(pinned) = index.pin(&compact(number - round.min(5))) {
                        index.unpin(&compact(number - round.min(5)), pinned.serial);
                    }
                    assert!(index.total() <= max);
                }
            });
        }
    });
    assert_eq!((index.not_evictable(), index.reserved()), (0, 0));
    assert_eq!(index.total(), index.totals(ObjectKind::Blob).bytes);
    let kept: u64 = (0..THREADS)
        .flat_map(|thread| (0..2000).map(move |round| thread * 10_000 + round))
        .filter_map(|number| index.len_of(&blob(number)))
        .sum();
    assert_eq!(kept, index.total());
}
