//! Ranges far ahead of the main transfer: fetched by transfers of their own into the same file.
//!
//! Each has a claim on bytes that nobody else writes; what it does not get done goes back to the main
//! transfer. So a client that wants the end of a large blob does not wait for its beginning, and the upstream
//! still sends every byte once.

use std::{ops::Range, sync::Arc};

use super::{Download, DownloadError, DownloadState, Downloads, Progress, writer::WritePipeline};
use crate::{
    cache::{Source, download::transfer::Transfer},
    upstream::BlobRange,
};

/// Nearer than this to the main transfer, waiting is quicker than asking, in bytes.
const NEAR: u64 = 1024 * 1024;
/// How many such transfers one fill has at most.
const MAX_TRANSFERS: usize = 4;
/// After this many that failed, the main transfer is left alone with the rest.
const MAX_FAILURES: usize = 4;

/// Bytes that one range transfer writes; the rest goes back when it is dropped.
pub(super) struct Claim {
    fill: Arc<Download>,
    pub rest: Range<u64>,
}

impl Downloads {
    /// Starts a transfer for a reader that waits at `position`, if that helps it.
    ///
    /// As the reader itself, where the upstream tells its askers apart: who began the fill may have left.
    pub(super) fn fetch_ahead(&self, fill: &Arc<Download>, reader: &Source, position: u64, end: Option<u64>) {
        if let Some(claim) = Claim::new(fill, position, end) {
            let same = reader.upstream.principal() == fill.source.upstream.principal();
            let source = if same { fill.source.clone() } else { reader.clone() };
            self.tasks().spawn(run(claim, source));
        }
    }
}

impl Claim {
    fn new(fill: &Arc<Download>, position: u64, end: Option<u64>) -> Option<Self> {
        let mut state = fill.state();
        let total = state.total?;
        let useful = matches!(state.progress, Progress::Writing)
            && !state.ranges_ignored
            && !state.in_one_go
            && state.range_failures < MAX_FAILURES
            && !fill.ranges.is_cancelled()
            && state.range_transfers < MAX_TRANSFERS + state.lanes + state.lanes_opening
            && position > state.front + NEAR
            && state.jump.is_none_or(|to| !(to..=to + NEAR).contains(&position))
            && !state.foreign.contains(position)
            && !state.written.contains(position);
        if !useful {
            return None;
        }
        let next = state
            .foreign
            .next_start(position)
            .unwrap_or(total)
            .min(state.written.next_start(position).unwrap_or(total));
        let rest = position..end.unwrap_or(total).min(total).min(next);
        if rest.is_empty() {
            return None;
        }
        Some(Self::make(fill, &mut state, rest))
    }

    /// Claims bytes that nobody has or fetches.
    pub(super) fn make(fill: &Arc<Download>, state: &mut DownloadState, rest: Range<u64>) -> Self {
        state.foreign.insert(rest.clone());
        state.range_transfers += 1;
        state.in_parts = true;
        Self { fill: fill.clone(), rest }
    }

    /// What is in the file needs nobody's claim any more.
    pub(super) fn settle(&mut self) {
        let written = self.fill.state().written.end_of_run(self.rest.start);
        self.rest.start = written.min(self.rest.end);
    }

    fn give_up(&self) {
        self.fill.update(|state| state.range_failures += 1);
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let rest = self.rest.clone();
        self.fill.update(|state| {
            state.foreign.remove(rest);
            state.range_transfers -= 1;
        });
    }
}

async fn run(mut claim: Claim, source: Source) {
    let cancel = claim.fill.ranges.clone();
    let fill = claim.fill.clone();
    let range = BlobRange { first: claim.rest.start, last: Some(claim.rest.end - 1) };
    let opening = source.upstream.open_blob(&source.repository, &source.digest, range);
    let opened = tokio::select! {
        () = cancel.cancelled() => return,
        opened = opening => opened,
    };
    // Each further one would be the whole again.
    let is_whole = opened.as_ref().is_ok_and(|stream| !stream.ranged);
    let mut transfer = match opened.and_then(|stream| Transfer::of_part(&source, range, stream)) {
        Ok(transfer) if transfer.skipping() > 0 => return fill.update(|state| state.ranges_ignored = true),
        Ok(transfer) if !fill.agrees(&transfer) => return claim.give_up(),
        Ok(transfer) => transfer.in_parts_only(),
        Err(error) => {
            tracing::debug!(%error, digest = %fill.source.digest, "a range of a blob in flight cannot be fetched ahead");
            if is_whole {
                fill.update(|state| state.ranges_ignored = true);
            }
            return claim.give_up();
        }
    };
    let Some(file) = fill.state().file.clone() else {
        return;
    };
    if fill.allow_gaps().await.is_err() {
        return claim.give_up();
    }
    let mut pour = WritePipeline::new(&fill, &file, false);
    let poured = tokio::select! {
        () = cancel.cancelled() => Ok(()),
        poured = pour_claim(&claim, &mut transfer, &mut pour, |_| true) => poured,
    };
    // What is written, or is being written, is done: the rest of the claim begins behind it.
    let finished = pour.finish().await;
    claim.settle();
    if let Err(error) = poured.and(finished) {
        // A disk that fails is met by the main transfer as well, which says so.
        tracing::debug!(%error, digest = %fill.source.digest, "a range of a blob in flight broke");
        claim.give_up();
    }
}

/// Writes a transfer of the bytes of a claim, as long as `goes_on` with as many bytes as have come.
pub(super) async fn pour_claim(
    claim: &Claim,
    transfer: &mut Transfer,
    pour: &mut WritePipeline,
    goes_on: impl Fn(u64) -> bool,
) -> Result<(), DownloadError> {
    let mut offset = claim.rest.start;
    while let Some(bytes) = pour.receive(transfer).await? {
        let len = bytes.len() as u64;
        pour.push(offset, bytes);
        offset += len;
        if !goes_on(offset - claim.rest.start) {
            tracing::debug!(range = ?claim.rest, offset, "a connection is much slower than those beside it");
            break;
        }
    }
    Ok(())
}
