//! Answers whose head says that they are something else than what was asked for: a page, or an encoding of it.
//!
//! What must hold: the digest outweighs the head. What has the digest is the content, whatever its head says; only what does not
//! have it is decoded. No byte of such an answer is given before it was judged, but of one that is longer than what is held in
//! memory: whether that is an encoding is guessed by its beginning, and by how an earlier guess came out; its reader verifies it.

use std::collections::VecDeque;

use parking_lot::Mutex;

use bytes::{Bytes, BytesMut};
use http::header;
use tokio::time::timeout;

use super::{
    super::{
        client::{WHOLE_BODY_TIMEOUT, next_or_end, number, redirect_walk::Followed},
        error::{Error, ErrorKind, Shown},
        failover::Endpoint,
        request::{Ask, Shared},
        response,
    },
    Coding,
    document::MAX_DOCUMENT,
    document_budget::Room,
    gunzip::{Decoded, Gunzip},
};
use crate::oci::{Digest, Verifier};

/// The longest blob that is decoded to see whether it is right, in bytes.
const MAX_DECODED: u64 = 1024 * 1024 * 1024;
/// How much of a long answer is read to guess what it is, in bytes.
const MAX_GUESSED_BY: usize = 4 * 1024;
/// Of how many blobs it is known that they are not what they seem.
const MAX_WRONG: usize = 256;

/// The beginning of a body, or all of it, that was read to judge it.
pub(in crate::upstream) struct Front {
    pub bytes: Bytes,
    /// Whether that is all.
    pub is_whole: bool,
    /// Whether it is to be decoded.
    pub is_encoded: bool,
    /// Of the content.
    pub len: Option<u64>,
    pub room: Option<Room>,
}

/// Blobs of which the guess was wrong.
#[derive(Debug, Default)]
pub(in crate::upstream) struct Guesses(Mutex<VecDeque<Digest>>);

impl Guesses {
    /// Whether what begins so, and says that it is gzip, is an encoding of the blob.
    fn is_encoded(&self, digest: &Digest, front: &Bytes) -> bool {
        seems_encoded(front) != self.with(|wrong| wrong.contains(digest))
    }

    /// The content was not what it was taken for.
    pub(in crate::upstream) fn was_wrong(&self, digest: &Digest) {
        self.with(|wrong| match wrong.iter().position(|known| known == digest) {
            Some(known) => drop(wrong.remove(known)),
            None => {
                if wrong.len() >= MAX_WRONG {
                    wrong.pop_front();
                }
                wrong.push_back(digest.clone());
            }
        });
    }

    fn with<T>(&self, act: impl FnOnce(&mut VecDeque<Digest>) -> T) -> T {
        act(&mut self.0.lock())
    }
}

/// Layers are gzip themselves: a label says so, and what comes is the layer. What else is in gzip was not so before.
fn seems_encoded(front: &Bytes) -> bool {
    let mut gunzip = Gunzip::new();
    gunzip.feed(front.clone());
    match gunzip.next() {
        Ok(Decoded::Piece(content)) => content.get(257..262) != Some(b"ustar"),
        Ok(Decoded::Hungry | Decoded::End) | Err(_) => false,
    }
}

/// What judging an answer takes.
struct BodyNeed {
    /// How much of it is read at most, in bytes.
    limit: usize,
    /// Room for so many bytes, and a turn; none where little is read.
    room: Option<usize>,
}

/// `None`: its head says that it is the blob.
///
/// # Errors
/// It is a part of an encoding, which is none of the content, and nothing tells until the end.
fn needs(followed: &Followed) -> Result<Option<BodyNeed>, Error> {
    let headers = followed.response.headers();
    let (coding, len) = (response::coding(headers), number(headers, &header::CONTENT_LENGTH));
    if followed.is_part() {
        if matches!(coding, Coding::Gzip | Coding::Other) {
            let why = format!("{} answered with a part of an encoding", Shown(&followed.url));
            return Err(Error::new(ErrorKind::Protocol, why));
        }
        return Ok(None);
    }
    let is_long = len.is_some_and(|len| len > MAX_DOCUMENT as u64);
    if coding != Coding::Gzip && (is_long || !response::is_html(headers)) {
        return Ok(None);
    }
    if is_long {
        return Ok(Some(BodyNeed { limit: MAX_GUESSED_BY, room: None }));
    }
    let room = len.and_then(|len| usize::try_from(len).ok()).unwrap_or(MAX_DOCUMENT);
    Ok(Some(BodyNeed { limit: MAX_DOCUMENT, room: Some(room) }))
}

impl Shared {
    /// Asks for a blob, and judges it by its digest where its head says that it is something else. Where there is no turn or no
    /// room for that, it is asked for again once there is: nothing of a connection is held meanwhile.
    pub(in crate::upstream) async fn ask_judged(
        &self,
        endpoint: &Endpoint,
        ask: &Ask,
        digest: &Digest,
    ) -> Result<(Followed, Option<Front>), Error> {
        let mut followed = self.ask(endpoint, ask).await?;
        let mut place = None;
        if let Some(BodyNeed { room: Some(bytes), .. }) = needs(&followed)? {
            place = self.place_now(&self.judged, bytes);
            if place.is_none() {
                drop(followed);
                let (turn, room) = self.place(&self.judged, bytes).await.ok_or_else(|| self.exhausted())?;
                followed = self.ask(endpoint, ask).await?;
                if needs(&followed)?.and_then(|need| need.room).is_some_and(|bytes| !room.holds(bytes)) {
                    return Err(self.exhausted());
                }
                place = Some((turn, room));
            }
        }
        let Some(BodyNeed { limit, .. }) = needs(&followed)? else { return Ok((followed, None)) };
        let (_turn, room) = place.unzip();
        let front = self.judge(&mut followed, digest, limit, room).await?;
        Ok((followed, Some(front)))
    }

    /// `limit`: how much of it is read at most, in bytes, for which there is `room`.
    async fn judge(
        &self,
        followed: &mut Followed,
        digest: &Digest,
        limit: usize,
        room: Option<Room>,
    ) -> Result<Front, Error> {
        let headers = followed.response.headers();
        let (coding, len) = (response::coding(headers), number(headers, &header::CONTENT_LENGTH));
        let reading = self.read_front(followed, len.is_none(), limit);
        let (bytes, is_whole) = match timeout(WHOLE_BODY_TIMEOUT, reading).await {
            Ok(front) => front?,
            Err(_) => return Err(Error::timed_out("reading", &followed.url, WHOLE_BODY_TIMEOUT)),
        };
        if !is_whole {
            let is_encoded = coding == Coding::Gzip && self.guesses.is_encoded(digest, &bytes);
            let len = len.filter(|_| !is_encoded);
            return Ok(Front { bytes, is_whole, is_encoded, len, room });
        }
        let (raw, wanted) = (bytes.clone(), digest.clone());
        // What is short may become long.
        let len = if coding == Coding::Gzip { MAX_DOCUMENT } else { raw.len() };
        match self.room.work(len, move || fitting(raw, coding, &wanted)).await.flatten() {
            Some(Fitting { is_encoded, len }) => Ok(Front { bytes, is_whole, is_encoded, len: Some(len), room }),
            None => {
                let why =
                    format!("{} answered with a page, or in an encoding, that is not the blob", Shown(&followed.url));
                Err(Error::new(ErrorKind::Protocol, why))
            }
        }
    }

    /// The beginning of a body, up to about `limit` bytes, and whether that is all.
    async fn read_front(&self, followed: &mut Followed, known: bool, limit: usize) -> Result<(Bytes, bool), Error> {
        let mut body = BytesMut::new();
        while let Some(piece) = next_or_end(&mut followed.response, &followed.url, known).await? {
            self.note_received(piece.len() as u64);
            body.extend_from_slice(&piece);
            if body.len() > limit {
                return Ok((body.freeze(), false));
            }
        }
        Ok((body.freeze(), true))
    }
}

/// What of an answer has the digest: the bytes as they are, or what they are an encoding of.
#[derive(Debug, PartialEq, Eq)]
struct Fitting {
    is_encoded: bool,
    len: u64,
}

fn fitting(raw: Bytes, coding: Coding, digest: &Digest) -> Option<Fitting> {
    if Digest::of(digest.algorithm(), &raw) == *digest {
        return Some(Fitting { is_encoded: false, len: raw.len() as u64 });
    }
    if coding != Coding::Gzip {
        return None;
    }
    let (mut verifier, mut len) = (Verifier::new(digest.algorithm()), 0);
    let is_gzip = Gunzip::all(raw, |piece| {
        verifier.update(piece);
        len += piece.len() as u64;
        len <= MAX_DECODED
    });
    (is_gzip && verifier.digest() == *digest).then_some(Fitting { is_encoded: true, len })
}

/// What a document is, as far as its coding goes: the bytes as they are, where they have the digest or none is known and they may be
/// a document; else what they are an encoding of. Whether that is right is not known here.
pub(in crate::upstream) fn document(raw: Bytes, coding: Coding, digest: Option<&Digest>) -> Bytes {
    let is_it = match digest {
        Some(digest) => Digest::of(digest.algorithm(), &raw) == *digest,
        None => raw.trim_ascii_start().first() == Some(&b'{'),
    };
    if is_it {
        return raw;
    }
    decoded(raw.clone(), coding).unwrap_or(raw)
}

/// `None`: it is no such encoding, or one of more than is held in memory.
fn decoded(raw: Bytes, coding: Coding) -> Option<Bytes> {
    if coding != Coding::Gzip {
        return None;
    }
    let mut content = Vec::new();
    let is_gzip = Gunzip::all(raw, |piece| {
        content.extend_from_slice(piece);
        content.len() <= MAX_DOCUMENT
    });
    is_gzip.then(|| content.into_boxed_slice().into())
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
            (&content, Coding::Gzip, of(&content), Some((false, 7))),
            (&raw, Coding::Gzip, of(&raw), Some((false, raw.len()))),
            (&raw, Coding::Gzip, of(&content), Some((true, 7))),
            (&raw, Coding::None, of(&content), None),
            (&raw, Coding::Label, of(&content), None),
            (&twice, Coding::Gzip, of(&raw), Some((true, raw.len()))),
            (&twice, Coding::Gzip, of(&content), None),
            (&raw.slice(..raw.len() - 1), Coding::Gzip, of(&content), None),
        ] {
            let found = found.map(|(is_encoded, len)| Fitting { is_encoded, len: len as u64 });
            assert_eq!(fitting(bytes.clone(), coding, &digest), found, "{coding:?} {digest}");
        }
        let members = [&gzip(b"{\"a\"")[..], &gzip(b":1}")].concat();
        assert_eq!(fitting(members.into(), Coding::Gzip, &of(&content)), Some(Fitting { is_encoded: true, len: 7 }));
        assert_eq!(document(raw.clone(), Coding::Gzip, None), content);
        assert_eq!(document(content.clone(), Coding::Gzip, None), content);
        assert_eq!(document(raw.clone(), Coding::Gzip, Some(&of(&raw))), raw);
        assert_eq!(document(raw.clone(), Coding::Other, None), raw);
    }

    #[test]
    fn what_becomes_too_long_is_not_decoded() {
        let longest = vec![0; MAX_DOCUMENT];
        let longer = vec![0; MAX_DOCUMENT + 1];
        assert_eq!(decoded(gzip(&longest), Coding::Gzip).map(|content| content.len()), Some(MAX_DOCUMENT));
        assert_eq!(decoded(gzip(&longer), Coding::Gzip), None);
    }

    #[test]
    fn a_long_answer_is_what_it_seems_until_that_proves_wrong() {
        let mut tar = vec![b'x'; 600];
        tar[257..262].copy_from_slice(b"ustar");
        let digest = Digest::of(Algorithm::Sha256, b"");
        for (front, expected) in [
            (gzip(&tar), false),
            (gzip(&gzip(&tar)), true),
            (gzip(&[0; 10_000]), true),
            (Bytes::from_static(b"0123456789"), false),
            (Bytes::from(tar), false),
            (gzip(b""), false),
            (Bytes::from_static(&[0x1f, 0x8b, 8, 0]), false),
        ] {
            let guesses = Guesses::default();
            for expected in [expected, !expected, expected] {
                assert_eq!(guesses.is_encoded(&digest, &front), expected);
                guesses.was_wrong(&digest);
            }
        }
        let guesses = Guesses::default();
        for number in 0..1000_u32 {
            guesses.was_wrong(&Digest::of(Algorithm::Sha256, &number.to_be_bytes()));
        }
        assert_eq!(guesses.with(|wrong| wrong.len()), MAX_WRONG);
    }
}
