//! The kernel's page cache: whether parts of files are in it, and how they get there.

use std::{
    fs::File,
    io::{self, IoSliceMut},
    os::unix::fs::FileExt as _,
};

use rustix::io::{Errno, ReadWriteFlags};

use crate::{disk_wait::DiskWait, file_slice::FileSlice};

/// Of every so many bytes of a file, one is read to see whether its pages are in memory. Page caches fill and empty by
/// read-ahead windows and large folios, seldom by the page.
const SAMPLE: u64 = 256 * 1024;
/// How much the disk is asked to read ahead, in bytes.
pub(crate) const READ_AHEAD: u64 = 1024 * 1024;
/// After the disk was asked for a slice, one byte in so many is waited for: disks are asked for more at a time.
const WAITED: usize = 64 * 1024;
/// How much is read at a time to load a slice, in bytes.
const PIECE: usize = 16 * 1024;

/// Whether a part of a file is in memory, according to samples, so that sending it does not wait for the disk.
///
/// # Errors
///
/// The file's; `UnexpectedEof` when it ends before the part does. On a file system that cannot tell without waiting, nothing is
/// in memory.
pub(crate) fn is_resident(file: &File, offset: u64, len: u64) -> io::Result<bool> {
    let last = offset + len.saturating_sub(1);
    let samples = (offset..last).step_by(SAMPLE as usize).chain([last]);
    for sample in samples {
        let mut byte = [0];
        match read_now(file, &mut byte, sample)? {
            Some(0) => return Err(truncated()),
            Some(_) => {}
            None => return Ok(false),
        }
    }
    Ok(true)
}

/// Reads from the page cache; `None` if the read would wait for the disk, or if the kernel is too old to tell.
///
/// Source: preadv2(2), RWF_NOWAIT.
pub(crate) fn read_now(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<Option<usize>> {
    loop {
        return match rustix::io::preadv2(file, &mut [IoSliceMut::new(buffer)], offset, ReadWriteFlags::NOWAIT) {
            Ok(read) => Ok(Some(read)),
            Err(Errno::INTR) => continue,
            Err(Errno::AGAIN | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => Ok(None),
            Err(error) => Err(error.into()),
        };
    }
}

/// Loads a slice into the page cache. Blocks.
pub(crate) fn load(slice: &FileSlice) {
    let _wait = DiskWait::begin();
    let mut buffer = [0; PIECE];
    let (mut offset, end) = (slice.offset, slice.offset + slice.len);
    read_ahead(&slice.file, offset, READ_AHEAD);
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
        read_ahead(&slice.file, slice.offset, slice.len + READ_AHEAD);
        let end = slice.offset + slice.len;
        for sample in (slice.offset..end).step_by(WAITED).chain([end - 1]) {
            slice.file.read_exact_at(&mut [0], sample)?;
        }
        // A disk that took no advice has loaded the samples only.
        for between in (slice.offset + WAITED as u64 / 2..end).step_by(WAITED) {
            if read_now(&slice.file, &mut [0], between)? != Some(1) {
                return Ok(false);
            }
        }
        Ok(true)
    });
    waiting.await.map_err(io::Error::other)?
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
}
