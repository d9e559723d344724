//! One download into the cache, and its many readers.
//!
//! A fill belongs to [`Downloads`], never to a request: its task writes a temporary file, and every client,
//! the first one too, reads that file as it grows. A slow or vanished reader disturbs nobody. The last
//! bytes of the whole are held back until the digest is verified, so no client ends with wrong content.
//!
//! A range that lies far ahead of the writer is fetched by a transfer of its own into the same file
//! (`ranges`); no byte is asked for twice, and every byte is hashed in the end: from memory where the
//! main transfer wrote it in order, else from the file.

mod abandoned;
mod driver;
pub(crate) mod extents;
mod hasher;
mod other_registry;
mod parallel;
mod ramp_up;
mod range_suspension;
mod ranges;
mod result;
mod table;
pub(crate) mod transfer;
mod uploaded;
mod writer;

use std::{
    fs::File,
    io,
    ops::Range,
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

pub(crate) use self::{
    abandoned::while_it_advances,
    hasher::{hash_in_turn, hash_slice, turn_to_spare},
    result::DownloadResult,
    table::{Coexisting, Downloads, Joined},
};
use self::{
    extents::Extents,
    transfer::{Transfer, TransferFlow},
};
use super::{
    FileSlice, ReadError, Source,
    blob::uncached::UncachedReader,
    storage::{self, Pin, Purpose},
};
use crate::{
    metrics::Metrics,
    upstream::{self, ContentNotes, Mirrors},
};

/// How much of the end is held back until the digest is known to be right, in bytes.
const WITHHELD_TAIL: u64 = 16 * 1024;

/// Why a fill ended without a blob. Every follower gets it.
#[derive(Clone, Debug, thiserror::Error)]
pub enum DownloadError {
    #[error("the upstream failed")]
    Upstream(#[source] upstream::Error),
    #[error("the content does not match its digest")]
    Mismatch,
    /// Nor does it here, but part of it was on disk before, so that this says nothing about the upstream.
    #[error("what an earlier fill left does not match the digest with the rest")]
    Damaged,
    #[error("the cache cannot be written")]
    Storage(#[source] Arc<io::Error>),
    #[error("there is no room in the cache")]
    NoRoom,
    #[error("the fill was given up")]
    Abandoned,
}

/// How far a fill is.
#[derive(Clone, Debug)]
pub(crate) enum Progress {
    /// The upstream was asked and has not answered.
    Opening,
    Writing,
    /// All bytes are here and right.
    Complete,
    Failed(DownloadError),
}

/// What a fill's task and its readers share.
pub struct Download {
    source: Source,
    /// Another fill of the blob was under way when it began.
    beside: bool,
    metrics: Metrics,
    state: Mutex<DownloadState>,
    /// Where the bytes of the main transfer come from.
    flow: watch::Sender<TransferFlow>,
    /// Something changed: look at the state again.
    changed: watch::Sender<()>,
    /// Clients and prefetches that have joined it; changed under the lock of [`Downloads`].
    members: watch::Sender<usize>,
    /// How many of them are prefetches; changed in the same way.
    members_ahead: AtomicUsize,
    /// Nobody wants it any more, or the process ends.
    cancel: CancellationToken,
    /// Since when others wait for the room that it leaves.
    leaving_since: OnceLock<Instant>,
    /// All bytes are there: transfers of ranges end.
    ranges: CancellationToken,
    hash: hasher::Hasher,
    /// A client asked for it, at whatever time; else it is fetched ahead.
    wanted: AtomicBool,
    /// Bytes that came over all its transfers.
    received: AtomicU64,
    /// Bytes beside these that came and were thrown away, since they are here already.
    skipped: Arc<AtomicU64>,
    /// For how many microseconds they were not read because the disk was busy.
    stalled: AtomicU64,
}

struct DownloadState {
    progress: Progress,
    /// The size of the blob in bytes, once known.
    total: Option<u64>,
    /// What the upstream said beside the bytes, once it has answered.
    remark: Option<ContentNotes>,
    file: Option<Arc<File>>,
    /// The fill has failed, and its file may be cut: nobody begins to read any more.
    closing: bool,
    name: Option<storage::TempName>,
    written: Extents,
    /// How many of these bytes the main transfer has not told the reservation of.
    landed: u64,
    /// How many bytes from the front an earlier fill left: nothing says that they are right until the whole is verified.
    left: u64,
    /// What range transfers write or wrote: the main transfer writes nothing there.
    foreign: Extents,
    /// Whether the file's name says that it may have holes. Nothing is written behind bytes that are not there before.
    gaps_allowed: bool,
    /// Where the main transfer is.
    front: u64,
    /// Where it has asked to go on, behind what others fetch: it is as good as there.
    jump: Option<u64>,
    range_transfers: usize,
    /// What the main transfer is to fetch, when it has left bytes to lanes; else it fetches all that nobody else does.
    main: Option<Range<u64>>,
    /// How much of the blob one lane takes at a time, once there are lanes for all of it.
    segment: Option<u64>,
    /// Lanes that fetch, and that are being opened.
    lanes: usize,
    lanes_opening: usize,
    /// The upstream gave segments, so the main transfer may have been cut.
    /// A lane failed: there are to be no more.
    lanes_refused: bool,
    /// The upstream ignores Range.
    ranges_ignored: bool,
    /// It is not to be asked for ranges, since what came of them was wrong lately.
    in_one_go: bool,
    /// More than one answer went into the file.
    in_parts: bool,
    /// How many range transfers failed.
    range_failures: usize,
    /// It was on disk when the fill began: nothing is transferred.
    found: bool,
    /// The open transfer of a fill that found no room, for the first reader that goes through.
    handed_over: Option<Transfer>,
    /// The task of this fill is over, and with it the commit.
    ended: bool,
    /// Keeps the finished blob for those who still read it.
    _pin: Option<Arc<Pin>>,
}

/// What a reader finds at its position.
enum Look {
    Slice(FileSlice),
    End,
    Wait,
    Failed(DownloadError),
}

impl Download {
    fn new(source: Source, beside: bool, wanted: bool, metrics: Metrics, cancel: CancellationToken) -> Self {
        let state = DownloadState {
            progress: Progress::Opening,
            total: None,
            remark: None,
            file: None,
            closing: false,
            name: None,
            written: Extents::default(),
            landed: 0,
            left: 0,
            foreign: Extents::default(),
            gaps_allowed: false,
            front: 0,
            jump: None,
            range_transfers: 0,
            main: None,
            segment: None,
            lanes: 0,
            lanes_opening: 0,
            lanes_refused: false,
            ranges_ignored: false,
            in_one_go: false,
            in_parts: false,
            range_failures: 0,
            found: false,
            handed_over: None,
            ended: false,
            _pin: None,
        };
        let ranges = cancel.child_token();
        let hash = hasher::Hasher::new(source.digest.algorithm());
        Self {
            source,
            beside,
            metrics,
            state: Mutex::new(state),
            flow: watch::Sender::new(TransferFlow::Asking),
            changed: watch::Sender::new(()),
            members: watch::Sender::new(0),
            members_ahead: AtomicUsize::new(0),
            cancel,
            leaving_since: OnceLock::new(),
            ranges,
            hash,
            wanted: AtomicBool::new(wanted),
            received: AtomicU64::new(0),
            skipped: Arc::default(),
            stalled: AtomicU64::new(0),
        }
    }

    /// Waits for the upstream's answer; the size of the blob, if it said.
    pub async fn head(&self) -> Result<Option<u64>, DownloadError> {
        self.when(|state| match &state.progress {
            Progress::Opening => None,
            Progress::Writing | Progress::Complete => Some(Ok(state.total)),
            Progress::Failed(error) => Some(Err(error.clone())),
        })
        .await
    }

    /// What the upstream said beside the bytes, if it was asked and has answered.
    pub fn remark(&self) -> Option<ContentNotes> {
        self.state().remark.clone()
    }

    /// Waits for the end.
    pub async fn end(&self) -> Result<(), DownloadError> {
        self.when(|state| match &state.progress {
            Progress::Opening | Progress::Writing => None,
            Progress::Complete => Some(Ok(())),
            Progress::Failed(error) => Some(Err(error.clone())),
        })
        .await
    }

    /// Waits for the end, as long as no more than `most` bytes have come; `None` then.
    pub async fn end_within(&self, most: u64) -> Option<Result<(), DownloadError>> {
        self.when(|state| match &state.progress {
            Progress::Complete => Some(Some(Ok(()))),
            Progress::Failed(error) => Some(Some(Err(error.clone()))),
            Progress::Opening | Progress::Writing if state.written.end_of_run(0) > most => Some(None),
            Progress::Opening | Progress::Writing => None,
        })
        .await
    }

    /// How many bytes came for it, over all its transfers.
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Whether all bytes are here and right, so that a reader is as good as one of a file.
    pub fn is_complete(&self) -> bool {
        matches!(self.state().progress, Progress::Complete)
    }

    /// Whether a transfer is of a blob of the same size, as far as both say.
    fn agrees(&self, transfer: &Transfer) -> bool {
        transfer.total().is_none_or(|told| self.state().total.is_none_or(|known| known == told))
    }

    /// From now on the file may have holes, also for who finds it after a kill.
    async fn allow_gaps(&self) -> io::Result<()> {
        let name = {
            let state = self.state();
            if state.gaps_allowed {
                return Ok(());
            }
            state.name.clone().ok_or(io::ErrorKind::NotFound)?
        };
        storage::write(move || name.allow_gaps()).await?;
        self.state().gaps_allowed = true;
        Ok(())
    }

    /// Whether a client has asked for it.
    pub fn is_wanted(&self) -> bool {
        self.wanted.load(Ordering::SeqCst)
    }

    fn purpose(&self) -> Purpose {
        match self.is_wanted() {
            true if self.has_clients() => Purpose::Client,
            true => Purpose::Unawaited,
            false => Purpose::Ahead,
        }
    }

    /// The forebays by way of which its bytes come, as far as that is known.
    pub fn mirrors(&self) -> Option<Mirrors> {
        match &*self.flow.borrow() {
            TransferFlow::From(mirrors) if !self.is_complete() => mirrors.clone(),
            TransferFlow::From(_) | TransferFlow::Asking => None,
        }
    }

    /// Whether a request that came by these forebays can wait for it: none of them is waited for here.
    pub fn admits(&self, mirrors: &Mirrors) -> bool {
        self.is_complete()
            || match &*self.flow.borrow() {
                TransferFlow::Asking => !self.source.upstream.may_be_mirror(),
                TransferFlow::From(by) => by.as_ref().is_none_or(|by| !by.meet(mirrors)),
            }
    }

    /// Waits for that, or for the end; whether it came in time.
    pub async fn admits_within(&self, mirrors: &Mirrors, patience: Duration) -> bool {
        let mut flow = self.flow.subscribe();
        let admitted = async {
            while !self.admits(mirrors) {
                tokio::select! {
                    _ = flow.changed() => {}
                    _ = self.end() => return,
                }
            }
        };
        timeout(patience, admitted).await.is_ok()
    }

    /// All is there: who finds the file after a kill is to need nothing else.
    async fn close_gaps(&self) {
        let (name, file) = {
            let state = self.state();
            (state.name.clone(), state.file.clone())
        };
        if let (Some(name), Some(file)) = (name, file)
            && let Err(error) = storage::write(move || name.close_gaps(&file)).await
        {
            tracing::debug!(%error, "the file of a fill keeps the name of one with holes");
        }
    }

    /// Whether the byte at this place is of an earlier fill, and not verified yet.
    pub fn is_left_over(&self, position: u64) -> bool {
        let state = self.state();
        position < state.left && !matches!(state.progress, Progress::Complete)
    }

    /// What it was begun for.
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// Whether the blob was on disk after all when the fill began.
    pub fn was_found(&self) -> bool {
        self.state().found
    }

    fn can_be_joined(&self) -> bool {
        self.is_complete() || !self.cancel.is_cancelled()
    }

    /// The transfer that found no room to be written, for the first who asks.
    pub fn take_transfer(&self) -> Option<Transfer> {
        self.state().handed_over.take()
    }

    async fn when<T>(&self, mut look: impl FnMut(&DownloadState) -> Option<T>) -> T {
        let mut changed = self.changed.subscribe();
        loop {
            changed.borrow_and_update();
            if let Some(value) = look(&self.state()) {
                return value;
            }
            if changed.changed().await.is_err() {
                // The sender lives in `self`; it cannot be gone.
                std::future::pending::<()>().await;
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, DownloadState> {
        self.state.lock()
    }

    fn update<T>(&self, change: impl FnOnce(&mut DownloadState) -> T) -> T {
        let value = change(&mut self.state());
        self.changed.send_replace(());
        value
    }
}

impl DownloadState {
    fn is_over(&self) -> bool {
        matches!(self.progress, Progress::Complete | Progress::Failed(_))
    }

    /// What is there for a reader at `position` that wants bytes up to `end` (exclusive), or all.
    fn look(&self, position: u64, end: Option<u64>, whole: bool) -> Look {
        let end = end.or(self.total);
        let has_all = end.is_some_and(|end| position >= end);
        // Who has its range is done, whatever becomes of the rest.
        if has_all && !whole {
            return Look::End;
        }
        let complete = match &self.progress {
            Progress::Failed(error) => return Look::Failed(error.clone()),
            Progress::Complete if has_all => return Look::End,
            Progress::Complete => true,
            Progress::Opening | Progress::Writing => false,
        };
        let withheld = if whole && !complete { WITHHELD_TAIL } else { 0 };
        let run = self.written.end_of_run(position);
        let limit = match end {
            Some(end) => run.min(end.saturating_sub(withheld)),
            None => run.saturating_sub(withheld),
        };
        match &self.file {
            Some(file) if limit > position && !self.closing => {
                Look::Slice(FileSlice { file: file.clone(), offset: position, len: limit - position })
            }
            // The blob proved shorter than its announced size, for which this range was cut out.
            _ if complete => Look::Failed(DownloadError::Abandoned),
            _ => Look::Wait,
        }
    }

    /// The first bytes that are neither there nor being fetched by anyone but the main transfer.
    fn first_gap(&self, total: u64) -> Option<Range<u64>> {
        self.first_gap_but(&(0..0), total)
    }

    /// The same, and not among `taken` either.
    fn first_gap_but(&self, taken: &Range<u64>, total: u64) -> Option<Range<u64>> {
        let mut start = 0;
        loop {
            let end = self.written.end_of_run(start).max(self.foreign.end_of_run(start));
            let end = if taken.contains(&end) { taken.end } else { end };
            if end == start {
                break;
            }
            start = end;
        }
        let next = |extents: &Extents| extents.next_start(start).unwrap_or(total);
        let end = next(&self.written).min(next(&self.foreign)).min(total);
        let end = if taken.start > start { end.min(taken.start) } else { end };
        (start < total).then_some(start..end)
    }
}

/// A client's place in a fill.
pub struct DownloadReader {
    fills: Downloads,
    fill: Arc<Download>,
    /// What this client asked for; the fill may have been begun for another repository's blob of this digest.
    source: Source,
    position: u64,
    /// The end of the range wanted (exclusive); `None` for the whole blob.
    end: Option<u64>,
    /// The client gets all of it: the tail is held back until it is verified.
    whole: bool,
    changed: watch::Receiver<()>,
    _membership: table::Subscription,
}

impl DownloadReader {
    /// Reads from `first` up to `end` (exclusive), or to the end.
    fn new(membership: table::Subscription, source: Source, first: u64, end: Option<u64>) -> Self {
        let fill = membership.fill().clone();
        let total = fill.state().total;
        let whole = first == 0 && (end.is_none() || end == total);
        let changed = fill.changed.subscribe();
        let fills = membership.fills().clone();
        Self { fills, fill, source, position: first, end, whole, changed, _membership: membership }
    }

    /// What it reads, which keeps its file for as long as it lives.
    pub fn fill(&self) -> &Arc<Download> {
        &self.fill
    }

    /// Whether another repository's upstream failed: it says nothing about the one this client asked for.
    pub fn is_stranger(&self) -> bool {
        !self.fill.source.is_same(&self.source)
    }

    /// The forebays by way of which the bytes come.
    pub fn mirrors(&self) -> Option<Mirrors> {
        self.fill.mirrors()
    }

    /// The next bytes that are on disk; `None` after the last one.
    pub async fn next(&mut self) -> Result<Option<FileSlice>, DownloadError> {
        loop {
            self.changed.borrow_and_update();
            let look = self.fill.state().look(self.position, self.end, self.whole);
            match look {
                Look::Slice(slice) => {
                    self.position += slice.len;
                    return Ok(Some(slice));
                }
                Look::End => return Ok(None),
                Look::Failed(error) => return Err(error),
                Look::Wait => {
                    self.fills.fetch_ahead(&self.fill, &self.source, self.position, self.end);
                    if self.changed.changed().await.is_err() {
                        return Err(DownloadError::Abandoned);
                    }
                }
            }
        }
    }

    /// Goes on without the cache, where this reader is.
    pub async fn go_through(&self) -> Result<UncachedReader, ReadError> {
        let source = self.source.clone();
        let metrics = self.fill.metrics.clone();
        let (total, file) = {
            let state = self.fill.state();
            (state.total, state.file.clone())
        };
        if !self.whole
            && let Some(last) = self.end.or(total).and_then(|end| end.checked_sub(1))
        {
            return UncachedReader::range(&source, self.position, last).await.map_err(ReadError::Upstream);
        }
        let transfer = if self.position == 0 && !self.is_stranger() { self.fill.take_transfer() } else { None };
        match (transfer, file) {
            (Some(transfer), _) => Ok(UncachedReader::whole(source, transfer, metrics)),
            (_, Some(file)) => {
                UncachedReader::rest(source, FileSlice { file, offset: 0, len: self.position }, total, metrics).await
            }
            (_, None) => {
                let transfer = Transfer::open(&source, 0, None).await.map_err(ReadError::Upstream)?;
                Ok(UncachedReader::whole(source, transfer, metrics))
            }
        }
    }
}
