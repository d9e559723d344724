//! Which readers are ended to make room (pure).

use std::{collections::HashMap, hash::Hash};

/// A reader that takes this many bytes or more in each second of its own is never ended for others: a pull goes before
/// caching another one, and before an answer that gets 503.
const MAX_RATE: u64 = 256 * 1024;

/// One of those that hold what is wanted.
pub(super) struct Candidate<H> {
    pub id: u64,
    pub holding: H,
    /// Bytes for each second; `None`: it may not be ended.
    pub rate: Option<u64>,
    /// What comes free with the last reader of what it holds.
    pub bytes: u64,
}

/// The readers, and their rates, with whose end `missing` bytes come free: the slowest, and of those equally slow the first
/// that came. None where all that are slow do not hold so much.
pub(super) fn slowest<H: Copy + Eq + Hash>(mut candidates: Vec<Candidate<H>>, missing: u64) -> Vec<(u64, u64)> {
    let mut readers: HashMap<H, usize> = HashMap::new();
    candidates.iter().for_each(|candidate| *readers.entry(candidate.holding).or_default() += 1);
    candidates.retain(|candidate| candidate.rate.is_some_and(|rate| rate < MAX_RATE));
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
        const FAST: u64 = MAX_RATE;
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
            (&[("a", None, 10), ("b", Some(FAST), 10), ("c", Some(FAST - 1), 10)], 10, &[2]),
            (&[("a", None, 10), ("b", Some(FAST), 10), ("c", Some(FAST - 1), 10)], 11, &[]),
            // What another goes on reading does not come free.
            (&[("a", Some(0), 10), ("a", None, 10), ("b", Some(1), 10)], 10, &[2]),
            (&[("a", Some(0), 10), ("a", Some(FAST), 10)], 1, &[]),
            // The last of its readers frees it, and once.
            (&[("a", Some(0), 10), ("a", Some(2), 10), ("b", Some(1), 10)], 10, &[2]),
            (&[("a", Some(0), 10), ("a", Some(2), 10), ("b", Some(1), 10)], 20, &[0, 2, 1]),
            (&[("a", Some(0), 10), ("a", Some(0), 10)], 11, &[]),
            (&[("a", Some(0), u64::MAX), ("b", Some(0), u64::MAX)], u64::MAX, &[0]),
        ] {
            assert_eq!(ended(readers, missing), expected, "{readers:?} {missing}");
        }
    }
}
