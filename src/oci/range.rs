//! Ranges: which bytes of a blob were asked for, and which were sent.
//!
//! Only single ranges of bytes are understood. A `Range` header that is anything else counts as
//! absent, as RFC 9110 section 14.2 allows; one that lies beyond the end is another matter, and
//! is for the caller to refuse with 416.

use std::fmt;

use super::ParseError;

/// What a client asked for, before the length of the blob is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ByteRange {
    /// `bytes=first-`
    From { first: u64 },
    /// `bytes=first-last`, both included; `first <= last`.
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
            (first, last) => {
                let (first, last) = (number(first)?, number(last)?);
                (first <= last).then_some(Self::Bounded { first, last })
            }
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
        (first <= end).then_some(ResolvedRange { first, last })
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
