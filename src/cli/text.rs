//! Numbers and times as people read them.

use std::time::{Duration, SystemTime};

use forebay::units::duration;
pub(super) use forebay::units::{bytes, counted, seconds};
use serde_json::Value;

/// As long are `sha256:` and 12 digits.
const SHORT_DIGEST: usize = 19;

/// What is told of a text that is no duration.
const NO_DURATION: &str = "write a duration such as 5s, 12h or 30d";

/// A number of bytes in a document; empty if there is none.
pub(super) fn size(number: &Value) -> String {
    number.as_u64().map(bytes).unwrap_or_default()
}

/// A duration of the command line.
///
/// # Errors
/// It is none.
pub(super) fn duration_argument(text: &str) -> Result<Duration, &'static str> {
    humantime::parse_duration(text).map_err(|_| NO_DURATION)
}

/// A duration of the command line that is more than none.
///
/// # Errors
/// It is no duration, or no time at all.
pub(super) fn time_span(text: &str) -> Result<Duration, &'static str> {
    duration_argument(text).and_then(|duration| if duration.is_zero() { Err(NO_DURATION) } else { Ok(duration) })
}

/// A duration of the command line, as the control API takes it.
pub(super) fn duration_of_api(duration: Duration) -> String {
    humantime::format_duration(duration).to_string()
}

/// As much of a digest as tells contents apart: the algorithm, and 12 digits.
pub(super) fn short_digest(digest: &str) -> &str {
    digest.get(..SHORT_DIGEST).unwrap_or(digest)
}

/// How long ago a time of RFC 3339 was, in its largest whole unit; `?` if it is none, and empty without a time.
pub(super) fn age(time: &Value, now: SystemTime) -> String {
    if time.is_null() {
        return String::new();
    }
    let time = time.as_str().and_then(|text| humantime::parse_rfc3339(text).ok());
    time.map_or_else(|| "?".to_owned(), |time| duration(now.duration_since(time).unwrap_or_default()))
}

/// How far off a time of RFC 3339 is, in its largest whole unit; empty without a time, or if it is none.
pub(super) fn wait(time: &Value, now: SystemTime) -> String {
    let time = time.as_str().and_then(|text| humantime::parse_rfc3339(text).ok());
    time.map_or_else(String::new, |time| duration(time.duration_since(now).unwrap_or_default()))
}

/// So many seconds in their largest whole unit.
pub(super) fn whole_seconds(seconds: u64) -> String {
    duration(Duration::from_secs(seconds))
}

/// The time of the day of a time of RFC 3339, behind its month and day unless that is today; the text itself if it is none.
pub(super) fn short_time(time: &Value, now: SystemTime) -> String {
    let text = time.as_str().unwrap_or_default();
    let is_time = humantime::parse_rfc3339(text).is_ok();
    let (Some(date), Some(month_and_day), Some(of_day)) = (text.get(..10), text.get(5..10), text.get(11..19)) else {
        return text.to_owned();
    };
    let today = humantime::format_rfc3339_seconds(now).to_string();
    match is_time {
        true if today.starts_with(date) => of_day.to_owned(),
        true => format!("{month_and_day} {of_day}"),
        false => text.to_owned(),
    }
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
        assert_eq!(age(&Value::Null, now), "");
        let far = ["2027-01-15T13:00:01Z", "2027-01-15T07:00:00Z", "soon"].map(|time| wait(&time.into(), now));
        assert_eq!(far, ["5 h", "0 s", ""]);
    }

    #[test]
    fn a_duration_is_a_number_with_a_unit() {
        for (text, seconds) in
            [("30d", Some(2_592_000)), ("1h 30m", Some(5400)), ("0s", Some(0)), ("30", None), ("banana", None)]
        {
            let duration = seconds.map(Duration::from_secs);
            assert_eq!(duration_argument(text).ok(), duration, "{text}");
            assert_eq!(time_span(text).ok(), duration.filter(|duration| !duration.is_zero()), "{text}");
            let again = duration.map(|duration| duration_argument(&duration_of_api(duration)).unwrap());
            assert_eq!(again, duration, "{text}");
        }
    }

    #[test]
    fn a_short_time_has_its_date_unless_that_is_today() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        for (time, expected) in [
            ("2027-01-15T07:59:01.123Z", "07:59:01"),
            ("2027-01-15T00:00:00Z", "00:00:00"),
            ("2027-01-14T23:59:59.999Z", "01-14 23:59:59"),
            ("2026-01-15T08:00:00Z", "01-15 08:00:00"),
            ("yesterday at noon, or so", "yesterday at noon, or so"),
            ("", ""),
        ] {
            assert_eq!(short_time(&time.into(), now), expected, "{time}");
        }
    }
}
