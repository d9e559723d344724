//! Guesses whether a long body with the content coding gzip is an encoding of the blob, or the blob itself.

use std::collections::VecDeque;

use bytes::Bytes;
use parking_lot::Mutex;

use super::gunzip::{Decoded, Gunzip};
use crate::oci::Digest;

/// How many blobs with a wrong guess are kept.
const MAX_WRONG: usize = 256;

/// Blobs whose guess by their beginning proved wrong.
#[derive(Debug, Default)]
pub(in crate::upstream) struct GzipGuesses(Mutex<VecDeque<Digest>>);

impl GzipGuesses {
    /// Whether a body that begins so, with the content coding gzip, is an encoding of the blob.
    pub(super) fn is_encoded(&self, digest: &Digest, prefix: &Bytes) -> bool {
        seems_encoded(prefix) != self.with(|wrong| wrong.contains(digest))
    }

    /// Notes that the content had another digest than guessed.
    pub(in crate::upstream) fn note_wrong(&self, digest: &Digest) {
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

/// Layers are gzip themselves: then the header only labels the layer. Anything else in gzip is encoded.
fn seems_encoded(prefix: &Bytes) -> bool {
    let mut gunzip = Gunzip::new();
    gunzip.feed(prefix.clone());
    match gunzip.next() {
        Ok(Decoded::Piece(content)) => content.get(257..262) != Some(b"ustar"),
        Ok(Decoded::Hungry | Decoded::End) | Err(_) => false,
    }
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
    fn a_guess_that_proved_wrong_is_reversed() {
        let mut tar = vec![b'x'; 600];
        tar[257..262].copy_from_slice(b"ustar");
        let digest = Digest::of(Algorithm::Sha256, b"");
        for (prefix, expected) in [
            (gzip(&tar), false),
            (gzip(&gzip(&tar)), true),
            (gzip(&[0; 10_000]), true),
            (Bytes::from_static(b"0123456789"), false),
            (Bytes::from(tar), false),
            (gzip(b""), false),
            (Bytes::from_static(&[0x1f, 0x8b, 8, 0]), false),
        ] {
            let guesses = GzipGuesses::default();
            for expected in [expected, !expected, expected] {
                assert_eq!(guesses.is_encoded(&digest, &prefix), expected);
                guesses.note_wrong(&digest);
            }
        }
        let guesses = GzipGuesses::default();
        for number in 0..1000_u32 {
            guesses.note_wrong(&Digest::of(Algorithm::Sha256, &number.to_be_bytes()));
        }
        assert_eq!(guesses.with(|wrong| wrong.len()), MAX_WRONG);
    }
}
