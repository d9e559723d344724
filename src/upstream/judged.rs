//! Answers whose head says that they are something else than what was asked for: a page, or an encoding of it.
//!
//! What must hold: the digest outweighs the head. What has the digest is the content, whatever its head says; only what does not
//! have it is decoded, within the same bound of bytes. No byte of such an answer is given before it was judged, but of one that
//! is longer than what is held in memory: that is given as it comes, and its reader verifies it.

use std::io::Read as _;

use bytes::{Bytes, BytesMut};
use flate2::bufread::MultiGzDecoder;
use tokio::{sync::SemaphorePermit, time::timeout};

use super::{
    answer::{self, Coding},
    budget::Room,
    client::{WHOLE_BODY_TIMEOUT, next_or_end},
    document::MAX_DOCUMENT,
    error::{Error, ErrorKind, Shown},
    follow::Followed,
    request::Shared,
};
use crate::oci::Digest;

/// The beginning of a body, or all of it, that was read to judge it.
pub(super) struct Front {
    pub bytes: Bytes,
    /// Whether that is all.
    pub is_whole: bool,
    pub room: Room,
}

impl Shared {
    /// Judges a whole blob by its digest, where its head says that it is something else.
    pub(super) async fn judge(&self, followed: &mut Followed, digest: &Digest) -> Result<Option<Front>, Error> {
        let headers = followed.response.headers();
        let coding = answer::coding(headers);
        let is_suspect = answer::is_html(headers) || coding == Coding::Gzip;
        let len = answer::number_of_bytes(headers);
        if followed.is_part() {
            // A part of an encoding is none of the content, and nothing tells until the end.
            if matches!(coding, Coding::Gzip | Coding::Other) {
                let why = format!("{} answered with a part of an encoding", Shown(&followed.url));
                return Err(Error::new(ErrorKind::Protocol, why));
            }
            return Ok(None);
        }
        if !is_suspect || len.is_some_and(|len| len > MAX_DOCUMENT as u64) {
            return Ok(None);
        }
        let bytes = len.and_then(|len| usize::try_from(len).ok()).unwrap_or(MAX_DOCUMENT);
        let Some((_turn, room)): Option<(SemaphorePermit<'_>, Room)> = self.place_now(bytes) else {
            return Err(self.exhausted());
        };
        let reading = self.read_front(followed, len.is_none());
        let (front, is_whole) = match timeout(WHOLE_BODY_TIMEOUT, reading).await {
            Ok(front) => front?,
            Err(_) => return Err(Error::timed_out("reading", &followed.url, WHOLE_BODY_TIMEOUT)),
        };
        if !is_whole {
            return Ok(Some(Front { bytes: front, is_whole, room }));
        }
        let (raw, wanted) = (front, digest.clone());
        let judged = tokio::task::spawn_blocking(move || fitting(raw, coding, &wanted)).await;
        match judged.ok().flatten() {
            Some(bytes) => Ok(Some(Front { bytes, is_whole: true, room })),
            None => {
                let why =
                    format!("{} answered with a page, or in an encoding, that is not the blob", Shown(&followed.url));
                Err(Error::new(ErrorKind::Protocol, why))
            }
        }
    }

    /// As much of a body as is held in memory, and whether that is all.
    async fn read_front(&self, followed: &mut Followed, known: bool) -> Result<(Bytes, bool), Error> {
        let mut body = BytesMut::new();
        while let Some(piece) = next_or_end(&mut followed.response, &followed.url, known).await? {
            self.note_received(piece.len() as u64);
            body.extend_from_slice(&piece);
            if body.len() > MAX_DOCUMENT {
                return Ok((body.freeze(), false));
            }
        }
        Ok((body.freeze(), true))
    }
}

/// What has the digest: the bytes as they are, else what they are an encoding of.
fn fitting(raw: Bytes, coding: Coding, digest: &Digest) -> Option<Bytes> {
    let fits = |bytes: &Bytes| Digest::of(digest.algorithm(), bytes) == *digest;
    if fits(&raw) {
        return Some(raw);
    }
    decoded(&raw, coding).filter(fits)
}

/// What a document is, as far as its coding goes: the bytes as they are, where they have the digest or none is known and they may be
/// a document; else what they are an encoding of. Whether that is right is not known here.
pub(super) fn document(raw: Bytes, coding: Coding, digest: Option<&Digest>) -> Bytes {
    let is_it = match digest {
        Some(digest) => Digest::of(digest.algorithm(), &raw) == *digest,
        None => raw.trim_ascii_start().first() == Some(&b'{'),
    };
    if is_it {
        return raw;
    }
    decoded(&raw, coding).unwrap_or(raw)
}

/// `None`: it is no such encoding, or one of more than is held in memory.
fn decoded(raw: &[u8], coding: Coding) -> Option<Bytes> {
    if coding != Coding::Gzip {
        return None;
    }
    let mut content = Vec::new();
    MultiGzDecoder::new(raw).take(MAX_DOCUMENT as u64 + 1).read_to_end(&mut content).ok()?;
    (content.len() <= MAX_DOCUMENT).then(|| content.into_boxed_slice().into())
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::{Compression, write::GzEncoder};

    use super::*;
    use crate::oci::Algorithm;

    fn gzip(content: &[u8]) -> Bytes {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(content).unwrap();
        encoder.finish().unwrap().into()
    }

    #[test]
    fn the_digest_outweighs_the_coding() {
        let content = Bytes::from_static(b"{\"a\":1}");
        let (raw, twice) = (gzip(&content), gzip(&gzip(&content)));
        let of = |bytes: &[u8]| Digest::of(Algorithm::Sha256, bytes);
        for (bytes, coding, digest, found) in [
            (&content, Coding::Gzip, of(&content), Some(&content)),
            (&raw, Coding::Gzip, of(&raw), Some(&raw)),
            (&raw, Coding::Gzip, of(&content), Some(&content)),
            (&raw, Coding::None, of(&content), None),
            (&raw, Coding::Label, of(&content), None),
            (&twice, Coding::Gzip, of(&raw), Some(&raw)),
            (&twice, Coding::Gzip, of(&content), None),
            (&raw.slice(..raw.len() - 1), Coding::Gzip, of(&content), None),
        ] {
            assert_eq!(fitting(bytes.clone(), coding, &digest).as_ref(), found, "{coding:?} {digest}");
        }
        let members = [&gzip(b"{\"a\"")[..], &gzip(b":1}")].concat();
        assert_eq!(fitting(members.into(), Coding::Gzip, &of(&content)), Some(content.clone()));
        assert_eq!(document(raw.clone(), Coding::Gzip, None), content);
        assert_eq!(document(content.clone(), Coding::Gzip, None), content);
        assert_eq!(document(raw.clone(), Coding::Gzip, Some(&of(&raw))), raw);
        assert_eq!(document(raw.clone(), Coding::Other, None), raw);
    }

    #[test]
    fn what_becomes_too_long_is_not_decoded() {
        let longest = vec![0; MAX_DOCUMENT];
        let longer = vec![0; MAX_DOCUMENT + 1];
        assert_eq!(decoded(&gzip(&longest), Coding::Gzip).map(|content| content.len()), Some(MAX_DOCUMENT));
        assert_eq!(decoded(&gzip(&longer), Coding::Gzip), None);
    }
}
