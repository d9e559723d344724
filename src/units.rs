//! Numbers and times as people read them (pure).

use std::time::Duration;

/// Bytes in a binary unit, such as `71.2 GiB`.
#[expect(clippy::cast_precision_loss, reason = "it is rounded")]
pub fn bytes(bytes: u64) -> String {
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

/// A duration in its largest whole unit.
pub fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        3600..86400 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86400),
    }
}

/// A time in milliseconds below a second.
pub fn seconds(seconds: f64) -> String {
    if seconds < 1.0 { format!("{:.0} ms", seconds * 1000.0) } else { format!("{seconds:.1} s") }
}

/// A part of a whole in percent; `None`: there is no whole.
pub fn percent(part: u64, whole: u64) -> Option<String> {
    (whole > 0).then(|| {
        let tenths = (u128::from(part) * 1000 + u128::from(whole) / 2) / u128::from(whole);
        format!("{}.{} %", tenths / 10, tenths % 10)
    })
}

/// So many of a noun whose plural has an `s` more.
pub fn counted(count: u64, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
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
        for (number, expected) in [(59, "59 s"), (60, "1 min"), (3599, "59 min"), (86399, "23 h"), (86400, "1 d")] {
            assert_eq!(duration(Duration::from_secs(number)), expected);
        }
    }

    #[test]
    fn a_part_of_nothing_is_no_percentage() {
        for (part, whole, expected) in [
            (0, 0, None),
            (0, 7, Some("0.0 %")),
            (2, 3, Some("66.7 %")),
            (7, 7, Some("100.0 %")),
            (u64::MAX, u64::MAX, Some("100.0 %")),
        ] {
            assert_eq!(percent(part, whole).as_deref(), expected);
        }
    }

    #[test]
    fn one_thing_has_no_plural() {
        assert_eq!([0, 1, 2].map(|count| counted(count, "tag")), ["0 tags", "1 tag", "2 tags"]);
    }
}
