//! How far a tag's record can be believed (pure).

use std::time::{Duration, SystemTime};

/// What may be done with what is known of a tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
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
pub fn judge(confirmed: SystemTime, now: SystemTime, tag_ttl: Duration, stale_if_error: Duration) -> Freshness {
    match now.duration_since(confirmed) {
        Ok(age) if age < tag_ttl => Freshness::Fresh,
        Ok(age) if age < tag_ttl.saturating_add(stale_if_error) => Freshness::Stale,
        Ok(_) => Freshness::Missing,
        Err(ahead) if ahead.duration() < Duration::from_secs(2) && !tag_ttl.is_zero() => Freshness::Fresh,
        Err(_) => Freshness::Stale,
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
        assert_eq!(judge(now + Duration::from_secs(3600), now, ttl, stale), Freshness::Stale);
        assert_eq!(judge(now + Duration::from_millis(900), now, ttl, stale), Freshness::Fresh);
    }
}
