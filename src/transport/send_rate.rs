//! Whether a client takes what is ready for it fast enough (pure).
//!
//! What must hold: only time counts in which it is the client's turn; a client that took enough in one period begins the next
//! with nothing to its credit; one that steadily takes as much as it must is never too slow, in whatever lumps that shows.

use std::time::Duration;

/// What a client must take for each second that is its own, in bytes.
const MIN_RATE: u64 = 1024;
/// How much a client's kernel takes from ours at a time, in bytes: one whose buffer was full takes nothing before there is
/// room for a packet, or a sixteenth of the buffer. On loopback, where packets have 64 KiB, Linux took 93 KiB at a time.
const MAX_LUMP: u64 = 96 * 1024;

/// What one client took in a period, and how much of the period is over.
#[derive(Debug)]
pub(super) struct Pace {
    period: Duration,
    spent: Duration,
    /// Bytes that were taken from us: by a kernel's queue, where there is one.
    taken: u64,
    /// What was in that queue when the period began, and when it was last looked at.
    queued: Option<(u64, u64)>,
    /// How much less the client may have taken than it had to, since the next lump is not seen yet.
    credit: u64,
}

impl Pace {
    /// Judges after each `period` of the client's own time.
    pub(super) fn new(period: Duration) -> Pace {
        Pace { period, spent: Duration::ZERO, taken: 0, queued: None, credit: 0 }
    }

    pub(super) fn took(&mut self, bytes: usize) {
        self.taken = self.taken.saturating_add(bytes as u64);
    }

    /// So much is queued for the client. Says whether it took something of that since this was said last. The first time, the
    /// period begins anew.
    pub(super) fn look(&mut self, queued: u64) -> bool {
        match &mut self.queued {
            Some((_, last)) => queued < std::mem::replace(last, queued),
            None => {
                self.queued = Some((queued, queued));
                (self.spent, self.taken, self.credit) = (Duration::ZERO, 0, self.lump());
                false
            }
        }
    }

    /// It was the client's turn for so long. Says whether it may go on. `queued` is asked when the period is over.
    pub(super) fn waited(&mut self, time: Duration, queued: impl FnOnce() -> Option<u64>) -> bool {
        self.spent = self.spent.saturating_add(time);
        if self.spent < self.period {
            return true;
        }
        let taken = match (self.queued, self.queued.and_then(|_| queued())) {
            (Some((before, _)), Some(now)) => {
                self.queued = Some((now, now));
                self.taken.saturating_add(before).saturating_sub(now)
            }
            (Some(_), None) | (None, _) => self.taken,
        };
        let left = taken.saturating_add(self.credit).checked_sub(self.required());
        (self.spent, self.taken) = (Duration::ZERO, 0);
        self.credit = left.unwrap_or_default().min(if self.queued.is_some() { self.lump() } else { 0 });
        left.is_some()
    }

    /// How much of its own time the client has until it is judged.
    pub(super) fn left(&self) -> Duration {
        self.period.saturating_sub(self.spent)
    }

    fn required(&self) -> u64 {
        u64::try_from(u128::from(MIN_RATE) * self.period.as_millis() / 1000).unwrap_or(u64::MAX)
    }

    /// Less than what is required, so that one that takes nothing is not past its first period.
    fn lump(&self) -> u64 {
        MAX_LUMP.min(self.required() / 5 * 4)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PERIOD: Duration = Duration::from_secs(120);

    fn may_go_on(steps: &[(usize, u64)]) -> bool {
        let mut pace = Pace::new(PERIOD);
        steps.iter().all(|&(bytes, seconds)| {
            pace.took(bytes);
            pace.waited(Duration::from_secs(seconds), || None)
        })
    }

    #[test]
    fn a_client_takes_a_kibibyte_for_each_second_that_is_its_own() {
        const ENOUGH: usize = 120 * 1024;
        for (steps, expected) in [
            (&[(0, 119)][..], true),
            (&[(0, 120)], false),
            (&[(ENOUGH, 120)], true),
            (&[(ENOUGH - 1, 120)], false),
            // A byte now and then is no progress.
            (&[(1, 100), (1, 100)], false),
            (&[(1024, 1); 240], true),
            (&[(1023, 1); 240], false),
            // What a client took in an earlier period is of no use to it.
            (&[(1 << 30, 120), (0, 119)], true),
            (&[(1 << 30, 120), (0, 120)], false),
        ] {
            assert_eq!(may_go_on(steps), expected, "{steps:?}");
        }
    }

    /// How many seconds a client that reads so many bytes in each goes on, up to a day; `lump`: what its kernel takes at a
    /// time of what ours has, which takes the next when two thirds of its queue are left, as Linux does.
    fn goes_on(rate: u64, lump: u64) -> u64 {
        const QUEUE: u64 = 4 << 20;
        const DAY: u64 = 24 * 3600;
        let mut pace = Pace::new(PERIOD);
        let (mut queued, mut read, mut since) = (QUEUE, 0, 0);
        pace.look(queued);
        for second in 1..=DAY {
            read += rate;
            while read >= lump {
                (read, queued) = (read - lump, queued - lump);
            }
            if queued <= QUEUE / 3 * 2 {
                pace.took((QUEUE - queued) as usize);
                (queued, since) = (QUEUE, second);
            }
            if pace.look(queued) {
                since = second;
            }
            if !pace.waited(Duration::from_secs(1), || Some(queued)) || second - since >= PERIOD.as_secs() {
                return second;
            }
        }
        DAY
    }

    #[test]
    fn a_steady_client_is_not_too_slow_in_whatever_lumps_it_takes() {
        for lump in [1, 1460, 26 * 1024, 64 * 1024, 95_232, MAX_LUMP] {
            for rate in [1024, 1025, 1500, 2048, 4096, 7 * 1024, 100_000] {
                assert_eq!(goes_on(rate, lump), 24 * 3600, "{rate} B/s in lumps of {lump}");
            }
            assert_eq!(goes_on(0, lump), 120, "{lump}");
            for (rate, most) in [(10, 120), (100, 240), (500, 360), (900, 960)] {
                assert!(goes_on(rate, lump) <= most, "{rate} B/s in lumps of {lump}: {}", goes_on(rate, lump));
            }
        }
    }

    #[test]
    fn time_that_is_not_the_clients_does_not_count() {
        let mut pace = Pace::new(PERIOD);
        let none = || None;
        assert!(pace.waited(Duration::from_secs(119), none));
        for _ in 0..1000 {
            pace.took(1);
            assert!(pace.waited(Duration::ZERO, none));
        }
        assert_eq!(pace.left(), Duration::from_secs(1));
        assert!(!pace.waited(Duration::from_secs(1), none));
    }
}
