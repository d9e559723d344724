//! Ranges: which bytes of a blob were asked for, and which were sent.
//!
//! Only single ranges of bytes are understood. A `Range` header that is anything else counts as
//! absent, as RFC 9110 section 14.2 allows; one that lies beyond the end, or ends before it begins,
//! is another matter, and is for the caller to refuse with 416.

use std::fmt;

use super::ParseError;

/// What a client asked for, before the length of the blob is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ByteRange {
    /// `bytes=first-`
    From { first: u64 },
    /// `bytes=first-last`, both included. With `last < first` it is invalid, which may be ignored or
    /// refused (RFC 9110 section 14.2): it is refused, as registries do, since no blob satisfies it.
    Bounded { first: u64, last: u64 },
    /// `bytes=-count`: the last `count` bytes.
    Suffix { count: u64 },
}

impl ByteRange {
    /// Reads a `Range` header. `None`: to be ignored.
    ///
    /// A number beyond `u64` is a number beyond any blob, so it saturates.
    pub fn parse(value: impl AsRef<[u8]>) -> Option<Self> {
        let text = std::str::from_utf8(value.as_ref()).ok()?;
        let (unit, set) = text.trim().split_once('=')?;
        if !unit.eq_ignore_ascii_case("bytes") {
            return None;
        }
        // RFC 9110 section 5.6.1.2: empty elements of a list do not count.
        let mut elements = set.split(',').map(|element| element.trim_matches([' ', '\t'])).filter(|it| !it.is_empty());
        let (element, None) = (elements.next()?, elements.next()) else { return None };
        match element.split_once('-')? {
            ("", count) => Some(Self::Suffix { count: number(count)? }),
            (first, "") => Some(Self::From { first: number(first)? }),
            (first, last) => Some(Self::Bounded { first: number(first)?, last: number(last)? }),
        }
    }

    /// The bytes meant of a blob of `total` bytes. `None`: unsatisfiable; an empty blob satisfies none.
    pub fn resolve(self, total: u64) -> Option<ResolvedRange> {
        let end = total.checked_sub(1)?;
        let (first, last) = match self {
            Self::From { first } => (first, end),
            Self::Bounded { first, last } => (first, last.min(end)),
            Self::Suffix { count: 0 } => return None,
            Self::Suffix { count } => (total.saturating_sub(count), end),
        };
        (first <= last && first <= end).then_some(ResolvedRange { first, last })
    }

    /// Whether the whole blob is meant whatever its length: `bytes=0-`. The answer is still a 206.
    pub fn is_whole(self) -> bool {
        self == Self::From { first: 0 }
    }
}

impl fmt::Display for ByteRange {
    /// As in a `Range` header.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::From { first } => write!(f, "bytes={first}-"),
            Self::Bounded { first, last } => write!(f, "bytes={first}-{last}"),
            Self::Suffix { count } => write!(f, "bytes=-{count}"),
        }
    }
}

/// Bytes that exist: `first <= last`, both included, both inside the blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ResolvedRange {
    pub first: u64,
    pub last: u64,
}

#[expect(clippy::len_without_is_empty, reason = "a resolved range has at least one byte")]
impl ResolvedRange {
    /// How many bytes; at least one.
    pub fn len(self) -> u64 {
        self.last - self.first + 1
    }

    /// Whether these are all the bytes of a blob of `total` bytes.
    pub fn is_whole(self, total: u64) -> bool {
        self.first == 0 && self.last.checked_add(1) == Some(total)
    }

    /// The `Content-Range` of an answer with these bytes of a blob of `total` bytes.
    pub fn content_range(self, total: u64) -> ContentRange {
        ContentRange { first: self.first, last: self.last, total: Some(total) }
    }
}

/// `Content-Range: bytes first-last/total`: which bytes a 206 holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ContentRange {
    pub first: u64,
    /// Included; `first <= last`.
    pub last: u64,
    /// `None` (`*`): the sender does not know; otherwise above `last`.
    pub total: Option<u64>,
}

impl ContentRange {
    /// Reads the `Content-Range` of a 206. Source: RFC 9110 section 14.4.
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

    /// Reads the `Content-Range` of a 416, `bytes */total`: how long the whole is.
    pub fn parse_unsatisfied(value: impl AsRef<[u8]>) -> Option<u64> {
        match halves(value.as_ref())? {
            ("*", total) => exact(total),
            _ => None,
        }
    }

    /// The `Content-Range` of a 416 about a blob of `total` bytes.
    pub fn unsatisfied(total: u64) -> String {
        format!("bytes */{total}")
    }

    /// How many bytes; at least one.
    pub fn byte_count(self) -> u64 {
        (self.last - self.first).saturating_add(1)
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

/// What stands before and after the slash of `bytes …/…`.
fn halves(value: &[u8]) -> Option<(&str, &str)> {
    let (unit, rest) = std::str::from_utf8(value).ok()?.trim().split_once(' ')?;
    if !unit.eq_ignore_ascii_case("bytes") {
        return None;
    }
    rest.trim_start().split_once('/')
}

/// Digits only (`str::parse` would take a sign), saturating.
fn number(digits: &str) -> Option<u64> {
    is_digits(digits).then(|| digits.parse().unwrap_or(u64::MAX))
}

/// Digits only, and inside `u64`.
fn exact(digits: &str) -> Option<u64> {
    is_digits(digits).then(|| digits.parse().ok()).flatten()
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn good_ranges() {
        for (text, range) in [
            ("bytes=0-", ByteRange::From { first: 0 }),
            ("bytes=5-", ByteRange::From { first: 5 }),
            ("bytes=0-0", ByteRange::Bounded { first: 0, last: 0 }),
            ("bytes=1-2", ByteRange::Bounded { first: 1, last: 2 }),
            ("bytes=2-1", ByteRange::Bounded { first: 2, last: 1 }),
            ("Bytes=1-2", ByteRange::Bounded { first: 1, last: 2 }),
            (" bytes= 1-2 ,, ", ByteRange::Bounded { first: 1, last: 2 }),
            ("bytes=,1-2", ByteRange::Bounded { first: 1, last: 2 }),
            ("bytes=-7", ByteRange::Suffix { count: 7 }),
            ("bytes=-0", ByteRange::Suffix { count: 0 }),
            ("bytes=00001-00002", ByteRange::Bounded { first: 1, last: 2 }),
            ("bytes=1-99999999999999999999", ByteRange::Bounded { first: 1, last: u64::MAX }),
            ("bytes=99999999999999999999-", ByteRange::From { first: u64::MAX }),
        ] {
            assert_eq!(ByteRange::parse(text), Some(range), "{text:?}");
            assert_eq!(ByteRange::parse(HeaderValue::from_str(text).unwrap()), Some(range), "{text:?}");
        }
    }

    #[test]
    fn what_is_no_single_range_of_bytes_is_ignored() {
        for text in [
            "",
            "bytes",
            "bytes=",
            "bytes=-",
            "bytes=,",
            "bytes=1",
            "bytes=a-b",
            "bytes=1-2,4-5",
            "bytes=+1-2",
            "bytes=1-+2",
            "bytes=--1",
            "bytes=1--2",
            "bytes=1-2-3",
            "bytes=1 -2",
            "bytes =1-2",
            "items=1-2",
            "bytes=0x1-2",
            "bytes:1-2",
            "bytes=1-2\0",
            "bytes=é-",
        ] {
            assert_eq!(ByteRange::parse(text), None, "{text:?}");
        }
        assert_eq!(ByteRange::parse(b"bytes=1-\xff"), None);
    }

    #[test]
    fn resolving() {
        for (text, total, expected) in [
            ("bytes=0-", 10, Some((0, 9))),
            ("bytes=9-", 10, Some((9, 9))),
            ("bytes=10-", 10, None),
            ("bytes=0-0", 10, Some((0, 0))),
            ("bytes=3-5", 10, Some((3, 5))),
            ("bytes=3-99", 10, Some((3, 9))),
            ("bytes=10-99", 10, None),
            ("bytes=5-3", 10, None),
            ("bytes=5-4", 10, None),
            ("bytes=1-0", 10, None),
            ("bytes=99-3", 10, None),
            ("bytes=-3", 10, Some((7, 9))),
            ("bytes=-10", 10, Some((0, 9))),
            ("bytes=-99", 10, Some((0, 9))),
            ("bytes=-0", 10, None),
            ("bytes=0-", 0, None),
            ("bytes=-1", 0, None),
            ("bytes=99999999999999999999-", u64::MAX, None),
            ("bytes=0-99999999999999999999", u64::MAX, Some((0, u64::MAX - 1))),
        ] {
            let resolved = ByteRange::parse(text).unwrap().resolve(total);
            assert_eq!(resolved.map(|range| (range.first, range.last)), expected, "{text:?} of {total}");
        }
        let whole = ByteRange::From { first: 0 };
        assert!(whole.is_whole() && whole.resolve(10).unwrap().is_whole(10));
        assert!(!ByteRange::From { first: 1 }.resolve(10).unwrap().is_whole(10));
        assert_eq!(whole.resolve(10).unwrap().content_range(10).to_string(), "bytes 0-9/10");
    }

    #[test]
    fn content_ranges() {
        for (text, first, last, total) in
            [("bytes 0-0/1", 0, 0, Some(1)), ("bytes 5-9/10", 5, 9, Some(10)), ("bytes 5-9/*", 5, 9, None)]
        {
            let range = ContentRange { first, last, total };
            assert_eq!(ContentRange::parse(text), Ok(range));
            assert_eq!(range.to_string(), text);
            assert_eq!(range.byte_count(), last - first + 1);
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
        fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..32), text in "bytes[= ][0-9*,/ -]{0,24}") {
            for value in [bytes.as_slice(), text.as_bytes()] {
                if let Some(range) = ByteRange::parse(value) {
                    prop_assert_eq!(ByteRange::parse(range.to_string()), Some(range));
                }
                if let Ok(range) = ContentRange::parse(value) {
                    prop_assert_eq!(ContentRange::parse(range.to_string()), Ok(range));
                }
                ContentRange::parse_unsatisfied(value);
            }
        }

        #[test]
        fn resolved_ranges_lie_inside(first in 0u64..40, last in 0u64..40, count in 0u64..40, total in 0u64..32) {
            for range in [ByteRange::From { first }, ByteRange::Bounded { first, last }, ByteRange::Suffix { count }] {
                let wanted = (0..total).filter(|&at| match range {
                    ByteRange::From { first } => at >= first,
                    ByteRange::Bounded { first, last } => at >= first && at <= last,
                    ByteRange::Suffix { count } => at + count >= total,
                });
                let resolved = range.resolve(total).into_iter().flat_map(|range| range.first..=range.last);
                prop_assert!(resolved.eq(wanted), "{} of {}", range, total);
                if let Some(resolved) = range.resolve(total) {
                    prop_assert_eq!(resolved.len(), resolved.content_range(total).byte_count());
                    prop_assert_eq!(resolved.is_whole(total), resolved.len() == total);
                }
            }
        }
    }
}
