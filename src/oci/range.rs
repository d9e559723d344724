//! The `Range` header: which bytes of a blob a client requests.
//!
//! A header that is not one or more ranges of bytes counts as absent, as RFC 9110 section 14.2 allows. The caller
//! refuses with 416 a range that ends before it begins, or has no byte inside the blob. Ranges that overlap or adjoin
//! become one part, so that no byte is sent twice.

use std::fmt;

use super::{ContentRange, content_range::is_digits};

/// One requested range, before the length of the blob is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ByteRange {
    /// `bytes=first-`
    From { first: u64 },
    /// `bytes=first-last`, both included. With `last < first` it is invalid: a server may ignore or refuse it (RFC 9110
    /// section 14.2). forebay refuses it, as registries do, since no blob satisfies it.
    Bounded { first: u64, last: u64 },
    /// `bytes=-count`: the last `count` bytes.
    Suffix { count: u64 },
}

impl ByteRange {
    /// Parses a `Range` header with one range. `None`: the header is to be ignored.
    ///
    /// A number beyond `u64` saturates: it is beyond any blob.
    pub fn parse(value: impl AsRef<[u8]>) -> Option<Self> {
        let mut elements = elements(value.as_ref())?;
        let (element, None) = (elements.next()?, elements.next()) else { return None };
        Self::element(element)
    }

    fn element(element: &str) -> Option<Self> {
        match element.split_once('-')? {
            ("", count) => Some(Self::Suffix { count: number(count)? }),
            (first, "") => Some(Self::From { first: number(first)? }),
            (first, last) => Some(Self::Bounded { first: number(first)?, last: number(last)? }),
        }
    }

    /// The bytes of a blob of `total` bytes. `None`: unsatisfiable; an empty blob satisfies no range.
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

    /// The parts of a blob of `total` bytes that several ranges request, in their order. Ranges that overlap become one
    /// part, in the place of the first of them; `adjoining` decides about ranges that adjoin.
    ///
    /// # Errors
    /// No range has a byte inside the blob, or there are too many ranges.
    pub fn resolve_all(ranges: &[Self], total: u64, adjoining: Adjoining) -> Result<Vec<ResolvedRange>, RangesError> {
        if ranges.len() > MAX_RANGES {
            return Err(RangesError::TooMuch);
        }
        let asked = ranges.iter().filter_map(|range| range.resolve(total)).enumerate();
        let mut asked: Vec<(usize, ResolvedRange)> = asked.collect();
        if asked.is_empty() {
            return Err(RangesError::Unsatisfiable);
        }
        let sum = asked.iter().try_fold(0, |sum: u64, (_, part)| sum.checked_add(part.len()));
        if sum.is_none_or(|sum| sum > total) {
            return Err(RangesError::TooMuch);
        }
        asked.sort_by_key(|(_, part)| part.first);
        let reach = u64::from(adjoining == Adjoining::Join);
        let mut parts: Vec<(usize, ResolvedRange)> = Vec::with_capacity(asked.len());
        for (order, part) in asked {
            match parts.last_mut() {
                Some((first, before)) if part.first <= before.last.saturating_add(reach) => {
                    *first = order.min(*first);
                    before.last = part.last.max(before.last);
                }
                _ => parts.push((order, part)),
            }
        }
        parts.sort_by_key(|(order, _)| *order);
        Ok(parts.into_iter().map(|(_, part)| part).collect())
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

/// The most ranges in one request: no known client sends more.
pub const MAX_RANGES: usize = 1024;

/// The ranges of a `Range` header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ranges {
    One(ByteRange),
    Several(Vec<ByteRange>),
}

/// Why several ranges are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RangesError {
    /// None of the ranges has a byte inside the blob.
    Unsatisfiable,
    /// There are more than [`MAX_RANGES`], or they have more bytes in all than the blob.
    TooMuch,
}

/// What forebay does with ranges that adjoin: one begins where another ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Adjoining {
    /// They become one part.
    Join,
    /// Each stays a part of its own, for clients that count the parts.
    KeepApart,
}

impl Ranges {
    /// Parses a `Range` header. `None`: the header is to be ignored. Stops after [`MAX_RANGES`] + 1 ranges.
    pub fn parse(value: impl AsRef<[u8]>) -> Option<Self> {
        if let Some(range) = ByteRange::parse(&value) {
            return Some(Self::One(range));
        }
        let ranges = elements(value.as_ref())?.take(MAX_RANGES + 1).map(ByteRange::element);
        let ranges: Vec<ByteRange> = ranges.collect::<Option<_>>()?;
        (!ranges.is_empty()).then_some(Self::Several(ranges))
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

    /// The `Content-Range` of a response with these bytes of a blob of `total` bytes.
    pub fn content_range(self, total: u64) -> ContentRange {
        ContentRange { first: self.first, last: self.last, total: Some(total) }
    }
}

/// The elements of a `Range` header in bytes.
fn elements(value: &[u8]) -> Option<impl Iterator<Item = &str>> {
    let (unit, set) = std::str::from_utf8(value).ok()?.trim().split_once('=')?;
    if !unit.eq_ignore_ascii_case("bytes") {
        return None;
    }
    // RFC 9110 section 5.6.1.2: empty elements of a list do not count.
    Some(set.split(',').map(|element| element.trim_matches([' ', '\t'])).filter(|element| !element.is_empty()))
}

/// Digits only (`str::parse` would take a sign), saturating.
fn number(digits: &str) -> Option<u64> {
    is_digits(digits).then(|| digits.parse().unwrap_or(u64::MAX))
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
    fn a_header_that_is_no_single_range_is_ignored() {
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
    fn one_range_or_several() {
        let parse = |text: &str| Ranges::parse(text);
        assert_eq!(parse("bytes=1-2"), Some(Ranges::One(ByteRange::Bounded { first: 1, last: 2 })));
        assert_eq!(parse("bytes=1-2,,"), Some(Ranges::One(ByteRange::Bounded { first: 1, last: 2 })));
        let several = vec![
            ByteRange::Bounded { first: 5, last: 7 },
            ByteRange::From { first: 9 },
            ByteRange::Suffix { count: 1 },
            ByteRange::Bounded { first: 2, last: 1 },
        ];
        assert_eq!(parse("bytes=5-7, 9-,\t-1 ,2-1"), Some(Ranges::Several(several)));
        for ignored in ["", "bytes=", "bytes=,", "bytes=1-2,x", "bytes=1-2,3", "lines=1-2,3-4", "bytes=1-2;3-4"] {
            assert_eq!(parse(ignored), None, "{ignored:?}");
        }
        for (count, len) in [(MAX_RANGES, MAX_RANGES), (MAX_RANGES + 1, MAX_RANGES + 1), (9000, MAX_RANGES + 1)] {
            let text = format!("bytes={}", "0-,".repeat(count));
            assert!(matches!(parse(&text), Some(Ranges::Several(ranges)) if ranges.len() == len), "{count}");
        }
    }

    fn parts_of(text: &str, total: u64) -> Result<Vec<(u64, u64)>, RangesError> {
        let Some(Ranges::Several(ranges)) = Ranges::parse(text) else { panic!("{text} is not several ranges") };
        let parts = ByteRange::resolve_all(&ranges, total, Adjoining::Join);
        parts.map(|parts| parts.iter().map(|part| (part.first, part.last)).collect())
    }

    #[test]
    fn adjoining_ranges_stay_apart_for_clients_that_count() {
        for (text, expected) in [
            ("bytes=0-9,10-19,20-", vec![(0, 9), (10, 19), (20, 99)]),
            ("bytes=0-9,9-19,20-29", vec![(0, 19), (20, 29)]),
        ] {
            let Some(Ranges::Several(ranges)) = Ranges::parse(text) else { panic!("{text} is not several ranges") };
            let parts = ByteRange::resolve_all(&ranges, 100, Adjoining::KeepApart).unwrap();
            assert_eq!(parts.iter().map(|part| (part.first, part.last)).collect::<Vec<_>>(), expected, "{text}");
        }
    }

    #[test]
    fn several_ranges_become_parts_that_do_not_touch() {
        for (text, total, expected) in [
            ("bytes=0-9,20-29", 100, Ok(vec![(0, 9), (20, 29)])),
            ("bytes=20-29,0-9", 100, Ok(vec![(20, 29), (0, 9)])),
            ("bytes=0-9,-5", 100, Ok(vec![(0, 9), (95, 99)])),
            ("bytes=0-9,90-", 100, Ok(vec![(0, 9), (90, 99)])),
            ("bytes=0-9,90-500", 100, Ok(vec![(0, 9), (90, 99)])),
            // Adjacent, overlapping, one inside the other, the same twice.
            ("bytes=0-9,10-19", 100, Ok(vec![(0, 19)])),
            ("bytes=10-19,0-9", 100, Ok(vec![(0, 19)])),
            ("bytes=0-9,5-14", 100, Ok(vec![(0, 14)])),
            ("bytes=0-19,5-9,40-49", 100, Ok(vec![(0, 19), (40, 49)])),
            ("bytes=5-9,5-9", 100, Ok(vec![(5, 9)])),
            ("bytes=0-9,11-19", 100, Ok(vec![(0, 9), (11, 19)])),
            // A part stands in the place of its first range.
            ("bytes=40-49,0-9,50-59,80-89", 100, Ok(vec![(40, 59), (0, 9), (80, 89)])),
            ("bytes=20-29,0-9,10-19", 100, Ok(vec![(0, 29)])),
            // Ranges outside the blob do not count.
            ("bytes=200-300,0-9", 100, Ok(vec![(0, 9)])),
            ("bytes=5-4,0-9,-0", 100, Ok(vec![(0, 9)])),
            ("bytes=200-300,100-", 100, Err(RangesError::Unsatisfiable)),
            ("bytes=0-0,-1", 0, Err(RangesError::Unsatisfiable)),
            // The whole blob, and more.
            ("bytes=0-49,50-", 100, Ok(vec![(0, 99)])),
            ("bytes=0-49,50-,0-0", 100, Err(RangesError::TooMuch)),
            ("bytes=0-,0-", 100, Err(RangesError::TooMuch)),
            ("bytes=0-,0-99999999999999999999", u64::MAX, Err(RangesError::TooMuch)),
            ("bytes=-60,-60", 100, Err(RangesError::TooMuch)),
        ] {
            assert_eq!(parts_of(text, total), expected, "{text} of {total}");
        }
        let many = |count: u64| {
            let set: Vec<String> = (0..count).map(|number| format!("{0}-{0}", 2 * number)).collect();
            parts_of(&format!("bytes={}", set.join(",")), 10_000).map(|parts| parts.len())
        };
        assert_eq!(many(1024), Ok(1024));
        assert_eq!(many(1025), Err(RangesError::TooMuch));
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
        assert!(whole.resolve(10).unwrap().is_whole(10));
        assert!(!ByteRange::From { first: 1 }.resolve(10).unwrap().is_whole(10));
        assert_eq!(whole.resolve(10).unwrap().content_range(10).to_string(), "bytes 0-9/10");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..32), text in "bytes[= ][0-9*,/ -]{0,24}") {
            for value in [bytes.as_slice(), text.as_bytes()] {
                if let Some(range) = ByteRange::parse(value) {
                    prop_assert_eq!(ByteRange::parse(range.to_string()), Some(range));
                }
            }
        }

        #[test]
        fn parts_have_each_requested_byte_once(
            asked in prop::collection::vec((0u64..40, 0u64..40), 2..8), total in 0u64..200,
        ) {
            let ranges: Vec<ByteRange> = asked.iter().map(|&(first, last)| ByteRange::Bounded { first, last }).collect();
            let wanted: Vec<u64> =
                (0..total).filter(|at| asked.iter().any(|(first, last)| (first..=last).contains(&at))).collect();
            match ByteRange::resolve_all(&ranges, total, Adjoining::Join) {
                Ok(parts) => {
                    let mut given: Vec<u64> = parts.iter().flat_map(|part| part.first..=part.last).collect();
                    given.sort_unstable();
                    prop_assert_eq!(given, wanted);
                    let touch = |one: &ResolvedRange, other: &ResolvedRange| one.last + 1 == other.first;
                    prop_assert!(!parts.iter().any(|one| parts.iter().any(|other| touch(one, other))));
                }
                Err(RangesError::Unsatisfiable) => prop_assert!(wanted.is_empty()),
                Err(RangesError::TooMuch) => {
                    let sum: u64 = ranges.iter().filter_map(|range| range.resolve(total)).map(ResolvedRange::len).sum();
                    prop_assert!(sum > total);
                }
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
                    prop_assert_eq!(resolved.is_whole(total), resolved.len() == total);
                }
            }
        }
    }
}
