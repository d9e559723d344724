//! Which of many equal events get a line in the log: the first, and then one per interval, with the number of those
//! that were left out.
//!
//! What must hold: memory is bounded, and so is the number of lines in an interval, however many keys peers make up.

use std::{hash::Hash, num::NonZeroUsize, time::Duration};

use lru::LruCache;
use parking_lot::Mutex;
use tokio::time::Instant;

/// How often most events get a line.
pub(crate) const LINE_INTERVAL: Duration = Duration::from_secs(60);

/// Lines for events that are equal by their key.
pub(crate) struct LineLimit<K: Hash + Eq> {
    interval: Duration,
    /// In the order of their last lines.
    lines: Mutex<LruCache<K, Line>>,
}

struct Line {
    written: Instant,
    /// Events since then.
    left_out: u64,
}

impl<K: Hash + Eq> LineLimit<K> {
    /// At most one line per key and `interval`, and at most `max` lines of all keys.
    pub(crate) fn new(interval: Duration, max: usize) -> Self {
        let max = NonZeroUsize::new(max).unwrap_or(NonZeroUsize::MIN);
        Self { interval, lines: Mutex::new(LruCache::new(max)) }
    }

    /// `Some`: the event gets a line, and so many events with its key got none since the last one.
    pub(crate) fn admit(&self, key: K) -> Option<u64> {
        self.admit_at(key, Instant::now())
    }

    fn admit_at(&self, key: K, now: Instant) -> Option<u64> {
        let is_recent = |line: &Line| now.saturating_duration_since(line.written) < self.interval;
        let mut lines = self.lines.lock();
        if let Some(line) = lines.peek_mut(&key) {
            if is_recent(line) {
                line.left_out = line.left_out.saturating_add(1);
                return None;
            }
            let left_out = line.left_out;
            lines.push(key, Line { written: now, left_out: 0 });
            return Some(left_out);
        }
        let is_full = lines.len() == lines.cap().get();
        if is_full && lines.peek_lru().is_some_and(|(_, oldest)| is_recent(oldest)) {
            return None;
        }
        lines.push(key, Line { written: now, left_out: 0 });
        Some(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(max: usize) -> LineLimit<u32> {
        LineLimit::new(LINE_INTERVAL, max)
    }

    #[test]
    fn each_key_gets_one_line_per_interval_with_a_count() {
        let (limit, start) = (limit(2), Instant::now());
        for (seconds, key, expected) in [
            (0, 1, Some(0)),
            (1, 1, None),
            (2, 2, Some(0)),
            (59, 1, None),
            (60, 1, Some(2)),
            (61, 1, None),
            (62, 2, Some(0)),
            (120, 1, Some(1)),
        ] {
            assert_eq!(limit.admit_at(key, start + Duration::from_secs(seconds)), expected, "{seconds} s, {key}");
        }
    }

    #[test]
    fn made_up_keys_get_no_more_lines_than_the_table_holds() {
        let (limit, start) = (limit(3), Instant::now());
        let lines = |second: u64, keys: std::ops::Range<u32>| {
            let at = start + Duration::from_secs(second);
            keys.filter(|key| limit.admit_at(*key, at).is_some()).count()
        };
        assert_eq!(lines(0, 0..1000), 3);
        assert_eq!(lines(59, 1000..2000), 0);
        // A known key goes on to be counted.
        assert_eq!(limit.admit_at(1, start + Duration::from_secs(59)), None);
        assert_eq!(lines(60, 2000..3000), 3);
        assert_eq!(limit.lines.lock().len(), 3);
    }
}
