//! Chooses the readers to end to make room (pure).

use std::{
    collections::{HashMap, HashSet},
    hash::Hash,
};

use crate::cache::make_room::enough;

/// A reader is slow if all readers of its peer together take fewer bytes per second than this, or if it alone takes
/// fewer than [`MIN_PART`]. forebay ends only slow readers for others, since a running pull has priority over caching
/// another one, and over a response that would otherwise be a 503.
const MAX_RATE: u64 = 256 * 1024;
/// Clients pull three to six layers at a time over one line. A line divided into more than eight equal parts does not
/// carry one pull.
const MIN_PART: u64 = MAX_RATE / 8;

/// What forebay may do with a reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stand {
    /// forebay ended it before, and it is about to go.
    Goes,
    /// It may be ended; it takes this many bytes per second.
    Slow(u64),
    /// It must not be ended.
    Stays,
}

/// A reader that holds a resource which can be freed.
pub(super) struct Candidate<H> {
    pub id: u64,
    pub holding: H,
    pub stand: Stand,
    /// How many bytes are freed once the resource has no reader.
    pub bytes: u64,
}

/// The rate of each peer, summed over its takers. A taker that occurs more than once counts once.
pub(super) fn by_peer<P: Eq + Hash, T: Eq + Hash>(takers: impl IntoIterator<Item = (P, T, u64)>) -> HashMap<P, u64> {
    let (mut counted, mut sums) = (HashSet::new(), HashMap::new());
    for (peer, taker, rate) in takers {
        if counted.insert(taker) {
            let sum: &mut u64 = sums.entry(peer).or_default();
            *sum = sum.saturating_add(rate);
        }
    }
    sums
}

/// Whether a reader of `rate` bytes per second is slow, if all readers of its peer take `all`.
pub(super) fn is_slow(rate: u64, all: u64) -> bool {
    rate < MIN_PART || all < MAX_RATE
}

/// The readers whose end frees `missing` bytes: those that are already going, and, if these are too few, the slowest by
/// their rates; among equally slow readers, the oldest first. Empty if all of them together do not free enough.
pub(super) fn slowest<H: Copy + Eq + Hash>(mut candidates: Vec<Candidate<H>>, missing: u64) -> Vec<(u64, Stand)> {
    candidates.sort_unstable_by_key(|candidate| (candidate.stand, candidate.id));
    let mut left: HashMap<H, usize> = HashMap::new();
    candidates.iter().for_each(|candidate| *left.entry(candidate.holding).or_default() += 1);
    let (mut coming, mut freed) = (HashMap::new(), Vec::new());
    for candidate in candidates.iter().filter(|candidate| candidate.stand != Stand::Stays) {
        let Some(left) = left.get_mut(&candidate.holding) else { continue };
        *left -= 1;
        // Ending a reader frees nothing while another reader of the same resource stays.
        if *left == 0 && candidate.stand == Stand::Goes {
            coming.insert(candidate.holding, candidate.bytes);
        } else if *left == 0 {
            freed.push((candidate.holding, candidate.bytes));
        }
    }
    let missing = coming.values().fold(missing, |missing, bytes| missing.saturating_sub(*bytes));
    let Some(chosen) = enough(freed, missing, |(_, bytes)| *bytes) else { return Vec::new() };
    coming.extend(chosen);
    candidates.retain(|candidate| coming.contains_key(&candidate.holding));
    candidates.into_iter().map(|candidate| (candidate.id, candidate.stand)).collect()
}

/// How many bytes are freed when all readers end that are slow or already going.
pub(super) fn most<H: Copy + Eq + Hash>(candidates: &[Candidate<H>]) -> u64 {
    let stay = candidates.iter().filter(|candidate| candidate.stand == Stand::Stays);
    let kept: HashSet<_> = stay.map(|candidate| candidate.holding).collect();
    let free = candidates.iter().map(|candidate| (candidate.holding, candidate.bytes)).collect::<HashMap<_, _>>();
    let free = free.into_iter().filter(|(holding, _)| !kept.contains(holding));
    free.fold(0, |sum, (_, bytes)| sum.saturating_add(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAYS: Stand = Stand::Stays;
    const GOES: Stand = Stand::Goes;
    const fn slow(rate: u64) -> Stand {
        Stand::Slow(rate)
    }

    type Reader = (&'static str, Stand, u64);

    fn candidates(readers: &[Reader]) -> Vec<Candidate<&'static str>> {
        let candidate =
            |(id, &(holding, stand, bytes)): (usize, &Reader)| Candidate { id: id as u64, holding, stand, bytes };
        readers.iter().enumerate().map(candidate).rev().collect()
    }

    /// The indices of the readers to wait for.
    fn ended(readers: &[Reader], missing: u64) -> Vec<u64> {
        let chosen = slowest(candidates(readers), missing);
        assert!(chosen.iter().all(|(id, stand)| readers[*id as usize].1 == *stand));
        chosen.into_iter().map(|(id, _)| id).collect()
    }

    #[test]
    fn the_slowest_go_first_and_no_more_than_needed() {
        let four = [("a", slow(30), 10), ("b", slow(0), 10), ("c", slow(20), 10), ("d", slow(0), 10)];
        for (readers, missing, expected) in [
            (&four[..], 1, &[1][..]),
            (&four, 10, &[1]),
            (&four, 11, &[1, 3]),
            (&four, 30, &[1, 3, 2]),
            (&four, 40, &[1, 3, 2, 0]),
            // None is ended in vain.
            (&four, 41, &[]),
            (&four, 0, &[]),
            (&[], 1, &[]),
            // A reader that is quick, young or waits for forebay is left alone.
            (&[("a", STAYS, 10), ("b", slow(1), 10)], 10, &[1]),
            (&[("a", STAYS, 10), ("b", slow(1), 10)], 11, &[]),
            // A resource that another reader keeps is not freed.
            (&[("a", slow(0), 10), ("a", STAYS, 10), ("b", slow(1), 10)], 10, &[2]),
            // The last reader of a resource frees it, and its bytes count once.
            (&[("a", slow(0), 10), ("a", slow(2), 10), ("b", slow(1), 10)], 10, &[2]),
            (&[("a", slow(0), 10), ("a", slow(2), 10), ("b", slow(1), 10)], 20, &[0, 2, 1]),
            (&[("a", slow(0), 10), ("a", slow(0), 10)], 11, &[]),
            // A slow reader is spared if the end of another one makes its end superfluous; the last of such readers is
            // spared first.
            (&[("a", slow(0), 4), ("b", slow(1), 1000)], 1000, &[1]),
            (&[("a", slow(0), 4), ("b", slow(1), 1000)], 1001, &[0, 1]),
            (&[("a", slow(0), 6), ("b", slow(1), 6), ("c", slow(2), 10)], 16, &[0, 2]),
            (&[("a", slow(0), 4), ("a", slow(0), 4), ("b", slow(1), 10)], 10, &[2]),
            (&[("a", slow(0), u64::MAX), ("b", slow(0), u64::MAX)], u64::MAX, &[0]),
        ] {
            assert_eq!(ended(readers, missing), expected, "{readers:?} {missing}");
        }
    }

    #[test]
    fn what_was_ended_before_is_waited_for_and_counts() {
        for (readers, missing, expected) in [
            (&[("a", GOES, 10), ("b", slow(0), 10)][..], 10, &[0][..]),
            (&[("a", GOES, 10), ("b", slow(0), 10)], 11, &[0, 1]),
            (&[("a", GOES, 10), ("b", slow(0), 10)], 21, &[]),
            (&[("a", GOES, 10), ("b", GOES, 10), ("c", slow(0), 1)], 5, &[0, 1]),
            // All readers of the resource have to go.
            (&[("a", GOES, 10), ("a", GOES, 10), ("b", slow(0), 10)], 20, &[0, 1, 2]),
            (&[("a", GOES, 10), ("a", STAYS, 10), ("b", slow(0), 10)], 10, &[2]),
            (&[("a", GOES, 10), ("a", slow(3), 10), ("b", slow(0), 10)], 10, &[2]),
            (&[("a", GOES, 10), ("a", slow(3), 10), ("b", slow(5), 10)], 10, &[0, 1]),
            (&[("a", GOES, u64::MAX), ("b", GOES, 1), ("c", slow(0), 1)], u64::MAX, &[0, 1]),
        ] {
            assert_eq!(ended(readers, missing), expected, "{readers:?} {missing}");
        }
    }

    #[test]
    fn the_most_that_can_come_free() {
        for (readers, expected) in [
            (&[][..], 0),
            (&[("a", slow(0), 1), ("b", GOES, 2), ("c", STAYS, 4)], 3),
            (&[("a", slow(0), 1), ("a", slow(1), 1), ("a", GOES, 1)], 1),
            (&[("a", slow(0), 1), ("a", STAYS, 1), ("b", slow(0), 2)], 2),
            (&[("a", slow(0), u64::MAX), ("b", slow(0), 2)], u64::MAX),
        ] {
            assert_eq!(most(&candidates(readers)), expected, "{readers:?}");
        }
    }

    #[test]
    fn a_reader_is_judged_by_all_that_its_peer_takes() {
        const KIB: u64 = 1024;
        /// The rate of each taker in KiB/s, as (peer, taker, rate), and which of them are slow.
        type Row = (&'static [(u8, u8, u64)], &'static [bool]);
        let rows: [Row; 11] = [
            (&[(1, 1, 256)], &[false]),
            (&[(1, 1, 255)], &[true]),
            // Three concurrent layers over 6 Mbit/s, or over 2 Mbit/s.
            (&[(1, 1, 244), (1, 2, 244), (1, 3, 244)], &[false; 3]),
            (&[(1, 1, 85), (1, 2, 85), (1, 3, 85)], &[true; 3]),
            (&[(1, 1, 86), (1, 2, 85), (1, 3, 85)], &[false; 3]),
            (&[(1, 1, 32); 2], &[true; 2]),
            // A quick taker does not protect another that takes next to nothing.
            (&[(1, 1, 9999), (1, 2, 0), (1, 3, 31), (1, 4, 32)], &[false, true, true, false]),
            // The rate of another peer does not count.
            (&[(1, 1, 255), (2, 2, 9999)], &[true, false]),
            // A taker that reads several resources counts once.
            (&[(1, 1, 128), (1, 1, 128)], &[true; 2]),
            (&[(1, 1, 128), (1, 1, 128), (1, 2, 128)], &[false; 3]),
            (&[(1, 1, u64::MAX / KIB), (1, 2, u64::MAX / KIB), (1, 3, 0)], &[false, false, true]),
        ];
        for (takers, expected) in rows {
            let takers: Vec<_> = takers.iter().map(|(peer, taker, rate)| (*peer, *taker, rate * KIB)).collect();
            let sums = by_peer(takers.clone());
            let slow: Vec<_> = takers.iter().map(|(peer, _, rate)| is_slow(*rate, sums[peer])).collect();
            assert_eq!(slow, expected, "{takers:?}");
        }
    }
}
