//! Receiving and writing at the same time: while one batch is written, the next one gathers.
//!
//! What must hold: a piece is seen by readers only once it is in the file; no write is under way after
//! [`WritePipeline::finish`] has returned. Memory is bounded by one budget for all downloads; a download that gets
//! nothing of it goes on in single pieces.

use std::{
    fs::File,
    io,
    pin::pin,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use tokio::{task::JoinHandle, time::Instant};

use super::{
    Download, DownloadError,
    batch::{Batch, PIPELINES},
    hasher,
};
use crate::{
    cache::{download::transfer::Transfer, storage},
    upstream::{Error, ErrorKind},
};

/// What is gathered for one write, in bytes.
const MAX_GATHERED: usize = 1024 * 1024;
/// The same for the first write, which a client waits for.
const FIRST_GATHERED: usize = 64 * 1024;

struct Writing {
    batch: Arc<Batch>,
    done: JoinHandle<io::Result<()>>,
}

/// Moves bytes from transfers into the file of one download.
pub(super) struct WritePipeline {
    download: Arc<Download>,
    file: Arc<File>,
    gathered: Batch,
    writing: Option<Writing>,
    /// How much is gathered at most.
    most: usize,
    /// Whether the hash is to have the bytes from memory.
    in_order: bool,
    /// How long nothing may come.
    timeout: Option<Duration>,
}

impl WritePipeline {
    pub(super) fn new(download: &Arc<Download>, file: &Arc<File>, in_order: bool) -> Self {
        PIPELINES.fetch_add(1, Ordering::Relaxed);
        Self {
            download: download.clone(),
            file: file.clone(),
            gathered: Batch::default(),
            writing: None,
            most: FIRST_GATHERED,
            in_order,
            timeout: None,
        }
    }

    /// Gives up when nothing has come for this long, and be it because the transfer tries to go on.
    pub(super) fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// The next bytes of the transfer; what was gathered is written meanwhile.
    pub(super) async fn receive(&mut self, transfer: &mut Transfer) -> Result<Option<Bytes>, DownloadError> {
        loop {
            let is_full = self.gathered.is_full(self.most);
            if self.writing.is_none() && !self.gathered.is_empty() {
                if !is_full && let Some(bytes) = transfer.ready() {
                    return Ok(Some(self.count(bytes)));
                }
                self.start();
            }
            if self.writing.is_none() || !is_full || self.gathered.is_empty() {
                break;
            }
            let since = Instant::now();
            self.written().await?;
            let stalled = u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX);
            self.download.stalled.fetch_add(stalled, Ordering::Relaxed);
        }
        // Asked for once: a transfer that is resumed must not ask twice because a write ended meanwhile.
        let mut next = pin!(transfer.next());
        let timeout = self.timeout;
        let mut silent = pin!(async {
            match timeout {
                Some(timeout) => tokio::time::sleep(timeout).await,
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
                    return next.map(|next| next.map(|bytes| self.count(bytes))).map_err(DownloadError::Upstream);
                }
                () = &mut silent => {
                    return Err(DownloadError::Upstream(Error::new(ErrorKind::Timeout, "nothing came for a while")));
                }
            }
        }
    }

    fn count(&self, bytes: Bytes) -> Bytes {
        self.download.received.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        bytes
    }

    /// Bytes that are to be written.
    pub(super) fn push(&mut self, offset: u64, bytes: Bytes) {
        self.gathered.push(offset, bytes);
    }

    /// Where the first bytes stand that are not in the file yet.
    pub(super) fn first_unwritten(&self) -> Option<u64> {
        let batch = self.writing.as_ref().map(|writing| &*writing.batch);
        batch.into_iter().chain([&self.gathered]).find(|batch| !batch.is_empty()).map(Batch::start)
    }

    /// Writes what is left, and waits for it.
    pub(super) async fn finish(&mut self) -> Result<(), DownloadError> {
        self.written().await?;
        self.start();
        self.written().await
    }

    fn start(&mut self) {
        if self.gathered.is_empty() {
            return;
        }
        let mut batch = std::mem::take(&mut self.gathered);
        batch.seal();
        let batch = Arc::new(batch);
        let (file, bytes) = (self.file.clone(), batch.clone());
        let done = tokio::spawn(storage::write(move || bytes.write(&file)));
        if self.in_order {
            self.download.hash.offer(&batch, &self.download.state().written);
            hasher::go_on(&self.download);
        }
        self.most = MAX_GATHERED;
        self.writing = Some(Writing { batch, done });
    }

    /// Waits for the write under way. Cancel-safe.
    async fn written(&mut self) -> Result<(), DownloadError> {
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
        done.map_err(|error| DownloadError::Storage(Arc::new(error)))?;
        self.download.update(|state| {
            state.unreported += batch.len() as u64;
            batch.runs().for_each(|(range, _)| state.written.insert(range));
        });
        hasher::go_on(&self.download);
        Ok(())
    }
}

impl Drop for WritePipeline {
    fn drop(&mut self) {
        PIPELINES.fetch_sub(1, Ordering::Relaxed);
    }
}
