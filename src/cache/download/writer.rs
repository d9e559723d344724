//! Receives and writes concurrently: while one batch is written, the next one is gathered.
//!
//! What must hold: readers see a piece only once it is in the file; after a write that failed there is no other, since its
//! bytes would be taken for those that are missing; no write is running after [`WritePipeline::finish`] has returned. One budget for all downloads bounds the memory; a download that gets nothing from the budget continues
//! with single pieces.

use std::{
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
    chunks::{LEAD, WorkerId},
    hasher,
    state::{DownloadState, TempContent},
};
use crate::{
    cache::{
        download::transfer::Transfer,
        storage::{self, ChunkRecord},
    },
    rate::OwnTime,
    upstream::{Error, ErrorKind},
};

/// How many bytes are gathered for one write.
const MAX_GATHERED: usize = 1024 * 1024;
/// The same for the first write, for which a client waits.
const FIRST_GATHERED: usize = 64 * 1024;
/// For how long bytes are gathered for one write: each write costs a dozen wake-ups, of its thread and of all readers.
const GATHER_TIME: Duration = Duration::from_millis(1);

struct Writing {
    done: JoinHandle<io::Result<()>>,
}

/// Moves bytes from transfers into the file of one download.
pub(super) struct WritePipeline {
    download: Arc<Download>,
    content: TempContent,
    gathered: Batch,
    /// When what is gathered is to be written.
    due: Instant,
    writing: Option<Writing>,
    /// How many bytes to gather at most.
    most: usize,
    worker: WorkerId,
    /// How long the transfer may deliver nothing.
    timeout: Option<Duration>,
}

impl WritePipeline {
    pub(super) fn new(download: &Arc<Download>, content: TempContent, worker: WorkerId) -> Self {
        PIPELINES.fetch_add(1, Ordering::Relaxed);
        Self {
            download: download.clone(),
            content,
            gathered: Batch::default(),
            due: Instant::now(),
            writing: None,
            most: FIRST_GATHERED,
            worker,
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
        while self.gathered.is_full(self.most) {
            let since = Instant::now();
            let waited = self.writing.is_some();
            self.written().await?;
            if waited {
                let stalled = u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX);
                self.download.stalled.fetch_add(stalled, Ordering::Relaxed);
            }
            self.start();
        }
        if let Some(bytes) = transfer.ready() {
            return Ok(Some(self.count(bytes)));
        }
        // The timer would round it up to a millisecond.
        if self.writing.is_none() && self.due <= Instant::now() {
            self.start();
        }
        // One future for all waits: a transfer that is being resumed must not send its request again because a write
        // ended meanwhile.
        let (timeout, own) = (self.timeout, OwnTime::begin(transfer.holds()));
        let mut next = pin!(transfer.next());
        let mut silent = pin!(async {
            match timeout {
                Some(timeout) => own.reaches(timeout).await,
                None => std::future::pending().await,
            }
        });
        let mut due = pin!(tokio::time::sleep_until(self.due));
        loop {
            tokio::select! {
                biased;
                written = self.written(), if self.writing.is_some() => written?,
                next = &mut next => {
                    return next.map(|next| next.map(|bytes| self.count(bytes))).map_err(DownloadError::Upstream);
                }
                () = &mut due, if self.writing.is_none() && !self.gathered.is_empty() => self.start(),
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
        if self.gathered.is_empty() {
            let is_first = self.most == FIRST_GATHERED;
            self.due = Instant::now() + if is_first { Duration::ZERO } else { GATHER_TIME };
        }
        self.gathered.push(offset, bytes);
    }

    /// Writes the remaining bytes, waits until they are in the file, and notes a chunk that the worker leaves unfinished.
    pub(super) async fn finish(&mut self) -> Result<(), DownloadError> {
        self.written().await?;
        self.start();
        self.written().await?;
        let begun = self.download.state().chunks.begun_by(self.worker);
        if !begun.is_empty() && self.content.notes.is_some() {
            let (content, download) = (self.content.clone(), self.download.clone());
            storage::write(move || note(&download, &content, begun)).await;
        }
        Ok(())
    }

    fn start(&mut self) {
        if self.gathered.is_empty() {
            return;
        }
        let mut batch = std::mem::take(&mut self.gathered);
        batch.seal();
        let batch = Arc::new(batch);
        let (content, bytes, download) = (self.content.clone(), batch.clone(), self.download.clone());
        let done = storage::begin_write(move || write(&download, &content, &bytes));
        // Only the bytes of the lead worker come in order.
        if self.worker == LEAD {
            self.download.hash.offer(&batch, |hashed| self.download.state().chunks.written_to(hashed));
            hasher::go_on(&self.download);
        }
        self.most = MAX_GATHERED;
        self.writing = Some(Writing { done });
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
        self.writing = None;
        if let Err(error) = done {
            self.gathered = Batch::default();
            return Err(DownloadError::Storage(Arc::new(error)));
        }
        hasher::go_on(&self.download);
        Ok(())
    }
}

/// Writes the batch, shows it to readers, and notes the chunks that are whole now. Blocks.
fn write(download: &Arc<Download>, content: &TempContent, batch: &Batch) -> io::Result<()> {
    batch.write(&content.file)?;
    let size = download.state().chunks.size();
    // No other worker writes into a chunk that this one has, so what lies before the batch stays as it is.
    let parts = batch.parts_of_chunks(size, |offset| download.state().chunks.crc_before(offset));
    let wrote = |state: &mut DownloadState| -> Vec<_> {
        parts.iter().filter_map(|part| state.chunks.wrote(part.offset, part.len, part.crc)).collect()
    };
    let whole = download.update(wrote);
    if let Some(room) = &content.room {
        room.note_written(batch.len() as u64);
    }
    note(download, content, whole);
    Ok(())
}

/// Notes chunks in the map on disk, so that a kill does not lose them. Blocks.
fn note(download: &Download, content: &TempContent, chunks: Vec<(usize, ChunkRecord)>) {
    let Some(notes) = &content.notes else { return };
    for (index, record) in chunks {
        if let Err(error) = notes.note(index, record, || download.state().chunks.records()) {
            tracing::debug!(%error, digest = %download.source.digest, "a kill would lose a chunk of a download");
        }
    }
}

impl Drop for WritePipeline {
    fn drop(&mut self) {
        PIPELINES.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::{
        cache::Source,
        oci::{Algorithm, Digest},
        upstream::{self, Context, Upstream},
    };

    #[tokio::test]
    async fn after_a_write_that_failed_no_later_bytes_count() {
        let config = upstream::Config::at("registry.example", &["https://registry.example"]);
        let source = Source {
            upstream: Upstream::new(&config, Context::of_test()).unwrap(),
            repository: "team/app".parse().unwrap(),
            digest: Digest::of(Algorithm::Sha256, b""),
        };
        let download = Arc::new(Download::new(source, false, true, CancellationToken::new()));
        download.update(|state| state.chunks.set_total(100));
        let file = tempfile::NamedTempFile::new().unwrap();
        // A file that cannot be written is like a disk that fails once.
        let failing = TempContent::whole(Arc::new(File::open(file.path()).unwrap()));
        let mut pipeline = WritePipeline::new(&download, failing, LEAD + 1);
        pipeline.push(0, Bytes::from_static(b"lost"));
        pipeline.start();
        pipeline.push(4, Bytes::from_static(b"behind"));
        assert!(matches!(pipeline.written().await, Err(DownloadError::Storage(_))));
        pipeline.content = TempContent::whole(Arc::new(file.reopen().unwrap()));
        pipeline.finish().await.unwrap();
        assert_eq!((download.state().chunks.written(), file.path().metadata().unwrap().len()), (0, 0));
        pipeline.push(0, Bytes::from_static(b"again"));
        pipeline.finish().await.unwrap();
        assert_eq!(download.state().chunks.written_to(0), 5);
    }
}
