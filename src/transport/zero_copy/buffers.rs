//! Reads parts of files into memory, where the kernel cannot send them: TLS, HTTP/2, pages that are not in the page cache.
//!
//! What must hold: all clients together hold a bounded number of bytes; buffers are reused, since a new one of this size costs
//! a page fault for every 4 KiB; no async thread waits for a disk.

use std::{
    io,
    os::unix::fs::FileExt,
    pin::pin,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use super::{
    buffer_pool::ObjectPool,
    page_cache::{READ_AHEAD, read_ahead, read_now, truncated},
};
use crate::{disk_wait::DiskWait, file_slice::FileSlice};

/// The unit of memory, in bytes.
const UNIT: usize = 16 * 1024;
/// How much all bodies together hold: 128 MiB. A body that finds no room still gets one unit, so that clients that read
/// nothing do not stop the others, and waits until that unit is sent before it gets another. So no slow reader is ended for
/// this memory: without any room, pulls on loopback over TLS and HTTP/2 are as fast as with all of it.
const MAX_UNITS: usize = 8192;
/// The sizes of buffers, and up to how many readers get each. hyper holds two for each HTTP/2 stream whose client takes nothing:
/// so in a crowd, a reader gets the last size until its client has taken a buffer.
const SIZES: [(usize, usize); 4] = [(256 * 1024, 16), (64 * 1024, 64), (UNIT, usize::MAX), (4 * 1024, usize::MAX)];
/// The index of the size of a unit.
const OF_A_UNIT: usize = 2;
/// How many bytes of each size are kept for reuse.
const MAX_FREE: usize = 8 * 1024 * 1024;

static UNITS: LazyLock<Arc<Semaphore>> = LazyLock::new(|| Arc::new(Semaphore::new(MAX_UNITS)));
static FREE: [ObjectPool<Box<[u8]>>; SIZES.len()] = [const { ObjectPool::new() }; SIZES.len()];
static READERS: AtomicUsize = AtomicUsize::new(0);

/// Reads files into memory for one body; the more readers there are, the smaller are their buffers.
pub(crate) struct FileReader(Arc<UnsentBuffers>);

/// Counts the buffers of one reader that are not sent yet.
#[derive(Default)]
struct UnsentBuffers {
    count: AtomicUsize,
    /// Whether one was sent.
    has_sent: AtomicBool,
    /// Notified when there is none any more.
    none: Notify,
}

impl FileReader {
    pub(crate) fn new() -> Self {
        READERS.fetch_add(1, Ordering::Relaxed);
        Self(Arc::default())
    }

    /// Reads from the front of a slice as many bytes as one buffer takes, at least one.
    ///
    /// # Errors
    ///
    /// The file's; `UnexpectedEof` when it ends first.
    pub(crate) async fn read(&self, slice: &FileSlice) -> io::Result<Bytes> {
        let readers = READERS.load(Ordering::Relaxed);
        let mut buffer = Buffer::take(usize::try_from(slice.len).unwrap_or(usize::MAX), readers, &self.0).await?;
        match read_now(&slice.file, buffer.bytes_mut(), slice.offset)? {
            Some(read) => buffer.finish(read),
            None => {
                let (file, offset, wait) = (slice.file.clone(), slice.offset, DiskWait::begin());
                let reading = tokio::task::spawn_blocking(move || {
                    let _wait = wait;
                    read_ahead(&file, offset, READ_AHEAD);
                    let read = file.read_at(buffer.bytes_mut(), offset)?;
                    buffer.finish(read)
                });
                reading.await.map_err(io::Error::other)?
            }
        }
    }
}

impl Drop for FileReader {
    fn drop(&mut self) {
        READERS.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Frees the buffers that were not needed since the last sweep.
pub(crate) fn sweep() {
    FREE.iter().for_each(ObjectPool::sweep);
}

/// A buffer that returns to the pool.
struct Buffer {
    memory: Box<[u8]>,
    /// How much of it is to be read, then how much was read.
    len: usize,
    class: usize,
    held: Arc<UnsentBuffers>,
    /// Absent for the one unit that every reader may have.
    _room: Option<OwnedSemaphorePermit>,
}

impl Buffer {
    async fn take(wanted: usize, readers: usize, held: &Arc<UnsentBuffers>) -> io::Result<Self> {
        let class = class(wanted, readers, held.has_sent.load(Ordering::Relaxed));
        let units = u32::try_from(SIZES[class].0.div_ceil(UNIT)).unwrap_or(u32::MAX);
        let (class, room) = match UNITS.clone().try_acquire_many_owned(units) {
            Ok(room) => (class, Some(room)),
            Err(_) => (OF_A_UNIT.max(class), held.room_for_one().await?),
        };
        held.count.fetch_add(1, Ordering::AcqRel);
        let held = held.clone();
        let size = SIZES[class].0;
        let memory = FREE[class].take().unwrap_or_else(|| vec![0; size].into());
        Ok(Self { memory, len: wanted.min(size), class, held, _room: room })
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.memory[..self.len]
    }

    fn finish(mut self, read: usize) -> io::Result<Bytes> {
        if read == 0 {
            return Err(truncated());
        }
        self.len = read;
        Ok(Bytes::from_owner(self))
    }
}

impl UnsentBuffers {
    /// Waits for room for one unit, or until this reader has no buffer.
    async fn room_for_one(&self) -> io::Result<Option<OwnedSemaphorePermit>> {
        let mut room = pin!(UNITS.clone().acquire_owned());
        loop {
            // Before the count is read, so that a buffer that is sent in between is not missed.
            let none = self.none.notified();
            if self.count.load(Ordering::Acquire) == 0 {
                return Ok(None);
            }
            tokio::select! {
                room = &mut room => return room.map(Some).map_err(io::Error::other),
                () = none => {}
            }
        }
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.memory[..self.len]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.held.has_sent.store(true, Ordering::Relaxed);
        if self.held.count.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.held.none.notify_one();
        }
        let memory = std::mem::take(&mut self.memory);
        FREE[self.class].give(memory, MAX_FREE / SIZES[self.class].0);
    }
}

/// The index in [`SIZES`] of the smallest buffer for `wanted` bytes, or of the largest that so many readers may have.
/// `has_sent`: the client of this one has taken a buffer.
fn class(wanted: usize, readers: usize, has_sent: bool) -> usize {
    let fair = match SIZES.iter().position(|&(_, most)| readers <= most) {
        Some(OF_A_UNIT) | None if !has_sent => SIZES.len() - 1,
        fair => fair.unwrap_or(OF_A_UNIT),
    };
    let enough = SIZES.iter().rposition(|&(size, _)| size >= wanted).unwrap_or(0);
    fair.max(enough)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_fit_the_wanted_bytes_and_the_number_of_readers() {
        for (wanted, readers, has_sent, size) in [
            (1, 1, true, 4096),
            (4097, 1, true, UNIT),
            (UNIT, 1, false, UNIT),
            (UNIT + 1, 1, true, 64 * 1024),
            (64 * 1024 + 1, 1, false, 256 * 1024),
            (usize::MAX, 16, false, 256 * 1024),
            (usize::MAX, 17, true, 64 * 1024),
            (usize::MAX, 64, false, 64 * 1024),
            (usize::MAX, 65, true, UNIT),
            (usize::MAX, 65, false, 4096),
            (1, 257, true, 4096),
        ] {
            assert_eq!(SIZES[class(wanted, readers, has_sent)].0, size, "{wanted} {readers} {has_sent}");
        }
    }

    #[tokio::test]
    async fn a_slice_is_read_front_to_back_and_a_cut_file_is_an_error() {
        let _alone = ONE_BY_ONE.lock().await;
        let mut file = tempfile::tempfile().unwrap();
        let content: Vec<u8> = (0..600_000u32).map(|n| (n % 251) as u8).collect();
        io::Write::write_all(&mut file, &content).unwrap();
        let mut slice = FileSlice { file: Arc::new(file), offset: 100, len: 600_000 };
        let reader = FileReader::new();
        let mut read = Vec::new();
        let error = loop {
            match reader.read(&slice).await {
                Ok(bytes) => {
                    assert!(!bytes.is_empty() && bytes.len() <= SIZES[0].0);
                    read.extend_from_slice(&bytes);
                    slice.offset += bytes.len() as u64;
                    slice.len -= bytes.len() as u64;
                }
                Err(error) => break error,
            }
        };
        assert!(read == content[100..], "the bytes are the file's");
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }

    /// Both tests read, and one of them takes all the room.
    static ONE_BY_ONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

    #[tokio::test]
    async fn a_reader_without_buffers_gets_a_unit_when_memory_is_full() {
        let _alone = ONE_BY_ONE.lock().await;
        let mut file = tempfile::tempfile().unwrap();
        io::Write::write_all(&mut file, &[7; 3 * UNIT]).unwrap();
        let slice = FileSlice { file: Arc::new(file), offset: 0, len: 3 * UNIT as u64 };
        let everything = UNITS.clone().acquire_many_owned(MAX_UNITS as u32).await.unwrap();
        let reader = FileReader::new();
        let first = reader.read(&slice).await.unwrap();
        assert_eq!(first.len(), UNIT);
        let mut second = pin!(reader.read(&slice));
        assert!(futures_util::poll!(&mut second).is_pending(), "one is all it may have");
        drop(first);
        assert_eq!(second.await.unwrap().len(), UNIT);
        drop(everything);
        assert_eq!(FileReader::new().read(&slice).await.unwrap().len(), 3 * UNIT);
    }
}
