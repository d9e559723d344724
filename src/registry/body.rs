//! Response bodies: bytes in memory, or a blob that is read piece by piece.
//!
//! What must hold: a body that cannot continue is an error, which breaks the connection (HTTP/1: closed before
//! Content-Length or the last chunk; HTTP/2: the stream is reset). It never ends as if it were complete, also when its
//! source ends early without an error.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_util::stream;
use http_body::{Frame, SizeHint};
use http_body_util::{BodyExt, StreamBody, combinators::UnsyncBoxBody};

use super::{multipart_ranges::Framing, pace::Pace};
use crate::{
    cache::{BlobReader, BodyPiece, Parts, ReadError, Reading},
    file_slice::FileSlice,
    oci::ResolvedRange,
    transport::zero_copy::{
        buffers::FileReader,
        page_cache::{self, Presence, READ_AHEAD},
        placeholder::MAX_PART,
        queue::{KeepAlive, SendQueue},
    },
};

/// The rest of a slice is read into memory when it is no longer than this, in bytes: a small copy is cheaper than a
/// system call of its own.
const SMALL: u64 = 32 * 1024;

/// The longest frame of a body in memory, in bytes.
const MAX_FRAME: usize = 64 * 1024;
/// The last frame of a longer body, in bytes. hyper ends the task of an HTTP/2 stream once the last frame is queued,
/// before the client has taken it, and nothing watches it then: so it is short, and a copy that keeps none of the rest
/// in memory.
const LAST_FRAME: usize = 16 * 1024;

/// The body of every response.
pub(crate) enum Body {
    /// The rest of the body, in memory; `None` at the end.
    Whole(Option<Bytes>),
    Parts(UnsyncBoxBody<Bytes, BodyError>),
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut *self {
            Body::Whole(bytes) => Poll::Ready(next_frame(bytes).map(|bytes| Ok(Frame::data(bytes)))),
            Body::Parts(parts) => Pin::new(parts).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Body::Whole(bytes) => bytes.is_none(),
            Body::Parts(parts) => parts.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Body::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Body::Parts(parts) => parts.size_hint(),
        }
    }
}

/// Cuts the next frame off a body in memory.
fn next_frame(left: &mut Option<Bytes>) -> Option<Bytes> {
    let Some(bytes) = left.as_mut().filter(|bytes| bytes.len() > LAST_FRAME) else { return left.take() };
    let frame = bytes.split_to(MAX_FRAME.min(bytes.len() - LAST_FRAME));
    if bytes.len() == LAST_FRAME {
        *bytes = Bytes::copy_from_slice(bytes);
    }
    Some(frame)
}

/// Why a body cannot go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    #[error("the blob cannot be read on")]
    Read(#[source] ReadError),
    #[error("the cached file cannot be read")]
    File(#[source] io::Error),
    #[error("the blob ended {missing} bytes early")]
    Short { missing: u64 },
}

pub(crate) fn empty() -> Body {
    Body::Whole(None)
}

pub(crate) fn full(bytes: impl Into<Bytes>) -> Body {
    Body::Whole(Some(bytes.into()).filter(|bytes| !bytes.is_empty()))
}

/// Sends the content of `reader`, of `len` bytes when that is known. With a send queue, the kernel sends what it can.
/// The blob counts as being read until `reading` is dropped.
pub(crate) fn blob(
    reader: BlobReader,
    len: Option<u64>,
    send_queue: Option<SendQueue>,
    reading: Option<Reading>,
    pace: Pace,
) -> Body {
    if let BlobReader::Memory(Some(bytes)) = &reader
        && len.is_none_or(|len| len == bytes.len() as u64)
    {
        return full(bytes.clone());
    }
    stream_of(reader, None, len, send_queue, reading, pace)
}

/// Sends several parts of a blob, each behind its head; `reader` reads the first part.
pub(crate) fn parts(reader: BlobReader, parts: Parts, framing: Framing, reading: Option<Reading>, pace: Pace) -> Body {
    let len = framing.body_len(parts.ranges());
    let several = Several::new(parts, framing);
    stream_of(reader, Some(Box::new(several)), Some(len), None, reading, pace)
}

/// A body in memory at this pace; all others have theirs.
pub(crate) fn paced(body: Body, pace: Pace) -> Body {
    match body {
        Body::Whole(Some(bytes)) => {
            let len = bytes.len() as u64;
            stream_of(BlobReader::Memory(Some(bytes)), None, Some(len), None, None, pace)
        }
        body => body,
    }
}

fn stream_of(
    reader: BlobReader,
    several: Option<Box<Several>>,
    len: Option<u64>,
    send_queue: Option<SendQueue>,
    reading: Option<Reading>,
    pace: Pace,
) -> Body {
    let source = Source {
        reader,
        several,
        rest: None,
        missing: len,
        send_queue,
        cannot_prefetch: false,
        memory: None,
        reading: reading.map(Arc::new),
        pace,
        allowed: 0,
    };
    let frames = stream::try_unfold(source, |mut source| async {
        Ok(source.next().await?.map(|bytes| (Frame::data(bytes), source)))
    });
    Body::Parts(StreamBody::new(frames).boxed_unsync())
}

struct Source {
    reader: BlobReader,
    /// The parts after the first one, where there are several.
    several: Option<Box<Several>>,
    /// The rest of the current piece.
    rest: Option<BodyPiece>,
    /// The number of announced bytes that are not sent yet.
    missing: Option<u64>,
    send_queue: Option<SendQueue>,
    /// After a read-ahead the file is not in the page cache, or that cannot be known.
    cannot_prefetch: bool,
    /// Present once a part had to be read into memory.
    memory: Option<FileReader>,
    pace: Pace,
    /// How many bytes the rates have given and were not sent yet.
    allowed: u64,
    /// Dropped last.
    reading: Option<Arc<Reading>>,
}

impl Source {
    async fn next(&mut self) -> Result<Option<Bytes>, BodyError> {
        if self.missing == Some(0) {
            return Ok(None);
        }
        let piece = match self.piece().await? {
            Some(piece) if self.pace.is_set() => Some(self.allowed(piece).await),
            piece => piece,
        };
        let bytes = match piece {
            Some(BodyPiece::Memory(bytes)) => {
                // Content that bypasses the cache, and what stands between parts, keeps nothing in the cache.
                if self.reader.hold().is_none() {
                    self.reading = None;
                }
                bytes
            }
            Some(BodyPiece::File(mut slice)) => {
                let bytes = self.send(&slice).await.map_err(BodyError::File)?;
                slice.offset += bytes.len() as u64;
                slice.len -= bytes.len() as u64;
                self.put_back(slice);
                bytes
            }
            None => {
                return match self.missing {
                    Some(missing) if missing > 0 => Err(BodyError::Short { missing }),
                    _ => Ok(None),
                };
            }
        };
        self.allowed = self.allowed.saturating_sub(bytes.len() as u64);
        if let Some(missing) = &mut self.missing {
            *missing = missing.saturating_sub(bytes.len() as u64);
        }
        Ok(Some(bytes))
    }

    /// The front of a piece, which the rates allow to be sent now.
    async fn allowed(&mut self, mut piece: BodyPiece) -> BodyPiece {
        if self.allowed == 0 {
            self.allowed = self.pace.take(piece.len()).await;
        }
        self.rest = piece.split_off(self.allowed);
        piece
    }

    /// Puts what was not sent of a slice before the rest of its piece, which follows it in the file.
    fn put_back(&mut self, unsent: FileSlice) {
        let behind = match self.rest.take() {
            Some(BodyPiece::File(rest)) => rest.len,
            Some(BodyPiece::Memory(_)) | None => 0,
        };
        let rest = FileSlice { len: unsent.len + behind, ..unsent };
        self.rest = Some(BodyPiece::File(rest)).filter(|rest| rest.len() > 0);
    }

    /// The front of a slice: a placeholder for bytes that the kernel sends, or the bytes.
    async fn send(&mut self, slice: &FileSlice) -> io::Result<Bytes> {
        let len = slice.len.min(MAX_PART);
        if let Some(send_queue) = &self.send_queue
            && len > SMALL
        {
            let ahead = match page_cache::presence(&slice.file, slice.offset, len)? {
                Presence::InMemory => {
                    return Ok(send_queue.push(slice.clone(), self.keep_alive(), slice.len > len + SMALL));
                }
                Presence::OnDisk => READ_AHEAD,
                // Most likely it is in memory, and the less often another thread is asked, the better.
                Presence::Untold => MAX_PART,
            };
            send_queue.pause();
            if !self.cannot_prefetch {
                let part = FileSlice { len: len.min(ahead), ..slice.clone() };
                if page_cache::prefetch(part.clone()).await? {
                    return Ok(send_queue.push(part, self.keep_alive(), false));
                }
                self.cannot_prefetch = true;
            }
        }
        if let Some(send_queue) = &self.send_queue {
            send_queue.pause();
        }
        self.memory.get_or_insert_with(FileReader::new).read(slice).await
    }

    /// What keeps the file in the cache, then the reading; dropped in this order.
    fn keep_alive(&self) -> Option<KeepAlive> {
        Some(Box::new((self.reader.hold(), self.reading.clone())))
    }

    async fn piece(&mut self) -> Result<Option<BodyPiece>, BodyError> {
        match (self.rest.take(), &mut self.several) {
            (Some(rest), _) => Ok(Some(rest)),
            (None, None) => self.reader.next().await.map_err(BodyError::Read),
            (None, Some(several)) => several.piece(&mut self.reader).await,
        }
    }
}

/// The parts of a body with several, and their framing.
struct Several {
    parts: Parts,
    framing: Framing,
    /// The head of the first part.
    head: Option<Bytes>,
    /// The end of the last part.
    end: Option<Bytes>,
    /// The number of bytes that the current part still lacks.
    left: u64,
}

impl Several {
    fn new(parts: Parts, framing: Framing) -> Self {
        let first = parts.ranges().first().copied();
        let head = first.map(|range| framing.head(range, true));
        let (end, left) = (Some(framing.end()), first.map_or(0, ResolvedRange::len));
        Self { parts, framing, head, end, left }
    }

    async fn piece(&mut self, reader: &mut BlobReader) -> Result<Option<BodyPiece>, BodyError> {
        if let Some(head) = self.head.take() {
            return Ok(Some(BodyPiece::Memory(head)));
        }
        if self.left > 0 {
            // The client would take the next bytes for bytes of this part.
            let missing = BodyError::Short { missing: self.left };
            let mut piece = reader.next().await.map_err(BodyError::Read)?.ok_or(missing)?;
            self.left -= piece.cut(self.left);
            return Ok(Some(piece));
        }
        // On the heap: the future has room for all that opening a blob may do.
        match Box::pin(self.parts.next(reader)).await.map_err(BodyError::Read)? {
            Some(range) => {
                self.left = range.len();
                Ok(Some(BodyPiece::Memory(self.framing.head(range, false))))
            }
            None => Ok(self.end.take().map(BodyPiece::Memory)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_in_memory_comes_in_frames_and_releases_the_last() {
        for len in
            [1, LAST_FRAME, LAST_FRAME + 1, MAX_FRAME, MAX_FRAME + LAST_FRAME, MAX_FRAME + LAST_FRAME + 1, 1 << 20]
        {
            let content: Vec<u8> = (0..len).map(|at| u8::try_from(at % 251).unwrap()).collect();
            let whole = Bytes::from_owner(content.clone());
            let mut left = Some(whole.clone());
            let frames: Vec<Bytes> = std::iter::from_fn(|| next_frame(&mut left)).collect();
            assert_eq!(frames.concat(), content, "{len}");
            assert!(frames.iter().all(|frame| !frame.is_empty() && frame.len() <= MAX_FRAME), "{len}");
            let last = frames.last().unwrap();
            assert!(last.len() <= LAST_FRAME, "{len}");
            let end = whole.as_ptr_range().end;
            assert_eq!(last.as_ptr_range().end == end, len <= LAST_FRAME, "{len}: a copy, where there is a rest");
        }
    }
}
