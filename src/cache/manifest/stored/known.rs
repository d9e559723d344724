//! What is known of a tag's record in the object store, and what follows from it (pure).
//!
//! What must hold: however often a tag is pulled, its record is written at most once an hour while it says the same, and read at
//! most once a minute.

use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::signed_record::MAX_SKEW;
use crate::{cache::storage::tag_record::TagRecord, oci::Digest};

/// How often a record is written that says the same with a later time.
const WRITE_INTERVAL: Duration = Duration::from_secs(60 * 60);
/// How often a record is looked for.
const READ_INTERVAL: Duration = Duration::from_secs(60);
/// How long a write that failed is not tried again.
const RETRY_INTERVAL: Duration = Duration::from_secs(60);

/// What is known of one record in the store. The default: nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Known {
    /// When it was last looked for.
    pub read: Option<Instant>,
    /// When a write of it was last begun.
    pub tried: Option<Instant>,
    /// What it says.
    pub says: Option<Says>,
}

/// What a record says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Says {
    pub digest: Digest,
    pub confirmed: SystemTime,
}

impl From<&TagRecord> for Says {
    fn from(record: &TagRecord) -> Self {
        Self { digest: record.digest.clone(), confirmed: record.confirmed }
    }
}

impl Known {
    /// Whether it is to be looked for at `now`.
    pub(super) fn may_read(&self, now: Instant) -> bool {
        self.read.is_none_or(|read| now.saturating_duration_since(read) >= READ_INTERVAL)
    }

    /// Whether a write of this record is to be begun at `now`.
    pub(super) fn may_write(&self, record: &TagRecord, now: Instant) -> bool {
        is_news(record, self.says.as_ref())
            && self.tried.is_none_or(|tried| {
                // What another digest replaces may bring an old image back: it is not waited for.
                let is_other = self.says.as_ref().is_some_and(|says| says.digest != record.digest);
                is_other || now.saturating_duration_since(tried) >= RETRY_INTERVAL
            })
    }
}

/// Whether a record is to replace what the store has, which was perhaps written by another forebay.
pub(super) fn is_news(record: &TagRecord, stored: Option<&Says>) -> bool {
    let Some(stored) = stored else { return true };
    match record.confirmed.duration_since(stored.confirmed) {
        Ok(later) => record.digest != stored.digest || later >= WRITE_INTERVAL,
        // Of two the later one counts.
        Err(_) => false,
    }
}

/// Whether a change through forebay at `changed` may be later than what a record says: the clock of the forebay that wrote it may
/// be ahead.
pub(in crate::cache::manifest) fn is_outdated(confirmed: SystemTime, changed: Option<SystemTime>) -> bool {
    changed.is_some_and(|at| at.checked_add(MAX_SKEW).is_none_or(|end| confirmed <= end))
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::UNIX_EPOCH};

    use super::*;
    use crate::oci::Algorithm;

    fn record(content: &str, seconds: u64) -> TagRecord {
        TagRecord {
            digest: Digest::of(Algorithm::Sha256, content.as_bytes()),
            media_type: "a/b".parse().unwrap(),
            size: 1,
            confirmed: UNIX_EPOCH + Duration::from_secs(seconds),
            urls: Arc::default(),
        }
    }

    #[test]
    fn a_record_replaces_an_older_one_at_most_hourly() {
        for (stored, new, expected) in [
            (None, ("a", 0), true),
            (Some(("a", 10_000)), ("a", 10_000), false),
            (Some(("a", 10_000)), ("a", 13_599), false),
            (Some(("a", 10_000)), ("a", 13_600), true),
            (Some(("a", 10_000)), ("a", 9_999), false),
            (Some(("a", 10_000)), ("b", 10_000), true),
            (Some(("a", 10_000)), ("b", 10_001), true),
            (Some(("a", 10_000)), ("b", 9_999), false),
        ] {
            let says = stored.map(|(content, seconds)| Says::from(&record(content, seconds)));
            assert_eq!(is_news(&record(new.0, new.1), says.as_ref()), expected, "{stored:?} {new:?}");
        }
    }

    #[test]
    fn a_clock_that_is_ahead_brings_no_old_image_back() {
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        for (confirmed, changed, expected) in [
            (1000, None, false),
            (999, Some(1000), true),
            (1000, Some(1000), true),
            (1060, Some(1000), true),
            (1061, Some(1000), false),
        ] {
            assert_eq!(is_outdated(at(confirmed), changed.map(at)), expected, "{confirmed} {changed:?}");
        }
    }

    #[test]
    fn a_thousand_pulls_in_an_hour_write_once() {
        let (begin, mut known, mut writes) = (Instant::now(), Known::default(), 0);
        for pull in 0..1000_u64 {
            let (record, now) = (record("a", pull * 3), begin + Duration::from_secs(pull * 3));
            if known.may_write(&record, now) {
                writes += 1;
                known = Known { tried: Some(now), says: Some(Says::from(&record)), ..known };
            }
        }
        assert_eq!(writes, 1);
    }

    #[test]
    fn a_write_that_failed_is_tried_again_after_a_minute() {
        let now = Instant::now();
        let failed = |says: Option<&TagRecord>| Known { tried: Some(now), says: says.map(Says::from), read: None };
        let (old, new) = (record("a", 0), record("b", 1));
        let soon = now + Duration::from_secs(59);
        assert!(!failed(None).may_write(&new, soon));
        assert!(failed(None).may_write(&new, now + Duration::from_secs(60)));
        assert!(failed(Some(&old)).may_write(&new, soon), "the old image would come back");
    }

    #[test]
    fn a_record_is_looked_for_once_a_minute() {
        let now = Instant::now();
        let read = Known { read: Some(now), ..Known::default() };
        assert!(Known::default().may_read(now));
        assert!(!read.may_read(now + Duration::from_secs(59)));
        assert!(read.may_read(now + Duration::from_secs(60)));
    }
}
