//! Whether a cached value may be served (pure).

use std::{
    sync::LazyLock,
    time::{Duration, Instant, SystemTime},
};

/// The first reading of both clocks.
static START: LazyLock<(SystemTime, Instant)> = LazyLock::new(|| (SystemTime::now(), Instant::now()));

/// The beginning of 2025, when forebay did not exist, in seconds since 1970. A clock that shows an earlier time has not
/// been set yet, as on a machine without a clock of its own at boot.
const MIN_TIME: Duration = Duration::from_secs(1_735_689_600);

/// Whether a cached value may be served, in ascending order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Freshness {
    /// Never.
    Missing,
    /// Only if the upstream fails.
    Stale,
    /// Without asking the upstream.
    Fresh,
}

/// Judges a value by the time when the upstream `confirmed` it. A clock that was set back makes the value stale, not
/// fresh forever.
pub(crate) fn judge(confirmed: SystemTime, now: SystemTime, tag_ttl: Duration, stale_if_error: Duration) -> Freshness {
    match now.duration_since(confirmed) {
        Ok(age) if age < tag_ttl => Freshness::Fresh,
        Ok(age) if age < tag_ttl.saturating_add(stale_if_error) => Freshness::Stale,
        Ok(_) => Freshness::Missing,
        Err(ahead) if ahead.duration() < Duration::from_secs(2) && !tag_ttl.is_zero() => Freshness::Fresh,
        Err(_) => Freshness::Stale,
    }
}

/// Whether a clock that shows this time has been set.
pub(crate) fn is_set(now: SystemTime) -> bool {
    now.duration_since(SystemTime::UNIX_EPOCH).is_ok_and(|since| since >= MIN_TIME)
}

/// The time by a clock that is never set: forebay's start plus the time since.
pub(crate) fn steady_now() -> SystemTime {
    let (at, started) = *START;
    at.checked_add(started.elapsed()).unwrap_or(at)
}

/// The same for values that must survive a clock that jumps ahead: a value is too old to serve only if it is also too
/// old by the `steady` time.
pub(crate) fn judge_steadily(
    confirmed: SystemTime,
    now: SystemTime,
    steady: SystemTime,
    tag_ttl: Duration,
    stale_if_error: Duration,
) -> Freshness {
    match judge(confirmed, now, tag_ttl, stale_if_error) {
        Freshness::Missing if judge(confirmed, steady, tag_ttl, stale_if_error) != Freshness::Missing => {
            Freshness::Stale
        }
        judged => judged,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn freshness_depends_on_age() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let (ttl, stale) = (Duration::from_secs(60), Duration::from_secs(600));
        for (age, expected) in [
            (0, Freshness::Fresh),
            (59, Freshness::Fresh),
            (60, Freshness::Stale),
            (659, Freshness::Stale),
            (660, Freshness::Missing),
        ] {
            assert_eq!(judge(now - Duration::from_secs(age), now, ttl, stale), expected, "{age} s old");
        }
    }

    #[test]
    fn a_zero_ttl_is_never_fresh() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        assert_eq!(judge(now, now, Duration::ZERO, Duration::from_secs(1)), Freshness::Stale);
    }

    #[test]
    fn a_clock_set_back_makes_values_stale() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let (ttl, stale) = (Duration::from_secs(60), Duration::from_secs(600));
        for (ahead, ttl, expected) in [
            (900, ttl, Freshness::Fresh),
            (1999, ttl, Freshness::Fresh),
            (2000, ttl, Freshness::Stale),
            (3000, ttl, Freshness::Stale),
            (3_600_000, ttl, Freshness::Stale),
            (900, Duration::ZERO, Freshness::Stale),
        ] {
            assert_eq!(judge(now + Duration::from_millis(ahead), now, ttl, stale), expected, "{ahead} ms, {ttl:?}");
        }
    }

    #[test]
    fn a_clock_that_jumps_makes_values_stale() {
        let second = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let (ttl, stale) = (Duration::from_secs(60), Duration::from_secs(600));
        for (confirmed, now, steady, expected) in [
            // The clock jumps ahead by a year, and back.
            (1_000, 31_000_000, 1_010, Freshness::Stale),
            (1_000, 1_020, 1_020, Freshness::Fresh),
            // Confirmed while the clock was ahead.
            (31_000_000, 1_030, 1_030, Freshness::Stale),
            // forebay started before the clock was set; the record on disk is of an earlier run.
            (31_000_000, 31_000_700, 10, Freshness::Stale),
            // Too old by both clocks.
            (1_000, 31_000_000, 1_700, Freshness::Missing),
        ] {
            let judged = judge_steadily(second(confirmed), second(now), second(steady), ttl, stale);
            assert_eq!(judged, expected, "{confirmed} at {now}, {steady}");
        }
    }

    #[test]
    fn steady_time_does_not_go_back() {
        let before = steady_now();
        assert!(before <= steady_now());
    }
}
