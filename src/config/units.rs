//! Sizes and durations as a configuration writes them.

use std::{fmt, marker::PhantomData, str::FromStr, time::Duration};

use bytesize::ByteSize;
use serde::{
    Deserialize, Deserializer,
    de::{Error, Visitor},
};

/// A larger size is a typing error. Sums of such sizes still fit an `i64`, as gauges need.
const MAX_SIZE: u64 = 1 << 60;

/// A longer duration is a typing error, and adding it to a clock could overflow.
const MAX_PERIOD: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// A number of bytes: `"50 GiB"`, `"300 MB"`, or an integer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Size(pub u64);

/// A duration: `"30s"`, `"5m"`, `"30d"`, or 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Period(pub Duration);

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        match text.parse::<ByteSize>() {
            // The half of a byte is none.
            _ if text.contains('.') && text.parse::<f64>().is_ok() => {
                Err(format!("{text} of what? write \"{text} GiB\", with a unit"))
            }
            Ok(ByteSize(bytes)) if bytes > MAX_SIZE => Err("must be at most 1 EiB".to_owned()),
            Ok(ByteSize(bytes)) => Ok(Self(bytes)),
            Err(_) => Err(format!("must be a size such as \"50 GiB\" or \"300 MB\", not {text:?}")),
        }
    }
}

impl FromStr for Period {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        match humantime::parse_duration(text) {
            Ok(period) if period <= MAX_PERIOD => Ok(Self(period)),
            Ok(_) => Err("must be at most 100 years".to_owned()),
            Err(_) => match text.parse::<u64>() {
                Ok(0) => Ok(Self(Duration::ZERO)),
                Ok(number) => Err(format!("{number} of what? write \"{number}s\" for seconds")),
                Err(_) => Err(format!("must be a duration such as \"30s\", \"5m\" or \"30d\", not {text:?}")),
            },
        }
    }
}

/// What a person writes as a number with a unit.
pub(super) trait Quantity: FromStr<Err = String> {
    /// How it is written.
    const FORMS: &'static str;
}

impl Quantity for Size {
    const FORMS: &'static str = "a size such as \"50 GiB\" or \"300 MB\", or a number of bytes";
}

impl Quantity for Period {
    const FORMS: &'static str = "a duration such as \"30s\", \"5m\" or \"30d\"";
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        read_quantity(deserializer)
    }
}

impl<'de> Deserialize<'de> for Period {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        read_quantity(deserializer)
    }
}

/// A quantity is text or a number, so its reader does not say which it wants.
pub(super) fn read_quantity<'de, Q: Quantity, D: Deserializer<'de>>(deserializer: D) -> Result<Q, D::Error> {
    deserializer.deserialize_any(QuantityForm(PhantomData))
}

struct QuantityForm<Q>(PhantomData<Q>);

impl<Q: Quantity> Visitor<'_> for QuantityForm<Q> {
    type Value = Q;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Q::FORMS)
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Q, E> {
        self.visit_str(&number.to_string())
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<Q, E> {
        self.visit_str(&number.to_string())
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Q, E> {
        text.parse().map_err(E::custom)
    }
}

/// A number as a file spells it.
pub(super) fn integer(number: u64) -> toml::Value {
    i64::try_from(number).map_or_else(|_| number.to_string().into(), toml::Value::Integer)
}

/// A size as a file spells it, in the largest unit of which it is a whole number.
pub(super) fn size(bytes: u64) -> toml::Value {
    let units = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
    match units.into_iter().find(|(shift, _)| bytes > 0 && bytes.trailing_zeros() >= *shift) {
        Some((shift, unit)) => format!("{} {unit}", bytes >> shift).into(),
        None => integer(bytes),
    }
}

/// A duration as a file spells it: `90s`, or with several units where one does not do.
pub(super) fn period(period: Duration) -> String {
    let units = [(24 * 60 * 60, "d"), (60 * 60, "h"), (60, "m"), (1, "s")];
    let seconds = period.as_secs();
    match units.into_iter().find(|(unit, _)| period.subsec_nanos() == 0 && seconds.is_multiple_of(*unit) && seconds > 0)
    {
        Some((unit, name)) => format!("{}{name}", seconds / unit),
        None => humantime::format_duration(period).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fraction_of_a_size_needs_a_unit() {
        assert_eq!("1.5 GiB".parse(), Ok(Size(3 << 29)));
        for bad in ["1.5", " 0.5 ", "1."] {
            let problem = bad.parse::<Size>().unwrap_err();
            assert!(problem.contains("of what?"), "{bad}: {problem}");
        }
    }

    #[test]
    fn a_duration_needs_a_unit_unless_it_is_zero() {
        for zero in ["0", "0s", " 0d "] {
            assert_eq!(zero.parse(), Ok(Period(Duration::ZERO)), "{zero}");
        }
        for (bad, said) in [
            ("7", "7 of what? write \"7s\""),
            ("-1", "must be a duration such as"),
            ("0.5", "must be a duration such as"),
            ("", "must be a duration such as"),
            ("soon", "must be a duration such as"),
            ("200 years", "at most 100 years"),
        ] {
            let problem = bad.parse::<Period>().unwrap_err();
            assert!(problem.contains(said), "{bad}: {problem}");
        }
    }

    #[test]
    fn sizes_and_durations_are_spelt_so_that_they_are_read_again() {
        for (bytes, text) in [
            (0, "0"),
            (1, "1"),
            (1023, "1023"),
            (1 << 10, "\"1 KiB\""),
            (50 << 30, "\"50 GiB\""),
            (1536 << 20, "\"1536 MiB\""),
            (300_000_000, "300000000"),
            (3 << 40, "\"3 TiB\""),
            (MAX_SIZE, "\"1048576 TiB\""),
        ] {
            let spelt = size(bytes).to_string();
            assert_eq!(spelt, text);
            assert_eq!(spelt.trim_matches('"').parse(), Ok(Size(bytes)));
        }
        for (millis, text) in [
            (0, "0s"),
            (1500, "1s 500ms"),
            (10_000, "10s"),
            (60_000, "1m"),
            (90_000, "90s"),
            (3_600_000, "1h"),
            (86_400_000 * 30, "30d"),
        ] {
            let given = Duration::from_millis(millis);
            assert_eq!(period(given), text);
            assert_eq!(text.parse(), Ok(Period(given)));
        }
    }
}
