//! A rate as it is configured, and the portions in which it is used (pure).

use std::{num::NonZeroU64, time::Duration};

/// The lowest rate, in bytes per second. With a lower one, transfers would wait minutes for their turns.
const MIN_RATE: u64 = 64 * 1024;
/// How long a burst lasts at the rate, as a part of a second; a timer that fires late loses nothing within that time.
const BURSTS_PER_SECOND: u64 = 20;
/// The smallest burst, in bytes.
const MIN_BURST: u64 = 256 * 1024;
/// How long a share lasts at the rate, as a part of a second.
const SHARES_PER_SECOND: u64 = 200;
/// The smallest share, in bytes: the kernel still sends one without a copy. And the largest.
const SHARE: std::ops::RangeInclusive<u64> = 64 * 1024..=1024 * 1024;

/// A rate as it is configured, in bytes per second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BytesPerSecond(NonZeroU64);

impl BytesPerSecond {
    /// `None`: the rate is below 64 KiB per second.
    pub fn new(bytes: u64) -> Option<Self> {
        NonZeroU64::new(bytes).filter(|bytes| bytes.get() >= MIN_RATE).map(Self)
    }

    /// In bytes per second.
    pub fn get(self) -> u64 {
        self.0.get()
    }

    /// How many bytes may move at once after a pause: those of 50 ms, or 256 KiB.
    pub(super) fn burst(self) -> u64 {
        (self.get() / BURSTS_PER_SECOND).max(MIN_BURST)
    }

    /// How many bytes one transfer moves before the next one has its turn.
    pub(super) fn share(self) -> u64 {
        (self.get() / SHARES_PER_SECOND).clamp(*SHARE.start(), *SHARE.end())
    }

    /// How long so many bytes take at this rate, rounded up.
    pub(super) fn time_of(self, bytes: u64) -> Duration {
        let nanos = (u128::from(bytes) * 1_000_000_000).div_ceil(u128::from(self.get()));
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: u64 = 1024;
    const MIB: u64 = 1024 * KIB;

    #[test]
    fn shares_and_bursts_follow_the_rate() {
        for (bytes, burst, share) in [
            (64 * KIB, 256 * KIB, 64 * KIB),
            (5 * MIB, 256 * KIB, 64 * KIB),
            (50_000_000, 2_500_000, 250_000),
            (500_000_000, 25_000_000, MIB),
            (1 << 60, (1 << 60) / 20, MIB),
        ] {
            let rate = BytesPerSecond::new(bytes).unwrap();
            assert_eq!((rate.burst(), rate.share()), (burst, share), "{bytes}");
            assert!(rate.burst() <= (bytes / 10).max(256 * KIB) && rate.share() <= rate.burst());
        }
        for bytes in [0, 1, MIN_RATE - 1] {
            assert_eq!(BytesPerSecond::new(bytes), None);
        }
    }
}
