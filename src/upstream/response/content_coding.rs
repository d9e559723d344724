//! Whether a body is the content, or an encoding of the content (pure).
//!
//! What must hold: the digest outweighs the head. Raw bytes with the digest are the content, whatever the head says;
//! only others are decoded.

use bytes::Bytes;

use super::{super::head::Coding, document_budget::MAX_DOCUMENT, gunzip::Gunzip};
use crate::oci::{Digest, Verifier};

/// The longest blob that is decoded to verify it, in bytes.
const MAX_DECODED: u64 = 1024 * 1024 * 1024;

/// The content with the digest: the raw bytes, or what they are an encoding of.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct MatchingContent {
    pub is_encoded: bool,
    pub len: u64,
}

/// `None`: neither has the digest.
pub(super) fn find_content(raw: Bytes, coding: Coding, digest: &Digest) -> Option<MatchingContent> {
    if Digest::of(digest.algorithm(), &raw) == *digest {
        return Some(MatchingContent { is_encoded: false, len: raw.len() as u64 });
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
    (is_gzip && verifier.digest() == *digest).then_some(MatchingContent { is_encoded: true, len })
}

/// The raw bytes if they have the digest, or, without a known digest, if they may be a document; else what they are an
/// encoding of. The caller verifies the digest.
pub(super) fn decode_document(raw: Bytes, coding: Coding, digest: Option<&Digest>) -> Bytes {
    let is_it = match digest {
        Some(digest) => Digest::of(digest.algorithm(), &raw) == *digest,
        None => raw.trim_ascii_start().first() == Some(&b'{'),
    };
    if is_it {
        return raw;
    }
    decoded(raw.clone(), coding).unwrap_or(raw)
}

/// `None`: they are no such encoding, or that of a content that is too long for memory.
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
            let found = found.map(|(is_encoded, len)| MatchingContent { is_encoded, len: len as u64 });
            assert_eq!(find_content(bytes.clone(), coding, &digest), found, "{coding:?} {digest}");
        }
        let members = [&gzip(b"{\"a\"")[..], &gzip(b":1}")].concat();
        assert_eq!(
            find_content(members.into(), Coding::Gzip, &of(&content)),
            Some(MatchingContent { is_encoded: true, len: 7 })
        );
        assert_eq!(decode_document(raw.clone(), Coding::Gzip, None), content);
        assert_eq!(decode_document(content.clone(), Coding::Gzip, None), content);
        assert_eq!(decode_document(raw.clone(), Coding::Gzip, Some(&of(&raw))), raw);
        assert_eq!(decode_document(raw.clone(), Coding::Other, None), raw);
    }

    #[test]
    fn content_too_long_for_memory_is_not_decoded() {
        let longest = vec![0; MAX_DOCUMENT];
        let longer = vec![0; MAX_DOCUMENT + 1];
        assert_eq!(decoded(gzip(&longest), Coding::Gzip).map(|content| content.len()), Some(MAX_DOCUMENT));
        assert_eq!(decoded(gzip(&longer), Coding::Gzip), None);
    }
}
