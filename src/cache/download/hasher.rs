//! The running hash of a download, concurrent with its writes: bytes in order from memory, the rest from the file.
//!
//! A job of the blocking pool hashes while there are bytes to hash, and each write starts it again. The hasher keeps
//! offered bytes only while the process has memory for them, so a hash that lags reads from the file.

use std::{collections::VecDeque, fs::File, io, sync::Arc};

use parking_lot::{Mutex, MutexGuard};

use tokio::sync::{Notify, OwnedSemaphorePermit};

use super::{Download, batch::Batch};
use crate::{
    cache::hash::{TURNS, read_each},
    oci::{Algorithm, Digest, Verifier},
};

/// How many bytes the job reads from the file before it looks again for bytes in memory.
const CHUNK: u64 = 1024 * 1024;
/// How many bytes the hash of one download keeps in memory.
const MAX_QUEUED: usize = 4 * 1024 * 1024;

/// The hash of all bytes from the start up to a position.
struct HashTask {
    verifier: Verifier,
    /// How many bytes from the start are hashed.
    hashed: u64,
}

/// Hashes one download.
pub(super) struct Hasher {
    state: Mutex<HasherState>,
    /// Notified when a job ends.
    idle: Notify,
}

struct HasherState {
    /// `None` while a job has the task.
    running: Option<HashTask>,
    /// The offered batches, in the order of the lead worker.
    queue: VecDeque<Arc<Batch>>,
    queued: usize,
    /// How many bytes were hashed when the job last took work.
    hashed: u64,
    failed: Option<io::Error>,
}

impl HasherState {
    fn new(algorithm: Algorithm) -> Self {
        let running = Some(HashTask { verifier: Verifier::new(algorithm), hashed: 0 });
        Self { running, queue: VecDeque::new(), queued: 0, hashed: 0, failed: None }
    }
}

/// The next step of a job.
enum Next {
    Memory(HashTask, Arc<Batch>),
    File(HashTask, u64),
}

impl Hasher {
    pub(super) fn new(algorithm: Algorithm) -> Self {
        Self { state: Mutex::new(HasherState::new(algorithm)), idle: Notify::new() }
    }

    /// Restarts the hash at 0, once no job runs.
    pub(super) async fn restart(&self, algorithm: Algorithm) {
        loop {
            let idle = self.idle.notified();
            {
                let mut state = self.state();
                if state.running.is_some() || state.failed.is_some() {
                    *state = HasherState::new(algorithm);
                    return;
                }
            }
            idle.await;
        }
    }

    /// Accepts bytes that are being written, unless too many are queued; `written_to` says up to where the file has the
    /// bytes from a position on.
    pub(super) fn offer(&self, batch: &Arc<Batch>, written_to: impl FnOnce(u64) -> u64) {
        let mut state = self.state();
        // Bytes behind a gap that another transfer fetches would occupy memory of other downloads until the gap is
        // closed, and can be read from the file by then.
        let is_next = batch.start() <= written_to(state.hashed);
        if batch.is_paid_for() && state.queued < MAX_QUEUED && is_next {
            state.queued += batch.len();
            state.queue.push_back(batch.clone());
        }
    }

    /// The digest of exactly the first `total` bytes, all of which are in the file. The hash continues when more are
    /// written.
    pub(super) async fn digest(&self, download: &Arc<Download>, total: u64) -> io::Result<Digest> {
        loop {
            // Registered before the state is read, so that the end of a job in between is not missed.
            let idle = self.idle.notified();
            go_on(download);
            let hashed = {
                let mut state = self.state();
                if let Some(error) = state.failed.take() {
                    return Err(error);
                }
                if let Some(running) = state.running.as_ref().filter(|running| running.hashed >= total) {
                    return Ok(running.verifier.clone().digest());
                }
                state.running.as_ref().map(|running| running.hashed)
            };
            match hashed {
                None => idle.await,
                // A job ended just before it could see these bytes.
                Some(hashed) if download.state().chunks.written_to(hashed) > hashed => {}
                // The file has fewer bytes than `total`.
                Some(_) => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, HasherState> {
        self.state.lock()
    }

    /// What to hash next; if there is nothing, `running` is put back.
    fn next(&self, running: HashTask, written: u64) -> Option<Next> {
        let mut state = self.state();
        state.hashed = running.hashed;
        while let Some(batch) = state.queue.front() {
            if batch.end() > running.hashed {
                break;
            }
            state.queued -= batch.len();
            state.queue.pop_front();
        }
        let waiting = state.queue.front().map(|batch| batch.start());
        if waiting.is_some_and(|start| start <= running.hashed)
            && let Some(batch) = state.queue.pop_front()
        {
            state.queued -= batch.len();
            return Some(Next::Memory(running, batch));
        }
        let end = written.min(waiting.unwrap_or(u64::MAX)).min(running.hashed + CHUNK);
        if end > running.hashed {
            return Some(Next::File(running, end));
        }
        state.running = Some(running);
        None
    }
}

/// Restarts the hash job of a download if there are bytes to hash and no job runs.
pub(super) fn go_on(download: &Arc<Download>) {
    let Some(running) = download.hash.state().running.take() else { return };
    let written = download.state().chunks.written_to(running.hashed);
    if let Some(first) = download.hash.next(running, written) {
        start(download.clone(), first);
    }
}

/// Starts the job when this download gets a turn.
fn start(download: Arc<Download>, first: Next) {
    let begin = move |turn| drop(tokio::task::spawn_blocking(move || work(download, first, turn)));
    match TURNS.clone().try_acquire_owned() {
        Ok(turn) => begin(turn),
        Err(_) => drop(tokio::spawn(async move {
            // The semaphore is never closed.
            if let Ok(turn) = TURNS.clone().acquire_owned().await {
                begin(turn);
            }
        })),
    }
}

/// Hashes while there are bytes to hash and no other download waits for the turn. Blocks.
fn work(download: Arc<Download>, first: Next, mut turn: OwnedSemaphorePermit) {
    let file = download.state().file.as_ref().map(|content| content.file.clone());
    let mut next = Some(first);
    while let Some(todo) = next {
        let running = match todo {
            Next::Memory(running, batch) => Ok(running.take(&batch)),
            Next::File(running, end) => match &file {
                Some(file) => running.read(file, end),
                None => Err(io::ErrorKind::NotFound.into()),
            },
        };
        next = match running {
            Ok(running) => {
                let written = download.state().chunks.written_to(running.hashed);
                download.hash.next(running, written)
            }
            Err(error) => {
                download.hash.state().failed = Some(error);
                None
            }
        };
        // A waiting download gets the turn.
        drop(turn);
        match (TURNS.clone().try_acquire_owned(), next.take()) {
            (Ok(mine), todo) => (turn, next) = (mine, todo),
            (Err(_), Some(todo)) => return start(download, todo),
            (Err(_), None) => break,
        }
    }
    download.hash.idle.notify_waiters();
}

impl HashTask {
    /// Hashes the bytes of the batch that come next.
    fn take(mut self, batch: &Batch) -> Self {
        for (offset, bytes) in batch.pieces() {
            // A piece that begins later follows bytes that another transfer writes.
            let known = self.hashed.checked_sub(*offset).and_then(|known| usize::try_from(known).ok());
            if let Some(rest) = known.and_then(|known| bytes.get(known..)) {
                self.verifier.update(rest);
                self.hashed += rest.len() as u64;
            }
        }
        self
    }

    /// Hashes the file up to `end`. Blocks.
    fn read(mut self, file: &File, end: u64) -> io::Result<Self> {
        read_each(file, self.hashed, end, |bytes| self.verifier.update(bytes))?;
        self.hashed = end;
        Ok(self)
    }
}
