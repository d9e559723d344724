//! The running hash of a fill: from memory where bytes come in order, from the file where they did not.

use std::{fs::File, io, os::unix::fs::FileExt};

use crate::{
    cache::FileSlice,
    oci::{Algorithm, Digest, Verifier},
};

/// How much is read at a time, in bytes.
const STEP: usize = 256 * 1024;

/// The hash of everything from the front up to a position.
pub(super) struct Running {
    verifier: Verifier,
    /// How many bytes from the front are hashed.
    hashed: u64,
}

impl Running {
    pub fn new(algorithm: Algorithm) -> Self {
        Self { verifier: Verifier::new(algorithm), hashed: 0 }
    }

    pub fn hashed(&self) -> u64 {
        self.hashed
    }

    /// Takes bytes that stand at `offset`, if they are the next ones.
    pub fn offer(&mut self, offset: u64, bytes: &[u8]) {
        if offset == self.hashed {
            self.verifier.update(bytes);
            self.hashed += bytes.len() as u64;
        }
    }

    /// Reads on in the file up to `end`. Blocks.
    pub fn catch_up(&mut self, file: &File, end: u64) -> io::Result<()> {
        read_each(file, self.hashed, end, |bytes| self.verifier.update(bytes))?;
        self.hashed = self.hashed.max(end);
        Ok(())
    }

    pub fn digest(self) -> Digest {
        self.verifier.digest()
    }
}

/// Feeds a part of a file to `verifier`. Blocks.
pub fn hash_slice(slice: &FileSlice, verifier: &mut Verifier) -> io::Result<()> {
    read_each(&slice.file, slice.offset, slice.offset + slice.len, |bytes| verifier.update(bytes))
}

fn read_each(file: &File, mut offset: u64, end: u64, mut each: impl FnMut(&[u8])) -> io::Result<()> {
    let mut buffer = vec![0; STEP];
    while offset < end {
        let wanted = usize::try_from(end - offset).unwrap_or(STEP).min(STEP);
        let read = file.read_at(&mut buffer[..wanted], offset)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        each(&buffer[..read]);
        offset += read as u64;
    }
    Ok(())
}
