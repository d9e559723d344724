//! A download over several connections.
//!
//! The main transfer is one request for the whole blob, and remains the only one if it is quick. If it is not, forebay
//! tries one more connection at the *end* of the blob: the main transfer ends where that connection began, so nothing
//! is lost if the connection gained nothing. If it gained something, the extra connections and the main transfer from
//! then on each take the next *segment* in order, so that readers stream from the start. forebay opens more extra
//! connections while they raise the rate ([`ConnectionRamp`]).
//!
//! Each segment is a [`Claim`]: no byte is requested twice, except those in flight when the main transfer is cut.

use std::{
    convert::Infallible,
    ops::Range,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::{
    sync::OwnedSemaphorePermit,
    time::{Instant, MissedTickBehavior},
};

use super::{
    Download, DownloadState, Downloads, Progress,
    ramp_up::{ConnectionRamp, Decision, Sample, TICK},
    ranges::{Claim, copy_claim},
    writer::WritePipeline,
};
use crate::cache::{Source, download::transfer::Transfer};

/// How long one segment should take, in seconds: long enough that the time of its request does not matter.
const SEGMENT_TIME: f64 = 1.0;
/// The smallest and the largest segment, in bytes.
const SEGMENT: std::ops::RangeInclusive<u64> = 1024 * 1024..=32 * 1024 * 1024;
/// How long an extra connection waits for a response, for the next bytes, or for a broken transfer to be resumed. After
/// that another connection fetches the rest.
const TIMEOUT: Duration = Duration::from_secs(2);
/// forebay also closes an extra connection that is this many times slower than the others, because the others would
/// have to wait for it.
const MUCH_SLOWER: f64 = 4.0;

/// Opens extra connections as long as they raise the rate. Never returns; drop it with the download.
pub(super) async fn steer(downloads: &Downloads, download: &Arc<Download>) -> Infallible {
    let mut ramp = ConnectionRamp::new(download.source.upstream.connections());
    download.when(|state| (!matches!(state.progress, Progress::Opening)).then_some(())).await;
    let begun = Instant::now();
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while !ramp.is_settled() {
        ticks.tick().await;
        let Some(sample) = download.sample(begun) else { continue };
        let decision = ramp.see(sample);
        if decision != Decision::Stay {
            tracing::debug!(digest = %download.source.digest, ?decision, ?sample, each = ramp.each(), "the connections of a download");
        }
        match decision {
            Decision::Stay => {}
            Decision::Settle => download.update(DownloadState::settle),
            Decision::Add(more) => {
                let each = ramp.each().unwrap_or_default();
                if !add(downloads, download, more, each) {
                    download.update(DownloadState::settle);
                    break;
                }
            }
        }
    }
    std::future::pending().await
}

/// Opens more extra connections, the first one at the end of the blob. Returns whether at least one could be opened.
fn add(downloads: &Downloads, download: &Arc<Download>, more: usize, each: f64) -> bool {
    let segment = segment(each);
    let mut opened = false;
    for _ in 0..more {
        let Ok(permit) = downloads.extra_connections().clone().try_acquire_owned() else { break };
        let claim = download.update(|state| {
            let claim = if state.extra_connections == 0 {
                state.claim_tail(download, segment)?
            } else {
                state.begin_segments(segment);
                state.claim_segment(download)?
            };
            state.connections_opening += 1;
            Some(claim)
        });
        let Some(claim) = claim else { break };
        opened = true;
        let connection = ExtraConnection { download: download.clone(), is_open: false, _permit: permit };
        downloads.tasks().spawn(run(connection, claim));
    }
    opened
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a float saturates")]
fn segment(each: f64) -> u64 {
    ((each * SEGMENT_TIME) as u64).clamp(*SEGMENT.start(), *SEGMENT.end())
}

impl Download {
    fn sample(&self, begun: Instant) -> Option<Sample> {
        let state = self.state();
        if !matches!(state.progress, Progress::Writing)
            || state.connections_refused
            || state.ranges_ignored
            || state.without_ranges
        {
            return None;
        }
        let received = self.received.load(Ordering::Relaxed);
        Some(Sample {
            at: begun.elapsed(),
            download: received,
            upstream: self.source.upstream.received_bytes(),
            missing: state.missing()?,
            connections: 1 + state.extra_connections,
            opening: state.connections_opening,
            stalled: Duration::from_micros(self.stalled.load(Ordering::Relaxed)),
        })
    }
}

impl DownloadState {
    /// The number of bytes that only the main transfer has requested.
    fn missing(&self) -> Option<u64> {
        let gap = self.first_gap_but(&self.main_range.clone().unwrap_or(0..0), self.total?)?;
        Some(gap.end - gap.start)
    }

    /// Claims up to `len` bytes at the end for the first extra connection, but at most half of the missing bytes.
    fn claim_tail(&mut self, download: &Arc<Download>, len: u64) -> Option<Claim> {
        let total = self.total?;
        let gap = self.first_gap(total)?;
        if gap.end != total || gap.start > self.main_position {
            return None;
        }
        let start = total - len.min((total - self.main_position.max(gap.start)) / 2);
        self.claim(download, start..total)
    }

    /// From now on all connections take segments in order, including the main transfer.
    fn begin_segments(&mut self, len: u64) {
        self.segment = Some(len);
        if self.main_range.is_none() {
            // The bytes that the main transfer has received remain its own, even those not yet written to the file:
            // they may be hashed already, so no other transfer may write there.
            let gap = self.total.and_then(|total| self.first_gap(total));
            let start = gap.map_or(self.main_position, |gap| gap.start.min(self.main_position));
            self.set_main_range(start..self.main_position + len);
        }
    }

    /// Claims the next bytes that no transfer fetches.
    fn claim_segment(&mut self, download: &Arc<Download>) -> Option<Claim> {
        let segment = self.next_segment(self.main_range.clone().unwrap_or(0..0))?;
        self.main_position = self.main_position.max(segment.end);
        self.claim(download, segment)
    }

    /// The next bytes for the main transfer: a whole gap, or a segment if extra connections also fetch.
    pub(super) fn take_for_main(&mut self, total: u64) -> Option<Range<u64>> {
        let range = match self.segment {
            Some(_) if self.extra_connections > 0 => self.next_segment(0..0)?,
            _ => self.first_gap(total)?,
        };
        if self.segment.is_some() {
            self.set_main_range(range.clone());
        }
        Some(range)
    }

    fn next_segment(&self, taken: Range<u64>) -> Option<Range<u64>> {
        let (len, gap) = (self.segment?, self.first_gap_but(&taken, self.total?)?);
        // Segments shrink towards the end, so that no connection works alone on the last one.
        let fair = (gap.end - gap.start) / (2 * (self.extra_connections as u64 + 1));
        let len = len.min(fair.max(len / 4).max(*SEGMENT.start()));
        Some(gap.start..gap.end.min(gap.start + len))
    }

    fn set_main_range(&mut self, range: Range<u64>) {
        // A reader that waits within the range does not request the same bytes again.
        self.main_position = self.main_position.max(range.end);
        self.main_range = Some(range);
    }

    /// The end of the range of the main transfer; other transfers fetch the rest.
    pub(super) fn end_of_main_range(&self) -> u64 {
        self.main_range.as_ref().map_or(u64::MAX, |main| main.end)
    }

    /// Whether the main transfer has reached the end of its range.
    pub(super) fn is_beyond_main_range(&self, position: u64) -> bool {
        position >= self.end_of_main_range()
    }

    fn claim(&mut self, download: &Arc<Download>, range: Range<u64>) -> Option<Claim> {
        (!range.is_empty()).then(|| Claim::make(download, self, range))
    }

    /// Opens no more extra connections; those that wait for a segment end.
    fn settle(&mut self) {
        self.connections_refused = true;
    }

    /// The main transfer continues alone.
    pub(super) fn without_connections(&mut self) {
        self.connections_refused = true;
        self.segment = None;
        self.main_range = None;
    }
}

/// One connection in addition to that of the main transfer.
struct ExtraConnection {
    download: Arc<Download>,
    is_open: bool,
    _permit: OwnedSemaphorePermit,
}

impl ExtraConnection {
    fn opened(&mut self) {
        if !std::mem::replace(&mut self.is_open, true) {
            self.download.update(|state| {
                state.connections_opening -= 1;
                state.extra_connections += 1;
            });
        }
    }
}

impl Drop for ExtraConnection {
    fn drop(&mut self) {
        self.download.update(|state| match self.is_open {
            true => state.extra_connections -= 1,
            false => state.connections_opening -= 1,
        });
    }
}

/// Checks whether a connection is as quick as the others.
struct KeepingUp<'a> {
    download: &'a Download,
    begun: Instant,
    /// The bytes that all connections had received at `begun`.
    received: u64,
}

impl<'a> KeepingUp<'a> {
    fn begin(download: &'a Download) -> Self {
        Self { download, begun: Instant::now(), received: download.received.load(Ordering::Relaxed) }
    }

    /// Whether the connection, which has received `own` bytes since `begun`, is quick enough.
    #[expect(clippy::cast_precision_loss, reason = "of bytes, to compare rates")]
    fn holds(&self, own: u64) -> bool {
        let seconds = self.begun.elapsed().as_secs_f64();
        if seconds < TIMEOUT.as_secs_f64() {
            return true;
        }
        let received = self.download.received.load(Ordering::Relaxed).saturating_sub(self.received);
        let (others, expected) = {
            let state = self.download.state();
            // If the other connections have nothing left to fetch, the download waits only for this one, which is
            // compared with their earlier rate.
            let is_last = state.range_transfers == 1 && state.missing().is_none();
            let before = state.segment.filter(|_| is_last).unwrap_or(0) as f64 / SEGMENT_TIME;
            (state.extra_connections.max(1), before)
        };
        let mean = received.saturating_sub(own) as f64 / others as f64 / seconds;
        own as f64 / seconds * MUCH_SLOWER >= mean.max(expected)
    }
}

async fn run(mut connection: ExtraConnection, first: Claim) {
    let download = connection.download.clone();
    let source = Source { upstream: download.source.upstream.with_dedicated_connections(), ..download.source.clone() };
    let mut claim = Some(first);
    while let Some(segment) = claim {
        tracing::trace!(digest = %download.source.digest, range = ?segment.rest, "an extra connection takes a segment");
        if !fetch(&mut connection, segment, &source).await {
            return download.update(|state| state.connections_refused = true);
        }
        // The first extra connection waits here until its gain is known.
        let known = download.when(|state| (state.segment.is_some() || state.connections_refused).then_some(()));
        tokio::select! {
            () = download.ranges.cancelled() => return,
            () = known => {}
        }
        claim = download.update(|state| state.claim_segment(&download));
    }
}

/// Fetches one segment. Returns whether the connection continues.
async fn fetch(connection: &mut ExtraConnection, mut claim: Claim, source: &Source) -> bool {
    let download = connection.download.clone();
    let work = async {
        let opening =
            tokio::time::timeout(TIMEOUT, Transfer::open_part(source, claim.rest.start, Some(claim.rest.end - 1)));
        let opened = tokio::select! {
            () = download.ranges.cancelled() => return false,
            opened = opening => opened,
        };
        let Ok(opened) = opened else {
            tracing::debug!(digest = %source.digest, "an extra connection of a download gets no response");
            return false;
        };
        let mut transfer = match opened {
            Ok(transfer) if transfer.skipping() > 0 => {
                download.update(|state| state.ranges_ignored = true);
                return false;
            }
            Ok(transfer) if !download.agrees(&transfer) => return false,
            Ok(transfer) => transfer.ranges_only().with_timeout(TIMEOUT),
            Err(error) => {
                tracing::debug!(%error, digest = %source.digest, "an extra connection of a download cannot be opened");
                return false;
            }
        };
        let Some(file) = download.state().file.clone() else {
            return false;
        };
        if download.allow_gaps().await.is_err() {
            return false;
        }
        connection.opened();
        let mut pipeline = WritePipeline::new(&download, &file, false).with_timeout(TIMEOUT);
        let keeping_up = KeepingUp::begin(&download);
        let copied = tokio::select! {
            () = download.ranges.cancelled() => Ok(()),
            copied = copy_claim(&claim, &mut transfer, &mut pipeline, |own| keeping_up.holds(own)) => copied,
        };
        let finished = pipeline.finish().await;
        claim.settle();
        match copied.and(finished) {
            Ok(()) => claim.rest.is_empty(),
            Err(error) => {
                tracing::debug!(%error, digest = %source.digest, "an extra connection of a download broke");
                false
            }
        }
    };
    work.await
}
