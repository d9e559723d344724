//! Ranges of blobs: the `Range` of a request and the `Content-Range` of its response (pure).

use http::{HeaderMap, HeaderValue, header};

use crate::oci::ContentRange;

/// The requested bytes of a blob, both ends included. `{0, None}` is the whole blob.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BlobRange {
    pub first: u64,
    pub last: Option<u64>,
}

impl BlobRange {
    pub(in crate::upstream) const FIRST_BYTE: Self = Self { first: 0, last: Some(0) };

    pub(in crate::upstream) fn headers(self) -> HeaderMap {
        let text = match (self.first, self.last) {
            (0, None) => return HeaderMap::new(),
            (first, None) => format!("bytes={first}-"),
            (first, Some(last)) => format!("bytes={first}-{last}"),
        };
        HeaderValue::try_from(text).map(|value| (header::RANGE, value)).into_iter().collect()
    }

    /// What [`BlobRange::headers`] wrote.
    pub(in crate::upstream) fn of_headers(headers: &HeaderMap) -> Option<Self> {
        let (first, last) = headers.get(header::RANGE)?.to_str().ok()?.strip_prefix("bytes=")?.split_once('-')?;
        let last = if last.is_empty() { None } else { Some(last.parse().ok()?) };
        Some(Self { first: first.parse().ok()?, last })
    }

    fn is_whole(self) -> bool {
        self == Self::default()
    }
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Part {
    pub first: u64,
    /// The length of the whole blob.
    pub total: Option<u64>,
    /// The length of the body.
    pub expected: Option<u64>,
    /// Whether it ends where the blob does.
    pub is_tail: bool,
}

/// The part in the body of a 206, checked against the request.
///
/// Source: RFC 9110 sections 14.4 and 15.3.7.
///
/// # Errors
/// What is wrong with the response.
pub(super) fn part(headers: &HeaderMap, requested: BlobRange, len: Option<u64>) -> Result<Part, &'static str> {
    if requested.is_whole() {
        return Err("a part where the whole was requested");
    }
    let is_multipart = |value: &HeaderValue| value.as_bytes().to_ascii_lowercase().starts_with(b"multipart/");
    if headers.get(header::CONTENT_TYPE).is_some_and(is_multipart) {
        return Err("several parts in one");
    }
    let value = headers.get(header::CONTENT_RANGE).ok_or("a part that has no Content-Range")?;
    let ContentRange { first, last, total } = ContentRange::parse(value).map_err(|_| "a Content-Range that is none")?;
    if first != requested.first {
        return Err("a part that begins elsewhere");
    }
    if requested.last.is_some_and(|wanted| last > wanted) {
        return Err("a part that ends after the requested range");
    }
    if len.is_some_and(|len| len != last - first + 1) {
        return Err("a Content-Length that contradicts its Content-Range");
    }
    // A server may send less than was requested: the reader then gets an error for a short body, and requests the rest,
    // rather than an end that looks clean.
    let end = total.map(|total| total - 1);
    let wanted = match (requested.last, end) {
        (Some(wanted), Some(end)) => wanted.min(end),
        (Some(wanted), None) => wanted,
        (None, Some(end)) => end,
        (None, None) => last,
    };
    Ok(Part { first, total, expected: Some(wanted - first + 1), is_tail: end == Some(last) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn range_headers() {
        for (range, text) in [
            (BlobRange { first: 0, last: None }, None),
            (BlobRange { first: 5, last: None }, Some("bytes=5-")),
            (BlobRange { first: 0, last: Some(0) }, Some("bytes=0-0")),
            (BlobRange { first: 5, last: Some(9) }, Some("bytes=5-9")),
        ] {
            assert_eq!(range.headers().get(header::RANGE).map(|value| value.to_str().unwrap()), text);
        }
    }

    #[test]
    fn parts_are_checked_against_the_request() {
        let part_of = |content_range: &'static str, first, last, len| {
            let headers = HeaderMap::from_iter([(header::CONTENT_RANGE, HeaderValue::from_static(content_range))]);
            part(&headers, BlobRange { first, last }, len).ok().map(|part| (part.total, part.expected))
        };
        for (content_range, first, last, len, expected) in [
            ("bytes 5-9/10", 5, None, Some(5), Some((Some(10), Some(5)))),
            ("bytes 5-9/10", 5, None, None, Some((Some(10), Some(5)))),
            ("bytes 5-7/10", 5, Some(7), Some(3), Some((Some(10), Some(3)))),
            ("bytes 5-9/10", 5, Some(99), Some(5), Some((Some(10), Some(5)))),
            ("bytes 5-9/*", 5, Some(9), Some(5), Some((None, Some(5)))),
            // Less than was requested: the rest is still expected.
            ("bytes 5-6/10", 5, None, Some(2), Some((Some(10), Some(5)))),
            ("bytes 0-9/10", 5, None, Some(10), None),
            ("bytes 6-9/10", 5, None, Some(4), None),
            ("bytes 5-9/10", 5, Some(7), Some(5), None),
            ("bytes 5-9/10", 5, None, Some(4), None),
            ("bytes */10", 5, None, None, None),
            ("5-9/10", 5, None, None, None),
            ("bytes 0-9/10", 0, None, Some(10), None),
        ] {
            assert_eq!(part_of(content_range, first, last, len), expected, "{content_range} for {first}-{last:?}");
        }
        let several = HeaderMap::from_iter([
            (header::CONTENT_TYPE, HeaderValue::from_static("Multipart/ByteRanges; boundary=x")),
            (header::CONTENT_RANGE, HeaderValue::from_static("bytes 5-9/10")),
        ]);
        assert!(part(&several, BlobRange { first: 5, last: None }, None).is_err());
        assert!(part(&HeaderMap::new(), BlobRange { first: 5, last: None }, None).is_err());
    }
}
