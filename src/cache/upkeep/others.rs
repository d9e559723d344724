//! Contents that the object store lacks, and that are another forebay's to upload (pure).
//!
//! What must hold: their owner has time to upload them, so that an empty store does not get each from all that have it;
//! what the owner does not upload is uploaded all the same.

use std::{collections::HashMap, time::Duration};

use tokio::time::Instant;

use crate::cache::storage::lru_index::CompactKey;

/// Since when the store was seen to lack each: as many as one pass notes.
pub(super) struct Others {
    seen: HashMap<CompactKey, Instant>,
    /// How much time the owner has.
    wait: Duration,
    /// The next pass is one that looks again.
    is_looking_again: bool,
}

impl Others {
    pub(super) fn new(wait: Duration) -> Self {
        Self { seen: HashMap::new(), wait, is_looking_again: false }
    }

    /// Takes what a pass at `now` found to be missing, and returns what is not waited for any more. What is not missing
    /// any more is forgotten.
    pub(super) fn due(&mut self, missing: Vec<CompactKey>, now: Instant) -> Vec<CompactKey> {
        let last = std::mem::take(&mut self.seen);
        let mut due = Vec::new();
        for key in missing {
            let since = last.get(&key).copied().unwrap_or(now);
            if now.saturating_duration_since(since) >= self.wait {
                due.push(key.clone());
            }
            self.seen.insert(key, since);
        }
        due
    }

    /// After how long the next pass looks again: soon if some are waited for, and then not again so soon. `interval`:
    /// from one pass to the next.
    pub(super) fn pause(&mut self, interval: Duration, now: Instant) -> Duration {
        let is_waited_for = |since: &Instant| now.saturating_duration_since(*since) < self.wait;
        self.is_looking_again = !self.is_looking_again && self.seen.values().any(is_waited_for);
        if self.is_looking_again { self.wait.min(interval) } else { interval }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cache::{Visibility, storage::lru_index::IndexKey},
        oci::{Algorithm, Digest},
    };

    const HOUR: Duration = Duration::from_secs(60 * 60);

    fn keys(numbers: &[u8]) -> Vec<CompactKey> {
        let key = |number: &u8| {
            CompactKey::from(&IndexKey::Blob(Visibility::Shared.key(&Digest::of(Algorithm::Sha256, &[*number]))))
        };
        numbers.iter().map(key).collect()
    }

    #[test]
    fn what_its_owner_does_not_upload_in_an_hour_is_due() {
        let (mut others, start) = (Others::new(HOUR), Instant::now());
        for (minutes, missing, due, pause) in [
            (0, &[1, 2, 3][..], &[][..], HOUR),
            // The owner has uploaded the third.
            (60, &[1, 2], &[1, 2], HOUR * 24),
            // It was there meanwhile. The fourth is new, and the second could not be uploaded.
            (1500, &[2, 3, 4], &[2], HOUR),
            (1530, &[2, 3, 4], &[2], HOUR * 24),
            (2970, &[3], &[3], HOUR * 24),
            (4410, &[], &[], HOUR * 24),
            (5850, &[3], &[], HOUR),
            // Something is always waited for: it is looked for again once.
            (5910, &[4], &[], HOUR * 24),
            (7350, &[5], &[], HOUR),
        ] {
            let now = start + Duration::from_secs(60 * minutes);
            assert!(others.due(keys(missing), now) == keys(due), "{minutes}");
            assert_eq!(others.pause(HOUR * 24, now), pause, "{minutes}");
        }
    }

    #[test]
    fn no_forebay_looks_more_often_than_its_interval() {
        let (mut others, now) = (Others::new(HOUR), Instant::now());
        others.due(keys(&[1]), now);
        assert_eq!(others.pause(Duration::from_secs(10), now), Duration::from_secs(10));
    }
}
