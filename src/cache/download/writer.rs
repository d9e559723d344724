//! Receives and writes concurrently: while one batch is written, the next one is gathered.
//!
//! What must hold: readers see a piece only once it is in the file; no write is running after [`WritePipeline::finish`]
//! has returned. One budget for all downloads bounds the memory; a download that gets nothing from the budget continues
//! with single pieces.

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

/// How many bytes are gathered for one write.
const MAX_GATHERED: usize = 1024 * 1024;
/// The same for the first write, for which a client waits.
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
    /// How many bytes to gather at most.
    most: usize,
    /// Whether to offer the bytes in memory to the hash.
    in_order: bool,
    /// How long the transfer may deliver nothing.
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

    /// Fails when the transfer delivers nothing for this long, even if it is trying to resume.
    pub(super) fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// The next bytes of the transfer; gathered bytes are written concurrently.
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
        // One future for all waits: a transfer that is being resumed must not send its request again because a write
        // ended meanwhile.
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

    /// Adds bytes to be written.
    pub(super) fn push(&mut self, offset: u64, bytes: Bytes) {
        self.gathered.push(offset, bytes);
    }

    /// The offset of the first bytes that are not in the file yet.
    pub(super) fn first_unwritten(&self) -> Option<u64> {
        let batch = self.writing.as_ref().map(|writing| &*writing.batch);
        batch.into_iter().chain([&self.gathered]).find(|batch| !batch.is_empty()).map(Batch::start)
    }

    /// Writes the remaining bytes and waits until they are in the file.
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

    /// Waits for the current write. Cancel-safe.
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
