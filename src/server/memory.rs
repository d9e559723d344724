//! Parts of blobs in memory, where the kernel cannot send them itself: TLS, HTTP/2, what is not in the page cache.
//!
//! What must hold: whatever the number of clients, they hold a bounded number of bytes; buffers are used again, since
//! fresh ones of this size cost a page fault for every 4 KiB; no async thread waits for a disk.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    sync::{
        Arc, LazyLock, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::sendfile::read_now;
use crate::cache::FileSlice;

/// The unit that memory is counted in, and the smallest buffer, in bytes.
const UNIT: usize = 16 * 1024;
/// How much all bodies together hold: 128 MiB. A body that finds no room waits for others to be sent.
const MOST_UNITS: usize = 8192;
/// How large buffers are, and up to how many readers they are that large.
const SIZES: [(usize, usize); 3] = [(256 * 1024, 32), (64 * 1024, 256), (UNIT, usize::MAX)];
/// How many bytes of each size are kept for those who come next.
const KEPT: usize = 8 * 1024 * 1024;
/// How much is asked for ahead of a read that waits for the disk, in bytes.
const AHEAD: u64 = 1024 * 1024;

static UNITS: LazyLock<Arc<Semaphore>> = LazyLock::new(|| Arc::new(Semaphore::new(MOST_UNITS)));
static FREE: [Mutex<Vec<Box<[u8]>>>; SIZES.len()] = [const { Mutex::new(Vec::new()) }; SIZES.len()];
static READERS: AtomicUsize = AtomicUsize::new(0);

/// Somebody who reads blobs into memory; the more there are, the smaller their buffers.
pub(super) struct Reader(());

impl Reader {
    pub fn new() -> Self {
        READERS.fetch_add(1, Ordering::Relaxed);
        Self(())
    }

    /// Reads from the front of a slice as many bytes as one buffer takes, at least one.
    ///
    /// # Errors
    ///
    /// The file's; `UnexpectedEof` when it ends first.
    pub async fn read(&self, slice: &FileSlice) -> io::Result<Bytes> {
        let readers = READERS.load(Ordering::Relaxed);
        let mut buffer = Buffer::take(usize::try_from(slice.len).unwrap_or(usize::MAX), readers).await?;
        match read_now(&slice.file, buffer.bytes_mut(), slice.offset)? {
            Some(read) => buffer.finish(read),
            None => {
                let (file, offset) = (slice.file.clone(), slice.offset);
                let reading = tokio::task::spawn_blocking(move || {
                    read_ahead(&file, offset);
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

/// Lets the disk begin with what will be asked for next.
fn read_ahead(file: &File, offset: u64) {
    let ahead = std::num::NonZeroU64::new(AHEAD);
    if let Err(error) = rustix::fs::fadvise(file, offset, ahead, rustix::fs::Advice::WillNeed) {
        tracing::debug!(%error, "the file system takes no advice");
    }
}

/// Memory that goes back where it came from.
struct Buffer {
    memory: Box<[u8]>,
    /// How much of it is wanted, then how much of it was read.
    len: usize,
    class: usize,
    _room: OwnedSemaphorePermit,
}

impl Buffer {
    async fn take(wanted: usize, readers: usize) -> io::Result<Self> {
        let class = class(wanted, readers);
        let size = SIZES[class].0;
        let units = u32::try_from(size / UNIT).unwrap_or(u32::MAX);
        let room = UNITS.clone().acquire_many_owned(units).await.map_err(io::Error::other)?;
        let kept = FREE[class].lock().unwrap_or_else(PoisonError::into_inner).pop();
        let memory = kept.unwrap_or_else(|| vec![0; size].into());
        Ok(Self { memory, len: wanted.min(size), class, _room: room })
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

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.memory[..self.len]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let memory = std::mem::take(&mut self.memory);
        let mut free = FREE[self.class].lock().unwrap_or_else(PoisonError::into_inner);
        if (free.len() + 1) * memory.len() <= KEPT {
            free.push(memory);
        }
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
}
