//! What a file system tells of the pages of its files: by this forebay decides how their bytes leave.

use std::{
    fmt,
    fs::File,
    io::{self, IoSliceMut},
};

use rustix::{
    fs::fstatfs,
    io::{Errno, ReadWriteFlags, preadv2},
};

/// The types of file systems as statfs(2) gives them. Source: linux/magic.h.
const OVERLAYFS: u32 = 0x794c_7630;
const TMPFS: u32 = 0x0102_1994;
const RAMFS: u32 = 0x8584_58f6;

/// How forebay knows that bytes of a file are in memory, so that to send them waits for no disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pages {
    /// The kernel tells, without waiting (`RWF_NOWAIT`).
    Told,
    /// They always are: the file has no disk. Memory may be swapped out, as that of this process may be.
    Memory,
    /// The kernel does not tell. The file lies on a disk of this machine, so that what was just read stays for a while.
    Loaded,
    /// Nothing is known: a disk elsewhere, perhaps, or a file system that keeps no pages.
    Unknown,
}

impl Pages {
    /// What the file system of this file tells.
    ///
    /// # Errors
    ///
    /// The file cannot be read.
    pub(crate) fn of(file: &File) -> io::Result<Self> {
        match preadv2(file, &mut [IoSliceMut::new(&mut [0])], 0, ReadWriteFlags::NOWAIT) {
            Ok(_) | Err(Errno::AGAIN | Errno::INTR) => Ok(Self::Told),
            Err(error) if is_refused(error) => Ok(Self::untold(file)),
            Err(error) => Err(error.into()),
        }
    }

    /// The same, where the kernel has refused to tell.
    pub(super) fn untold(file: &File) -> Self {
        // On 32-bit machines the type has a sign.
        fstatfs(file).map_or(Self::Unknown, |system| Self::of_kind(system.f_type as u32))
    }

    fn of_kind(kind: u32) -> Self {
        match kind {
            TMPFS | RAMFS => Self::Memory,
            OVERLAYFS => Self::Loaded,
            _ => Self::Unknown,
        }
    }
}

impl fmt::Display for Pages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Told => "yes (the kernel tells which pages are in memory: RWF_NOWAIT)",
            Self::Memory => "yes (all files are in memory)",
            Self::Loaded => "yes, after a read-ahead (the file system refuses RWF_NOWAIT: a volume would save it)",
            Self::Unknown => "no (the file system refuses RWF_NOWAIT: another one for the cache would save CPU time)",
        })
    }
}

/// Whether this is the answer of a kernel or of a file system that does not know `RWF_NOWAIT`.
pub(super) fn is_refused(error: Errno) -> bool {
    [Errno::OPNOTSUPP, Errno::NOSYS, Errno::INVAL].contains(&error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_file_system_has_its_way_to_tell() {
        for (kind, pages) in [
            (TMPFS, Pages::Memory),
            (RAMFS, Pages::Memory),
            (OVERLAYFS, Pages::Loaded),
            // FUSE, NFS, 9p, virtiofs, ZFS.
            (0x6573_5546, Pages::Unknown),
            (0x6969, Pages::Unknown),
            (0x0102_1997, Pages::Unknown),
            (0x6573_5543, Pages::Unknown),
            (0x2fc1_2fc1, Pages::Unknown),
        ] {
            assert_eq!(Pages::of_kind(kind), pages, "{kind:x}");
        }
    }

    #[test]
    fn a_file_in_memory_is_told_from_one_of_unknown_kind() {
        assert_eq!(Pages::of(&tempfile::tempfile_in("/dev/shm").unwrap()).unwrap(), Pages::Memory);
        assert_eq!(Pages::of(&File::open("/proc/cpuinfo").unwrap()).unwrap(), Pages::Unknown);
    }
}
