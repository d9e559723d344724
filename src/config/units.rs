//! Sizes and durations as a configuration file writes them.

use std::{str::FromStr, time::Duration};

use bytesize::ByteSize;
use serde::Deserialize;

/// A larger size is a typing error. Sums of such sizes still fit an `i64`, as gauges need.
const MAX_SIZE: u64 = 1 << 60;

/// A number of bytes: `"50 GiB"`, `"300 MB"`, or an integer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "SizeForm")]
pub(super) struct Size(pub u64);

#[derive(Deserialize)]
#[serde(untagged, expecting = "must be a size such as \"50 GiB\" or \"300 MB\", or a number of bytes")]
enum SizeForm {
    Bytes(u64),
    Text(String),
}

impl TryFrom<SizeForm> for Size {
    type Error = String;

    fn try_from(form: SizeForm) -> Result<Self, String> {
        match form {
            SizeForm::Bytes(bytes) => Self::checked(bytes),
            SizeForm::Text(text) => text.parse(),
        }
    }
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.trim().parse::<ByteSize>() {
            Ok(ByteSize(bytes)) => Self::checked(bytes),
            Err(_) => Err(format!("must be a size such as \"50 GiB\" or \"300 MB\", not {text:?}")),
        }
    }
}

impl Size {
    fn checked(bytes: u64) -> Result<Self, String> {
        if bytes > MAX_SIZE { Err("must be at most 1 EiB".to_owned()) } else { Ok(Self(bytes)) }
    }
}

/// A duration: `"30s"`, `"5m"`, `"30d"`, or 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "PeriodForm")]
pub(super) struct Period(pub Duration);

#[derive(Deserialize)]
#[serde(untagged, expecting = "must be a duration such as \"30s\", \"5m\" or \"30d\"")]
enum PeriodForm {
    Number(i64),
    Text(String),
}

/// A longer duration is a typing error, and adding it to a clock could overflow.
const MAX_PERIOD: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

impl TryFrom<PeriodForm> for Period {
    type Error = String;

    fn try_from(form: PeriodForm) -> Result<Self, String> {
        let text = match form {
            PeriodForm::Number(0) => return Ok(Self(Duration::ZERO)),
            // A number without a unit is refused.
            PeriodForm::Number(number) => number.to_string(),
            PeriodForm::Text(text) => text,
        };
        match humantime::parse_duration(text.trim()) {
            Ok(period) if period <= MAX_PERIOD => Ok(Self(period)),
            Ok(_) => Err("must be at most 100 years".to_owned()),
            Err(_) => Err(format!("must be a duration such as \"30s\", \"5m\" or \"30d\", not {text:?}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_needs_no_unit() {
        let period = |text: &str| toml::from_str::<std::collections::HashMap<String, Period>>(&format!("x = {text}"));
        for zero in ["0", "\"0\"", "\"0s\"", "\" 0d \""] {
            assert_eq!(period(zero).unwrap()["x"], Period(Duration::ZERO), "{zero}");
        }
        for bad in ["7", "-1", "0.5", "\"7\"", "\"\"", "true", "[]"] {
            assert!(period(bad).unwrap_err().to_string().contains("must be a duration such as"), "{bad}");
        }
    }
}
