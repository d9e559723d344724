//! Ranges far ahead of the main transfer: separate transfers fetch them into the same file.
//!
//! Each transfer claims bytes that no other transfer writes; bytes that it does not fetch return to the main transfer.
//! So a client that wants the end of a large blob does not wait for its beginning, and the upstream still sends every
//! byte once.

use std::{ops::Range, sync::Arc};

use super::{Download, DownloadError, DownloadState, Downloads, Progress, writer::WritePipeline};
use crate::{
    cache::{Source, download::transfer::Transfer},
    upstream::BlobRange,
};

/// Up to this distance from the main transfer, waiting is quicker than a request, in bytes.
const NEAR: u64 = 1024 * 1024;
/// The maximum number of concurrent range transfers of one download.
const MAX_TRANSFERS: usize = 4;
/// After this many failed range transfers, the main transfer fetches the rest alone.
const MAX_FAILURES: usize = 4;

/// Bytes that one range transfer writes; the rest is released when the claim is dropped.
pub(super) struct Claim {
    download: Arc<Download>,
    pub rest: Range<u64>,
}

impl Downloads {
    /// Starts a transfer for a reader that waits at `position`, if that helps it.
    ///
    /// The request carries the reader's own credentials if the upstream distinguishes clients: the client that started
    /// the download may have left.
    pub(super) fn fetch_ahead(&self, download: &Arc<Download>, reader: &Source, position: u64, end: Option<u64>) {
        if let Some(claim) = Claim::new(download, position, end) {
            let same = reader.upstream.principal() == download.source.upstream.principal();
            let source = if same { download.source.clone() } else { reader.clone() };
            self.tasks().spawn(run(claim, source));
        }
    }
}

impl Claim {
    fn new(download: &Arc<Download>, position: u64, end: Option<u64>) -> Option<Self> {
        let mut state = download.state();
        let total = state.total?;
        let useful = matches!(state.progress, Progress::Writing)
            && !state.ranges_ignored
            && !state.without_ranges
            && state.range_failures < MAX_FAILURES
            && !download.ranges.is_cancelled()
            && state.range_transfers < MAX_TRANSFERS + state.extra_connections + state.connections_opening
            && position > state.main_position + NEAR
            && state.skipping_to.is_none_or(|to| !(to..=to + NEAR).contains(&position))
            && !state.claimed.contains(position)
            && !state.written.contains(position);
        if !useful {
            return None;
        }
        let next = state
            .claimed
            .next_start(position)
            .unwrap_or(total)
            .min(state.written.next_start(position).unwrap_or(total));
        let rest = position..end.unwrap_or(total).min(total).min(next);
        if rest.is_empty() {
            return None;
        }
        Some(Self::make(download, &mut state, rest))
    }

    /// Claims bytes that are neither written nor claimed.
    pub(super) fn make(download: &Arc<Download>, state: &mut DownloadState, rest: Range<u64>) -> Self {
        state.claimed.insert(rest.clone());
        state.range_transfers += 1;
        state.from_ranges = true;
        Self { download: download.clone(), rest }
    }

    /// Removes the bytes that are in the file from the claim.
    pub(super) fn settle(&mut self) {
        let written = self.download.state().written.end_of_run(self.rest.start);
        self.rest.start = written.min(self.rest.end);
    }

    fn give_up(&self) {
        self.download.update(|state| state.range_failures += 1);
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let rest = self.rest.clone();
        self.download.update(|state| {
            state.claimed.remove(rest);
            state.range_transfers -= 1;
        });
    }
}

async fn run(mut claim: Claim, source: Source) {
    let cancel = claim.download.ranges.clone();
    let download = claim.download.clone();
    let range = BlobRange { first: claim.rest.start, last: Some(claim.rest.end - 1) };
    let opening = source.upstream.open_blob(&source.repository, &source.digest, range);
    let opened = tokio::select! {
        () = cancel.cancelled() => return,
        opened = opening => opened,
    };
    // Every further range request would return the whole blob again.
    let is_whole = opened.as_ref().is_ok_and(|stream| !stream.ranged);
    let mut transfer = match opened.and_then(|stream| Transfer::of_part(&source, range, stream)) {
        Ok(transfer) if transfer.skipping() > 0 => return download.update(|state| state.ranges_ignored = true),
        Ok(transfer) if !download.agrees(&transfer) => return claim.give_up(),
        Ok(transfer) => transfer.ranges_only(),
        Err(error) => {
            tracing::debug!(%error, digest = %download.source.digest, "a range of a blob in flight cannot be fetched ahead");
            if is_whole {
                download.update(|state| state.ranges_ignored = true);
            }
            return claim.give_up();
        }
    };
    let Some(file) = download.state().file.clone() else {
        return;
    };
    if download.allow_gaps().await.is_err() {
        return claim.give_up();
    }
    let mut pipeline = WritePipeline::new(&download, &file, false);
    let copied = tokio::select! {
        () = cancel.cancelled() => Ok(()),
        copied = copy_claim(&claim, &mut transfer, &mut pipeline, |_| true) => copied,
    };
    // Bytes that are written or being written are done: the rest of the claim begins behind them.
    let finished = pipeline.finish().await;
    claim.settle();
    if let Err(error) = copied.and(finished) {
        // The main transfer also meets a failing disk, and reports it.
        tracing::debug!(%error, digest = %download.source.digest, "a range of a blob in flight broke");
        claim.give_up();
    }
}

/// Writes a transfer of the bytes of a claim, as long as `goes_on` accepts the number of bytes received so far.
pub(super) async fn copy_claim(
    claim: &Claim,
    transfer: &mut Transfer,
    pipeline: &mut WritePipeline,
    goes_on: impl Fn(u64) -> bool,
) -> Result<(), DownloadError> {
    let mut offset = claim.rest.start;
    while let Some(bytes) = pipeline.receive(transfer).await? {
        let len = bytes.len() as u64;
        pipeline.push(offset, bytes);
        offset += len;
        if !goes_on(offset - claim.rest.start) {
            tracing::debug!(range = ?claim.rest, offset, "a connection is much slower than those beside it");
            break;
        }
    }
    Ok(())
}
