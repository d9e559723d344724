//! Sets of bytes of a growing file: written bytes and claimed bytes (pure).

use std::{collections::BTreeMap, ops::Range};

/// A set of bytes as disjoint, non-touching ranges in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Extents(BTreeMap<u64, u64>);

impl Extents {
    pub(crate) fn insert(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let Range { mut start, mut end } = range;
        while let Some((&left, &right)) = self.0.range(..=end).next_back().filter(|(_, right)| **right >= start) {
            start = start.min(left);
            end = end.max(right);
            self.0.remove(&left);
        }
        self.0.insert(start, end);
    }

    pub(crate) fn remove(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        while let Some((&left, &right)) =
            self.0.range(..range.end).next_back().filter(|(_, right)| **right > range.start)
        {
            self.0.remove(&left);
            if left < range.start {
                self.0.insert(left, range.start);
            }
            if right > range.end {
                self.0.insert(range.end, right);
            }
        }
    }

    /// The end of the run of present bytes that contains `offset`; `offset` itself if that byte is missing.
    pub(crate) fn end_of_run(&self, offset: u64) -> u64 {
        self.0.range(..=offset).next_back().map_or(offset, |(_, &end)| end.max(offset))
    }

    /// Where the next run at or after `offset` starts.
    pub(crate) fn next_start(&self, offset: u64) -> Option<u64> {
        if self.contains(offset) {
            return Some(offset);
        }
        self.0.range(offset..).next().map(|(&start, _)| start)
    }

    pub(crate) fn contains(&self, offset: u64) -> bool {
        self.end_of_run(offset) > offset
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn runs_join_where_they_touch() {
        let mut extents = Extents::default();
        extents.insert(0..10);
        extents.insert(20..30);
        assert_eq!((extents.end_of_run(0), extents.end_of_run(10), extents.end_of_run(25)), (10, 10, 30));
        assert_eq!((extents.next_start(5), extents.next_start(10), extents.next_start(30)), (Some(5), Some(20), None));
        extents.insert(10..20);
        assert_eq!(extents.end_of_run(3), 30);
    }

    proptest! {
        #[test]
        fn the_same_as_a_plain_set_of_bytes(steps in proptest::collection::vec((any::<bool>(), 0..64u64, 0..20u64), 1..40)) {
            let mut extents = Extents::default();
            let mut model = [false; 96];
            for (insert, start, len) in steps {
                let range = start..start + len;
                if insert { extents.insert(range.clone()) } else { extents.remove(range.clone()) }
                model[range.start as usize..range.end as usize].fill(insert);
                for offset in 0..90usize {
                    let run = model[offset..].iter().take_while(|there| **there).count();
                    prop_assert_eq!(extents.end_of_run(offset as u64), (offset + run) as u64);
                    let next = model[offset..].iter().position(|there| *there).map(|at| (offset + at) as u64);
                    prop_assert_eq!(extents.next_start(offset as u64), next);
                }
                let mut last = None;
                for (&start, &end) in &extents.0 {
                    prop_assert!(start < end && last.is_none_or(|last| last < start), "disjoint and not touching");
                    last = Some(end);
                }
            }
        }
    }
}
