//! A token bucket for bytes (pure): how long a transfer has to wait.
//!
//! The bucket is kept as the time at which it is full again, as the generic cell rate algorithm does it (ITU-T I.371,
//! annex A): a level would have to be refilled, and would be rounded each time.
//!
//! What must hold: between any two moments no more is spent than a burst and what the rate gives in that time, if each
//! transfer first waits as [`Bucket::wait`] says.

use std::time::Duration;

use tokio::time::Instant;

use super::bytes_per_second::BytesPerSecond;

/// A bucket of one [burst](BytesPerSecond::burst), which the rate fills.
#[derive(Debug)]
pub(super) struct Bucket {
    /// When it is full again, if nothing more is spent; `None`: it has been full since the start.
    full_at: Option<Instant>,
}

impl Bucket {
    pub(super) fn full() -> Self {
        Self { full_at: None }
    }

    pub(super) fn is_full(&self, now: Instant) -> bool {
        self.until_full(now).is_zero()
    }

    /// How long until the bucket has so many bytes; for more than a burst, until it is full.
    pub(super) fn wait(&self, rate: BytesPerSecond, now: Instant, bytes: u64) -> Duration {
        self.until_full(now).saturating_sub(rate.time_of(rate.burst().saturating_sub(bytes)))
    }

    /// Takes bytes out of the bucket.
    pub(super) fn spend(&mut self, rate: BytesPerSecond, now: Instant, bytes: u64) {
        self.fill_in(now, self.until_full(now).saturating_add(rate.time_of(bytes)));
    }

    /// Takes bytes out of the bucket that have moved already, at most as many as one burst more than it has.
    pub(super) fn note(&mut self, rate: BytesPerSecond, now: Instant, bytes: u64) {
        let until_full = self.until_full(now);
        let most = rate.time_of(rate.burst().saturating_mul(2)).max(until_full);
        self.fill_in(now, until_full.saturating_add(rate.time_of(bytes)).min(most));
    }

    /// Another rate fills the bucket from now on. What it lacks it still lacks, up to a burst of the new rate.
    pub(super) fn change(&mut self, now: Instant, from: Option<BytesPerSecond>, to: Option<BytesPerSecond>) {
        let (Some(from), Some(to)) = (from, to) else { return self.full_at = None };
        let lacking = self.until_full(now).as_nanos().saturating_mul(u128::from(from.get())) / 1_000_000_000;
        let lacking = u64::try_from(lacking).unwrap_or(u64::MAX).min(to.burst());
        self.fill_in(now, to.time_of(lacking));
    }

    fn until_full(&self, now: Instant) -> Duration {
        self.full_at.map_or(Duration::ZERO, |full_at| full_at.saturating_duration_since(now))
    }

    fn fill_in(&mut self, now: Instant, time: Duration) {
        self.full_at = now.checked_add(time).or(self.full_at);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KIB: u64 = 1024;

    fn rate(bytes: u64) -> BytesPerSecond {
        BytesPerSecond::new(bytes).unwrap()
    }

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn a_transfer_waits_for_what_the_bucket_lacks() {
        // As (milliseconds since the step before, bytes, wait in milliseconds). A burst has 256 KiB.
        let rate = rate(1024 * KIB);
        for steps in [
            &[(0, 256 * KIB, 0_u64), (0, 64 * KIB, 62), (0, 0, 0)][..],
            &[(0, 256 * KIB, 0), (125, 128 * KIB, 0), (0, 128 * KIB, 125)],
            // A pause earns one burst and no more.
            &[(0, 256 * KIB, 0), (3_600_000, 256 * KIB, 0), (0, 256 * KIB, 250)],
            &[(0, 64 * KIB, 0), (0, 64 * KIB, 0), (0, 64 * KIB, 0), (0, 64 * KIB, 0), (0, KIB, 0)],
            // More than a burst waits for a full bucket, and is owed.
            &[(0, 1024 * KIB, 0), (0, 64 * KIB, 812)],
        ] {
            let (mut bucket, mut now) = (Bucket::full(), Instant::now());
            for &(pause, bytes, expected) in steps {
                now += millis(pause);
                let wait = bucket.wait(rate, now, bytes);
                assert_eq!(wait.as_millis(), u128::from(expected), "{steps:?}: {bytes}");
                now += wait;
                bucket.spend(rate, now, bytes);
            }
        }
    }

    #[test]
    fn what_is_noted_delays_others_by_one_burst_at_most() {
        let (rate, now) = (rate(1024 * KIB), Instant::now());
        for (noted, expected) in [(0, 0), (256 * KIB, 62), (512 * KIB, 312), (1 << 40, 312), (u64::MAX, 312)] {
            let mut bucket = Bucket::full();
            bucket.note(rate, now, noted);
            assert_eq!(bucket.wait(rate, now, 64 * KIB).as_millis(), expected, "{noted}");
        }
        // It lowers no debt.
        let mut bucket = Bucket::full();
        bucket.spend(rate, now, 4096 * KIB);
        bucket.note(rate, now, 1);
        assert_eq!(bucket.wait(rate, now, 256 * KIB), millis(4000));
    }

    #[test]
    fn a_changed_rate_fills_what_is_lacking() {
        let (slow, fast, now) = (rate(64 * KIB), rate(6400 * KIB), Instant::now());
        for (spent, from, to, expected) in [
            (256 * KIB, Some(slow), Some(slow), 4000),
            (256 * KIB, Some(slow), Some(fast), 40),
            (320 * KIB, Some(fast), Some(slow), 4000),
            (256 * KIB, Some(slow), None, 0),
            (256 * KIB, None, Some(slow), 0),
        ] {
            let mut bucket = Bucket::full();
            bucket.spend(from.unwrap_or(slow), now, spent);
            bucket.change(now, from, to);
            assert_eq!(bucket.until_full(now).as_millis(), expected, "{spent} {from:?} {to:?}");
        }
    }

    proptest! {
        #[test]
        fn no_interval_has_more_than_a_burst_and_the_rate(
            bytes_per_second in 64 * KIB..4 << 30,
            steps in prop::collection::vec((0_u64..200_000, 0_u64..=100), 1..60),
        ) {
            let rate = rate(bytes_per_second);
            let (mut bucket, mut now, mut spent) = (Bucket::full(), Instant::now(), Vec::new());
            for (pause, percent) in steps {
                now += Duration::from_micros(pause);
                let bytes = rate.share() * percent / 100;
                now += bucket.wait(rate, now, bytes);
                bucket.spend(rate, now, bytes);
                spent.push((now, bytes));
            }
            for first in 0..spent.len() {
                for last in first..spent.len() {
                    let sum: u64 = spent[first..=last].iter().map(|(_, bytes)| bytes).sum();
                    let time = (spent[last].0 - spent[first].0).as_nanos();
                    let given = time * u128::from(bytes_per_second) / 1_000_000_000;
                    // What the rate gives in the few nanoseconds by which times are rounded.
                    let rounded = u128::from(bytes_per_second / 100_000_000 + 1);
                    prop_assert!(u128::from(sum) <= u128::from(rate.burst()) + given + rounded);
                }
            }
        }

        #[test]
        fn a_transfer_that_always_has_bytes_gets_the_rate(bytes_per_second in 64 * KIB..4 << 30) {
            let rate = rate(bytes_per_second);
            let (mut bucket, begun) = (Bucket::full(), Instant::now());
            let mut now = begun;
            let shares = 1000;
            for _ in 0..shares {
                now += bucket.wait(rate, now, rate.share());
                bucket.spend(rate, now, rate.share());
            }
            let most = rate.time_of(shares * rate.share()) + Duration::from_micros(shares);
            prop_assert!(now - begun <= most, "{:?} {most:?}", now - begun);
        }
    }
}
