//! The kernel's page cache: whether parts of files are in it, and how they get there.

use std::{
    fs::File,
    io::{self, IoSliceMut},
    os::unix::fs::FileExt as _,
    time::{Duration, Instant},
};

use rustix::io::{Errno, ReadWriteFlags};

use super::file_system::{Pages, is_refused};
use crate::{disk_wait::DiskWait, file_slice::FileSlice};

/// Of every so many bytes of a file, one is read to see whether its pages are in memory. Page caches fill and empty by
/// read-ahead windows and large folios, seldom by the page.
const SAMPLE: u64 = 256 * 1024;
/// How much the disk is asked to read ahead, in bytes.
pub(crate) const READ_AHEAD: u64 = 1024 * 1024;
/// After the disk was asked for a slice, one byte in so many is waited for: disks are asked for more at a time.
const WAITED: usize = 64 * 1024;
/// A read that takes longer waited for the disk.
const WAIT: Duration = Duration::from_micros(20);
/// How much is read at a time to load a slice, in bytes.
const PIECE: usize = 16 * 1024;

/// Whether bytes of a file are in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Presence {
    InMemory,
    OnDisk,
    /// The kernel cannot tell without waiting.
    Untold,
}

/// Whether a part of a file is in memory, according to samples, so that sending it does not wait for the disk.
///
/// # Errors
///
/// The file's; `UnexpectedEof` when it ends before the part does.
pub(crate) fn presence(file: &File, offset: u64, len: u64) -> io::Result<Presence> {
    let last = offset + len.saturating_sub(1);
    let samples = (offset..last).step_by(SAMPLE as usize).chain([last]);
    for sample in samples {
        match read_at_once(file, &mut [0], sample)? {
            AtOnce::Read(0) => return Err(truncated()),
            AtOnce::Read(_) => {}
            AtOnce::Waits => return Ok(Presence::OnDisk),
            AtOnce::Untold => return Ok(Presence::Untold),
        }
    }
    Ok(Presence::InMemory)
}

/// Reads from the page cache; `None` if the read would wait for the disk, or if the kernel cannot tell.
pub(crate) fn read_now(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<Option<usize>> {
    Ok(match read_at_once(file, buffer, offset)? {
        AtOnce::Read(read) => Some(read),
        AtOnce::Waits | AtOnce::Untold => None,
    })
}

/// What came of a read that must not wait.
enum AtOnce {
    Read(usize),
    Waits,
    Untold,
}

/// Source: preadv2(2), RWF_NOWAIT.
fn read_at_once(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<AtOnce> {
    loop {
        return match rustix::io::preadv2(file, &mut [IoSliceMut::new(buffer)], offset, ReadWriteFlags::NOWAIT) {
            Ok(read) => Ok(AtOnce::Read(read)),
            Err(Errno::INTR) => continue,
            Err(Errno::AGAIN) => Ok(AtOnce::Waits),
            Err(error) if is_refused(error) => match Pages::untold(file) {
                Pages::Memory => file.read_at(buffer, offset).map(AtOnce::Read),
                _ => Ok(AtOnce::Untold),
            },
            Err(error) => Err(error.into()),
        };
    }
}

/// Loads a slice into the page cache. Blocks.
pub(crate) fn load(slice: &FileSlice) {
    let _wait = DiskWait::begin();
    if touch(slice).is_ok_and(|is_loaded| is_loaded) {
        return;
    }
    let mut buffer = [0; PIECE];
    let (mut offset, end) = (slice.offset, slice.offset + slice.len);
    while offset < end
        && let Ok(read @ 1..) = slice.file.read_at(&mut buffer, offset)
    {
        offset += read as u64;
    }
}

/// Has the disk load a slice into the page cache, and begin with [`READ_AHEAD`] bytes behind it. Whether it is there, according
/// to samples. To read the slice would load it, too, but copy all of it.
///
/// # Errors
///
/// The file's; `UnexpectedEof` when it ends first.
pub(crate) async fn prefetch(slice: FileSlice) -> io::Result<bool> {
    let wait = DiskWait::begin();
    let waiting = tokio::task::spawn_blocking(move || {
        let _wait = wait;
        touch(&slice)
    });
    waiting.await.map_err(io::Error::other)?
}

/// Has the disk load a slice and waits for samples of it. Whether all of it is there. Blocks.
fn touch(slice: &FileSlice) -> io::Result<bool> {
    let end = slice.offset + slice.len;
    let is_untold = matches!(read_at_once(&slice.file, &mut [0], slice.offset)?, AtOnce::Untold);
    // Advice has the kernel look at each page. Where it does not tell, most pages are in memory: a read tells by its time.
    let mut is_advised = !is_untold;
    if is_advised {
        read_ahead(&slice.file, slice.offset, slice.len + READ_AHEAD);
    }
    for sample in (slice.offset..end).step_by(WAITED).chain([end - 1]) {
        let begun = Instant::now();
        slice.file.read_exact_at(&mut [0], sample)?;
        if !is_advised && begun.elapsed() > WAIT {
            read_ahead(&slice.file, sample, end + READ_AHEAD - sample);
            is_advised = true;
        }
    }
    if is_untold {
        return Ok(Pages::untold(&slice.file) == Pages::Loaded);
    }
    // A disk that took no advice has loaded the samples only.
    for between in (slice.offset + WAITED as u64 / 2..end).step_by(WAITED).chain([end - 1]) {
        match read_at_once(&slice.file, &mut [0], between)? {
            AtOnce::Read(1..) => {}
            AtOnce::Read(0) | AtOnce::Waits | AtOnce::Untold => return Ok(false),
        }
    }
    Ok(true)
}

/// Lets the disk begin to read.
pub(super) fn read_ahead(file: &File, offset: u64, len: u64) {
    let len = std::num::NonZeroU64::new(len);
    if let Err(error) = rustix::fs::fadvise(file, offset, len, rustix::fs::Advice::WillNeed) {
        tracing::debug!(%error, "the file system takes no advice");
    }
}

/// The error of a file that has become shorter.
pub(super) fn truncated() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "a cached file was cut")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test]
    async fn a_slice_on_disk_is_in_memory_once_it_is_prefetched() {
        let mut file = tempfile::tempfile().unwrap();
        io::Write::write_all(&mut file, &vec![7; 3 << 20]).unwrap();
        file.sync_all().unwrap();
        let slice = FileSlice { file: Arc::new(file), offset: 100, len: 2 << 20 };
        rustix::fs::fadvise(&slice.file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
        assert_eq!(read_now(&slice.file, &mut [0], 0).unwrap(), None);
        assert!(prefetch(slice.clone()).await.unwrap());
        let mut content = vec![0; 2 << 20];
        assert_eq!(read_now(&slice.file, &mut content, 100).unwrap(), Some(2 << 20), "all of it");
        slice.file.set_len(1 << 20).unwrap();
        assert_eq!(prefetch(slice).await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[tokio::test]
    async fn a_file_system_without_a_disk_has_all_in_memory() {
        let mut file = tempfile::tempfile_in("/dev/shm").unwrap();
        io::Write::write_all(&mut file, b"content").unwrap();
        assert_eq!(presence(&file, 2, 5).unwrap(), Presence::InMemory);
        assert_eq!(presence(&file, 2, 6).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        let mut content = [0; 7];
        assert_eq!(read_now(&file, &mut content, 0).unwrap(), Some(7));
        assert_eq!(&content, b"content");
    }

    #[tokio::test]
    async fn a_file_of_an_unknown_file_system_counts_as_not_loaded() {
        let file = Arc::new(File::open("/proc/cpuinfo").unwrap());
        assert_eq!(presence(&file, 0, 100).unwrap(), Presence::Untold);
        assert_eq!(read_now(&file, &mut [0], 0).unwrap(), None);
        assert!(!prefetch(FileSlice { file, offset: 0, len: 100 }).await.unwrap());
    }
}
