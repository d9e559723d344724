//! Hashing files, on as many threads at a time as there are processors.

use std::{
    fs::File,
    io,
    num::NonZero,
    os::unix::fs::FileExt,
    sync::{Arc, LazyLock},
    thread::available_parallelism,
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::storage::blocking;
use crate::{file_slice::FileSlice, oci::Verifier};

/// How much is read at a time, in bytes: what fits into the processor's cache.
const STEP: usize = 64 * 1024;
/// How many downloads are hashed at a time: more threads than processors would only slow down responses. A waiting
/// download gets a turn after each chunk of another.
pub(super) static TURNS: LazyLock<Arc<Semaphore>> =
    LazyLock::new(|| Arc::new(Semaphore::new(available_parallelism().map_or(1, NonZero::get))));

/// Feeds a part of a file to `verifier`. Blocks.
pub(crate) fn hash_slice(slice: &FileSlice, verifier: &mut Verifier) -> io::Result<()> {
    read_each(&slice.file, slice.offset, slice.offset + slice.len, |bytes| verifier.update(bytes))
}

/// The same off the async threads, with the number of concurrent hashes limited.
pub(crate) async fn hash_in_turn(slice: FileSlice, verifier: Verifier) -> io::Result<Verifier> {
    let turn = TURNS.clone().acquire_owned().await.map_err(io::Error::other)?;
    hash_with(turn, slice, verifier).await
}

/// The same for a caller that has a turn.
pub(crate) async fn hash_with(
    turn: OwnedSemaphorePermit,
    slice: FileSlice,
    mut verifier: Verifier,
) -> io::Result<Verifier> {
    blocking(move || {
        hash_slice(&slice, &mut verifier)?;
        drop(turn);
        Ok(verifier)
    })
    .await
}

/// A turn for work that can wait; `None` while downloads hash on all processors.
pub(crate) fn turn_to_spare() -> Option<OwnedSemaphorePermit> {
    TURNS.clone().try_acquire_owned().ok()
}

pub(super) fn read_each(file: &File, mut offset: u64, end: u64, mut each: impl FnMut(&[u8])) -> io::Result<()> {
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
