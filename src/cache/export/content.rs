//! The bytes of an archive, as they are sent.

use std::{fs::File, io, os::unix::fs::FileExt as _, sync::Arc};

use bytes::Bytes;
use futures_util::{Stream, stream};

use super::{Export, KeptBlob, Part};
use crate::{
    cache::storage::{blocking, lru_index::IndexKey},
    oci::{Digest, Verifier},
    tar,
};

/// How much of a blob is read at a time, in bytes.
const STEP: u64 = 256 * 1024;

/// Why an archive broke off.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExportError {
    #[error("the blob {0} cannot be read")]
    Read(Digest, #[source] io::Error),
    #[error("the blob {0} is gone from the disk")]
    Gone(Digest),
    #[error("the blob {0} is damaged on the disk")]
    Damaged(Digest),
}

/// A blob that is being sent.
struct OpenBlob {
    blob: KeptBlob,
    file: Arc<File>,
    offset: u64,
    verifier: Verifier,
}

/// What is sent next.
struct Sending {
    export: Export,
    open: Option<OpenBlob>,
    /// Whether the end was sent.
    is_over: bool,
}

impl Export {
    /// The archive, piece by piece.
    pub(crate) fn into_stream(self) -> impl Stream<Item = Result<Bytes, ExportError>> + Send {
        let sending = Sending { export: self, open: None, is_over: false };
        stream::try_unfold(sending, |mut sending| async {
            let next = sending.next().await;
            if let Err(error) = &next {
                tracing::warn!(error = error as &dyn std::error::Error, "an export broke off");
            }
            Ok(next?.map(|bytes| (bytes, sending)))
        })
    }
}

impl Sending {
    async fn next(&mut self) -> Result<Option<Bytes>, ExportError> {
        if let Some(open) = self.open.take() {
            return self.read_on(open).await.map(Some);
        }
        match self.export.parts.pop_front() {
            Some(Part::Memory(bytes)) => Ok(Some(bytes)),
            Some(Part::Blob(blob)) => {
                let stored = self.export.store.open_blob(&blob.id).await;
                let stored = stored.map_err(|error| ExportError::Read(blob.digest().clone(), error))?;
                let stored = stored.filter(|stored| stored.len == blob.len);
                let Some(stored) = stored else { return Err(ExportError::Gone(blob.digest().clone())) };
                let (header, verifier) = (blob.header(), Verifier::new(blob.digest().algorithm()));
                self.open = Some(OpenBlob { blob, file: stored.file, offset: 0, verifier });
                Ok(Some(header.into()))
            }
            None if self.is_over => Ok(None),
            None => {
                self.is_over = true;
                Ok(Some(Bytes::from_static(&tar::END)))
            }
        }
    }

    /// The next piece of a blob. The last one is not sent before the blob is verified.
    async fn read_on(&mut self, open: OpenBlob) -> Result<Bytes, ExportError> {
        let OpenBlob { blob, file, offset, mut verifier } = open;
        let len = STEP.min(blob.len - offset);
        let is_last = offset + len == blob.len;
        let padding = if is_last { tar::padding(blob.len) } else { 0 };
        let content = usize::try_from(len).unwrap_or_default();
        let source = file.clone();
        let read = blocking(move || {
            let mut piece = vec![0; content + padding];
            source.read_exact_at(&mut piece[..content], offset)?;
            verifier.update(&piece[..content]);
            io::Result::Ok((Bytes::from(piece), verifier))
        });
        let (piece, verifier) = read.await.map_err(|error| ExportError::Read(blob.digest().clone(), error))?;
        if !is_last {
            self.open = Some(OpenBlob { blob, file, offset: offset + len, verifier });
            return Ok(piece);
        }
        if verifier.digest() != *blob.digest() {
            let damaged = IndexKey::Blob(blob.id.clone());
            self.export.store.remove_damaged(damaged).await;
            return Err(ExportError::Damaged(blob.digest().clone()));
        }
        Ok(piece)
    }
}
