//! One object whose bytes the scrub compares with its digest, chunk by chunk.

use std::io;

use crate::{
    cache::{
        manifest::VerifiedManifest,
        storage::{Inspection, lru_index::IndexKey},
    },
    oci::{Digest, Verifier},
};

/// How much the scrub reads at a time, in bytes; other users of the disk wait no longer than one such read.
const CHUNK: usize = 1024 * 1024;

/// An object whose bytes the scrub compares with its digest.
pub(super) struct Verification {
    pub check: Inspection,
    digest: Digest,
    seen: Seen,
    buffer: Vec<u8>,
}

enum Seen {
    Blob(Verifier),
    /// The whole file: a signed manifest is verified by its signed content.
    Manifest(Vec<u8>),
}

impl Verification {
    /// `None`: what is no blob and no manifest has no digest.
    pub(super) fn new(key: &IndexKey, check: Inspection) -> Option<Self> {
        let (digest, seen) = match key {
            IndexKey::Blob(id) => (id.digest.clone(), Seen::Blob(Verifier::new(id.digest.algorithm()))),
            IndexKey::Manifest(id) => (id.digest.clone(), Seen::Manifest(Vec::new())),
            IndexKey::Tag(_) | IndexKey::Partial(_) => return None,
        };
        let len = usize::try_from(check.len).unwrap_or(usize::MAX);
        Some(Self { check, digest, seen, buffer: vec![0; len.min(CHUNK)] })
    }

    /// Reads the next chunk. Blocks.
    pub(super) fn step(&mut self) -> io::Result<u64> {
        let read = self.check.read(&mut self.buffer)?;
        let bytes = &self.buffer[..read];
        match &mut self.seen {
            Seen::Blob(verifier) => verifier.update(bytes),
            // A file that is too long is no manifest; the scrub keeps only enough of it to see that.
            Seen::Manifest(seen) if seen.len() as u64 <= VerifiedManifest::MAX_FILE_LEN => {
                seen.extend_from_slice(bytes)
            }
            Seen::Manifest(_) => {}
        }
        Ok(read as u64)
    }

    pub(super) fn is_right(&self) -> bool {
        match &self.seen {
            Seen::Blob(verifier) => verifier.clone().digest() == self.digest,
            Seen::Manifest(file) => VerifiedManifest::is_whole(&self.digest, file),
        }
    }
}
