//! From a file to a socket, through a pipe.
//!
//! The pipe carries references to pages of the page cache, not bytes. It is filled and emptied within one call, and returns to
//! a pool: so there are as many pipes as threads that send at once, and not as clients (pipe(7) bounds the memory of one user's
//! pipes). Pipes that were not needed for a while are closed. Pages that the socket does not take are discarded, and spliced
//! again next time. A pipe of 256 KiB is faster than the 64 KiB that sendfile(2) uses inside; 1 MiB is no faster.

use std::{fs::File, os::fd::AsFd, os::fd::OwnedFd};

use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
    net::SendFlags,
    pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice},
};

use super::buffer_pool::ObjectPool;

/// The capacity of a pipe, in bytes. The pooled pipes are within the limit of pipe(7) for an ordinary user.
pub(crate) const CAPACITY: usize = 256 * 1024;
/// How much is copied at a time if the kernel cannot splice, in bytes.
const COPY: usize = 64 * 1024;

/// How many free pipes are kept.
const MAX_FREE: usize = 64;

static PIPES: ObjectPool<Pipe> = ObjectPool::new();

/// Closes the pipes that were not needed since the last sweep.
pub(crate) fn sweep() {
    PIPES.sweep();
}

/// How much of a file a socket took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Taken {
    /// In bytes; 0 only when the socket is full, or `ended`.
    pub bytes: usize,
    /// The socket takes no more now.
    pub full: bool,
    /// The file has no byte at this offset.
    pub ended: bool,
}

/// Why nothing was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failed {
    File(Errno),
    Socket(Errno),
}

/// Sends up to `len` bytes of a file to a non-blocking socket. `more`: the socket may wait for more before they leave.
pub(crate) fn send(file: &File, offset: u64, len: usize, socket: impl AsFd, more: bool) -> Result<Taken, Failed> {
    // After an error it is closed, so that no other blob's bytes are left in it.
    let pipe = match PIPES.take().map_or_else(Pipe::new, Ok) {
        Ok(pipe) => pipe,
        // For example, no descriptor is left.
        Err(_) => return copy(file, offset, len, socket, more),
    };
    match pipe.send(file, offset, len, &socket, more) {
        Ok(taken) => {
            PIPES.give(pipe, MAX_FREE);
            Ok(taken)
        }
        Err(Failed::File(error)) if is_copied_instead(error) => copy(file, offset, len, socket, more),
        Err(failed) => Err(failed),
    }
}

/// Whether the file can be copied although it cannot be spliced. EAGAIN is the file system's: the pipe was empty, and the
/// socket was not involved.
fn is_copied_instead(error: Errno) -> bool {
    [Errno::AGAIN, Errno::INVAL, Errno::NOSYS, Errno::OPNOTSUPP, Errno::PERM].contains(&error)
}

/// Empty between calls.
struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
    /// `/dev/null`, for pages that the socket did not take.
    nowhere: OwnedFd,
    capacity: usize,
}

impl Pipe {
    fn new() -> Result<Self, Errno> {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        let nowhere = rustix::fs::open("/dev/null", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
        // Refused if the user has reached the limit of pipe(7): a small pipe works, too.
        let capacity = fcntl_setpipe_size(&write, CAPACITY).unwrap_or(COPY);
        Ok(Self { read, write, nowhere, capacity })
    }

    fn send(&self, file: &File, offset: u64, len: usize, socket: impl AsFd, more: bool) -> Result<Taken, Failed> {
        let more = if more { SpliceFlags::MORE } else { SpliceFlags::empty() };
        let flags = SpliceFlags::NONBLOCK | more;
        let len = len.min(self.capacity);
        let loaded = again(|| splice(file, Some(&mut { offset }), &self.write, None, len, flags));
        let loaded = loaded.map_err(Failed::File)?;
        let mut left = loaded;
        while left > 0 {
            match again(|| splice(&self.read, None, &socket, None, left, flags)) {
                // The pipe is not empty, so this must not happen.
                Ok(0) => return Err(Failed::Socket(Errno::IO)),
                Ok(gone) => left -= gone,
                Err(Errno::AGAIN) => break,
                Err(error) => return Err(Failed::Socket(error)),
            }
        }
        if left > 0 {
            self.discard(left).map_err(Failed::Socket)?;
        }
        Ok(Taken { bytes: loaded - left, full: left > 0, ended: loaded == 0 })
    }

    fn discard(&self, mut left: usize) -> Result<(), Errno> {
        while left > 0 {
            match again(|| splice(&self.read, None, &self.nowhere, None, left, SpliceFlags::NONBLOCK))? {
                0 => return Err(Errno::IO),
                gone => left -= gone,
            }
        }
        Ok(())
    }
}

/// Sends a file whose pages cannot be spliced.
fn copy(file: &File, offset: u64, len: usize, socket: impl AsFd, more: bool) -> Result<Taken, Failed> {
    let mut buffer = vec![0; len.min(COPY)];
    let read = again(|| rustix::io::pread(file, &mut buffer[..], offset)).map_err(Failed::File)?;
    if read == 0 {
        return Ok(Taken { bytes: 0, full: false, ended: true });
    }
    let more = if more { SendFlags::MORE } else { SendFlags::empty() };
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT | more;
    match again(|| rustix::net::send(&socket, &buffer[..read], flags)) {
        Ok(bytes) => Ok(Taken { bytes, full: bytes < read, ended: false }),
        Err(Errno::AGAIN) => Ok(Taken { bytes: 0, full: true, ended: false }),
        Err(error) => Err(Failed::Socket(error)),
    }
}

fn again<T>(mut call: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        os::unix::net::UnixStream,
    };

    use super::*;

    #[test]
    fn a_file_that_cannot_be_spliced_now_is_copied() {
        for (errno, copied) in [(Errno::AGAIN, true), (Errno::INVAL, true), (Errno::IO, false), (Errno::NOMEM, false)] {
            assert_eq!(is_copied_instead(errno), copied, "{errno:?}");
        }
    }

    fn file(content: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(content).unwrap();
        file
    }

    fn pair() -> (UnixStream, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        theirs.set_nonblocking(true).unwrap();
        (ours, theirs)
    }

    /// What the other end has, as far as it has come.
    fn received(theirs: &mut UnixStream, into: &mut Vec<u8>) {
        let mut buffer = [0; 4096];
        while let Ok(read @ 1..) = theirs.read(&mut buffer) {
            into.extend_from_slice(&buffer[..read]);
        }
    }

    type Send = fn(&File, u64, usize, &UnixStream) -> Result<Taken, Failed>;

    /// Both ways, since where the kernel cannot splice is not here.
    const WAYS: [Send; 2] = [|f, o, l, s| send(f, o, l, s, true), |f, o, l, s| copy(f, o, l, s, false)];

    #[test]
    fn a_full_socket_loses_and_doubles_no_byte() {
        let content: Vec<u8> = (0..3_000_001u32).map(|n| (n % 251) as u8).collect();
        let file = file(&content);
        for way in WAYS {
            let (ours, mut theirs) = pair();
            let (mut sent, mut arrived, mut filled) = (0, Vec::new(), 0);
            while sent < content.len() {
                let taken = way(&file, sent as u64, content.len() - sent, &ours).unwrap();
                assert!(!taken.ended && (taken.bytes > 0 || taken.full), "{taken:?}");
                sent += taken.bytes;
                if taken.full {
                    filled += 1;
                    received(&mut theirs, &mut arrived);
                }
            }
            received(&mut theirs, &mut arrived);
            assert!(filled > 1, "the socket was full now and then");
            assert!(arrived == content, "the bytes are the file's, in order");
        }
    }

    #[test]
    fn a_short_file_and_a_closed_socket_are_told_apart() {
        let file = file(b"content");
        for way in WAYS {
            let (ours, theirs) = pair();
            assert_eq!(way(&file, 7, 10, &ours), Ok(Taken { bytes: 0, full: false, ended: true }));
            assert_eq!(way(&file, 3, 10, &ours).unwrap().bytes, 4);
            drop(theirs);
            assert!(matches!(way(&file, 0, 10, &ours), Err(Failed::Socket(Errno::PIPE))));
            // Nothing of that is left for the next one.
            let (ours, mut theirs) = pair();
            assert_eq!(way(&file, 4, 3, &ours).unwrap().bytes, 3);
            let mut arrived = Vec::new();
            received(&mut theirs, &mut arrived);
            assert_eq!(arrived, b"ent");
        }
    }

    #[test]
    fn a_file_that_cannot_be_read_is_the_files_fault() {
        let directory = tempfile::tempdir().unwrap();
        let file = File::create(directory.path().join("only for writing")).unwrap();
        for way in WAYS {
            let (ours, _theirs) = pair();
            assert_eq!(way(&file, 0, 10, &ours), Err(Failed::File(Errno::BADF)));
        }
    }
}
