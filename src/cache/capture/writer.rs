//! Writes an upload to its file, hashes it, and finally adds it to the cache.
//!
//! The hash reads from the file, whose pages are still in memory, so a hash that lags holds no memory.

use std::{
    io::{self, IoSlice},
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, mpsc::Receiver},
    task::JoinHandle,
};
use tokio_util::task::TaskTracker;

use super::{CapturedPiece, Captures, Commit, Message};
use crate::{
    cache::{
        hash::hash_in_turn,
        storage::{self, NoSpace, TempUpload, change, write_all_at},
    },
    file_slice::FileSlice,
    oci::{Algorithm, Digest, Verifier},
};

/// A capture that received no bytes for this long ends.
const TIMEOUT: Duration = Duration::from_secs(5 * 60);
/// The maximum number of pieces in one write: fewer than one system call takes.
const MAX_PIECES: usize = 256;
/// The limits of the additional space that is reserved beyond the present need, in bytes; within them, the reservation
/// doubles.
const MIN_ROOM: u64 = 64 * 1024;
const MAX_ROOM: u64 = 16 * 1024 * 1024;
/// How many bytes are hashed before other files get a turn.
const CHUNK: u64 = 4 * 1024 * 1024;

/// Why the upload is not cached.
#[derive(Debug, thiserror::Error)]
enum CaptureFailure {
    #[error("there is no room in the cache")]
    NoRoom(#[from] NoSpace),
    #[error("the cache cannot be written")]
    Storage(#[from] io::Error),
    #[error("it did not go on")]
    Abandoned,
}

/// Writes the bytes of the upload until it ends.
pub(super) async fn run(
    captures: Captures,
    number: u64,
    algorithm: Algorithm,
    queue: Receiver<Message>,
    place: OwnedSemaphorePermit,
) {
    let mut listed = Listed { captures: captures.clone(), number, queue };
    let hash = RunningHash::new(algorithm, captures.0.downloads.tasks().clone());
    let mut writer = CaptureWriter { captures, number, file: None, room: 0, written: 0, hash };
    let worked = writer.work(&mut listed.queue).await;
    drop(listed);
    // Removing a large file can take a while.
    change(move || drop((writer.file, place))).await;
    match worked {
        Ok(()) | Err(CaptureFailure::Abandoned) => {}
        Err(error @ CaptureFailure::NoRoom(_)) => tracing::info!(reason = %error, "forebay does not cache this push"),
        Err(CaptureFailure::Storage(error)) => tracing::error!(%error, "forebay cannot write a push to the cache"),
    }
}

/// Removes the number of the capture from the list when the writer ends, in whatever way.
struct Listed {
    captures: Captures,
    number: u64,
    queue: Receiver<Message>,
}

impl Drop for Listed {
    fn drop(&mut self) {
        // In this order, so that no request can put the capture back afterwards.
        self.queue.close();
        drop(self.captures.take(self.number));
    }
}

struct CaptureWriter {
    captures: Captures,
    number: u64,
    /// `None` before the first bytes.
    file: Option<TempUpload>,
    /// How many bytes have reserved space.
    room: u64,
    written: u64,
    hash: RunningHash,
}

impl CaptureWriter {
    async fn work(&mut self, queue: &mut Receiver<Message>) -> Result<(), CaptureFailure> {
        let shutdown = self.captures.0.downloads.shutdown().clone();
        loop {
            let mut messages = Vec::new();
            let came = tokio::select! {
                biased;
                came = tokio::time::timeout(TIMEOUT, queue.recv_many(&mut messages, MAX_PIECES)) => came.unwrap_or(0),
                () = shutdown.cancelled() => 0,
            };
            if came == 0 {
                return Err(CaptureFailure::Abandoned);
            }
            let (mut pieces, mut end) = (Vec::with_capacity(came), None);
            for message in messages {
                match message {
                    Message::CapturedPiece(piece) => pieces.push(piece),
                    Message::Commit(commit) => end = Some(commit),
                }
            }
            self.write(pieces).await?;
            match (end, &self.file) {
                (Some(commit), _) => return self.commit(*commit).await,
                (None, Some(file)) => self.hash.go_on(file, self.written).await?,
                (None, None) => {}
            }
        }
    }

    async fn write(&mut self, pieces: Vec<CapturedPiece>) -> Result<(), CaptureFailure> {
        let len: u64 = pieces.iter().map(|piece| piece.bytes.len() as u64).sum();
        if len == 0 {
            return Ok(());
        }
        let offset = self.written;
        let file = self.make_room(offset + len).await?;
        let target = file.file().clone();
        storage::write(move || {
            let mut buffers: Vec<_> = pieces.iter().map(|piece| IoSlice::new(&piece.bytes)).collect();
            write_all_at(&target, &mut buffers, offset)
        })
        .await?;
        file.note_written(len);
        self.written += len;
        Ok(())
    }

    /// The file, with space up to `end`.
    async fn make_room(&mut self, end: u64) -> Result<&mut TempUpload, CaptureFailure> {
        let store = &self.captures.0.store;
        let file = match &mut self.file {
            Some(file) => file,
            none => {
                let reservation = store.reserve_upload(end).await?;
                self.room = end;
                none.insert(store.create_upload(self.number, reservation).await?)
            }
        };
        if end > self.room {
            let more = end + end.clamp(MIN_ROOM, MAX_ROOM);
            let has_more = file.grow_to(more).await.is_ok();
            self.room = if has_more { more } else { end };
            file.grow_to(self.room).await?;
        }
        Ok(file)
    }

    /// Adds the file to the cache if it has the expected digest.
    async fn commit(&mut self, Commit { source, found }: Commit) -> Result<(), CaptureFailure> {
        let downloads = self.captures.0.downloads.clone();
        let Some(file) = self.file.take() else { return Err(CaptureFailure::Abandoned) };
        let digest = tokio::select! {
            biased;
            digest = self.hash.digest(&file, self.written, source.digest.algorithm()) => digest,
            () = downloads.shutdown().cancelled() => Err(CaptureFailure::Abandoned),
        };
        if digest.as_ref().is_ok_and(|digest| *digest == source.digest) {
            downloads.adopt(&source, file, self.written, found).await;
            return Ok(());
        }
        self.file = Some(file);
        digest?;
        let (upstream, repository, digest) = (source.upstream.name(), &source.repository, &source.digest);
        tracing::warn!(%upstream, %repository, %digest, "the upstream accepted an upload as this digest, but the content has another one");
        Err(CaptureFailure::Abandoned)
    }
}

/// The hash of a file from its start to the current position.
struct RunningHash {
    algorithm: Algorithm,
    tasks: TaskTracker,
    hashed: u64,
    state: HashState,
}

enum HashState {
    Idle(Box<Verifier>),
    Busy(JoinHandle<io::Result<Verifier>>),
    Failed,
}

impl RunningHash {
    fn new(algorithm: Algorithm, tasks: TaskTracker) -> Self {
        Self { algorithm, tasks, hashed: 0, state: HashState::Idle(Box::new(Verifier::new(algorithm))) }
    }

    /// Hashes more of the written bytes, unless a job is already hashing. Does not wait.
    async fn go_on(&mut self, file: &TempUpload, written: u64) -> io::Result<()> {
        if matches!(&self.state, HashState::Busy(job) if !job.is_finished()) {
            return Ok(());
        }
        self.step(file, written).await
    }

    /// Waits for the current job, and starts the next one if bytes are left to hash.
    async fn step(&mut self, file: &TempUpload, written: u64) -> io::Result<()> {
        let verifier = match std::mem::replace(&mut self.state, HashState::Failed) {
            HashState::Idle(verifier) => *verifier,
            HashState::Busy(job) => job.await.map_err(io::Error::other)??,
            HashState::Failed => return Err(io::Error::other("the hash has failed")),
        };
        let len = (written - self.hashed).min(CHUNK);
        if len == 0 {
            self.state = HashState::Idle(Box::new(verifier));
            return Ok(());
        }
        let slice = FileSlice { file: file.file().clone(), offset: self.hashed, len };
        self.hashed += len;
        // The job ends after this chunk.
        self.state = HashState::Busy(self.tasks.spawn(hash_in_turn(slice, verifier)));
        Ok(())
    }

    /// The digest of the whole file; if the algorithm differs from the expected one, everything is hashed again.
    async fn digest(
        &mut self,
        file: &TempUpload,
        written: u64,
        algorithm: Algorithm,
    ) -> Result<Digest, CaptureFailure> {
        if algorithm != self.algorithm {
            *self = Self::new(algorithm, self.tasks.clone());
        }
        loop {
            self.step(file, written).await?;
            if let HashState::Idle(verifier) = &self.state {
                return Ok(Verifier::clone(verifier).digest());
            }
        }
    }
}
