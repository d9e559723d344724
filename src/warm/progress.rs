//! How far a run is.

use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;

/// How often a run tells how far it is.
pub(super) const PROGRESS_INTERVAL: Duration = Duration::from_millis(500);
/// How many images that are being fetched are told.
pub(super) const MAX_CURRENT: usize = 8;
/// Over how long a rate is taken.
const RATE_TIME: Duration = Duration::from_secs(5);

/// How far a run is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Progress {
    pub phase: Phase,
    /// All images of the run, those that are done, and those of them that failed.
    pub images: usize,
    pub done: usize,
    pub failed: usize,
    /// In the first phase, how many images were looked at.
    pub resolved: usize,
    /// What has come of the blobs that were missing, and all of it.
    pub bytes: u64,
    pub total: u64,
    /// Bytes per second.
    pub rate: u64,
    /// `None`: nothing comes.
    pub left: Option<Duration>,
    pub pulls: u32,
    pub current: Vec<CurrentImage>,
}

impl Progress {
    /// Of a run whose images are still looked at.
    pub(super) fn resolving(images: usize, done: usize, failed: usize) -> Self {
        let (resolved, bytes, total, rate, left, pulls, current) = Default::default();
        Self { phase: Phase::Resolving, images, done, failed, resolved, bytes, total, rate, left, pulls, current }
    }
}

/// What a run does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// It finds out what the images consist of.
    Resolving,
    /// It downloads blobs.
    Fetching,
}

impl Phase {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Resolving => "resolving",
            Self::Fetching => "fetching",
        }
    }
}

/// An image of which a blob is being downloaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CurrentImage {
    pub image: String,
    /// What has come of its blobs that were missing, and all of it.
    pub bytes: u64,
    pub total: u64,
}

/// The rate of the last seconds.
#[derive(Debug, Default)]
pub(super) struct Rate(VecDeque<(Instant, u64)>);

impl Rate {
    /// Bytes per second, with so many bytes now.
    pub(super) fn note(&mut self, now: Instant, bytes: u64) -> u64 {
        while self.0.len() > 1 && self.0.front().is_some_and(|(then, _)| now.duration_since(*then) > RATE_TIME) {
            self.0.pop_front();
        }
        self.0.push_back((now, bytes));
        let Some((then, before)) = self.0.front() else { return 0 };
        let millis = u64::try_from(now.duration_since(*then).as_millis()).unwrap_or(u64::MAX);
        bytes.saturating_sub(*before).saturating_mul(1000).checked_div(millis).unwrap_or_default()
    }
}

/// How long the rest takes at this rate.
pub(super) fn time_left(bytes: u64, total: u64, rate: u64) -> Option<Duration> {
    total.saturating_sub(bytes).checked_div(rate).map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_that_of_the_last_seconds() {
        let (mut rate, begun) = (Rate::default(), Instant::now());
        let at = |millis| begun + Duration::from_millis(millis);
        assert_eq!(rate.note(at(0), 0), 0);
        assert_eq!(rate.note(at(500), 500), 1000);
        assert_eq!(rate.note(at(1000), 500), 500);
        for second in 2..60 {
            rate.note(at(second * 1000), 500);
        }
        assert_eq!(rate.note(at(60_000), 500), 0);
        assert!(rate.0.len() < 10);
        // A blob that failed takes its bytes with it.
        assert_eq!(rate.note(at(60_500), 0), 0);
    }

    #[test]
    fn the_time_left_needs_a_rate() {
        assert_eq!(time_left(50, 100, 0), None);
        assert_eq!(time_left(50, 100, 25), Some(Duration::from_secs(2)));
        assert_eq!(time_left(150, 100, 25), Some(Duration::ZERO));
    }
}
