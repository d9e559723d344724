//! A blob on its way from the upstream.
//!
//! What must hold: a body shorter than it should be ends in an error, never cleanly; the bytes
//! begin where [`BlobStream::first`] says. Whether the bytes are right is not known here: the
//! digest is the caller's to check, and so is resuming.

pub(crate) mod length;

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header};

use super::{
    client::{next_or_end, number, redirect_walk::Followed},
    error::{Error, ErrorKind, Shown},
    failover::Endpoint,
    request::Shared,
    response::{
        document_budget::Room,
        gunzip::{Decoded, Gunzip},
        mislabeled::{Front, Guesses},
        warning::ContentNotes,
    },
    via::Mirrors,
};
use crate::{
    metrics::Metrics,
    oci::{ContentRange, Digest, Verifier},
};

/// How much is given at a time of what was read already, in bytes.
const PIECE: usize = 64 * 1024;

/// The bytes that are wanted of a blob, both ends included. `{0, None}` is all of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BlobRange {
    pub first: u64,
    pub last: Option<u64>,
}

impl BlobRange {
    pub(super) fn headers(self) -> HeaderMap {
        let text = match (self.first, self.last) {
            (0, None) => return HeaderMap::new(),
            (first, None) => format!("bytes={first}-"),
            (first, Some(last)) => format!("bytes={first}-{last}"),
        };
        HeaderValue::try_from(text).map(|value| (header::RANGE, value)).into_iter().collect()
    }

    fn is_whole(self) -> bool {
        self == Self::default()
    }
}

/// A blob, or a part of one, as it arrives.
pub struct BlobStream {
    /// Where the body begins. 0 when the upstream ignored the range: the caller must look.
    pub first: u64,
    /// The length of the whole blob, when the upstream told.
    pub total: Option<u64>,
    /// Whether the answer was 206.
    pub ranged: bool,
    /// Whether it says that it ends where the blob does.
    pub is_tail: bool,
    /// The forebays that it comes by.
    pub mirrors: Option<Mirrors>,
    pub notes: ContentNotes,
    followed: Followed,
    /// What was read already, and the room for it.
    front: Option<(Bytes, Option<Room>)>,
    /// Where it comes in an encoding.
    gunzip: Option<Gunzip>,
    /// Where it was guessed what it is.
    weighed: Option<Weighed>,
    /// How many bytes are still to come, when that is known.
    expected: Option<u64>,
    upstream: Arc<str>,
    endpoint: Arc<Endpoint>,
    /// Whether a failure says nothing about the endpoint.
    quiet: bool,
    /// The upstream's own count, which is read more often than metrics are.
    received: Arc<AtomicU64>,
    metrics: Metrics,
}

impl fmt::Debug for BlobStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { first, total, ranged, expected, .. } = self;
        f.debug_struct("BlobStream")
            .field("first", first)
            .field("total", total)
            .field("ranged", ranged)
            .field("expected", expected)
            .finish_non_exhaustive()
    }
}

impl BlobStream {
    /// For how long the answer was kept before it was given.
    pub fn resident_time(&self) -> Duration {
        self.followed.resident_time()
    }

    /// `followed` is a 200 or 206 that answers the request for this range of this blob; of its body, `front` was read.
    pub(super) fn new(
        followed: Followed,
        front: Option<Front>,
        (range, digest): (BlobRange, &Digest),
        upstream: &Shared,
        endpoint: Arc<Endpoint>,
        quiet: bool,
    ) -> Result<Self, Error> {
        let headers = followed.response.headers();
        let len = number(headers, &header::CONTENT_LENGTH);
        let ranged = followed.is_part();
        let part = if ranged {
            part(headers, range, len).map_err(|why| {
                Error::new(ErrorKind::Protocol, format!("{} answered with {why}", Shown(&followed.url)))
            })?
        } else {
            Part { first: 0, total: len, expected: len, is_tail: true }
        };
        let Part { first, mut total, mut expected, is_tail } = part;
        let (mut gunzip, mut weighed) = (None, None);
        if let Some(front) = &front {
            let read = front.bytes.len() as u64;
            total = front.len;
            expected = match front.is_whole {
                // It may have had no length.
                true => Some(0),
                false => expected.map(|expected| expected.saturating_sub(read)),
            };
            gunzip = front.is_encoded.then(Gunzip::new);
            weighed = (!front.is_whole).then(|| Weighed {
                verifier: Verifier::new(digest.algorithm()),
                digest: digest.clone(),
                guesses: upstream.guesses.clone(),
                left: front.len,
            });
        }
        let front = front.map(|Front { bytes, room, .. }| (bytes, room)).filter(|(bytes, _)| !bytes.is_empty());
        let (mirrors, notes) = (Mirrors::in_headers(headers), ContentNotes::of(headers));
        let (received, metrics) = (upstream.received().clone(), upstream.metrics().clone());
        let upstream = upstream.name().clone();
        Ok(Self {
            first,
            total,
            ranged,
            is_tail,
            mirrors,
            notes,
            followed,
            front,
            gunzip,
            weighed,
            expected,
            upstream,
            endpoint,
            quiet,
            received,
            metrics,
        })
    }

    /// The next bytes, or `None` at the end. Cancelling loses nothing.
    ///
    /// # Errors
    ///
    /// `Timeout` when nothing came for 30 s; `Unavailable` when the connection broke or the body
    /// was shorter than announced; `Protocol` when it was longer.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        let result = self.read().await;
        if result.is_err() && !self.quiet {
            // Who drops a transfer in the middle is not the first to be asked for the rest.
            self.endpoint.failed();
        }
        result
    }

    async fn read(&mut self) -> Result<Option<Bytes>, Error> {
        let read = loop {
            let Some(gunzip) = &mut self.gunzip else { break self.read_raw().await? };
            match gunzip.next() {
                Ok(Decoded::Piece(piece)) => break Some(piece),
                Ok(Decoded::End) => break None,
                Ok(Decoded::Hungry) => {}
                Err(error) => {
                    self.weighed.take().iter().for_each(Weighed::was_wrong);
                    let why = format!("{} broke its encoding", Shown(&self.followed.url));
                    return Err(Error::new(ErrorKind::Protocol, why).caused_by(error));
                }
            }
            let raw = self.read_raw().await?;
            match (raw, &mut self.gunzip) {
                (Some(raw), Some(gunzip)) => gunzip.feed(raw),
                (None, Some(gunzip)) => gunzip.end(),
                (_, None) => {}
            }
        };
        if let Some(weighed) = &mut self.weighed {
            weighed.note(read.as_ref());
        }
        Ok(read)
    }

    /// What comes, as it comes.
    async fn read_raw(&mut self) -> Result<Option<Bytes>, Error> {
        if let Some((front, _)) = &mut self.front {
            let piece = front.split_to(front.len().min(PIECE));
            if front.is_empty() {
                self.front = None;
            }
            return Ok(Some(piece));
        }
        loop {
            let (response, url) = (&mut self.followed.response, &self.followed.url);
            let piece = next_or_end(response, url, self.expected.is_none()).await?;
            let Some(piece) = piece else {
                return match self.expected {
                    Some(missing) if missing > 0 => {
                        let why = format!("{} ended {missing} bytes too early", Shown(&self.followed.url));
                        Err(Error::new(ErrorKind::Unavailable, why))
                    }
                    _ => Ok(None),
                };
            };
            let len = piece.len() as u64;
            self.metrics.upstream_received(&self.upstream, len);
            self.received.fetch_add(len, Ordering::Relaxed);
            if let Some(expected) = &mut self.expected {
                *expected = expected.checked_sub(len).ok_or_else(|| {
                    Error::new(
                        ErrorKind::Protocol,
                        format!("{} sent more than it announced", Shown(&self.followed.url)),
                    )
                })?;
            }
            if !piece.is_empty() {
                return Ok(Some(piece));
            }
        }
    }
}

/// The hash beside what was taken for the content by its beginning.
struct Weighed {
    verifier: Verifier,
    digest: Digest,
    guesses: Arc<Guesses>,
    /// How many bytes are still to come, where that is known: no more are asked for then.
    left: Option<u64>,
}

impl Weighed {
    /// This came; `None`: that was all.
    fn note(&mut self, piece: Option<&Bytes>) {
        let is_all = match (piece, &mut self.left) {
            (None, left) => left.is_none(),
            (Some(piece), left) => {
                self.verifier.update(piece);
                *left = left.map(|left| left.saturating_sub(piece.len() as u64));
                *left == Some(0)
            }
        };
        if is_all && self.verifier.clone().digest() != self.digest {
            self.was_wrong();
        }
    }

    fn was_wrong(&self) {
        self.guesses.was_wrong(&self.digest);
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Part {
    first: u64,
    total: Option<u64>,
    expected: Option<u64>,
    is_tail: bool,
}

/// Which part a 206 brings, checked against what was asked; else what is wrong with it.
///
/// Source: RFC 9110 §14.4 and §15.3.7.
fn part(headers: &HeaderMap, asked: BlobRange, len: Option<u64>) -> Result<Part, &'static str> {
    if asked.is_whole() {
        return Err("a part where the whole was asked for");
    }
    let is_multipart = |value: &HeaderValue| value.as_bytes().to_ascii_lowercase().starts_with(b"multipart/");
    if headers.get(header::CONTENT_TYPE).is_some_and(is_multipart) {
        return Err("several parts in one");
    }
    let value = headers.get(header::CONTENT_RANGE).ok_or("a part that has no Content-Range")?;
    let ContentRange { first, last, total } = ContentRange::parse(value).map_err(|_| "a Content-Range that is none")?;
    if first != asked.first {
        return Err("a part that begins elsewhere");
    }
    if asked.last.is_some_and(|wanted| last > wanted) {
        return Err("a part that ends beyond what was asked for");
    }
    if len.is_some_and(|len| len != last - first + 1) {
        return Err("a Content-Length that contradicts its Content-Range");
    }
    // A server may send less than was asked for; whoever reads on then meets a short body, and
    // asks for the rest, rather than an end that looks clean.
    let end = total.map(|total| total - 1);
    let wanted = match (asked.last, end) {
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
    fn parts() {
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
            // Less than was asked for: the rest is still expected.
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
