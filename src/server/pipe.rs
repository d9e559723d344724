//! From a file to a socket, through a pipe of the thread's own.
//!
//! The pipe carries references to pages of the page cache, not bytes. It is filled and emptied within one call, and is
//! the thread's, so that there are as many as threads and not as clients (pipe(7) bounds what one user's pipes may hold).
//! What the socket does not take is thrown away and spliced again next time. A pipe of 1 MiB does better than the 64 KiB
//! that sendfile(2) uses inside: the socket is locked once for sixteen times as many pages.

use std::{cell::RefCell, fs::File, os::fd::AsFd, os::fd::OwnedFd};

use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
    net::SendFlags,
    pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice},
};

/// How much the pipe is to hold, in bytes: what pipe(7) lets an ordinary user ask for.
pub(super) const CAPACITY: usize = 1024 * 1024;
/// How much is copied at a time where the kernel cannot splice, in bytes.
const COPY: usize = 64 * 1024;

thread_local! {
    static PIPE: RefCell<Option<Pipe>> = const { RefCell::new(None) };
}

/// What a socket took of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Taken {
    /// In bytes; 0 only when the socket is full, or `ended`.
    pub bytes: usize,
    /// The socket takes no more now.
    pub full: bool,
    /// The file has no byte at this offset.
    pub ended: bool,
}

/// Sends up to `len` bytes of a file to a non-blocking socket.
pub(super) fn send(file: &File, offset: u64, len: usize, socket: impl AsFd) -> Result<Taken, Errno> {
    PIPE.with_borrow_mut(|slot| {
        // Taken out, so that after an error nobody finds another blob's bytes in it.
        let pipe = match slot.take().map_or_else(Pipe::new, Ok) {
            Ok(pipe) => pipe,
            // No descriptor is left, say: the client need not suffer from it.
            Err(_) => return copy(file, offset, len, socket),
        };
        match pipe.send(file, offset, len, &socket) {
            Ok(taken) => {
                *slot = Some(pipe);
                Ok(taken)
            }
            Err(Failed::Load(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP)) => copy(file, offset, len, socket),
            Err(Failed::Load(error) | Failed::Unload(error)) => Err(error),
        }
    })
}

/// Empty between calls.
struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
    /// Where goes what the socket did not take.
    nowhere: OwnedFd,
    capacity: usize,
}

enum Failed {
    Load(Errno),
    Unload(Errno),
}

impl Pipe {
    fn new() -> Result<Self, Errno> {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        let nowhere = rustix::fs::open("/dev/null", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
        // Refused where the user has large pipes enough: a small one works as well.
        let capacity = fcntl_setpipe_size(&write, CAPACITY).unwrap_or(COPY);
        Ok(Self { read, write, nowhere, capacity })
    }

    fn send(&self, file: &File, offset: u64, len: usize, socket: impl AsFd) -> Result<Taken, Failed> {
        let flags = SpliceFlags::NONBLOCK | SpliceFlags::MORE;
        let len = len.min(self.capacity);
        let loaded = again(|| splice(file, Some(&mut { offset }), &self.write, None, len, flags));
        let loaded = loaded.map_err(Failed::Load)?;
        let mut left = loaded;
        while left > 0 {
            match again(|| splice(&self.read, None, &socket, None, left, flags)) {
                // Nothing of what is surely in the pipe: not a thing a socket says.
                Ok(0) => return Err(Failed::Unload(Errno::IO)),
                Ok(gone) => left -= gone,
                Err(Errno::AGAIN) => break,
                Err(error) => return Err(Failed::Unload(error)),
            }
        }
        if left > 0 {
            self.discard(left).map_err(Failed::Unload)?;
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

/// Where the file system cannot give its pages to a pipe.
fn copy(file: &File, offset: u64, len: usize, socket: impl AsFd) -> Result<Taken, Errno> {
    let mut buffer = vec![0; len.min(COPY)];
    let read = again(|| rustix::io::pread(file, &mut buffer[..], offset))?;
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT | SendFlags::MORE;
    match again(|| if read == 0 { Ok(0) } else { rustix::net::send(&socket, &buffer[..read], flags) }) {
        Ok(bytes) => Ok(Taken { bytes, full: bytes < read, ended: read == 0 }),
        Err(Errno::AGAIN) => Ok(Taken { bytes: 0, full: true, ended: false }),
        Err(error) => Err(error),
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
