//! Checks a guess about the encoding of a blob by its digest.

use std::sync::Arc;

use bytes::Bytes;

use super::super::response::gzip_guess::GzipGuesses;
use crate::oci::{Digest, Verifier};

pub(super) struct GuessCheck {
    verifier: Verifier,
    digest: Digest,
    guesses: Arc<GzipGuesses>,
    /// How many bytes are left, if known: the reader stops there.
    left: Option<u64>,
}

impl GuessCheck {
    pub(super) fn new(digest: Digest, guesses: Arc<GzipGuesses>, len: Option<u64>) -> Self {
        Self { verifier: Verifier::new(digest.algorithm()), digest, guesses, left: len }
    }

    /// Notes the next piece of the content; `None`: its end.
    pub(super) fn note(&mut self, piece: Option<&Bytes>) {
        let is_all = match (piece, &mut self.left) {
            (None, left) => left.is_none(),
            (Some(piece), left) => {
                self.verifier.update(piece);
                *left = left.map(|left| left.saturating_sub(piece.len() as u64));
                *left == Some(0)
            }
        };
        if is_all && self.verifier.clone().digest() != self.digest {
            self.note_wrong();
        }
    }

    pub(super) fn note_wrong(&self) {
        self.guesses.note_wrong(&self.digest);
    }
}
