//! Captures uploads for the cache while they pass: the next client pulls what was just pushed.
//!
//! What must hold: forwarding an upload never waits for its capture. If the queue has no space for more bytes, the
//! capture ends, never the push. A [`Capture`] belongs to one request at a time, or waits here between two requests: a
//! request that takes it and does not return it ends it. A separate task (`writer`) writes and hashes the bytes and,
//! when all have arrived and are right, adds the blob to the cache.

mod writer;

use std::{
    collections::{HashMap, hash_map::RandomState},
    hash::{BuildHasher as _, Hasher as _},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::{Mutex, MutexGuard};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use super::{Config, DiskStore, Source, download::Downloads};
use crate::oci::Algorithm;

/// How many uploads are captured at a time.
const MAX_CAPTURES: usize = 64;
/// How many bytes of one upload may wait to be written: some hundredths of a second of a fast connection.
const MAX_QUEUED: usize = 8 * 1024 * 1024;
/// The same for all uploads together.
const MAX_QUEUED_BY_ALL: usize = 32 * 1024 * 1024;
/// The least that a piece counts: it occupies more than its bytes.
const PIECE: usize = 4 * 1024;
/// An upload may take 1 / `MAX_CACHE` of the cache: its final size is often unknown.
const MAX_CACHE: u64 = 2;
/// How long the end of an upload waits for the commit of its capture.
const COMMIT_TIMEOUT: Duration = Duration::from_millis(250);

/// The uploads that are being captured. A cheap handle.
#[derive(Clone)]
pub(crate) struct Captures(Arc<CapturesInner>);

struct CapturesInner {
    store: DiskStore,
    downloads: Downloads,
    /// The captures that no request currently has, by their numbers.
    waiting: Mutex<HashMap<u64, Capture>>,
    next: AtomicU64,
    places: Arc<Semaphore>,
    memory: Arc<Semaphore>,
    most_bytes: u64,
}

/// The capture of one upload. When dropped, it leaves nothing behind.
#[derive(Debug)]
pub(crate) struct Capture {
    number: u64,
    position: u64,
    most_bytes: u64,
    queue: mpsc::Sender<Message>,
    room: Arc<Semaphore>,
    memory: Arc<Semaphore>,
}

/// Why a capture takes no more bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CaptureError {
    #[error("it is too large for the cache")]
    TooLarge,
    #[error("it comes faster than it can be written")]
    TooFast,
    /// The writer has ended, and the log names the reason.
    #[error("it has ended")]
    Ended,
}

/// A message to the writer; a piece counts as queued as long as it exists.
enum Message {
    CapturedPiece(CapturedPiece),
    Commit(Box<Commit>),
}

/// The end of an upload.
struct Commit {
    source: Source,
    /// Dropped as soon as clients can read the blob, or when the commit failed.
    found: oneshot::Sender<()>,
}

struct CapturedPiece {
    bytes: Bytes,
    _counted: [OwnedSemaphorePermit; 2],
}

impl Captures {
    /// Each capture runs as one of the tasks of `downloads`, and ends with them.
    pub(crate) fn new(config: &Config, store: DiskStore, downloads: Downloads) -> Self {
        Self(Arc::new(CapturesInner {
            store,
            downloads,
            waiting: Mutex::default(),
            // Random, so that no number equals one of an earlier process or of another instance.
            next: AtomicU64::new(RandomState::new().build_hasher().finish()),
            places: Arc::new(Semaphore::new(MAX_CAPTURES)),
            memory: Arc::new(Semaphore::new(MAX_QUEUED_BY_ALL)),
            most_bytes: config.max_size / MAX_CACHE,
        }))
    }

    /// Begins a capture. Returns `None` if too many uploads are being captured, or if the digest of the upload is known
    /// and the blob is already cached or being downloaded.
    pub(crate) fn begin(&self, known: Option<&Source>) -> Option<Capture> {
        let is_here = |source: &Source| self.0.downloads.has(source) || self.0.store.has_blob(&source.id());
        if known.is_some_and(is_here) {
            return None;
        }
        let place = self.0.places.clone().try_acquire_owned().ok()?;
        let number = self.0.next.fetch_add(1, Ordering::Relaxed);
        let (capture, queue) = Capture::new(number, self.0.most_bytes, self.0.memory.clone());
        let algorithm = known.map_or(Algorithm::Sha256, |source| source.digest.algorithm());
        self.0.downloads.tasks().spawn(writer::run(self.clone(), number, algorithm, queue, place));
        Some(capture)
    }

    /// The capture of this number, if it exists in this process and no other request has it.
    pub(crate) fn take(&self, number: u64) -> Option<Capture> {
        self.waiting().remove(&number)
    }

    /// Keeps a capture for the next request that has its number; `None` if its writer has ended.
    pub(crate) fn keep(&self, capture: Capture) -> Option<u64> {
        let number = capture.number;
        let mut waiting = self.waiting();
        // The writer closes its queue before it takes the capture off this list.
        if capture.queue.is_closed() {
            return None;
        }
        waiting.insert(number, capture);
        Some(number)
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<u64, Capture>> {
        self.0.waiting.lock()
    }
}

impl Capture {
    fn new(number: u64, most_bytes: u64, memory: Arc<Semaphore>) -> (Self, mpsc::Receiver<Message>) {
        // The queue always has a place for a piece that the semaphores admit.
        let (queue, taken) = mpsc::channel(MAX_QUEUED / PIECE + 1);
        let room = Arc::new(Semaphore::new(MAX_QUEUED));
        (Self { number, position: 0, most_bytes, queue, room, memory }, taken)
    }

    /// The number of bytes captured so far, from the start.
    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    /// Whether the capture may take `len` more bytes.
    pub(crate) fn may_take(&self, len: u64) -> bool {
        self.position.saturating_add(len) <= self.most_bytes
    }

    /// Takes the next bytes without waiting. After an error the capture is useless.
    ///
    /// # Errors
    /// The bytes cannot be captured.
    pub(crate) fn push(&mut self, bytes: Bytes) -> Result<(), CaptureError> {
        if !self.may_take(bytes.len() as u64) {
            return Err(CaptureError::TooLarge);
        }
        if self.queue.is_closed() {
            return Err(CaptureError::Ended);
        }
        let count = u32::try_from(bytes.len().max(PIECE)).unwrap_or(u32::MAX);
        let counted =
            |room: &Arc<Semaphore>| room.clone().try_acquire_many_owned(count).map_err(|_| CaptureError::TooFast);
        let end = self.position + bytes.len() as u64;
        let piece = CapturedPiece { bytes, _counted: [counted(&self.room)?, counted(&self.memory)?] };
        self.queue.try_send(Message::CapturedPiece(piece)).map_err(|_| CaptureError::Ended)?;
        self.position = end;
        Ok(())
    }

    /// Ends the capture after the upstream accepted the upload as the blob `source`: if the digest matches, the blob is
    /// cached. Waits a moment, so that the next client usually finds the blob, but not for the rest of a long hash.
    pub(crate) async fn commit(self, source: Source) {
        let (found, is_found) = oneshot::channel();
        // Sending fails if the writer has ended.
        if self.queue.try_send(Message::Commit(Box::new(Commit { source, found }))).is_ok() {
            let _ = tokio::time::timeout(COMMIT_TIMEOUT, is_found).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{path::Path, time::Duration};

    use tokio_util::{sync::CancellationToken, task::TaskTracker};

    use super::*;
    use crate::metrics::Metrics;

    /// The captures in this directory, and their tasks.
    async fn captures(directory: &Path) -> (Captures, TaskTracker) {
        let config = Config { max_size: 1 << 30, ..Config::at(directory) };
        let metrics = Metrics::new().unwrap();
        let store = DiskStore::open(&config, metrics.clone()).unwrap();
        store.scan().await;
        let tasks = TaskTracker::new();
        let downloads = Downloads::new(store.clone(), metrics, tasks.clone(), CancellationToken::new());
        (Captures::new(&config, store, downloads), tasks)
    }

    fn on_its_way(directory: &Path) -> usize {
        std::fs::read_dir(directory.join("tmp")).unwrap().count()
    }

    fn capture(memory: usize) -> (Capture, mpsc::Receiver<Message>, Arc<Semaphore>) {
        let memory = Arc::new(Semaphore::new(memory));
        let (capture, queue) = Capture::new(1, 1 << 30, memory.clone());
        (capture, queue, memory)
    }

    #[test]
    fn a_stalled_writer_blocks_no_push_and_has_bounded_memory() {
        for (memory, most) in [(MAX_QUEUED_BY_ALL, MAX_QUEUED), (1 << 20, 1 << 20)] {
            for len in [1, 16 * 1024, 100_000] {
                let (mut capture, queue, left) = capture(memory);
                let mut taken = 0;
                while capture.push(Bytes::from(vec![0; len])).is_ok() {
                    taken += len.max(PIECE);
                }
                assert!(taken <= most && taken + len.max(PIECE) > most, "{len}: {taken}");
                assert_eq!(
                    capture.push(Bytes::from(vec![0; len])),
                    Err(CaptureError::TooFast),
                    "and does not begin again"
                );
                drop((capture, queue));
                assert_eq!(left.available_permits(), memory);
            }
        }
    }

    #[test]
    fn what_was_taken_makes_room_for_more() {
        let (mut capture, mut queue, left) = capture(MAX_QUEUED_BY_ALL);
        for round in 1..100 {
            capture.push(Bytes::from(vec![0; MAX_QUEUED / 2])).unwrap();
            assert_eq!(capture.position(), round * MAX_QUEUED as u64 / 2);
            assert!(
                matches!(queue.try_recv(), Ok(Message::CapturedPiece(piece)) if piece.bytes.len() == MAX_QUEUED / 2)
            );
        }
        assert_eq!(left.available_permits(), MAX_QUEUED_BY_ALL);
        drop(queue);
        assert_eq!(capture.push(Bytes::from_static(b"x")), Err(CaptureError::Ended), "the writer has ended");
    }

    #[test]
    fn an_upload_that_is_too_large_is_not_kept() {
        let (mut capture, _queue) = Capture::new(1, 10, Arc::new(Semaphore::new(MAX_QUEUED_BY_ALL)));
        assert!(capture.may_take(10) && !capture.may_take(11));
        capture.push(Bytes::from_static(b"0123456789")).unwrap();
        assert!(!capture.may_take(1) && !capture.may_take(u64::MAX));
        assert_eq!(capture.push(Bytes::from_static(b"x")), Err(CaptureError::TooLarge));
        assert_eq!(capture.position(), 10);
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_nobody_goes_on_with_is_given_up() {
        let directory = tempfile::tempdir().unwrap();
        let (captures, tasks) = captures(directory.path()).await;
        let begin = || {
            let mut capture = captures.begin(None).unwrap();
            capture.push(Bytes::from_static(b"some")).unwrap();
            capture
        };
        // Between two requests, and while a request has the capture.
        let (waiting, mut taken) = (captures.keep(begin()).unwrap(), begin());
        let written = async || {
            while on_its_way(directory.path()) < 2 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        written().await;
        tokio::time::sleep(Duration::from_secs(4 * 60)).await;
        let mut capture = captures.take(waiting).unwrap();
        assert!(captures.take(waiting).is_none(), "a request has it");
        capture.push(Bytes::from_static(b"more")).unwrap();
        assert_eq!(captures.keep(capture), Some(waiting));
        tokio::time::sleep(Duration::from_secs(2 * 60)).await;
        assert_eq!(taken.push(Bytes::from_static(b"more")), Err(CaptureError::Ended));
        assert_eq!(captures.keep(taken), None);
        tasks.close();
        tasks.wait().await;
        assert!(captures.waiting().is_empty());
        assert_eq!((on_its_way(directory.path()), captures.0.places.available_permits()), (0, MAX_CAPTURES));
    }

    #[tokio::test]
    async fn only_so_many_are_kept_at_a_time() {
        let directory = tempfile::tempdir().unwrap();
        let (captures, tasks) = captures(directory.path()).await;
        let all: Vec<_> = (0..MAX_CAPTURES).map(|_| captures.begin(None).unwrap()).collect();
        assert!(captures.begin(None).is_none());
        drop(all);
        tasks.close();
        tasks.wait().await;
        assert!(captures.begin(None).is_some());
    }
}
