//! Whether a client reads its response fast enough (pure).
//!
//! What must hold: only time counts in which forebay waits for the client; what a client took in one period is no credit for
//! the next; a client that steadily takes the required rate is never too slow, in whatever lumps its kernel takes it.

use std::time::Duration;

/// How many bytes a client must take in each second in which forebay waits for it.
const MIN_RATE: u64 = 1024;
/// How many bytes a client's kernel takes from this kernel at a time: after its buffer was full it takes nothing until there is
/// room for a packet, or for a sixteenth of the buffer. On loopback, with packets of 64 KiB, Linux took 93 KiB at a time.
const MAX_LUMP: u64 = 96 * 1024;

/// What one client took in a period, and how much of the period is over.
#[derive(Debug)]
pub(super) struct MinRate {
    period: Duration,
    spent: Duration,
    /// Bytes taken: by the kernel's send queue, if its length is known.
    taken: u64,
    /// The length of that queue when the period began, and when it was last read.
    queued: Option<(u64, u64)>,
    /// How much less than required the client may have taken, since its next lump is not visible yet.
    credit: u64,
}

impl MinRate {
    /// Judges the client after each `period` of its own time.
    pub(super) fn new(period: Duration) -> MinRate {
        MinRate { period, spent: Duration::ZERO, taken: 0, queued: None, credit: 0 }
    }

    pub(super) fn took(&mut self, bytes: usize) {
        self.taken = self.taken.saturating_add(bytes as u64);
    }

    /// Notes the length of the send queue. Whether the client has taken something from it since the last call. The first call
    /// restarts the period.
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

    /// Forebay waited for the client for so long. Whether it may go on. `queued` is called when the period is over.
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

    /// How much of its own time the client has left until it is judged.
    pub(super) fn left(&self) -> Duration {
        self.period.saturating_sub(self.spent)
    }

    fn required(&self) -> u64 {
        u64::try_from(u128::from(MIN_RATE) * self.period.as_millis() / 1000).unwrap_or(u64::MAX)
    }

    /// Less than required, so that a client that takes nothing fails its first period.
    fn lump(&self) -> u64 {
        MAX_LUMP.min(self.required() / 5 * 4)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PERIOD: Duration = Duration::from_secs(120);

    fn may_go_on(steps: &[(usize, u64)]) -> bool {
        let mut rate = MinRate::new(PERIOD);
        steps.iter().all(|&(bytes, seconds)| {
            rate.took(bytes);
            rate.waited(Duration::from_secs(seconds), || None)
        })
    }

    #[test]
    fn a_client_takes_a_kibibyte_per_second_of_its_own_time() {
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
            // What a client took in an earlier period is no credit.
            (&[(1 << 30, 120), (0, 119)], true),
            (&[(1 << 30, 120), (0, 120)], false),
        ] {
            assert_eq!(may_go_on(steps), expected, "{steps:?}");
        }
    }

    /// For how many seconds a client may go on that reads `bytes` in each, up to a day. Its kernel takes a `lump` at a time; this
    /// kernel takes more bytes when two thirds of its queue are left, as Linux does.
    fn goes_on(bytes: u64, lump: u64) -> u64 {
        const QUEUE: u64 = 4 << 20;
        const DAY: u64 = 24 * 3600;
        let mut rate = MinRate::new(PERIOD);
        let (mut queued, mut read, mut since) = (QUEUE, 0, 0);
        rate.look(queued);
        for second in 1..=DAY {
            read += bytes;
            while read >= lump {
                (read, queued) = (read - lump, queued - lump);
            }
            if queued <= QUEUE / 3 * 2 {
                rate.took((QUEUE - queued) as usize);
                (queued, since) = (QUEUE, second);
            }
            if rate.look(queued) {
                since = second;
            }
            if !rate.waited(Duration::from_secs(1), || Some(queued)) || second - since >= PERIOD.as_secs() {
                return second;
            }
        }
        DAY
    }

    #[test]
    fn a_steady_client_is_not_too_slow_whatever_its_lumps() {
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
        let mut rate = MinRate::new(PERIOD);
        let none = || None;
        assert!(rate.waited(Duration::from_secs(119), none));
        for _ in 0..1000 {
            rate.took(1);
            assert!(rate.waited(Duration::ZERO, none));
        }
        assert_eq!(rate.left(), Duration::from_secs(1));
        assert!(!rate.waited(Duration::from_secs(1), none));
    }
}
