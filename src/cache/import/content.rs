//! Blobs of an archive on their way into the cache.
//!
//! What must hold: room is reserved before a byte is written, and no more than a step ahead of what has come: an archive that
//! lies about the size of a blob evicts nothing for it. A blob is visible once all of it is verified and synced.

use std::{
    collections::hash_map::RandomState,
    hash::{BuildHasher as _, Hasher as _},
    io::IoSlice,
    sync::Arc,
};

use bytes::Bytes;

use super::{ImportError, ImportsInner};
use crate::{
    cache::{
        Visibility,
        storage::{self, Pin, TempUpload, change, lru_index::IndexKey, write_all_at},
    },
    oci::{Digest, Verifier},
};

/// How many bytes are written and hashed at a time.
const STEP: usize = 1024 * 1024;
/// Room is reserved in steps of so many bytes.
const ROOM_STEP: u64 = 16 * 1024 * 1024;

/// A blob of which more comes.
pub(super) struct ArrivingBlob {
    digest: Digest,
    size: u64,
    file: TempUpload,
    verifier: Verifier,
    written: u64,
    /// What is not written yet.
    pieces: Vec<Bytes>,
    waiting: usize,
}

impl ImportsInner {
    /// Begins a blob of this size.
    pub(super) async fn begin_blob(&self, digest: &Digest, size: u64) -> Result<ArrivingBlob, ImportError> {
        self.check_room(size)?;
        let reservation = self.store.reserve_upload(size.min(ROOM_STEP)).await?;
        // Random, so that it is the number of no upload.
        let number = RandomState::new().build_hasher().finish();
        let file = self.store.create_upload(number, reservation).await.map_err(ImportError::Storage)?;
        let verifier = Verifier::new(digest.algorithm());
        let (pieces, waiting) = (Vec::new(), 0);
        Ok(ArrivingBlob { digest: digest.clone(), size, file, verifier, written: 0, pieces, waiting })
    }
}

impl ArrivingBlob {
    pub(super) fn digest(&self) -> &Digest {
        &self.digest
    }

    pub(super) fn size(&self) -> u64 {
        self.size
    }

    pub(super) async fn push(&mut self, bytes: Bytes) -> Result<(), ImportError> {
        self.waiting += bytes.len();
        self.pieces.push(bytes);
        if self.waiting >= STEP { self.write().await } else { Ok(()) }
    }

    /// Writes and hashes what waits.
    async fn write(&mut self) -> Result<(), ImportError> {
        let (pieces, offset) = (std::mem::take(&mut self.pieces), self.written);
        let len = std::mem::take(&mut self.waiting) as u64;
        self.file.grow_to((offset + len).next_multiple_of(ROOM_STEP).min(self.size)).await?;
        let (file, mut verifier) = (self.file.file().clone(), self.verifier.clone());
        let written = storage::write(move || {
            pieces.iter().for_each(|piece| verifier.update(piece));
            let mut at = offset;
            // A system call takes a limited number of buffers.
            for pieces in pieces.chunks(512) {
                let mut buffers: Vec<_> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
                write_all_at(&file, &mut buffers, at)?;
                at += pieces.iter().map(|piece| piece.len() as u64).sum::<u64>();
            }
            Ok(verifier)
        });
        self.verifier = written.await.map_err(ImportError::Storage)?;
        self.file.note_written(len);
        self.written += len;
        Ok(())
    }

    /// Makes it a blob of the cache, if it is the right one; the pin keeps it there.
    pub(super) async fn finish(mut self) -> Result<Arc<Pin>, ImportError> {
        self.write().await?;
        let Self { digest, size, file, verifier, written, .. } = self;
        if written != size || verifier.digest() != digest {
            change(move || drop(file)).await;
            return Err(ImportError::Mismatch(digest));
        }
        let key = IndexKey::Blob(Visibility::Shared.key(&digest));
        change(move || file.commit(key, size)).await.map_err(ImportError::Storage)
    }
}
