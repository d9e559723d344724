//! How far a tag's record can be believed (pure).

use std::{
    sync::LazyLock,
    time::{Duration, Instant, SystemTime},
};

/// When the first clock was looked at, by both.
static START: LazyLock<(SystemTime, Instant)> = LazyLock::new(|| (SystemTime::now(), Instant::now()));

/// Before forebay was written: 2025, in seconds since 1970. A clock that shows it was not set yet, as on a machine without one of
/// its own at boot.
const MIN_TIME: Duration = Duration::from_secs(1_735_689_600);

/// What may be done with what is known of a tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Freshness {
    /// Served without asking.
    Fresh,
    /// The upstream is asked first; served when it cannot answer.
    Stale,
    /// As good as unknown.
    Missing,
}

/// Judges a record that was `confirmed` then.
///
/// A clock that was set back makes the record stale, not fresh for ever.
pub(crate) fn judge(confirmed: SystemTime, now: SystemTime, tag_ttl: Duration, stale_if_error: Duration) -> Freshness {
    match now.duration_since(confirmed) {
        Ok(age) if age < tag_ttl => Freshness::Fresh,
        Ok(age) if age < tag_ttl.saturating_add(stale_if_error) => Freshness::Stale,
        Ok(_) => Freshness::Missing,
        Err(ahead) if ahead.duration() < Duration::from_secs(2) && !tag_ttl.is_zero() => Freshness::Fresh,
        Err(_) => Freshness::Stale,
    }
}

/// Whether a clock that shows this time was set.
pub(crate) fn is_set(now: SystemTime) -> bool {
    now.duration_since(SystemTime::UNIX_EPOCH).is_ok_and(|since| since >= MIN_TIME)
}

/// The time as it would be if the clock had not been set since forebay started.
pub(crate) fn steady_now() -> SystemTime {
    let (at, started) = *START;
    at.checked_add(started.elapsed()).unwrap_or(at)
}

/// The same where a clock that jumps ahead must not take away all there is: a record is too old for anything only when
/// it is so by the `steady` time, too.
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
    fn by_age() {
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
    fn a_zero_ttl_asks_every_time() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        assert_eq!(judge(now, now, Duration::ZERO, Duration::from_secs(1)), Freshness::Stale);
    }

    #[test]
    fn a_clock_set_back_asks() {
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
    fn a_clock_that_jumped_takes_nothing_away_and_trusts_nothing() {
        let second = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let (ttl, stale) = (Duration::from_secs(60), Duration::from_secs(600));
        for (confirmed, now, steady, expected) in [
            // Ahead by a year, and back again.
            (1_000, 31_000_000, 1_010, Freshness::Stale),
            (1_000, 1_020, 1_020, Freshness::Fresh),
            // Confirmed while it was ahead.
            (31_000_000, 1_030, 1_030, Freshness::Stale),
            // The start was before the clock was right, and what is on disk is from the last time.
            (31_000_000, 31_000_700, 10, Freshness::Stale),
            // Old is old.
            (1_000, 31_000_000, 1_700, Freshness::Missing),
        ] {
            let judged = judge_steadily(second(confirmed), second(now), second(steady), ttl, stale);
            assert_eq!(judged, expected, "{confirmed} at {now}, {steady}");
        }
    }

    #[test]
    fn the_steady_time_is_that_of_the_clock_while_nobody_sets_it() {
        let before = steady_now();
        assert!(before <= steady_now());
    }
}
