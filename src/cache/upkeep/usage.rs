//! When the contents of the object store were last used, as far as its forebays have told (pure).
//!
//! A forebay leaves a list of what was used at its disk, so that a hit writes nothing; the one that removes what is old puts the
//! lists together. A content is named by the first 16 digits of its digest: one of the same beginning stays longer, which does no
//! harm.
//!
//! What must hold: memory and lists are bounded; when there are too many, what was used longest ago is left out.

use std::{collections::HashMap, fmt::Write as _};

use crate::oci::Digest;

/// Of how many contents it is known: 16 bytes each, and 24 in the summary.
const MAX_USED: usize = 500_000;
/// How many contents a list has.
pub(super) const MAX_LISTED: usize = 100_000;
/// The longest list and the longest summary that are read, in bytes.
pub(super) const MAX_LIST: usize = MAX_LISTED * 17;
pub(super) const MAX_SUMMARY: usize = MAX_USED * 28;

/// The hours of the last uses, by the fronts of digests.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Usage(HashMap<u64, u32>);

impl Usage {
    /// In hours since 1970.
    pub(super) fn of(&self, digest: &Digest) -> Option<u32> {
        self.0.get(&digest.front()).copied()
    }

    pub(super) fn add(&mut self, front: u64, hour: u32) {
        let known = self.0.entry(front).or_insert(hour);
        *known = (*known).max(hour);
        if self.0.len() > MAX_USED {
            self.drop_oldest();
        }
    }

    /// Adds the list that was written in this hour.
    pub(super) fn add_list(&mut self, list: &str, hour: u32) {
        for front in list.lines().take(MAX_LISTED).filter_map(front_of) {
            self.add(front, hour);
        }
    }

    /// Drops an eighth, so that this is rare.
    fn drop_oldest(&mut self) {
        let mut hours: Vec<u32> = self.0.values().copied().collect();
        let eighth = hours.len() / 8;
        let (_, last, _) = hours.select_nth_unstable(eighth);
        let last = *last;
        let later = self.0.values().filter(|hour| **hour > last).count();
        // Of one hour there may be more than an eighth.
        let mut room = (self.0.len() - eighth).saturating_sub(later);
        self.0.retain(|_, hour| {
            let stays = *hour > last || (*hour == last && room > 0);
            room -= usize::from(stays && *hour == last);
            stays
        });
    }

    pub(super) fn summary(&self) -> String {
        let mut text = String::with_capacity(self.0.len() * 24);
        for (front, hour) in &self.0 {
            let _ = writeln!(text, "{front:016x} {hour}");
        }
        text
    }

    /// `now`: in hours since 1970. What is from the future would never be removed.
    pub(super) fn of_summary(text: &str, now: u32) -> Self {
        let of_line = |line: &str| {
            let (front, hour) = line.split_once(' ')?;
            Some((front_of(front)?, hour.parse::<u32>().ok()?.min(now)))
        };
        Self(text.lines().filter_map(of_line).take(MAX_USED).collect())
    }
}

/// A list of these contents.
pub(super) fn list(fronts: impl IntoIterator<Item = u64>) -> String {
    let mut text = String::new();
    for front in fronts.into_iter().take(MAX_LISTED) {
        let _ = writeln!(text, "{front:016x}");
    }
    text
}

fn front_of(text: &str) -> Option<u64> {
    (text.len() == 16).then(|| u64::from_str_radix(text, 16).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Algorithm;

    #[test]
    fn the_last_use_that_any_forebay_told_counts() {
        let digest = |number: u8| Digest::of(Algorithm::Sha256, &[number]);
        let mut usage = Usage::default();
        usage.add_list(&list([digest(1).front(), digest(2).front()]), 10);
        usage.add_list(&list([digest(1).front()]), 8);
        usage.add_list("x\n\n0123\n", 99);
        assert_eq!([1, 2, 3].map(|number| usage.of(&digest(number))), [Some(10), Some(10), None]);
        let read = Usage::of_summary(&usage.summary(), 10);
        assert_eq!(read, usage);
        assert_eq!(Usage::of_summary("x\n1 2\n", 10), Usage::default());
        let future = Usage::of_summary(&format!("{:016x} {}\n", digest(1).front(), u32::MAX), 10);
        assert_eq!(future.of(&digest(1)), Some(10), "it is not kept for ever");
    }

    #[test]
    fn what_was_used_longest_ago_is_left_out() {
        let mut usage = Usage::default();
        for number in 0..=MAX_USED {
            usage.add(number as u64, u32::try_from(number).unwrap());
        }
        assert!(usage.0.len() <= MAX_USED && usage.0.len() > MAX_USED / 4 * 3, "{}", usage.0.len());
        assert!(usage.0.contains_key(&(MAX_USED as u64)) && !usage.0.contains_key(&0));
        assert!(usage.summary().len() <= MAX_SUMMARY);
        assert_eq!(list(0..MAX_LISTED as u64 + 5).len(), MAX_LIST);
        let mut of_an_hour = Usage::default();
        (0..=MAX_USED).for_each(|number| of_an_hour.add(number as u64, 7));
        assert!(of_an_hour.0.len() <= MAX_USED && of_an_hour.0.len() > MAX_USED / 4 * 3, "{}", of_an_hour.0.len());
    }
}
