//! Numbers and times as people read them.

use std::time::{Duration, SystemTime};

use serde_json::Value;

/// Bytes in a binary unit, such as `71.2 GiB`.
#[expect(clippy::cast_precision_loss, reason = "it is rounded")]
pub(super) fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    // 1023.95 would be rounded to 1024.0.
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// How long ago a time of RFC 3339 was, in its largest whole unit; `?` if it is none.
pub(super) fn age(time: &Value, now: SystemTime) -> String {
    let time = time.as_str().and_then(|text| humantime::parse_rfc3339(text).ok());
    time.map_or_else(|| "?".to_owned(), |time| duration(now.duration_since(time).unwrap_or_default()))
}

fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        3600..86400 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86400),
    }
}

/// So many seconds in their largest whole unit.
pub(super) fn whole_seconds(seconds: u64) -> String {
    duration(Duration::from_secs(seconds))
}

/// A time in milliseconds below a second.
pub(super) fn seconds(seconds: f64) -> String {
    if seconds < 1.0 { format!("{:.0} ms", seconds * 1000.0) } else { format!("{seconds:.1} s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_their_largest_unit() {
        for (number, expected) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1_048_575, "1.0 MiB"),
            (1_048_576, "1.0 MiB"),
            (76_450_000_000, "71.2 GiB"),
            (u64::MAX, "16384.0 PiB"),
        ] {
            assert_eq!(bytes(number), expected);
        }
        for (number, expected) in [(0.0, "0 ms"), (0.0314, "31 ms"), (1.0, "1.0 s"), (12.34, "12.3 s")] {
            assert_eq!(seconds(number), expected);
        }
    }

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
