//! Receiving and writing at the same time: while one batch is written, the next one gathers.
//!
//! What must hold: a piece is seen by readers only once it is in the file; nobody writes any more when
//! [`Pour::finish`] has returned. Memory is bounded by one budget for all fills; a fill that gets nothing of it goes on
//! in single pieces.

use std::{
    fs::File,
    io,
    ops::Range,
    pin::pin,
    sync::{Arc, LazyLock, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinHandle,
    time::Instant,
};

use super::{Fill, FillError, hash};
use crate::{
    cache::{disk::write_all_at, transfer::Transfer},
    upstream::{Error, ErrorKind},
};

/// What is gathered for one write, in bytes.
const MOST_GATHERED: usize = 1024 * 1024;
/// The same for the first one, which somebody waits for.
const FIRST_GATHERED: usize = 64 * 1024;
/// What all fills of the process may hold in memory beside one piece each, in bytes.
const BUDGET: usize = 16 * 1024 * 1024;

static MEMORY: LazyLock<Arc<Semaphore>> = LazyLock::new(|| Arc::new(Semaphore::new(BUDGET)));

/// Bytes on their way into the file, in order, perhaps with gaps where others write. Never empty.
pub(super) struct Batch {
    pieces: Vec<(u64, Bytes)>,
    len: usize,
    /// Given back when the write and the hash are both done with it.
    permit: Option<OwnedSemaphorePermit>,
}

impl Batch {
    pub fn pieces(&self) -> &[(u64, Bytes)] {
        &self.pieces
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn start(&self) -> u64 {
        self.pieces.first().map_or(0, |(offset, _)| *offset)
    }

    pub fn end(&self) -> u64 {
        self.pieces.last().map_or(0, |(offset, bytes)| offset + bytes.len() as u64)
    }

    /// Whether it may be kept in memory for longer than its write takes.
    pub fn is_paid_for(&self) -> bool {
        self.permit.as_ref().is_some_and(|permit| permit.num_permits() == self.len)
    }

    fn is_full(&self, most: usize) -> bool {
        self.len >= most || (self.len > 0 && !self.is_paid_for())
    }

    fn push(&mut self, offset: u64, bytes: Bytes) {
        let len = bytes.len();
        let paid = u32::try_from(len).ok().and_then(|len| MEMORY.clone().try_acquire_many_owned(len).ok());
        match (&mut self.permit, paid) {
            (Some(permit), Some(paid)) => permit.merge(paid),
            (permit @ None, Some(paid)) => *permit = Some(paid),
            (_, None) => {}
        }
        self.len += len;
        self.pieces.push((offset, bytes));
    }

    /// The stretches of the file it fills.
    fn ranges(&self) -> impl Iterator<Item = Range<u64>> {
        self.pieces.iter().map(|(offset, bytes)| *offset..offset + bytes.len() as u64)
    }

    /// Blocks.
    fn write(&self, file: &File) -> io::Result<()> {
        let mut rest = &self.pieces[..];
        while let Some((start, first)) = rest.first() {
            let mut end = start + first.len() as u64;
            let mut run = vec![first.clone()];
            for (offset, bytes) in &rest[1..] {
                if *offset != end {
                    break;
                }
                end += bytes.len() as u64;
                run.push(bytes.clone());
            }
            write_all_at(file, &run, *start)?;
            rest = &rest[run.len()..];
        }
        Ok(())
    }
}

struct Writing {
    batch: Arc<Batch>,
    done: JoinHandle<io::Result<()>>,
}

/// Moves bytes from transfers into the file of one fill.
pub(super) struct Pour {
    fill: Arc<Fill>,
    file: Arc<File>,
    gathered: Batch,
    writing: Option<Writing>,
    /// How much is gathered at most.
    most: usize,
    /// Whether the hash is to have the bytes from memory.
    in_order: bool,
    /// How long nothing may come.
    patience: Option<Duration>,
}

impl Pour {
    pub fn new(fill: &Arc<Fill>, file: &Arc<File>, in_order: bool) -> Self {
        Self {
            fill: fill.clone(),
            file: file.clone(),
            gathered: Batch { pieces: Vec::new(), len: 0, permit: None },
            writing: None,
            most: FIRST_GATHERED,
            in_order,
            patience: None,
        }
    }

    /// Gives up when nothing has come for this long, and be it because the transfer tries to go on.
    pub fn patient_for(self, patience: Duration) -> Self {
        Self { patience: Some(patience), ..self }
    }

    /// The next bytes of the transfer; what was gathered is written meanwhile.
    pub async fn receive(&mut self, transfer: &mut Transfer) -> Result<Option<Bytes>, FillError> {
        loop {
            let is_full = self.gathered.is_full(self.most);
            if self.writing.is_none() && self.gathered.len > 0 {
                if !is_full && let Some(bytes) = transfer.ready() {
                    return Ok(Some(self.count(bytes)));
                }
                self.start();
            }
            if self.writing.is_none() || !is_full || self.gathered.len == 0 {
                break;
            }
            let since = Instant::now();
            self.written().await?;
            let stalled = u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX);
            self.fill.stalled.fetch_add(stalled, Ordering::Relaxed);
        }
        // Asked for once: a transfer that is resumed must not ask twice because a write ended meanwhile.
        let mut next = pin!(transfer.next());
        let patience = self.patience;
        let mut silent = pin!(async {
            match patience {
                Some(patience) => tokio::time::sleep(patience).await,
                None => std::future::pending().await,
            }
        });
        loop {
            tokio::select! {
                biased;
                written = self.written(), if self.writing.is_some() => {
                    written?;
                    self.start();
                }
                next = &mut next => {
                    return next.map(|next| next.map(|bytes| self.count(bytes))).map_err(FillError::Upstream);
                }
                () = &mut silent => {
                    return Err(FillError::Upstream(Error::new(ErrorKind::Timeout, "nothing came for a while")));
                }
            }
        }
    }

    fn count(&self, bytes: Bytes) -> Bytes {
        self.fill.received.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        bytes
    }

    /// Bytes that are to be written.
    pub fn push(&mut self, offset: u64, bytes: Bytes) {
        self.gathered.push(offset, bytes);
    }

    /// Where the first bytes stand that are not in the file yet.
    pub fn first_unwritten(&self) -> Option<u64> {
        let batch = self.writing.as_ref().map(|writing| &*writing.batch);
        batch.into_iter().chain([&self.gathered]).find(|batch| batch.len > 0).map(Batch::start)
    }

    /// Writes what is left, and waits for it.
    pub async fn finish(&mut self) -> Result<(), FillError> {
        self.written().await?;
        self.start();
        self.written().await
    }

    fn start(&mut self) {
        if self.gathered.len == 0 {
            return;
        }
        let batch = Batch { pieces: Vec::new(), len: 0, permit: None };
        let batch = Arc::new(std::mem::replace(&mut self.gathered, batch));
        let (file, bytes) = (self.file.clone(), batch.clone());
        let done = tokio::task::spawn_blocking(move || bytes.write(&file));
        if self.in_order {
            self.fill.hash.offer(&batch, &self.fill.state().written);
            hash::go_on(&self.fill);
        }
        self.most = MOST_GATHERED;
        self.writing = Some(Writing { batch, done });
    }

    /// Waits for the write under way. Cancel-safe.
    async fn written(&mut self) -> Result<(), FillError> {
        let Some(writing) = &mut self.writing else { return Ok(()) };
        let done = match (&mut writing.done).await {
            Ok(done) => done,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => std::future::pending().await,
            },
        };
        let batch = writing.batch.clone();
        self.writing = None;
        done.map_err(|error| FillError::Storage(Arc::new(error)))?;
        self.fill.update(|state| {
            state.landed += batch.len as u64;
            batch.ranges().for_each(|range| state.written.insert(range));
        });
        hash::go_on(&self.fill);
        Ok(())
    }
}
