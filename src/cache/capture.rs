//! Captures uploads for the cache while they pass: the next client pulls what was just pushed.
//!
//! What must hold: an upload never waits for its capture. If the capture cannot take the next bytes at once, the capture
//! ends, never the push. A [`Capture`] belongs to one request at a time, or waits here between two requests; dropped, it
//! leaves nothing behind. A task per capture writes the bytes to a file, from which it hashes them, so that a hash that
//! lags holds no memory. Only if the upstream confirms the upload, and the digest matches, the file becomes a blob.

use std::{
    collections::{HashMap, hash_map::RandomState},
    hash::{BuildHasher as _, Hasher as _},
    io::{self, IoSlice},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use parking_lot::{Mutex, MutexGuard};

use bytes::Bytes;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
    time::timeout,
};

use super::{
    DiskStore, ReloadableConfig, Source,
    download::Downloads,
    hash::{hash_in_turn, hash_with, turn_to_spare},
    storage::{self, NoSpace, TempUpload, change, write_all_at},
};
use crate::{
    file_slice::FileSlice,
    oci::{Algorithm, Verifier},
    peer::{Permit, Shares, TrustedNetworks},
};

/// How many uploads are captured at a time, those between two requests included.
const MAX_CAPTURES: u64 = 64;
/// How many pieces of one upload may wait to be written, however small.
const MAX_PIECES: usize = 2048;
/// How many pieces are written at once: fewer than one system call takes.
const MAX_BUFFERS: usize = 512;
/// How many bytes of all uploads may wait to be written: some hundredths of a second of a fast connection.
const MAX_QUEUED: usize = 32 * 1024 * 1024;
/// The least that a piece counts: it occupies more than its bytes.
const PIECE: usize = 4 * 1024;
/// An upload may take 1 / `MAX_CACHE` of the cache: its final size is often unknown.
const MAX_CACHE: u64 = 2;
/// How much space is reserved, and how many bytes are hashed, at a time.
const STEP: u64 = 1024 * 1024;
/// A capture that received no bytes for this long ends.
const IDLE_TIMEOUT: Duration = Duration::from_secs(5 * 60);
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
    places: Shares,
    memory: Arc<Semaphore>,
    config: ReloadableConfig,
}

/// The capture of one upload.
pub(crate) struct Capture {
    captures: Captures,
    number: u64,
    len: u64,
    queue: mpsc::Sender<Message>,
}

/// A message to the task that writes the file.
enum Message {
    /// The piece counts as queued as long as the permit exists.
    Piece(Bytes, OwnedSemaphorePermit),
    /// The upstream accepted the upload as this blob. The sender is dropped as soon as clients can read the blob, or when
    /// the commit failed.
    End(Box<Source>, oneshot::Sender<()>),
}

/// Why an upload is not cached.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CaptureError {
    #[error("it is too large for the cache")]
    TooLarge,
    #[error("it comes faster than it can be written")]
    TooFast,
    #[error("there is no room in the cache")]
    NoRoom(#[from] NoSpace),
    #[error("the cache cannot be written")]
    Storage(#[from] io::Error),
    #[error("what the client sent has another digest")]
    Mismatch,
    /// Nothing came for a while, the task has ended, or the process ends.
    #[error("it did not go on")]
    Abandoned,
}

impl CaptureError {
    fn log(&self, store: &DiskStore) {
        match self {
            Self::Abandoned => {}
            Self::Storage(error) => store.disk_failed("forebay cannot write a push to the cache", &"capture", error),
            reason => tracing::info!(%reason, "forebay does not cache this push"),
        }
    }
}

impl Captures {
    /// Each capture runs as one of the tasks of `downloads`, and ends with them.
    pub(crate) fn new(
        config: &ReloadableConfig,
        store: DiskStore,
        downloads: Downloads,
        trusted: TrustedNetworks,
    ) -> Self {
        Self(Arc::new(CapturesInner {
            store,
            downloads,
            waiting: Mutex::default(),
            places: Shares::new(MAX_CAPTURES, trusted),
            memory: Arc::new(Semaphore::new(MAX_QUEUED)),
            config: config.clone(),
        }))
    }

    /// How long an upload may be that is cached, in bytes.
    fn most_bytes(&self) -> u64 {
        self.0.config.load().max_size / MAX_CACHE
    }

    /// Begins the capture of an upload that this client begins; `None` if too many are being captured.
    pub(crate) fn begin(&self, client: IpAddr) -> Option<Capture> {
        let place = self.0.places.take(client, 1).ok()?;
        // Random, so that the number belongs to no upload of an earlier process or of another instance.
        let number = RandomState::new().build_hasher().finish();
        // The last place in the queue is for the end.
        let (queue, messages) = mpsc::channel(MAX_PIECES + 1);
        self.0.downloads.tasks().spawn(self.clone().run(number, messages, place));
        Some(Capture { captures: self.clone(), number, len: 0, queue })
    }

    /// The capture of this number, if it exists in this process and no other request has it.
    pub(crate) fn take(&self, number: u64) -> Option<Capture> {
        self.waiting().remove(&number)
    }

    /// Keeps a capture for the next request that has its number; `None` if its task has ended.
    pub(crate) fn keep(&self, capture: Capture) -> Option<u64> {
        let number = capture.number;
        let mut waiting = self.waiting();
        // The task closes its queue before it takes the capture off this list.
        if capture.queue.is_closed() {
            return None;
        }
        waiting.insert(number, capture);
        Some(number)
    }

    /// Writes the upload to a file until it ends, and then adds the file to the cache.
    async fn run(self, number: u64, mut queue: mpsc::Receiver<Message>, place: Permit) {
        let mut upload = Upload::new(self.clone(), number);
        let shutdown = self.0.downloads.shutdown().clone();
        let ended = tokio::select! {
            biased;
            () = shutdown.cancelled() => Err(CaptureError::Abandoned),
            ended = upload.receive(&mut queue) => ended,
        };
        // In this order, so that no request can put the capture back afterwards.
        queue.close();
        drop(self.take(number));
        match (ended, upload.file.take()) {
            (Ok((source, found)), Some(file)) => self.0.downloads.adopt(&source, file, upload.len, found).await,
            // Removing a large file can take a while.
            (Ok(_), none) => drop(none),
            (Err(error), file) => {
                error.log(&self.0.store);
                change(move || drop(file)).await;
            }
        }
        drop(place);
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<u64, Capture>> {
        self.0.waiting.lock()
    }
}

impl Capture {
    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether the capture may take `len` more bytes.
    pub(crate) fn may_take(&self, len: u64) -> bool {
        self.len.saturating_add(len) <= self.captures.most_bytes()
    }

    /// Takes the next bytes without waiting. After an error the capture is useless.
    ///
    /// # Errors
    /// The bytes cannot be captured.
    pub(crate) fn push(&mut self, bytes: &Bytes) -> Result<(), CaptureError> {
        let pushed = self.try_push(bytes);
        pushed.inspect_err(|error| error.log(&self.captures.0.store))
    }

    fn try_push(&mut self, bytes: &Bytes) -> Result<(), CaptureError> {
        if !self.may_take(bytes.len() as u64) {
            return Err(CaptureError::TooLarge);
        }
        if self.queue.is_closed() {
            return Err(CaptureError::Abandoned);
        }
        let counted = u32::try_from(bytes.len().max(PIECE)).unwrap_or(u32::MAX);
        let memory = self.captures.0.memory.clone().try_acquire_many_owned(counted);
        let memory = memory.ok().filter(|_| self.queue.capacity() > 1).ok_or(CaptureError::TooFast)?;
        self.queue.try_send(Message::Piece(bytes.clone(), memory)).map_err(|_| CaptureError::Abandoned)?;
        self.len += bytes.len() as u64;
        Ok(())
    }

    /// Ends the capture after the upstream accepted the upload as the blob `source`: if the digest matches, the blob is
    /// cached. Waits a moment, so that the next client usually finds the blob, but not for the rest of a long hash.
    pub(crate) async fn commit(self, source: Source) {
        let (found, is_found) = oneshot::channel();
        // Sending fails if the task has ended.
        if self.queue.try_send(Message::End(Box::new(source), found)).is_ok() {
            let _ = timeout(COMMIT_TIMEOUT, is_found).await;
        }
    }
}

/// The file of an upload, and the hash of its front.
struct Upload {
    captures: Captures,
    number: u64,
    /// `None` before the first bytes.
    file: Option<TempUpload>,
    len: u64,
    hashed: u64,
    hash: Verifier,
}

impl Upload {
    fn new(captures: Captures, number: u64) -> Self {
        Self { captures, number, file: None, len: 0, hashed: 0, hash: Verifier::new(Algorithm::Sha256) }
    }

    /// Writes and hashes what comes until the upload ends; returns its end once the digest proved right.
    async fn receive(
        &mut self,
        queue: &mut mpsc::Receiver<Message>,
    ) -> Result<(Source, oneshot::Sender<()>), CaptureError> {
        loop {
            // Bytes that wait to be written go first: they hold memory. While downloads hash on all processors, the hash
            // lags.
            if self.len - self.hashed >= STEP
                && queue.is_empty()
                && let Some(turn) = turn_to_spare()
                && let Some(slice) = self.unhashed()
            {
                self.hash = hash_with(turn, slice, self.hash.clone()).await?;
                continue;
            }
            let mut messages = Vec::new();
            if timeout(IDLE_TIMEOUT, queue.recv_many(&mut messages, MAX_BUFFERS)).await.unwrap_or(0) == 0 {
                return Err(CaptureError::Abandoned);
            }
            let (mut pieces, mut end) = (Vec::with_capacity(messages.len()), None);
            for message in messages {
                match message {
                    Message::Piece(bytes, memory) => pieces.push((bytes, memory)),
                    Message::End(source, found) => end = Some((*source, found)),
                }
            }
            self.write(pieces).await?;
            if let Some((source, found)) = end {
                self.verify(&source).await?;
                return Ok((source, found));
            }
        }
    }

    async fn write(&mut self, pieces: Vec<(Bytes, OwnedSemaphorePermit)>) -> Result<(), CaptureError> {
        let (offset, len) = (self.len, pieces.iter().map(|(bytes, _)| bytes.len() as u64).sum::<u64>());
        if len == 0 {
            return Ok(());
        }
        let (store, room) = (&self.captures.0.store, (offset + len).next_multiple_of(STEP));
        let file = match &mut self.file {
            Some(file) => {
                file.grow_to(room).await?;
                file
            }
            none => none.insert(store.create_upload(self.number, store.reserve_upload(room).await?).await?),
        };
        let target = file.file().clone();
        storage::write(move || {
            let mut buffers: Vec<_> = pieces.iter().map(|(bytes, _)| IoSlice::new(bytes)).collect();
            write_all_at(&target, &mut buffers, offset)
        })
        .await?;
        file.note_written(len);
        self.len += len;
        Ok(())
    }

    /// The next bytes to hash, which count as hashed from now on.
    fn unhashed(&mut self) -> Option<FileSlice> {
        let (offset, len) = (self.hashed, STEP.min(self.len - self.hashed));
        let file = self.file.as_ref().filter(|_| len > 0)?.file().clone();
        self.hashed += len;
        Some(FileSlice { file, offset, len })
    }

    async fn verify(&mut self, source: &Source) -> Result<(), CaptureError> {
        let algorithm = source.digest.algorithm();
        if algorithm != Algorithm::Sha256 {
            (self.hashed, self.hash) = (0, Verifier::new(algorithm));
        }
        while let Some(slice) = self.unhashed() {
            self.hash = hash_in_turn(slice, self.hash.clone()).await?;
        }
        if self.hash.clone().digest() == source.digest { Ok(()) } else { Err(CaptureError::Mismatch) }
    }
}

#[cfg(test)]
mod tests {
    use std::{net::Ipv4Addr, path::Path, time::Duration};

    use tokio_util::{sync::CancellationToken, task::TaskTracker};

    use super::{super::hash::TURNS, *};
    use crate::{
        cache::Config,
        metrics::Metrics,
        upstream::{self, Context, Upstream},
    };

    const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    /// The captures in this directory, and their tasks.
    async fn captures(directory: &Path) -> (Captures, TaskTracker) {
        let config = Config { max_size: 1 << 30, ..Config::at(directory) };
        let metrics = Metrics::new().unwrap();
        let store = DiskStore::open(&config, metrics.clone()).unwrap();
        store.scan().await;
        let tasks = TaskTracker::new();
        let downloads = Downloads::new(&config, store.clone(), metrics, tasks.clone(), CancellationToken::new());
        (Captures::new(&ReloadableConfig::new(config), store, downloads, TrustedNetworks::new(Vec::new())), tasks)
    }

    /// A capture whose task does nothing.
    fn stalled(captures: &Captures) -> (Capture, mpsc::Receiver<Message>) {
        let (queue, messages) = mpsc::channel(MAX_PIECES + 1);
        (Capture { captures: captures.clone(), number: 1, len: 0, queue }, messages)
    }

    fn files(directory: &Path) -> usize {
        std::fs::read_dir(directory.join("tmp")).unwrap().count()
    }

    #[tokio::test]
    async fn a_stalled_writer_blocks_no_push_and_has_bounded_memory() {
        let directory = tempfile::tempdir().unwrap();
        let (captures, _tasks) = captures(directory.path()).await;
        for len in [1, 16 * 1024, 1 << 20] {
            let (mut capture, queue) = stalled(&captures);
            let piece = Bytes::from(vec![0; len]);
            let mut taken = 0;
            while capture.push(&piece).is_ok() {
                taken += 1;
            }
            assert_eq!(taken, MAX_PIECES.min(MAX_QUEUED / len.max(PIECE)), "{len}");
            assert_eq!(MAX_QUEUED - captures.0.memory.available_permits(), taken * len.max(PIECE), "{len}");
            assert!(matches!(capture.push(&piece), Err(CaptureError::TooFast)), "and does not begin again");
            assert!(capture.queue.capacity() > 0, "the end has a place");
            drop((capture, queue));
            assert_eq!(captures.0.memory.available_permits(), MAX_QUEUED);
        }
    }

    #[tokio::test]
    async fn what_was_taken_makes_room_for_more() {
        let directory = tempfile::tempdir().unwrap();
        let (captures, _tasks) = captures(directory.path()).await;
        let (mut capture, mut queue) = stalled(&captures);
        for _ in 1..10 {
            capture.push(&Bytes::from(vec![0; MAX_QUEUED])).unwrap();
            assert!(capture.push(&Bytes::from_static(b"x")).is_err());
            assert!(matches!(queue.try_recv(), Ok(Message::Piece(bytes, _)) if bytes.len() == MAX_QUEUED));
        }
        drop(queue);
        let pushed = capture.push(&Bytes::from_static(b"x"));
        assert!(matches!(pushed, Err(CaptureError::Abandoned)), "the task has ended");
    }

    #[tokio::test]
    async fn an_upload_that_is_too_large_is_not_kept() {
        let directory = tempfile::tempdir().unwrap();
        let (captures, _tasks) = captures(directory.path()).await;
        let (mut capture, _queue) = stalled(&captures);
        let most = captures.most_bytes();
        capture.push(&Bytes::from_static(b"0123456789")).unwrap();
        assert!(capture.may_take(most - 10) && !capture.may_take(most - 9) && !capture.may_take(u64::MAX));
        capture.len = most;
        assert!(matches!(capture.push(&Bytes::from_static(b"x")), Err(CaptureError::TooLarge)));
        assert_eq!(capture.len, most);
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_nobody_goes_on_with_is_given_up() {
        let directory = tempfile::tempdir().unwrap();
        let (captures, tasks) = captures(directory.path()).await;
        let begin = || {
            let mut capture = captures.begin(CLIENT).unwrap();
            capture.push(&Bytes::from_static(b"some")).unwrap();
            capture
        };
        // Between two requests, and while a request has the capture.
        let (waiting, mut taken) = (captures.keep(begin()).unwrap(), begin());
        while files(directory.path()) < 2 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        tokio::time::sleep(Duration::from_secs(4 * 60)).await;
        let mut capture = captures.take(waiting).unwrap();
        assert!(captures.take(waiting).is_none(), "a request has it");
        capture.push(&Bytes::from_static(b"more")).unwrap();
        assert_eq!(captures.keep(capture), Some(waiting));
        tokio::time::sleep(Duration::from_secs(2 * 60)).await;
        assert!(matches!(taken.push(&Bytes::from_static(b"more")), Err(CaptureError::Abandoned)));
        assert_eq!(captures.keep(taken), None);
        tasks.close();
        tasks.wait().await;
        assert!(captures.waiting().is_empty());
        assert_eq!((files(directory.path()), captures.0.places.used()), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_hash_without_a_turn_holds_no_memory() {
        let directory = tempfile::tempdir().unwrap();
        let (captures, tasks) = captures(directory.path()).await;
        let piece = Bytes::from(vec![1; usize::try_from(STEP).unwrap()]);
        let all = u32::try_from(std::thread::available_parallelism().unwrap().get()).unwrap();
        let turns = TURNS.clone().acquire_many_owned(all).await.unwrap();
        let mut capture = captures.begin(CLIENT).unwrap();
        let mut hash = Verifier::new(Algorithm::Sha256);
        for _ in 0..3 {
            capture.push(&piece).unwrap();
            hash.update(&piece);
            // The clock goes on once no task can.
            tokio::time::sleep(Duration::from_millis(1)).await;
            assert_eq!(captures.0.memory.available_permits(), MAX_QUEUED, "it is written");
        }
        drop(turns);
        let config = upstream::Config::at("registry.example", &["https://registry.example"]);
        let upstream = Upstream::new(&config, Context::of_test()).unwrap();
        let source = Source { upstream, repository: "team/app".parse().unwrap(), digest: hash.digest() };
        capture.commit(source.clone()).await;
        tasks.close();
        tasks.wait().await;
        assert!(captures.0.store.has_blob(&source.id()));
    }

    #[tokio::test]
    async fn one_client_does_not_take_all_places() {
        let directory = tempfile::tempdir().unwrap();
        let (captures, tasks) = captures(directory.path()).await;
        let all: Vec<_> = std::iter::from_fn(|| captures.begin(CLIENT)).collect();
        assert!((1..MAX_CAPTURES).contains(&(all.len() as u64)));
        let other = captures.begin(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)));
        assert!(other.is_some());
        drop((all, other));
        tasks.close();
        tasks.wait().await;
        assert_eq!(captures.0.places.used(), 0);
    }
}
