//! The bytes of a blob before a position, which the digest covers too.

use std::{io, sync::Arc};

use super::super::{hash::hash_slice, storage::blocking};
use crate::{
    file_slice::FileSlice,
    oci::{Algorithm, Verifier},
};

/// All bytes before a position: hashed, or still in the file of the download that sent them.
#[derive(Clone)]
pub(super) enum Front {
    Hashed(Verifier),
    /// From the start of the file.
    InFile(Algorithm, FileSlice),
}

impl Front {
    /// No bytes.
    pub(super) fn empty(algorithm: Algorithm) -> Self {
        Self::Hashed(Verifier::new(algorithm))
    }

    /// The bytes of the file that a client already has.
    pub(super) fn sent(algorithm: Algorithm, sent: FileSlice) -> Self {
        if sent.len == 0 { Self::empty(algorithm) } else { Self::InFile(algorithm, sent) }
    }

    /// Whether some of the bytes come from a file of the cache.
    pub(super) fn is_in_file(&self) -> bool {
        matches!(self, Self::InFile(..))
    }

    /// Whether both are the same bytes of the same file.
    pub(super) fn is_same_file(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::InFile(_, one), Self::InFile(_, other)) => {
                Arc::ptr_eq(&one.file, &other.file) && one.len == other.len
            }
            _ => false,
        }
    }

    /// Hashes what is still in the file. Cancel-safe.
    pub(super) async fn hash(&mut self) -> io::Result<&mut Verifier> {
        if let Self::InFile(algorithm, sent) = self {
            let (mut verifier, sent) = (Verifier::new(*algorithm), sent.clone());
            let hashed = blocking(move || hash_slice(&sent, &mut verifier).map(|()| verifier)).await?;
            *self = Self::Hashed(hashed);
        }
        match self {
            Self::Hashed(verifier) => Ok(verifier),
            Self::InFile(..) => Err(io::ErrorKind::Other.into()),
        }
    }

    /// Adds the bytes that follow; before that, what is in the file has to be [hashed](Self::hash).
    pub(super) fn update(&mut self, bytes: &[u8]) {
        if let Self::Hashed(verifier) = self {
            verifier.update(bytes);
        }
    }
}
