use proptest::prelude::*;

use super::*;
use crate::{
    cache::Visibility,
    oci::{Algorithm, Digest},
};

fn blob(number: u8) -> IndexKey {
    IndexKey::Blob(Visibility::Shared.key(&Digest::of(Algorithm::Sha256, &[number])))
}

const PLENTY: u64 = u64::MAX / 4;

#[test]
fn the_classes_of_a_tag_are_those_that_have_a_record() {
    let of = |tag: &str, class: &str| {
        TagKey::from_path(Visibility::Shared, std::path::Path::new(&format!("u/team/app/{tag}@{class}"))).unwrap()
    };
    let mut index = LruIndex::new(4 * BLOCK);
    for key in [of("1", "01"), of("1", "02"), of("2", "01"), of("1", "02")] {
        index.insert(IndexKey::Tag(key), 10);
    }
    assert_eq!(index.tag_classes(&of("1", "80")), [of("1", "01"), of("1", "02")]);
    index.forget(&IndexKey::Tag(of("1", "01")));
    assert_eq!(index.tag_classes(&of("1", "80")), [of("1", "02")]);
    // If a tag has too many records, those are removed that were used the longest time ago, never the newly written
    // record.
    for (minute, class) in [(30, "04"), (10, "05"), (20, "06")] {
        index.set_minute(minute);
        index.insert(IndexKey::Tag(of("3", class)), 10);
    }
    assert_eq!(index.surplus_classes(&of("3", "06"), 3), []);
    assert_eq!(index.surplus_classes(&of("3", "06"), 2), [of("3", "05")]);
    assert_eq!(index.surplus_classes(&of("3", "05"), 1), [of("3", "06"), of("3", "04")]);
    for class in ["04", "05", "06"] {
        index.forget(&IndexKey::Tag(of("3", class)));
    }
    // The eviction also removes the classes of the tag.
    assert_eq!(index.reserve(4 * BLOCK, PLENTY).unwrap().len(), 2);
    assert!(index.tag_classes(&of("1", "80")).is_empty() && index.classes.is_empty());
}

#[test]
fn the_least_recently_used_goes_first_and_no_more_than_needed() {
    let mut index = LruIndex::new(4 * BLOCK);
    for number in 0..4 {
        index.insert(blob(number), BLOCK);
    }
    index.insert(blob(0), BLOCK);
    assert_eq!(index.reserve(2 * BLOCK, PLENTY), Ok(vec![(blob(1), BLOCK), (blob(2), BLOCK)]));
    assert_eq!(index.total(), 4 * BLOCK);
    assert!(index.contains(&blob(0)) && index.contains(&blob(3)));
}

#[test]
fn what_no_client_used_goes_first_until_one_does() {
    for is_used in [false, true] {
        let mut index = LruIndex::new(3 * BLOCK);
        for number in 0..2 {
            index.insert(blob(number), BLOCK);
        }
        index.insert_unused(blob(2), BLOCK);
        if is_used {
            index.pin(&blob(2));
            index.unpin(&blob(2));
        }
        let first = if is_used { 0 } else { 2 };
        assert_eq!(index.reserve(BLOCK, PLENTY), Ok(vec![(blob(first), BLOCK)]));
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
            let mut index = LruIndex::new(3 * BLOCK);
            for (number, minute) in (0..).zip(used) {
                index.set_minute(minute);
                index.insert(blob(number), BLOCK);
            }
            index.set_minute(now);
            let room = index.reserve_ahead(blocks * BLOCK, PLENTY);
            let expected =
                expected.map(|gone| gone.into_iter().map(|number| (blob(number), BLOCK)).collect()).ok_or(NoRoom);
            assert_eq!(room, expected, "{used:?} {now} {blocks}");
            // Without room, nothing is evicted and nothing reserved.
            assert_eq!(index.total(), 3 * BLOCK);
        }
    }
    let mut index = LruIndex::new(2 * BLOCK);
    index.set_minute(100);
    index.insert_scanned([(CompactKey::from(&blob(0)), BLOCK, 90), (CompactKey::from(&blob(1)), BLOCK, 0)]);
    // A client used it again.
    index.insert(blob(1), BLOCK);
    assert_eq!(index.reserve_ahead(BLOCK, PLENTY), Err(NoRoom));
    index.insert_unused(blob(1), BLOCK);
    assert_eq!(index.reserve_ahead(BLOCK, PLENTY), Err(NoRoom), "one layer does not drive out the one before it");
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
        let mut index = LruIndex::new(2 * BLOCK);
        index.set_minute(clock);
        let scanned = |number, used| (CompactKey::from(&blob(number)), BLOCK, used);
        index.insert_scanned([scanned(0, USED), scanned(1, USED)]);
        // A client uses one of them all the time.
        for _ in 0..passed {
            index.pass_minute();
            index.pin(&blob(0));
            index.unpin(&blob(0));
        }
        let expected = gone.map(|number| vec![(blob(number), BLOCK)]).ok_or(NoRoom);
        assert_eq!(index.reserve_ahead(BLOCK, PLENTY), expected, "{clock} {passed}");
        assert!(index.contains(&blob(0)));
    }
}

#[test]
fn what_is_being_read_stays() {
    let mut index = LruIndex::new(2 * BLOCK);
    index.insert(blob(0), BLOCK);
    index.insert(blob(1), BLOCK);
    assert_eq!(index.pin(&blob(0)), Some(BLOCK));
    assert_eq!(index.reserve(2 * BLOCK, PLENTY), Err(NoRoom), "evicting the other alone is not enough");
    assert!(index.contains(&blob(1)), "and then nothing is evicted in vain");
    assert_eq!(index.reserve(BLOCK, PLENTY), Ok(vec![(blob(1), BLOCK)]));
    index.unpin(&blob(0));
    index.release(BLOCK, 0);
    assert_eq!(index.reserve(2 * BLOCK, PLENTY), Ok(vec![(blob(0), BLOCK)]));
}

#[test]
fn too_large_for_the_whole_cache_evicts_nothing() {
    let mut index = LruIndex::new(10 * BLOCK);
    index.insert(blob(0), 3 * BLOCK);
    assert_eq!(index.reserve(11 * BLOCK, PLENTY), Err(NoRoom));
    assert!(index.contains(&blob(0)));
}

#[test]
fn a_nearly_full_disk_evicts_although_max_size_is_far() {
    let mut index = LruIndex::new(1000 * BLOCK);
    index.insert(blob(0), 3 * BLOCK);
    index.insert(blob(1), 3 * BLOCK);
    assert_eq!(index.reserve(2 * BLOCK, BLOCK), Ok(vec![(blob(0), 3 * BLOCK)]));
    assert_eq!(index.reserve(20 * BLOCK, BLOCK), Err(NoRoom));
}

#[test]
fn scanned_objects_are_older_than_those_used_since_the_start() {
    let mut index = LruIndex::new(3 * BLOCK);
    index.insert(blob(9), BLOCK);
    for number in [2, 9, 1] {
        index.insert_scanned([(CompactKey::from(&blob(number)), BLOCK, 0)]);
    }
    assert_eq!(index.total(), 3 * BLOCK);
    assert_eq!(index.reserve(2 * BLOCK, PLENTY), Ok(vec![(blob(1), BLOCK), (blob(2), BLOCK)]));
}

#[derive(Clone, Debug)]
enum Step {
    Insert(u8, u64),
    Pin(u8),
    Unpin(u8),
    Forget(u8),
    Reserve(u64),
    Release,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..12u8, 0..40_000u64).prop_map(|(number, len)| Step::Insert(number, len)),
        (0..12u8).prop_map(Step::Pin),
        (0..12u8).prop_map(Step::Unpin),
        (0..12u8).prop_map(Step::Forget),
        (0..90_000u64).prop_map(Step::Reserve),
        Just(Step::Release),
    ]
}

proptest! {
    /// The steps follow the store: it inserts an object only out of room reserved for it.
    #[test]
    fn never_over_the_limit_and_the_sums_are_those_of_a_plain_list(steps in proptest::collection::vec(step(), 1..200)) {
        let max = 100_000;
        let mut index = LruIndex::new(max);
        let mut model: Vec<(IndexKey, u64, u32)> = Vec::new();
        let mut promised: Vec<u64> = Vec::new();
        for step in steps {
            match step {
                Step::Insert(number, len) => {
                    let key = blob(number);
                    if model.iter().any(|(known, ..)| *known == key) {
                        continue;
                    }
                    if let Ok(victims) = index.reserve(allocated(len), PLENTY) {
                        for (victim, _) in &victims {
                            let at = model.iter().position(|(known, _, pins)| known == victim && *pins == 0);
                            prop_assert!(at.is_some(), "a victim is known and not being read");
                            model.remove(at.unwrap());
                        }
                        index.release(allocated(len), 0);
                        index.insert(key.clone(), len);
                        model.push((key, len, 0));
                    }
                }
                Step::Pin(number) => {
                    let key = blob(number);
                    let found = model.iter_mut().find(|(known, ..)| *known == key);
                    prop_assert_eq!(index.pin(&key).is_some(), found.is_some());
                    if let Some(entry) = found { entry.2 += 1; }
                }
                Step::Unpin(number) => {
                    let key = blob(number);
                    if let Some(entry) = model.iter_mut().find(|(known, _, pins)| *known == key && *pins > 0) {
                        entry.2 -= 1;
                        index.unpin(&key);
                    }
                }
                Step::Forget(number) => {
                    let key = blob(number);
                    prop_assert_eq!(index.forget(&key).is_some(), model.iter().any(|(known, ..)| *known == key));
                    model.retain(|(known, ..)| *known != key);
                }
                Step::Reserve(bytes) => {
                    if let Ok(victims) = index.reserve(bytes, PLENTY) {
                        model.retain(|(known, ..)| !victims.iter().any(|(victim, _)| victim == known));
                        promised.push(bytes);
                    }
                }
                Step::Release => {
                    if let Some(bytes) = promised.pop() { index.release(bytes, 0); }
                }
            }
            prop_assert!(index.total() <= max);
            let used: u64 = model.iter().map(|(_, len, _)| allocated(*len)).sum();
            let pinned: u64 = model.iter().filter(|(.., pins)| *pins > 0).map(|(_, len, _)| allocated(*len)).sum();
            prop_assert_eq!(index.totals(ObjectKind::Blob).bytes, used);
            prop_assert_eq!(index.total(), used + promised.iter().sum::<u64>());
            prop_assert_eq!(index.pinned, pinned);
            prop_assert_eq!(index.totals(ObjectKind::Blob).objects, model.len() as u64);
        }
    }
}
