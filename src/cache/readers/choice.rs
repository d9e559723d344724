//! Which readers are ended to make room (pure).

use std::{
    collections::{HashMap, HashSet},
    hash::Hash,
};

/// A reader is slow where its peer takes less than this many bytes for each second through all of its readers together, or
/// where the reader itself takes less than [`MIN_PART`] of them: only slow ones are ended for others, since a pull goes
/// before caching another one, and before an answer that gets 503.
const MAX_RATE: u64 = 256 * 1024;
/// Clients pull three to six layers at a time, over one line. More than eight equal parts of a line are not a pull's.
const MIN_PART: u64 = MAX_RATE / 8;

/// One of those that hold what is wanted.
pub(super) struct Candidate<H> {
    pub id: u64,
    pub holding: H,
    /// Bytes for each second of one that is slow; `None`: it may not be ended.
    pub rate: Option<u64>,
    /// What comes free with the last reader of what it holds.
    pub bytes: u64,
}

/// What each peer takes for each second, out of what each of its takers does. A taker that stands there again counts once.
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

/// Whether one of `rate` bytes for each second, of a peer that takes `all`, is slow.
pub(super) fn is_slow(rate: u64, all: u64) -> bool {
    rate < MIN_PART || all < MAX_RATE
}

/// The readers, and their rates, with whose end `missing` bytes come free: the slowest, and of those equally slow the first
/// that came. None where all that are slow do not hold so much.
pub(super) fn slowest<H: Copy + Eq + Hash>(mut candidates: Vec<Candidate<H>>, missing: u64) -> Vec<(u64, u64)> {
    let mut readers: HashMap<H, usize> = HashMap::new();
    candidates.iter().for_each(|candidate| *readers.entry(candidate.holding).or_default() += 1);
    candidates.retain(|candidate| candidate.rate.is_some());
    candidates.sort_unstable_by_key(|candidate| (candidate.rate, candidate.id));
    let (mut free, mut chosen) = (0_u64, 0);
    for candidate in &candidates {
        if free >= missing {
            break;
        }
        chosen += 1;
        if let Some(left) = readers.get_mut(&candidate.holding) {
            *left -= 1;
            if *left == 0 {
                free = free.saturating_add(candidate.bytes);
            }
        }
    }
    if free < missing {
        return Vec::new();
    }
    candidates.truncate(chosen);
    // What others go on reading comes free by no one's end.
    candidates.retain(|candidate| readers.get(&candidate.holding) == Some(&0));
    candidates.into_iter().filter_map(|candidate| Some((candidate.id, candidate.rate?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Readers as (what, rate, bytes), by their places; the places of those that are ended.
    fn ended(readers: &[(&'static str, Option<u64>, u64)], missing: u64) -> Vec<u64> {
        let candidate =
            |(id, &(holding, rate, bytes)): (usize, &(_, _, _))| Candidate { id: id as u64, holding, rate, bytes };
        let candidates = readers.iter().enumerate().map(candidate).rev().collect();
        slowest(candidates, missing).into_iter().map(|(id, _)| id).collect()
    }

    #[test]
    fn the_slowest_go_first_and_no_more_than_needed() {
        let four = [("a", Some(30), 10), ("b", Some(0), 10), ("c", Some(20), 10), ("d", Some(0), 10)];
        for (readers, missing, expected) in [
            (&four[..], 1, &[1][..]),
            (&four, 10, &[1]),
            (&four, 11, &[1, 3]),
            (&four, 30, &[1, 3, 2]),
            (&four, 40, &[1, 3, 2, 0]),
            // Nothing in vain.
            (&four, 41, &[]),
            (&four, 0, &[]),
            (&[], 1, &[]),
            // One that is quick, young or waits for forebay is left alone.
            (&[("a", None, 10), ("b", Some(1), 10)], 10, &[1]),
            (&[("a", None, 10), ("b", Some(1), 10)], 11, &[]),
            // What another goes on reading does not come free.
            (&[("a", Some(0), 10), ("a", None, 10), ("b", Some(1), 10)], 10, &[2]),
            // The last of its readers frees it, and once.
            (&[("a", Some(0), 10), ("a", Some(2), 10), ("b", Some(1), 10)], 10, &[2]),
            (&[("a", Some(0), 10), ("a", Some(2), 10), ("b", Some(1), 10)], 20, &[0, 2, 1]),
            (&[("a", Some(0), 10), ("a", Some(0), 10)], 11, &[]),
            (&[("a", Some(0), u64::MAX), ("b", Some(0), u64::MAX)], u64::MAX, &[0]),
        ] {
            assert_eq!(ended(readers, missing), expected, "{readers:?} {missing}");
        }
    }

    #[test]
    fn a_reader_is_judged_by_all_that_its_peer_takes() {
        const KIB: u64 = 1024;
        /// So many KiB/s of each taker, as (peer, taker, rate), and which of them are slow.
        type Row = (&'static [(u8, u8, u64)], &'static [bool]);
        let rows: [Row; 11] = [
            (&[(1, 1, 256)], &[false]),
            (&[(1, 1, 255)], &[true]),
            // Three layers at once over 6 Mbit/s, or over 2.
            (&[(1, 1, 244), (1, 2, 244), (1, 3, 244)], &[false; 3]),
            (&[(1, 1, 85), (1, 2, 85), (1, 3, 85)], &[true; 3]),
            (&[(1, 1, 86), (1, 2, 85), (1, 3, 85)], &[false; 3]),
            (&[(1, 1, 32); 2], &[true; 2]),
            // A quick one protects none that takes next to nothing.
            (&[(1, 1, 9999), (1, 2, 0), (1, 3, 31), (1, 4, 32)], &[false, true, true, false]),
            // Another peer is no help.
            (&[(1, 1, 255), (2, 2, 9999)], &[true, false]),
            // One that reads several things takes no more for that.
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
