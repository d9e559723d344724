//! The `Content-Range` header: which bytes a response has.
//!
//! Source: RFC 9110 section 14.4.

use std::fmt;

use super::ParseError;

/// `Content-Range: bytes first-last/total`: the bytes in a 206.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ContentRange {
    pub first: u64,
    /// Included; `first <= last`.
    pub last: u64,
    /// The length of the whole content, above `last`; `None` (`*`): the sender does not know it.
    pub total: Option<u64>,
}

impl ContentRange {
    /// Parses the `Content-Range` of a 206. Source: RFC 9110 section 14.4.
    pub fn parse(value: impl AsRef<[u8]>) -> Result<Self, ParseError> {
        let (range, total) = halves(value.as_ref()).ok_or(ParseError::Range("must be 'bytes first-last/total'"))?;
        let total = match total {
            "*" => None,
            digits => Some(exact(digits).ok_or(ParseError::Range("the total must be a number or '*'"))?),
        };
        let (first, last) = range.split_once('-').ok_or(ParseError::Range("must be 'bytes first-last/total'"))?;
        let (first, last) =
            exact(first).zip(exact(last)).ok_or(ParseError::Range("the first and the last byte must be numbers"))?;
        if first > last || total.is_some_and(|total| total <= last) {
            return Err(ParseError::Range("the first byte must not be after the last, nor the last outside the whole"));
        }
        Ok(Self { first, last, total })
    }

    /// Parses the `Content-Range` of a 416, `bytes */total`: the length of the whole content.
    pub fn parse_unsatisfied(value: impl AsRef<[u8]>) -> Option<u64> {
        match halves(value.as_ref())? {
            ("*", total) => exact(total),
            _ => None,
        }
    }

    /// The `Content-Range` of a 416 for a blob of `total` bytes.
    pub fn unsatisfied(total: u64) -> String {
        format!("bytes */{total}")
    }
}

impl fmt::Display for ContentRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "bytes {}-{}/", self.first, self.last)?;
        match self.total {
            Some(total) => write!(f, "{total}"),
            None => f.write_str("*"),
        }
    }
}

/// The texts before and after the slash in `bytes …/…`.
fn halves(value: &[u8]) -> Option<(&str, &str)> {
    let (unit, rest) = std::str::from_utf8(value).ok()?.trim().split_once(' ')?;
    if !unit.eq_ignore_ascii_case("bytes") {
        return None;
    }
    rest.trim_start().split_once('/')
}

/// Parses a text of digits only, within `u64`.
fn exact(digits: &str) -> Option<u64> {
    is_digits(digits).then(|| digits.parse().ok()).flatten()
}

pub(super) fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn content_ranges() {
        for (text, first, last, total) in
            [("bytes 0-0/1", 0, 0, Some(1)), ("bytes 5-9/10", 5, 9, Some(10)), ("bytes 5-9/*", 5, 9, None)]
        {
            let range = ContentRange { first, last, total };
            assert_eq!(ContentRange::parse(text), Ok(range));
            assert_eq!(range.to_string(), text);
        }
        for bad in [
            "",
            "bytes",
            "bytes 0-1",
            "bytes */10",
            "bytes 2-1/10",
            "bytes 5-10/10",
            "bytes 0-1/",
            "bytes -1/2",
            "bytes 1-/2",
            "bytes=0-1/2",
            "items 0-1/2",
            "bytes 0-1/+2",
            "bytes 0-99999999999999999999/*",
            "bytes 0 - 1/2",
            "é",
        ] {
            assert!(matches!(ContentRange::parse(bad), Err(ParseError::Range(_))), "{bad:?}");
        }
        assert_eq!(ContentRange::parse_unsatisfied("bytes */10"), Some(10));
        assert_eq!(ContentRange::parse_unsatisfied(ContentRange::unsatisfied(0)), Some(0));
        for bad in ["", "bytes */*", "bytes 0-1/2", "bytes */-1", "*/10"] {
            assert_eq!(ContentRange::parse_unsatisfied(bad), None, "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_parsed_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..32), text in "bytes[= ][0-9*,/ -]{0,24}") {
            for value in [bytes.as_slice(), text.as_bytes()] {
                if let Ok(range) = ContentRange::parse(value) {
                    prop_assert_eq!(ContentRange::parse(range.to_string()), Ok(range));
                }
                ContentRange::parse_unsatisfied(value);
            }
        }
    }
}
