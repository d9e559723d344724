//! Limits on how many threads may wait for a slow disk at a time.
//!
//! What must hold: however many files are written, synced or removed at once, the pool keeps threads free for cache
//! hits, which only open and read files. Waiting for a permit takes no thread.

use tokio::{
    sync::{Semaphore, SemaphorePermit},
    task::JoinHandle,
};

use super::blocking;
use crate::disk_wait::DiskWait;

/// How many of the pool's 64 threads may sync and remove files.
const MAX_CHANGES: usize = 16;
/// How many of them may create files and write the bytes of downloads and pushes: a new download does not wait for
/// syncs either.
const MAX_WRITES: usize = 24;

/// How many of them may evict, which is to remove files, too: a reservation does not wait for syncs.
const MAX_EVICTIONS: usize = 8;

static CHANGES: Semaphore = Semaphore::const_new(MAX_CHANGES);
static WRITES: Semaphore = Semaphore::const_new(MAX_WRITES);
static EVICTIONS: Semaphore = Semaphore::const_new(MAX_EVICTIONS);

/// Runs `work`, which syncs or removes files, on the blocking pool.
pub async fn change<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    with_permit(&CHANGES, work).await
}

/// Runs `work`, which creates a file or writes into one, on the blocking pool.
pub async fn write<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    with_permit(&WRITES, work).await
}

/// The same, begun at once if a permit is free, and never dropped with its caller.
pub fn begin_write<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    match WRITES.try_acquire() {
        Ok(place) => {
            let wait = DiskWait::begin();
            tokio::task::spawn_blocking(move || {
                let _wait = wait;
                run(Some(place), work)
            })
        }
        Err(_) => tokio::spawn(write(work)),
    }
}

/// Runs `work`, which removes files to make room, on the blocking pool.
pub(super) async fn evict<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    with_permit(&EVICTIONS, work).await
}

/// Starts a change without waiting for it, unless all permits are taken; never blocks.
pub(super) fn change_if_idle(work: impl FnOnce() + Send + 'static) {
    if let Ok(place) = CHANGES.try_acquire() {
        tokio::task::spawn_blocking(move || run(Some(place), work));
    }
}

async fn with_permit<T: Send + 'static>(permits: &'static Semaphore, work: impl FnOnce() -> T + Send + 'static) -> T {
    let wait = DiskWait::begin();
    // The semaphore is never closed.
    let place = permits.acquire().await.ok();
    let work = move || {
        let done = work();
        drop(wait);
        done
    };
    blocking(move || run(place, work)).await
}

/// Holds the permit to the end of the work, even when the caller was dropped.
fn run<T>(place: Option<SemaphorePermit<'static>>, work: impl FnOnce() -> T) -> T {
    let done = work();
    drop(place);
    done
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Barrier};

    use super::*;

    #[test]
    fn changes_and_writes_that_stand_still_leave_threads_to_hits() {
        let runtime = tokio::runtime::Builder::new_current_thread().max_blocking_threads(64).build().unwrap();
        let held = Arc::new(Barrier::new(MAX_CHANGES + MAX_WRITES + 1));
        runtime.block_on(async {
            let waits = |_| {
                let held = held.clone();
                move || {
                    held.wait();
                }
            };
            let changes: Vec<_> = (0..MAX_CHANGES).map(waits).map(|work| tokio::spawn(change(work))).collect();
            let writes: Vec<_> = (0..MAX_WRITES).map(waits).map(begin_write).collect();
            // These get no permit.
            let more: Vec<_> = (0..200).map(|_| tokio::spawn(change(|| ()))).collect();
            let more_writes: Vec<_> = (0..200).map(|_| begin_write(|| ())).collect();
            while CHANGES.available_permits() + WRITES.available_permits() > 0 {
                tokio::task::yield_now().await;
            }
            change_if_idle(|| panic!("there is no place"));
            blocking(|| ()).await;
            blocking(move || held.wait()).await;
            for task in changes.into_iter().chain(writes).chain(more).chain(more_writes) {
                task.await.unwrap();
            }
        });
    }
}
