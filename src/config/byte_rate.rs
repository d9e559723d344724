//! Rates as a configuration writes them.

use bytesize::ByteSize;
use serde::{Deserialize, Deserializer};

use super::units::{Quantity, read_quantity};
use crate::rate::BytesPerSecond;

/// A higher rate is a typing error, in bytes per second.
const MAX_RATE: u64 = 1 << 60;

/// A rate in bytes per second: `"50 MB/s"`, `"6 MiB/s"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ByteRate(pub BytesPerSecond);

impl std::str::FromStr for ByteRate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let size = text.trim().strip_suffix("/s").and_then(|size| size.parse::<ByteSize>().ok());
        let ByteSize(bytes) = size.ok_or_else(|| format!("must be a rate such as \"50 MB/s\", not {text:?}"))?;
        if bytes > MAX_RATE {
            return Err("must be at most 1 EiB/s".to_owned());
        }
        BytesPerSecond::new(bytes).map(Self).ok_or_else(|| {
            "must be at least 64 KiB/s, since clients give up on less; leave the key out for no limit".to_owned()
        })
    }
}

/// A number without a unit is refused: many programs count bits.
impl Quantity for ByteRate {
    const FORMS: &'static str = "a rate such as \"50 MB/s\"";
}

impl<'de> Deserialize<'de> for ByteRate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        read_quantity(deserializer)
    }
}

/// A rate as a file spells it, in the largest unit of which it is a whole number.
pub(super) fn rate(rate: BytesPerSecond) -> String {
    let bytes = rate.get();
    let units = [
        (1 << 30, "GiB"),
        (1_000_000_000, "GB"),
        (1 << 20, "MiB"),
        (1_000_000, "MB"),
        (1 << 10, "KiB"),
        (1000, "kB"),
        (1, "B"),
    ];
    let (unit, name) = units.into_iter().find(|(unit, _)| bytes.is_multiple_of(*unit)).unwrap_or((1, "B"));
    format!("{} {name}/s", bytes / unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_bytes_per_second() {
        for (text, bytes, spelt) in [
            ("50 MB/s", 50_000_000, "50 MB/s"),
            (" 6MiB/s ", 6 << 20, "6 MiB/s"),
            ("65536 B/s", 65536, "64 KiB/s"),
            ("65537/s", 65537, "65537 B/s"),
            ("1.5 GB/s", 1_500_000_000, "1500 MB/s"),
        ] {
            let ByteRate(read) = text.parse().unwrap();
            assert_eq!((read.get(), &*rate(read)), (bytes, spelt), "{text}");
            assert_eq!(rate(read).parse(), Ok(ByteRate(read)));
        }
        for (text, reason) in [
            ("50000000", "must be a rate such as"),
            ("50 MB", "must be a rate such as"),
            ("50 Mbit/s", "must be a rate such as"),
            ("-1 MB/s", "must be a rate such as"),
            ("", "must be a rate such as"),
            ("0 B/s", "leave the key out for no limit"),
            ("10 kB/s", "must be at least 64 KiB/s"),
            ("2 EiB/s", "must be at most 1 EiB/s"),
        ] {
            let problem = text.parse::<ByteRate>().unwrap_err();
            assert!(problem.contains(reason), "{text}: {problem}");
        }
    }
}
