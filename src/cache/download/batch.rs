//! The bytes that one write puts into the file of a download.

use std::{
    fs::File,
    io::{self, IoSlice},
    ops::Range,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::{Bytes, BytesMut};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::cache::storage::write_all_at;

/// The memory that all downloads of the process may use in addition to one piece each, in bytes.
const BUDGET: usize = 8 * 1024 * 1024;

/// Pieces smaller than this are joined, up to [`JOINED`], because each piece costs more than its bytes.
const SMALL: usize = 4 * 1024;
const JOINED: usize = 64 * 1024;
/// When at least `CROWD` bodies are being received, a piece shorter than [`TIGHT`] is copied: it would keep its whole
/// receive buffer in memory, which may be several times as large. Longer pieces come from fast connections, whose
/// downloads end soon.
const CROWD: usize = 16;
const TIGHT: usize = 192 * 1024;
/// The maximum number of pieces in one write: fewer than one system call takes.
const MAX_PIECES: usize = 256;

/// The number of pipelines that are receiving.
pub(super) static PIPELINES: AtomicUsize = AtomicUsize::new(0);
static MEMORY: LazyLock<Arc<Semaphore>> = LazyLock::new(|| Arc::new(Semaphore::new(BUDGET)));

/// Consecutive bytes of one chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ChunkPart {
    pub offset: u64,
    pub len: u64,
    /// CRC-32C of the chunk from its start to the end of the part.
    pub crc: u32,
}

/// Bytes to be written to the file, in order, possibly with gaps that other workers fill. Never empty.
#[derive(Default)]
pub(super) struct Batch {
    pieces: Vec<(u64, Bytes)>,
    /// The last bytes, while small pieces are being joined.
    tail: Option<(u64, BytesMut)>,
    len: usize,
    /// Released when both the write and the hash are done with the batch.
    permit: Option<OwnedSemaphorePermit>,
}

impl Batch {
    /// Valid after `Batch::seal`.
    pub(super) fn pieces(&self) -> &[(u64, Bytes)] {
        &self.pieces
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(super) fn start(&self) -> u64 {
        let tail = self.tail.as_ref().map(|(offset, _)| *offset);
        self.pieces.first().map(|(offset, _)| *offset).or(tail).unwrap_or(0)
    }

    /// Valid after `Batch::seal`.
    pub(super) fn end(&self) -> u64 {
        self.pieces.last().map_or(0, |(offset, bytes)| offset + bytes.len() as u64)
    }

    /// Whether the budget covers the batch, so that it may stay in memory after its write.
    pub(super) fn is_paid_for(&self) -> bool {
        self.permit.as_ref().is_some_and(|permit| permit.num_permits() == self.len)
    }

    pub(super) fn is_full(&self, most: usize) -> bool {
        self.len >= most || self.pieces.len() >= MAX_PIECES || (self.len > 0 && !self.is_paid_for())
    }

    pub(super) fn push(&mut self, offset: u64, bytes: Bytes) {
        let len = bytes.len();
        let paid = u32::try_from(len).ok().and_then(|len| MEMORY.clone().try_acquire_many_owned(len).ok());
        match (&mut self.permit, paid) {
            (Some(permit), Some(paid)) => permit.merge(paid),
            (permit @ None, Some(paid)) => *permit = Some(paid),
            (_, None) => {}
        }
        self.len += len;
        let joins = |(start, tail): &(u64, BytesMut)| {
            *start + tail.len() as u64 == offset && tail.len() + len <= JOINED && len < SMALL
        };
        if !self.tail.as_ref().is_some_and(joins) {
            self.seal();
        }
        match &mut self.tail {
            Some((_, tail)) => tail.extend_from_slice(&bytes),
            None if len < SMALL => self.tail = Some((offset, BytesMut::from(&bytes[..]))),
            None if len < TIGHT && PIPELINES.load(Ordering::Relaxed) >= CROWD => {
                self.pieces.push((offset, Bytes::copy_from_slice(&bytes)));
            }
            None => self.pieces.push((offset, bytes)),
        }
    }

    /// Completes the batch.
    pub(super) fn seal(&mut self) {
        if let Some((offset, tail)) = self.tail.take() {
            self.pieces.push((offset, tail.freeze()));
        }
    }

    /// The contiguous ranges of the file that the batch fills, each with its pieces.
    pub(super) fn runs(&self) -> impl Iterator<Item = (Range<u64>, &[(u64, Bytes)])> {
        let end = |(offset, bytes): &(u64, Bytes)| offset + bytes.len() as u64;
        self.pieces.chunk_by(move |left, right| end(left) == right.0).filter_map(move |run| {
            let range = run.first()?.0..end(run.last()?);
            Some((range, run))
        })
    }

    /// The same bytes, cut where chunks of this size begin. `crc_before` gives the CRC-32C of the part of a chunk that the
    /// file has before an offset.
    pub(super) fn parts_of_chunks(&self, size: u64, crc_before: impl Fn(u64) -> u32) -> Vec<ChunkPart> {
        let mut parts: Vec<ChunkPart> = Vec::new();
        for (offset, bytes) in &self.pieces {
            let (mut offset, mut rest) = (*offset, &bytes[..]);
            while !rest.is_empty() {
                let room = usize::try_from(size - offset % size).unwrap_or(usize::MAX).min(rest.len());
                let (piece, behind) = rest.split_at(room);
                match parts.last_mut() {
                    Some(part) if part.offset + part.len == offset && offset % size != 0 => {
                        part.crc = crc32c::crc32c_append(part.crc, piece);
                        part.len += room as u64;
                    }
                    _ => {
                        let before = if offset % size == 0 { 0 } else { crc_before(offset) };
                        parts.push(ChunkPart { offset, len: room as u64, crc: crc32c::crc32c_append(before, piece) });
                    }
                }
                (offset, rest) = (offset + room as u64, behind);
            }
        }
        parts
    }

    /// Blocks.
    pub(super) fn write(&self, file: &File) -> io::Result<()> {
        self.runs().try_for_each(|(range, run)| {
            let mut buffers: Vec<_> = run.iter().map(|(_, bytes)| IoSlice::new(bytes)).collect();
            write_all_at(file, &mut buffers, range.start)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn a_batch_of_pieces_of_all_sizes_with_gaps() {
        let file = tempfile::tempfile().unwrap();
        let mut batch = Batch::default();
        let (mut offset, mut expected, mut ranges) = (0, Vec::new(), Vec::<Range<u64>>::new());
        for (number, len) in [1, 1, 5000, 1, 4095, 4096, 7, 100_000, 1].into_iter().enumerate() {
            if number % 4 == 3 {
                offset += 10;
                expected.resize(expected.len() + 10, 0);
            }
            let bytes = vec![number as u8 + 1; len];
            expected.extend_from_slice(&bytes);
            batch.push(offset, bytes.into());
            assert_eq!(batch.start(), 0);
            let end = offset + len as u64;
            match ranges.last_mut() {
                Some(last) if last.end == offset => last.end = end,
                _ => ranges.push(offset..end),
            }
            offset = end;
        }
        batch.seal();
        assert_eq!((batch.end(), batch.runs().map(|(range, _)| range).collect::<Vec<_>>()), (offset, ranges));
        batch.write(&file).unwrap();
        let crc_of_chunk = |end: u64| {
            let start = (end - 1) / 7000 * 7000;
            crc32c::crc32c(&expected[start as usize..end as usize])
        };
        let parts = batch.parts_of_chunks(7000, crc_of_chunk);
        for part in &parts {
            assert!(part.offset / 7000 == (part.offset + part.len - 1) / 7000);
            assert_eq!(part.crc, crc_of_chunk(part.offset + part.len));
        }
        assert_eq!(parts.iter().map(|part| part.len as usize).sum::<usize>(), batch.len());
        let mut written = vec![0; expected.len()];
        file.read_exact_at(&mut written, 0).unwrap();
        assert!(written == expected && file.metadata().unwrap().len() == offset);
    }

    #[test]
    fn a_batch_of_single_bytes_has_few_pieces() {
        let mut batch = Batch::default();
        for offset in 0..200_000 {
            batch.push(offset, Bytes::from_static(b"x"));
        }
        batch.seal();
        assert_eq!((batch.len(), batch.pieces().len(), batch.runs().count()), (200_000, 4, 1));
        let mut batch = Batch::default();
        for number in 0..MAX_PIECES as u64 {
            assert!(!batch.is_full(usize::MAX));
            batch.push(number * SMALL as u64, Bytes::from_static(&[0; SMALL]));
        }
        assert!(batch.is_full(usize::MAX));
    }
}
