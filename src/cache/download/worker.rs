//! The workers beside the lead worker: each requests the bytes of chunks that it has taken, one range after another.
//!
//! A worker serves a reader that waits far ahead of the stream, or raises the rate. It ends when there is nothing for
//! it, or when its request fails; another worker then fetches what is missing.

use std::{
    ops::Range,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::{
    sync::OwnedSemaphorePermit,
    time::{Instant, timeout},
};
use tracing::Instrument as _;

use super::{
    Download, DownloadError, Downloads,
    assignment::{NewWorker, SEGMENT_TIME},
    chunks::ReaderId,
    file_space,
    transfer::Transfer,
    writer::WritePipeline,
};
use crate::{
    cache::Source,
    rate::OwnTime,
    upstream::{BlobRange, ErrorKind},
};

/// How long a worker waits for a response, for the next bytes, or for a broken transfer to be resumed. After that another
/// worker fetches the rest.
const TIMEOUT: Duration = Duration::from_secs(2);
/// The same for a reader far ahead of the lead worker's stream, which would bring the bytes much later.
const TIMEOUT_AHEAD: Duration = Duration::from_secs(10);
/// forebay also ends a worker that is this many times slower than the others, because the others would have to wait for
/// it.
const MUCH_SLOWER: f64 = 4.0;

/// What a worker is for.
pub(super) enum Task {
    /// A reader that waits. The request carries the reader's own credentials if the upstream distinguishes clients: the
    /// client that started the download may have left.
    Reader { source: Source, timeout: Duration },
    /// The rate, with a share of the extra connections of all downloads.
    Rate(#[expect(dead_code, reason = "it is held, not read")] OwnedSemaphorePermit),
}

struct Worker {
    downloads: Downloads,
    download: Arc<Download>,
    id: u32,
    is_open: bool,
    /// The source of the requests.
    source: Source,
    task: Task,
}

impl Downloads {
    /// Starts a worker for a reader that waits, if that helps it.
    pub(super) fn fetch_for_reader(&self, download: &Arc<Download>, id: ReaderId, reader: &Source) {
        let most = download.source.upstream.connections();
        let is_over = download.ends_workers.is_cancelled();
        let worker = {
            let mut state = download.state();
            state.chunks.waits(id);
            let is_writing = matches!(state.progress, super::Progress::Writing) && !is_over;
            if is_writing { state.worker_for_reader(id, most) } else { None }
        };
        if let Some(worker) = worker {
            let same = reader.upstream.principal() == download.source.upstream.principal();
            let source = if same { download.source.clone() } else { reader.clone() };
            let is_behind = download.state().chunks.is_behind_stream(worker.run.start);
            let timeout = if is_behind { TIMEOUT } else { TIMEOUT_AHEAD };
            self.start_worker(download, worker, Task::Reader { source, timeout });
        }
    }

    /// Starts this worker as a task.
    pub(super) fn start_worker(&self, download: &Arc<Download>, NewWorker { id, run }: NewWorker, task: Task) {
        let source = match &task {
            Task::Reader { source, .. } => source.clone(),
            Task::Rate(_) => {
                Source { upstream: download.source.upstream.with_dedicated_connections(), ..download.source.clone() }
            }
        };
        let (downloads, download) = (self.clone(), download.clone());
        let span = source.upstream.trace().span();
        let worker = Worker { downloads, download, id, is_open: false, source, task };
        self.tasks().spawn(worker.run(run).instrument(span));
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.download.update(|state| {
            state.chunks.release(self.id);
            match self.is_open {
                true => state.workers.open -= 1,
                false => state.workers.opening -= 1,
            }
        });
    }
}

impl Worker {
    fn is_for_reader(&self) -> bool {
        matches!(self.task, Task::Reader { .. })
    }

    async fn run(mut self, first: Range<u64>) {
        let download = self.download.clone();
        let mut run = Some(first);
        while let Some(bytes) = run {
            tracing::trace!(digest = %download.source.digest, worker = self.id, ?bytes, "a worker takes bytes");
            if !self.fetch(bytes).await {
                return download.update(|state| match self.is_for_reader() {
                    true => state.workers.failures += 1,
                    false => state.workers.settled = true,
                });
            }
            if download.ends_workers.is_cancelled() {
                return;
            }
            run = download.update(|state| {
                state.workers.failures = 0;
                state.chunks.release(self.id);
                state.next_run(self.id, self.is_for_reader())
            });
        }
    }

    fn timeout(&self) -> Duration {
        match self.task {
            Task::Reader { timeout, .. } => timeout,
            Task::Rate(_) => TIMEOUT,
        }
    }

    fn opened(&mut self) {
        if !std::mem::replace(&mut self.is_open, true) {
            self.download.update(|state| {
                state.workers.opening -= 1;
                state.workers.open += 1;
            });
        }
    }

    /// Fetches these bytes. Returns whether the worker continues.
    async fn fetch(&mut self, run: Range<u64>) -> bool {
        let download = self.download.clone();
        let Some(mut transfer) = self.open(&run).await else { return false };
        let room = download.state().chunks.room();
        let (Ok(()), Ok(content)) =
            (file_space::grow(&self.downloads, &download, download.purpose(), room).await, download.content())
        else {
            return false;
        };
        self.opened();
        let mut pipeline = WritePipeline::new(&download, content, self.id).with_timeout(self.timeout());
        let keeping_up = (!self.is_for_reader()).then(|| KeepingUp::begin(&download, &transfer));
        let copied = tokio::select! {
            () = download.ends_workers.cancelled() => Ok(false),
            copied = copy(&run, &mut transfer, &mut pipeline, keeping_up) => copied,
        };
        // Bytes that are written or being written are done; the rest goes to another worker.
        match (copied, pipeline.finish().await) {
            (Ok(is_done), Ok(())) => is_done,
            (Err(error), _) | (_, Err(error)) => {
                // The lead worker also meets a failing disk, and reports it.
                tracing::debug!(%error, digest = %self.source.digest, "a worker's part of a blob broke");
                false
            }
        }
    }

    /// The transfer of these bytes; `None` if the upstream does not send them.
    async fn open(&self, run: &Range<u64>) -> Option<Transfer> {
        let download = &self.download;
        let range = BlobRange { first: run.start, last: Some(run.end - 1) };
        let opening = self.source.upstream.open_blob(&self.source.repository, &self.source.digest, range);
        let opened = tokio::select! {
            () = download.ends_workers.cancelled() => return None,
            opened = timeout(self.timeout(), opening) => opened,
        };
        let Ok(opened) = opened else {
            tracing::debug!(digest = %self.source.digest, "a worker of a download gets no response");
            return None;
        };
        // Every further request for a part would return the whole blob again.
        let is_whole = opened.as_ref().is_ok_and(|stream| !stream.ranged);
        match opened.and_then(|stream| Transfer::of_part(&self.source, range, stream)) {
            Ok(transfer) if is_whole || transfer.skipping() > 0 => {
                download.update(|state| state.workers.ranges_ignored = true);
                None
            }
            Ok(transfer) if !download.agrees(&transfer) => None,
            Ok(transfer) => Some(transfer.ranges_only().with_timeout(self.timeout()).holding_within(&download.holds)),
            Err(error) => {
                tracing::debug!(%error, digest = %self.source.digest, "a worker of a download cannot begin");
                let is_refused = is_whole || matches!(error.kind, ErrorKind::Unsupported);
                if is_refused {
                    download.update(|state| state.workers.ranges_ignored = true);
                }
                None
            }
        }
    }
}

/// Writes a transfer of these bytes, as long as it is quick enough. Returns whether all of them came.
async fn copy(
    run: &Range<u64>,
    transfer: &mut Transfer,
    pipeline: &mut WritePipeline,
    keeping_up: Option<KeepingUp<'_>>,
) -> Result<bool, DownloadError> {
    let mut offset = run.start;
    while let Some(bytes) = pipeline.receive(transfer).await? {
        let len = bytes.len() as u64;
        pipeline.push(offset, bytes);
        offset += len;
        if keeping_up.as_ref().is_some_and(|keeping_up| !keeping_up.holds(offset - run.start)) {
            tracing::debug!(?run, offset, "a connection is much slower than those beside it");
            return Ok(false);
        }
    }
    Ok(offset >= run.end)
}

/// Checks whether a worker is as quick as the others.
struct KeepingUp<'a> {
    download: &'a Download,
    begun: Instant,
    /// Since then, without the time in which the rate of the upstream held the worker back.
    own: OwnTime,
    /// The bytes that all workers had received at `begun`.
    received: u64,
}

impl<'a> KeepingUp<'a> {
    fn begin(download: &'a Download, transfer: &Transfer) -> Self {
        let received = download.received.load(Ordering::Relaxed);
        Self { download, begun: Instant::now(), own: OwnTime::begin(transfer.holds()), received }
    }

    /// Whether the worker, which has received `own` bytes since `begun`, is quick enough.
    #[expect(clippy::cast_precision_loss, reason = "of bytes, to compare rates")]
    fn holds(&self, own: u64) -> bool {
        let (seconds, own_seconds) = (self.begun.elapsed().as_secs_f64(), self.own.elapsed().as_secs_f64());
        if own_seconds < TIMEOUT.as_secs_f64() {
            return true;
        }
        let received = self.download.received.load(Ordering::Relaxed).saturating_sub(self.received);
        let (others, expected) = {
            let state = self.download.state();
            // If the other workers have nothing left to fetch, the download waits only for this one, which is compared
            // with their earlier rate.
            let is_last = state.workers.count() == 1 && state.chunks.missing() == Some(0);
            let before = state.workers.segment.filter(|_| is_last).unwrap_or(0) as f64 / SEGMENT_TIME;
            (state.workers.open.max(1), before)
        };
        let mean = received.saturating_sub(own) as f64 / others as f64 / seconds;
        own as f64 / own_seconds * MUCH_SLOWER >= mean.max(expected)
    }
}
