//! Whether a client takes what is ready for it fast enough (pure).
//!
//! What must hold: only time counts in which it is the client's turn; a client that took enough in one period begins the next
//! with nothing to its credit.

use std::time::Duration;

/// What a client must take for each second that is its own, in bytes.
const MIN_RATE: u64 = 1024;

/// What one client took in a period, and how much of the period is over.
#[derive(Debug)]
pub(super) struct Pace {
    period: Duration,
    spent: Duration,
    taken: u64,
}

impl Pace {
    /// Judges after each `period` of the client's own time.
    pub(super) fn new(period: Duration) -> Pace {
        Pace { period, spent: Duration::ZERO, taken: 0 }
    }

    pub(super) fn took(&mut self, bytes: usize) {
        self.taken = self.taken.saturating_add(bytes as u64);
    }

    /// It was the client's turn for so long. Says whether it may go on.
    pub(super) fn waited(&mut self, time: Duration) -> bool {
        self.spent = self.spent.saturating_add(time);
        if self.spent < self.period {
            return true;
        }
        let is_fast_enough = u128::from(self.taken) * 1000 >= u128::from(MIN_RATE) * self.period.as_millis();
        (self.spent, self.taken) = (Duration::ZERO, 0);
        is_fast_enough
    }

    /// How much of its own time the client has until it is judged.
    pub(super) fn left(&self) -> Duration {
        self.period.saturating_sub(self.spent)
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
            pace.waited(Duration::from_secs(seconds))
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

    #[test]
    fn time_that_is_not_the_clients_does_not_count() {
        let mut pace = Pace::new(PERIOD);
        assert!(pace.waited(Duration::from_secs(119)));
        for _ in 0..1000 {
            pace.took(1);
            assert!(pace.waited(Duration::ZERO));
        }
        assert_eq!(pace.left(), Duration::from_secs(1));
        assert!(!pace.waited(Duration::from_secs(1)));
    }
}
