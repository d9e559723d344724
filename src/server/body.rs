//! Response bodies: bytes in memory, or a blob read piece by piece.
//!
//! What must hold: a body that cannot go on is an error, which breaks the connection (HTTP/1: closed before
//! Content-Length or the last chunk; HTTP/2: the stream is reset). It never ends as if it were complete, also
//! when its source ends early without saying so.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    sync::{Arc, LazyLock},
};

use bytes::Bytes;
use futures_util::stream;
use http_body::Frame;
use http_body_util::{BodyExt, Empty, Full, StreamBody, combinators::UnsyncBoxBody};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::cache::{BlobReader, FileSlice, Piece, ReadError};

/// How much is read from a file at a time, in bytes.
const CHUNK: u64 = 128 * 1024;
/// How many such chunks all responses together hold in memory: 256 MiB. A body that finds none waits for one.
const MOST_CHUNKS: usize = 2048;

static CHUNKS: LazyLock<Arc<Semaphore>> = LazyLock::new(|| Arc::new(Semaphore::new(MOST_CHUNKS)));

/// The body of every response.
pub type Body = UnsyncBoxBody<Bytes, BodyError>;

/// Why a body cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    #[error("the blob cannot be read on")]
    Read(#[source] ReadError),
    #[error("the cached file cannot be read")]
    File(#[source] io::Error),
    #[error("the blob ended {missing} bytes early")]
    Short { missing: u64 },
}

pub fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// Sends what `reader` gives; `len` bytes when that is known.
pub fn blob(reader: BlobReader, len: Option<u64>) -> Body {
    let source = Source { reader, rest: None, missing: len };
    let frames = stream::try_unfold(source, |mut source| async {
        Ok(source.next().await?.map(|bytes| (Frame::data(bytes), source)))
    });
    StreamBody::new(frames).boxed_unsync()
}

struct Source {
    reader: BlobReader,
    /// What is left of the slice at hand.
    rest: Option<FileSlice>,
    /// How many announced bytes are still to be sent.
    missing: Option<u64>,
}

impl Source {
    async fn next(&mut self) -> Result<Option<Bytes>, BodyError> {
        if self.missing == Some(0) {
            return Ok(None);
        }
        let bytes = match self.piece().await? {
            Some(Piece::Memory(bytes)) => bytes,
            Some(Piece::File(mut slice)) => {
                let len = slice.len.min(CHUNK);
                let bytes = read(slice.file.clone(), slice.offset, len).await.map_err(BodyError::File)?;
                slice.offset += len;
                slice.len -= len;
                self.rest = Some(slice).filter(|slice| slice.len > 0);
                bytes
            }
            None => {
                return match self.missing {
                    Some(missing) if missing > 0 => Err(BodyError::Short { missing }),
                    _ => Ok(None),
                };
            }
        };
        if let Some(missing) = &mut self.missing {
            *missing = missing.saturating_sub(bytes.len() as u64);
        }
        Ok(Some(bytes))
    }

    async fn piece(&mut self) -> Result<Option<Piece>, BodyError> {
        match self.rest.take() {
            Some(slice) => Ok(Some(Piece::File(slice))),
            None => self.reader.next().await.map_err(BodyError::Read),
        }
    }
}

/// Bytes in memory that count as one of [`MOST_CHUNKS`] until they are sent.
struct Chunk {
    buffer: Vec<u8>,
    _place: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Chunk {
    fn as_ref(&self) -> &[u8] {
        &self.buffer
    }
}

/// Reads off the async threads: the pages may have to come from the disk.
async fn read(file: Arc<File>, offset: u64, len: u64) -> io::Result<Bytes> {
    let place = CHUNKS.clone().acquire_owned().await.map_err(io::Error::other)?;
    let reading = tokio::task::spawn_blocking(move || {
        let mut buffer = vec![0; usize::try_from(len).map_err(io::Error::other)?];
        file.read_exact_at(&mut buffer, offset)?;
        Ok(Bytes::from_owner(Chunk { buffer, _place: place }))
    });
    reading.await.map_err(io::Error::other)?
}
