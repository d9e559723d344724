//! How much of the object store was last used how long ago, and what has to go (pure).
//!
//! What must hold: memory does not grow with the number of objects; what is younger than the least age stays, also if the store is too large.

use std::time::{Duration, SystemTime};

/// What was not used for so many hours, a year, is all the same age.
const MAX_HOURS: usize = 366 * 24;
/// To which part of its limit the store is brought, in percent: not each pass has to remove something.
const TARGET: u64 = 95;
/// Up to which part the store takes what no forebay has used lately, in percent.
const FULL: u64 = 90;

const HOUR: u64 = 60 * 60;

/// Hours since 1970.
pub(super) fn hours(time: SystemTime) -> u32 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u32::try_from(since.as_secs() / HOUR).unwrap_or(u32::MAX)
}

/// The bytes of the store by the hours since their last use.
#[derive(Debug)]
pub(super) struct Ages {
    bytes: Vec<u64>,
    pub total: u64,
    pub objects: u64,
}

/// What is to be removed: objects that were not used for `hours`, until `bytes` are gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Eviction {
    pub hours: u32,
    pub bytes: u64,
}

impl Default for Ages {
    fn default() -> Self {
        Self { bytes: vec![0; MAX_HOURS + 1], total: 0, objects: 0 }
    }
}

impl Ages {
    /// Adds an object that was last used so many hours ago.
    pub(super) fn add(&mut self, hours: u32, bytes: u64) {
        let place = usize::try_from(hours).unwrap_or(MAX_HOURS).min(MAX_HOURS);
        if let Some(sum) = self.bytes.get_mut(place) {
            *sum = sum.saturating_add(bytes);
        }
        self.total = self.total.saturating_add(bytes);
        self.objects += 1;
    }

    /// How many bytes may come that no forebay has used lately, so that they are not soon removed again.
    pub(super) fn room(&self, max_size: u64) -> u64 {
        (max_size / 100 * FULL).saturating_sub(self.total)
    }

    /// What has to go so that the store is within its limit; `None`: it is, or all of it is too young.
    pub(super) fn eviction(&self, max_size: u64, least_age: Duration) -> Option<Eviction> {
        if self.total <= max_size {
            return None;
        }
        let bytes = self.total - max_size / 100 * TARGET;
        let youngest = usize::try_from(least_age.as_secs().div_ceil(HOUR)).unwrap_or(usize::MAX);
        let (mut sum, mut oldest_left) = (0_u64, None);
        for (hours, of_hour) in self.bytes.iter().enumerate().rev().take_while(|(hours, _)| *hours >= youngest) {
            if *of_hour > 0 {
                sum = sum.saturating_add(*of_hour);
                oldest_left = Some(hours);
            }
            if sum >= bytes {
                break;
            }
        }
        Some(Eviction { hours: u32::try_from(oldest_left?).unwrap_or(u32::MAX), bytes: bytes.min(sum) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(24 * HOUR);

    #[test]
    fn what_was_used_longest_ago_goes_first_and_nothing_young() {
        for (what, objects, max_size, expected) in [
            ("within its limit", &[(500, 100), (30, 900)][..], 1000, None),
            ("nothing there", &[], 1000, None),
            ("the oldest is enough", &[(500, 100), (300, 100), (30, 900)], 1000, Some((300, 150))),
            ("one object", &[(9_000, 200), (40, 900)], 1000, Some((8_784, 150))),
            ("of one age", &[(48, 600), (48, 600)], 1000, Some((48, 250))),
            ("all young", &[(23, 1_000), (0, 1_000)], 1000, None),
            ("only some is old enough", &[(24, 10), (23, 2_000)], 1000, Some((24, 10))),
            ("just a day", &[(24, 2_000)], 1000, Some((24, 1_050))),
        ] {
            let mut ages = Ages::default();
            objects.iter().for_each(|(hours, bytes)| ages.add(*hours, *bytes));
            let expected = expected.map(|(hours, bytes)| Eviction { hours, bytes });
            assert_eq!(ages.eviction(max_size, DAY), expected, "{what}");
        }
    }

    #[test]
    fn there_is_no_room_up_to_the_limit() {
        let mut ages = Ages::default();
        ages.add(1, 800);
        assert_eq!(ages.room(1_000), 100);
        ages.add(1, 101);
        assert_eq!(ages.room(1_000), 0);
        assert_eq!((ages.total, ages.objects), (901, 2));
    }

    #[test]
    fn hours_are_those_since_1970() {
        for (seconds, expected) in [(0, 0), (3_599, 0), (3_600, 1), (1_800_000_000, 500_000)] {
            assert_eq!(hours(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)), expected);
        }
    }
}
