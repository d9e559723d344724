//! Parts of blobs in memory, where the kernel cannot send them itself: TLS, HTTP/2, what is not in the page cache.
//!
//! What must hold: whatever the number of clients, they hold a bounded number of bytes; buffers are used again, since
//! fresh ones of this size cost a page fault for every 4 KiB; no async thread waits for a disk.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    pin::pin,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use super::{buffer_pool::ObjectPool, queue::read_now};
use crate::{disk_wait::DiskWait, file_slice::FileSlice};

/// The unit that memory is counted in, and the smallest buffer, in bytes.
const UNIT: usize = 16 * 1024;
/// How much all bodies together hold: 128 MiB. A body that finds no room still has one unit, so that clients who take
/// nothing do not stop those who do; for more it waits until that one is sent. So no slow reader has to go for others here:
/// without any room pulls on loopback are as fast by TLS and by HTTP/2 as with all of it.
const MAX_UNITS: usize = 8192;
/// How large buffers are, and up to how many readers they are that large.
const SIZES: [(usize, usize); 3] = [(256 * 1024, 32), (64 * 1024, 256), (UNIT, usize::MAX)];
/// How many bytes of each size are kept for those who come next, and for no longer than they are needed.
const KEPT: usize = 8 * 1024 * 1024;
/// How much is asked for ahead of a read that waits for the disk, in bytes.
pub(crate) const AHEAD: u64 = 1024 * 1024;
/// Every so many bytes of what was asked for it is waited for, in bytes: disks are asked for more at a time.
const WAITED: usize = 64 * 1024;

static UNITS: LazyLock<Arc<Semaphore>> = LazyLock::new(|| Arc::new(Semaphore::new(MAX_UNITS)));
static FREE: [ObjectPool<Box<[u8]>>; SIZES.len()] = [const { ObjectPool::new() }; SIZES.len()];
static READERS: AtomicUsize = AtomicUsize::new(0);

/// Somebody who reads blobs into memory; the more there are, the smaller their buffers.
pub(crate) struct Reader(Arc<ReadAhead>);

/// The buffers of one reader that are not sent yet.
#[derive(Default)]
struct ReadAhead {
    count: AtomicUsize,
    /// There are none any more.
    none: Notify,
}

impl Reader {
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
                    read_ahead(&file, offset, AHEAD);
                    let read = file.read_at(buffer.bytes_mut(), offset)?;
                    buffer.finish(read)
                });
                reading.await.map_err(io::Error::other)?
            }
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        READERS.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Gives back what nothing needed since the last time.
pub(crate) fn sweep() {
    FREE.iter().for_each(ObjectPool::sweep);
}

/// Brings a slice into the page cache. Blocks.
pub(crate) fn warm(slice: &FileSlice) {
    let _wait = DiskWait::begin();
    let mut buffer = [0; UNIT];
    let (mut offset, end) = (slice.offset, slice.offset + slice.len);
    read_ahead(&slice.file, offset, AHEAD);
    while offset < end
        && let Ok(read @ 1..) = slice.file.read_at(&mut buffer, offset)
    {
        offset += read as u64;
    }
}

/// Has the disk bring a slice into the page cache, and begin with as much behind it; whether it is there, as far as samples
/// tell. To read it would bring it, too, but copy all of it.
///
/// # Errors
///
/// The file's; `UnexpectedEof` when it ends first.
pub(crate) async fn warmed(slice: FileSlice) -> io::Result<bool> {
    let wait = DiskWait::begin();
    let waiting = tokio::task::spawn_blocking(move || {
        let _wait = wait;
        read_ahead(&slice.file, slice.offset, slice.len + AHEAD);
        let end = slice.offset + slice.len;
        for sample in (slice.offset..end).step_by(WAITED).chain([end - 1]) {
            slice.file.read_exact_at(&mut [0], sample)?;
        }
        // Where the disk took no advice, there are the samples and no more.
        for between in (slice.offset + WAITED as u64 / 2..end).step_by(WAITED) {
            if read_now(&slice.file, &mut [0], between)? != Some(1) {
                return Ok(false);
            }
        }
        Ok(true)
    });
    waiting.await.map_err(io::Error::other)?
}

/// Lets the disk begin with what will be asked for next.
fn read_ahead(file: &File, offset: u64, len: u64) {
    let len = std::num::NonZeroU64::new(len);
    if let Err(error) = rustix::fs::fadvise(file, offset, len, rustix::fs::Advice::WillNeed) {
        tracing::debug!(%error, "the file system takes no advice");
    }
}

/// Memory that goes back where it came from.
struct Buffer {
    memory: Box<[u8]>,
    /// How much of it is wanted, then how much of it was read.
    len: usize,
    class: usize,
    held: Arc<ReadAhead>,
    /// Absent for the one that everybody may have.
    _room: Option<OwnedSemaphorePermit>,
}

impl Buffer {
    async fn take(wanted: usize, readers: usize, held: &Arc<ReadAhead>) -> io::Result<Self> {
        let class = class(wanted, readers);
        let units = u32::try_from(SIZES[class].0 / UNIT).unwrap_or(u32::MAX);
        let (class, room) = match UNITS.clone().try_acquire_many_owned(units) {
            Ok(room) => (class, Some(room)),
            Err(_) => (SIZES.len() - 1, held.room_for_one().await?),
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
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "a cached file was cut"));
        }
        self.len = read;
        Ok(Bytes::from_owner(self))
    }
}

impl ReadAhead {
    /// Waits for room for one unit, or for a time when this reader has none.
    async fn room_for_one(&self) -> io::Result<Option<OwnedSemaphorePermit>> {
        let mut room = pin!(UNITS.clone().acquire_owned());
        loop {
            // Before the look, so that a buffer that goes in between is not missed.
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
        if self.held.count.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.held.none.notify_one();
        }
        let memory = std::mem::take(&mut self.memory);
        FREE[self.class].give(memory, KEPT / SIZES[self.class].0);
    }
}

/// Which of [`SIZES`] fits: no larger than it must be for what is wanted, nor than so many readers allow.
fn class(wanted: usize, readers: usize) -> usize {
    let fair = SIZES.iter().position(|&(_, most)| readers <= most).unwrap_or(SIZES.len() - 1);
    let enough = SIZES.iter().rposition(|&(size, _)| size >= wanted).unwrap_or(0);
    fair.max(enough)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_fit_what_is_wanted_and_how_many_want_it() {
        for (wanted, readers, size) in [
            (1, 1, UNIT),
            (UNIT, 1, UNIT),
            (UNIT + 1, 1, 64 * 1024),
            (64 * 1024 + 1, 1, 256 * 1024),
            (usize::MAX, 32, 256 * 1024),
            (usize::MAX, 33, 64 * 1024),
            (usize::MAX, 257, UNIT),
            (1, 257, UNIT),
        ] {
            assert_eq!(SIZES[class(wanted, readers)].0, size, "{wanted} {readers}");
        }
    }

    #[tokio::test]
    async fn a_slice_is_read_front_to_back_and_a_cut_file_is_an_error() {
        let _alone = ONE_BY_ONE.lock().await;
        let mut file = tempfile::tempfile().unwrap();
        let content: Vec<u8> = (0..600_000u32).map(|n| (n % 251) as u8).collect();
        io::Write::write_all(&mut file, &content).unwrap();
        let mut slice = FileSlice { file: Arc::new(file), offset: 100, len: 600_000 };
        let reader = Reader::new();
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

    /// Both tests read, and this one takes all the room there is.
    static ONE_BY_ONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

    #[tokio::test]
    async fn who_holds_nothing_gets_a_unit_although_others_hold_everything() {
        let _alone = ONE_BY_ONE.lock().await;
        let mut file = tempfile::tempfile().unwrap();
        io::Write::write_all(&mut file, &[7; 3 * UNIT]).unwrap();
        let slice = FileSlice { file: Arc::new(file), offset: 0, len: 3 * UNIT as u64 };
        let everything = UNITS.clone().acquire_many_owned(MAX_UNITS as u32).await.unwrap();
        let reader = Reader::new();
        let first = reader.read(&slice).await.unwrap();
        assert_eq!(first.len(), UNIT);
        let mut second = pin!(reader.read(&slice));
        assert!(futures_util::poll!(&mut second).is_pending(), "one is all it may have");
        drop(first);
        assert_eq!(second.await.unwrap().len(), UNIT);
        drop(everything);
        assert_eq!(Reader::new().read(&slice).await.unwrap().len(), 3 * UNIT);
    }

    #[tokio::test]
    async fn a_part_that_was_on_disk_is_in_memory_once_it_is_warmed() {
        let mut file = tempfile::tempfile().unwrap();
        io::Write::write_all(&mut file, &vec![7; 3 << 20]).unwrap();
        file.sync_all().unwrap();
        let slice = FileSlice { file: Arc::new(file), offset: 100, len: 2 << 20 };
        rustix::fs::fadvise(&slice.file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
        assert_eq!(read_now(&slice.file, &mut [0], 0).unwrap(), None);
        assert!(warmed(slice.clone()).await.unwrap());
        let mut content = vec![0; 2 << 20];
        assert_eq!(read_now(&slice.file, &mut content, 100).unwrap(), Some(2 << 20), "all of it");
        slice.file.set_len(1 << 20).unwrap();
        assert_eq!(warmed(slice).await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
