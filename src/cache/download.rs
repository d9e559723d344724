//! One download into the cache, and its many readers.
//!
//! A download belongs to [`Downloads`], never to a request: its task writes a temporary file, and every client,
//! including the first, reads that file as it grows. A reader that is slow or leaves delays no other reader. The last
//! bytes of the blob are withheld until the digest is verified, so no client receives a complete response with wrong
//! content.
//!
//! Workers fetch the blob chunk by chunk (`chunks`): the lead worker from the start, others where a reader waits or where
//! they raise the rate. No byte is written twice, and none is requested twice from an upstream that sends parts: another
//! one sends again what is there, which is discarded. Every byte is hashed in the end: from memory if the lead worker
//! wrote it in order, else from the file.

mod abandoned;
mod assignment;
mod batch;
mod chunks;
mod complete;
mod driver;
mod end;
mod event;
mod file_space;
mod hasher;
#[cfg(test)]
mod interleavings;
mod join;
mod lead;
mod leftover;
mod need;
mod opening;
mod other_registry;
mod ramp_up;
mod reader;
mod result;
mod running;
mod separate_fetch;
mod state;
mod steer;
mod table;
mod to_upload;
pub(crate) mod transfer;
mod uploaded;
mod waiting_requests;
mod worker;
mod workers;
mod writer;
mod wrong_parts;

use std::{
    io,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use parking_lot::{Mutex, MutexGuard};

use tokio::{
    sync::watch,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;

pub use self::complete::Complete;
pub(crate) use self::{
    abandoned::while_it_advances,
    event::DownloadEvent,
    join::Joined,
    need::Need,
    reader::{DownloadReader, Remainder},
    result::DownloadResult,
    running::RunningDownload,
    separate_fetch::SeparateFetch,
    state::{DownloadError, Progress},
    table::{Downloads, Subscription},
};
use self::{
    chunks::Chunks,
    state::{DownloadState, TempContent},
    transfer::{Transfer, TransferFlow},
    waiting_requests::WaitingRequests,
};
use super::{Source, storage::Purpose};
use crate::{
    rate::HoldClock,
    upstream::{ContentNotes, Mirrors, Upstream},
};

/// A download, as its task and its readers share it.
pub(crate) struct Download {
    source: Source,
    begun: Instant,
    /// Another download of the blob was running when this one began.
    beside: bool,
    state: Mutex<DownloadState>,
    /// The origin of the lead worker's bytes.
    flow: watch::Sender<TransferFlow>,
    /// Signals that the state changed.
    changed: watch::Sender<()>,
    /// The number of clients and prefetches that have joined the download; changed under the lock of [`Downloads`].
    subscribers: watch::Sender<usize>,
    /// The number of subscribers that are prefetches; changed under the same lock.
    prefetch_subscribers: AtomicUsize,
    /// Cancelled when no client needs the download any more, or when the process ends.
    cancel: CancellationToken,
    /// When other downloads began to wait for the space that this download frees.
    leaving_since: OnceLock<Instant>,
    /// Cancelled when the workers beside the lead worker have to end: all bytes are in the file, or the download ends.
    ends_workers: CancellationToken,
    hash: hasher::Hasher,
    /// A client has requested the blob; otherwise the download is a prefetch.
    wanted: AtomicBool,
    /// The requests that it is for; for the log.
    requests: Mutex<WaitingRequests>,
    /// Bytes received by all transfers of the download.
    received: AtomicU64,
    /// Bytes of an earlier download that were compared with their checksums.
    checked: AtomicU64,
    /// Bytes that were received again and discarded.
    skipped: Arc<AtomicU64>,
    /// For how many microseconds the download did not read from the upstream because the disk was busy.
    stalled: AtomicU64,
    /// Runs while the rate of the upstream holds bytes back that the download would receive.
    holds: Arc<HoldClock>,
}

impl Download {
    fn new(source: Source, beside: bool, wanted: bool, cancel: CancellationToken) -> Self {
        let source =
            Source { upstream: source.upstream.with_revocable_peers().with_transfer_log(&source.digest), ..source };
        let ends_workers = cancel.child_token();
        let hash = hasher::Hasher::new(source.digest.algorithm());
        let mut requests = WaitingRequests::default();
        source.upstream.request().filter(|_| wanted).into_iter().for_each(|request| requests.add(request));
        Self {
            source,
            begun: Instant::now(),
            beside,
            state: Mutex::new(DownloadState::new(Chunks::default())),
            flow: watch::Sender::new(TransferFlow::Asking),
            changed: watch::Sender::new(()),
            subscribers: watch::Sender::new(0),
            prefetch_subscribers: AtomicUsize::new(0),
            cancel,
            leaving_since: OnceLock::new(),
            ends_workers,
            hash,
            wanted: AtomicBool::new(wanted),
            requests: Mutex::new(requests),
            received: AtomicU64::new(0),
            checked: AtomicU64::new(0),
            skipped: Arc::default(),
            stalled: AtomicU64::new(0),
            holds: Arc::default(),
        }
    }

    /// Waits for the upstream's response. Returns the size of the blob, if the upstream sent it.
    pub(crate) async fn head(&self) -> Result<Option<u64>, DownloadError> {
        self.when(|state| match &state.progress {
            Progress::Opening => None,
            Progress::Writing | Progress::Complete => Some(Ok(state.total())),
            Progress::Failed(error) => Some(Err(error.clone())),
        })
        .await
    }

    /// What the upstream sent in addition to the bytes, if it has responded.
    pub(crate) fn remark(&self) -> Option<ContentNotes> {
        self.state().remark.clone()
    }

    /// Waits for the end of the download.
    pub(crate) async fn end(&self) -> Result<(), DownloadError> {
        self.when(|state| match &state.progress {
            Progress::Opening | Progress::Writing => None,
            Progress::Complete => Some(Ok(())),
            Progress::Failed(error) => Some(Err(error.clone())),
        })
        .await
    }

    /// Waits for the end of the download; `None` once more than `most` bytes have arrived.
    pub(crate) async fn end_within(&self, most: u64) -> Option<Result<(), DownloadError>> {
        self.when(|state| match &state.progress {
            Progress::Complete => Some(Some(Ok(()))),
            Progress::Failed(error) => Some(Some(Err(error.clone()))),
            Progress::Opening | Progress::Writing if state.chunks.front() > most => Some(None),
            Progress::Opening | Progress::Writing => None,
        })
        .await
    }

    /// The number of bytes received by all transfers of the download.
    pub(crate) fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// How many bytes are in the file.
    pub(crate) fn written(&self) -> u64 {
        self.state().chunks.written()
    }

    /// Whether all bytes are in the file and verified, so that reading the download equals reading a cached blob.
    pub(crate) fn is_complete(&self) -> bool {
        matches!(self.state().progress, Progress::Complete)
    }

    /// Whether the transfer and the download name the same size of the blob, if both know it.
    fn agrees(&self, transfer: &Transfer) -> bool {
        transfer.total().is_none_or(|told| self.state().total().is_none_or(|known| known == told))
    }

    /// The transfer of the lead worker, which reports to the download.
    fn reported_by(&self, transfer: Transfer) -> Transfer {
        transfer.reporting_to(&self.flow, &self.skipped).holding_within(&self.holds)
    }

    /// The file.
    fn content(&self) -> Result<TempContent, DownloadError> {
        let missing = || DownloadError::Storage(Arc::new(io::ErrorKind::NotFound.into()));
        self.state().file.clone().ok_or_else(missing)
    }

    /// Whether a client has requested the blob.
    pub(crate) fn is_wanted(&self) -> bool {
        self.wanted.load(Ordering::SeqCst)
    }

    fn purpose(&self) -> Purpose {
        match self.is_wanted() {
            true if self.has_clients() => Purpose::Client,
            true => Purpose::Unawaited,
            false => Purpose::Ahead,
        }
    }

    /// The forebay instances through which the bytes come, as far as they are known.
    pub(crate) fn mirrors(&self) -> Option<Mirrors> {
        match &*self.flow.borrow() {
            TransferFlow::From(mirrors) if !self.is_complete() => mirrors.clone(),
            TransferFlow::From(_) | TransferFlow::Asking => None,
        }
    }

    /// Whether a request that passed through these forebay instances can wait for this download: the download must not
    /// itself wait for one of them.
    pub(crate) fn admits(&self, mirrors: &Mirrors) -> bool {
        self.is_complete()
            || match &*self.flow.borrow() {
                TransferFlow::Asking => !self.source.upstream.may_be_mirror(),
                TransferFlow::From(by) => by.as_ref().is_none_or(|by| !by.may_overlap(mirrors)),
            }
    }

    /// Waits until the download admits the request, or ends. Returns whether that happened within `limit`.
    pub(crate) async fn admits_within(&self, mirrors: &Mirrors, limit: Duration) -> bool {
        let mut flow = self.flow.subscribe();
        let admitted = async {
            while !self.admits(mirrors) {
                tokio::select! {
                    _ = flow.changed() => {}
                    _ = self.end() => return,
                }
            }
        };
        timeout(limit, admitted).await.is_ok()
    }

    /// A request waits for the download from now on. One of a peer must wait for no peer: then the download goes on at
    /// the registry.
    fn serves(&self, upstream: &Upstream) {
        if upstream.is_without_peers() {
            self.source.upstream.leave_peers();
        }
    }

    /// The source for which the download was started.
    pub(crate) fn source(&self) -> &Source {
        &self.source
    }

    /// Whether the blob turned out to be on disk when the download began.
    pub(crate) fn was_cached(&self) -> bool {
        self.state().was_cached
    }

    fn can_be_joined(&self) -> bool {
        self.is_complete() || !self.cancel.is_cancelled()
    }

    /// The open transfer of a download that found no space; the first caller takes it.
    pub(crate) fn take_transfer(&self) -> Option<Transfer> {
        self.state().spare_transfer.take()
    }

    async fn when<T>(&self, mut look: impl FnMut(&DownloadState) -> Option<T>) -> T {
        self.when_mut(|state| look(state)).await
    }

    /// The same, where `look` takes what it finds.
    async fn when_mut<T>(&self, mut look: impl FnMut(&mut DownloadState) -> Option<T>) -> T {
        let mut changed = self.changed.subscribe();
        loop {
            changed.borrow_and_update();
            if let Some(value) = look(&mut self.state()) {
                return value;
            }
            if changed.changed().await.is_err() {
                // `self` owns the sender, so the channel cannot be closed.
                std::future::pending::<()>().await;
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, DownloadState> {
        self.state.lock()
    }

    /// The result of `work`, unless the download is cancelled first.
    async fn unless_cancelled<T>(
        &self,
        work: impl Future<Output = Result<T, DownloadError>>,
    ) -> Result<T, DownloadError> {
        tokio::select! {
            biased;
            () = self.cancel.cancelled() => Err(DownloadError::Abandoned),
            worked = work => worked,
        }
    }

    fn update<T>(&self, change: impl FnOnce(&mut DownloadState) -> T) -> T {
        let value = change(&mut self.state());
        self.changed.send_replace(());
        value
    }
}
