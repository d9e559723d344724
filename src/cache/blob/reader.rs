//! The bytes of a blob for a client, from whatever source.

use std::sync::Arc;

use bytes::Bytes;

use super::{
    super::{
        download::{Download, DownloadReader},
        storage::Pin,
    },
    read_error::ReadError,
    uncached::UncachedReader,
    window::Windows,
};
use crate::{
    cache::download::DownloadError,
    file_slice::FileSlice,
    upstream::{ErrorKind, Mirrors},
};

/// The next part of a blob.
#[derive(Debug)]
pub(crate) enum BodyPiece {
    File(FileSlice),
    Memory(Bytes),
}

impl BodyPiece {
    /// In bytes.
    pub(crate) fn len(&self) -> u64 {
        match self {
            Self::File(slice) => slice.len,
            Self::Memory(bytes) => bytes.len() as u64,
        }
    }

    /// Cuts the piece off after `len` bytes. Returns the rest, if there is any.
    pub(crate) fn split_off(&mut self, len: u64) -> Option<Self> {
        if len >= self.len() {
            return None;
        }
        Some(match self {
            Self::File(slice) => {
                let rest = FileSlice { offset: slice.offset + len, len: slice.len - len, ..slice.clone() };
                slice.len = len;
                Self::File(rest)
            }
            Self::Memory(bytes) => Self::Memory(bytes.split_off(usize::try_from(len).unwrap_or(usize::MAX))),
        })
    }

    /// Truncates the piece to `most` bytes. Returns its length.
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

/// Keeps the blob or the bytes that a slice belongs to in the cache, as long as this lives.
#[derive(Clone)]
pub(crate) enum Hold {
    Blob(#[expect(dead_code, reason = "it is held, not read")] Arc<Pin>),
    Download(#[expect(dead_code, reason = "it is held, not read")] Arc<Download>),
}

/// Reads a blob, or a range of one, piece by piece.
pub(crate) enum BlobReader {
    /// The whole blob is on disk; the pin keeps it there.
    File { slice: Option<FileSlice>, pin: Arc<Pin> },
    /// A download is writing the blob. Without its file, the reader goes on through a window.
    Growing(Box<DownloadReader>, Windows),
    /// A small uncached blob, read and verified.
    Memory(Option<Bytes>),
    /// The blob is not cached and streams through from the upstream.
    Through(Box<UncachedReader>),
}

impl BlobReader {
    /// What keeps the blob, or the file that becomes the blob, in the cache.
    pub(crate) fn hold(&self) -> Option<Hold> {
        match self {
            Self::File { pin, .. } => Some(Hold::Blob(pin.clone())),
            Self::Growing(reader, _) => Some(Hold::Download(reader.download().clone())),
            Self::Memory(_) | Self::Through(_) => None,
        }
    }

    /// The forebay instances through which the bytes come, if they are still being received.
    pub(crate) fn mirrors(&self) -> Option<Mirrors> {
        match self {
            Self::Growing(reader, _) => reader.mirrors(),
            Self::Through(reader) => reader.mirrors(),
            Self::File { .. } | Self::Memory(_) => None,
        }
    }

    /// The next piece; `None` after the last one.
    ///
    /// The futures of upstream requests are on the heap: they are large, and most bodies never need one.
    pub(crate) async fn next(&mut self) -> Result<Option<BodyPiece>, ReadError> {
        loop {
            match self {
                Self::File { slice, .. } => return Ok(slice.take().map(BodyPiece::File)),
                Self::Memory(bytes) => return Ok(bytes.take().map(BodyPiece::Memory)),
                Self::Through(reader) => {
                    let trace = reader.trace().clone();
                    return Ok(trace.wait(Box::pin(reader.next())).await?.map(BodyPiece::Memory));
                }
                Self::Growing(reader, windows) => match reader.next().await {
                    Ok(slice) => return Ok(slice.map(BodyPiece::File)),
                    // The client gets the rest from the upstream when the disk fails.
                    Err(DownloadError::Storage(_) | DownloadError::NoRoom) => {
                        let through = Box::pin(UncachedReader::after(reader, windows)).await?;
                        *self = Self::Through(Box::new(through));
                    }
                    Err(DownloadError::Upstream(error))
                        if reader.is_of_other_source() || error.kind == ErrorKind::Loop =>
                    {
                        let through = Box::pin(UncachedReader::after(reader, windows)).await?;
                        *self = Self::Through(Box::new(through));
                    }
                    Err(error) => return Err(error.into()),
                },
            }
        }
    }
}
