//! Numbers and times as people read them.

use std::time::{Duration, SystemTime};

use forebay::units::duration;
pub(super) use forebay::units::{bytes, seconds};
use serde_json::Value;

/// How long ago a time of RFC 3339 was, in its largest whole unit; `?` if it is none.
pub(super) fn age(time: &Value, now: SystemTime) -> String {
    let time = time.as_str().and_then(|text| humantime::parse_rfc3339(text).ok());
    time.map_or_else(|| "?".to_owned(), |time| duration(now.duration_since(time).unwrap_or_default()))
}

/// So many seconds in their largest whole unit.
pub(super) fn whole_seconds(seconds: u64) -> String {
    duration(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_have_their_largest_whole_unit() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        for (time, expected) in [
            ("2027-01-15T08:00:00Z", "0 s"),
            ("2027-01-15T08:00:09Z", "0 s"),
            ("2027-01-15T07:59:01Z", "59 s"),
            ("2027-01-15T07:00:01Z", "59 min"),
            ("2027-01-14T08:00:01Z", "23 h"),
            ("2026-12-23T08:00:00Z", "23 d"),
            ("yesterday", "?"),
        ] {
            assert_eq!(age(&time.into(), now), expected, "{time}");
        }
    }
}
