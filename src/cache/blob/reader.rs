//! A blob's bytes as a client gets them, wherever they come from.

use std::{io, sync::Arc};

use bytes::Bytes;

use super::{
    super::{
        download::{Download, DownloadReader},
        storage::Pin,
    },
    uncached::UncachedReader,
};
use crate::{
    cache::download::DownloadError,
    file_slice::FileSlice,
    upstream::{self, ErrorKind, Mirrors},
};

/// The next part of a blob.
#[derive(Debug)]
pub(crate) enum BodyPiece {
    File(FileSlice),
    Memory(Bytes),
}

impl BodyPiece {
    /// Leaves no more of it than `most` bytes; how many that are.
    pub(crate) fn cut(&mut self, most: u64) -> u64 {
        match self {
            Self::File(slice) => {
                slice.len = slice.len.min(most);
                slice.len
            }
            Self::Memory(bytes) => {
                bytes.truncate(usize::try_from(most).unwrap_or(usize::MAX));
                bytes.len() as u64
            }
        }
    }
}

/// The body cannot go on. The sender breaks the connection: this must never look like an end.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum ReadError {
    #[error("the upstream failed in the middle of the blob")]
    Upstream(#[source] upstream::Error),
    #[error("the content does not match its digest")]
    Mismatch,
    #[error("the cache failed in the middle of the blob")]
    Storage(#[source] Arc<io::Error>),
    #[error("the download was given up")]
    Abandoned,
}

impl From<DownloadError> for ReadError {
    fn from(error: DownloadError) -> Self {
        match error {
            DownloadError::Upstream(error) => Self::Upstream(error),
            DownloadError::Mismatch | DownloadError::Damaged => Self::Mismatch,
            DownloadError::Storage(error) => Self::Storage(error),
            DownloadError::NoRoom | DownloadError::Abandoned => Self::Abandoned,
        }
    }
}

/// Keeps what a part of a file is of in the cache, as long as this lives.
#[derive(Clone)]
pub(crate) enum Hold {
    Blob(#[expect(dead_code, reason = "it is held, not read")] Arc<Pin>),
    Download(#[expect(dead_code, reason = "it is held, not read")] Arc<Download>),
}

/// Gives a blob, or a range of one, piece by piece.
pub(crate) enum BlobReader {
    /// All of it is on disk; the pin keeps it there.
    File { slice: Option<FileSlice>, pin: Arc<Pin> },
    /// A download is writing it.
    Growing(DownloadReader),
    /// A small one that is not cached, read and verified.
    Memory(Option<Bytes>),
    /// It is not cached and passes straight through.
    Through(Box<UncachedReader>),
}

impl BlobReader {
    /// What keeps the blob in the cache, or what is to be one.
    pub(crate) fn hold(&self) -> Option<Hold> {
        match self {
            Self::File { pin, .. } => Some(Hold::Blob(pin.clone())),
            Self::Growing(reader) => Some(Hold::Download(reader.download().clone())),
            Self::Memory(_) | Self::Through(_) => None,
        }
    }

    /// The forebays by way of which the bytes come, where they are still on their way.
    pub(crate) fn mirrors(&self) -> Option<Mirrors> {
        match self {
            Self::Growing(reader) => reader.mirrors(),
            Self::Through(reader) => reader.mirrors(),
            Self::File { .. } | Self::Memory(_) => None,
        }
    }

    /// The next piece; `None` after the last one.
    ///
    /// What asks the upstream is on the heap: most bodies never do, and each has room for all that it may do.
    pub(crate) async fn next(&mut self) -> Result<Option<BodyPiece>, ReadError> {
        loop {
            match self {
                Self::File { slice, .. } => return Ok(slice.take().map(BodyPiece::File)),
                Self::Memory(bytes) => return Ok(bytes.take().map(BodyPiece::Memory)),
                Self::Through(reader) => return Ok(Box::pin(reader.next()).await?.map(BodyPiece::Memory)),
                Self::Growing(reader) => match reader.next().await {
                    Ok(slice) => return Ok(slice.map(BodyPiece::File)),
                    // The disk is not what the client came for: it gets the rest from the upstream.
                    Err(DownloadError::Storage(_) | DownloadError::NoRoom) => {
                        let through = Box::pin(UncachedReader::after(reader)).await?;
                        *self = Self::Through(Box::new(through));
                    }
                    Err(DownloadError::Upstream(error))
                        if reader.is_of_other_source() || error.kind == ErrorKind::Loop =>
                    {
                        let through = Box::pin(UncachedReader::after(reader)).await?;
                        *self = Self::Through(Box::new(through));
                    }
                    Err(error) => return Err(error.into()),
                },
            }
        }
    }
}
