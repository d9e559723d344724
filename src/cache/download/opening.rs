//! The first request of a download: for the whole blob, for what an earlier download did not leave, or for the range
//! that a client needs.

use std::{ops::Range, sync::Arc};

use super::{Download, DownloadError, DownloadState, chunks::CHUNK, leftover::forget, transfer::Transfer};
use crate::{
    cache::{Source, storage::TempBlob},
    oci::Digest,
    upstream::Error,
};

/// A range of a smaller blob brings the whole blob, in bytes.
const LARGE: u64 = 4 * CHUNK;

/// What to begin with.
enum First {
    /// An earlier download left all bytes.
    Nothing,
    /// The size of the blob is unknown, and all of it is needed.
    All,
    Range(Range<u64>),
    /// No client needs bytes now.
    Idle,
}

/// Requests the first bytes that are missing. `None`: none are.
pub(super) async fn open(
    download: &Arc<Download>,
    slot: &mut Option<TempBlob>,
) -> Result<Option<Transfer>, DownloadError> {
    let source = &download.source;
    if download.state().workers.single {
        download.update(|state| state.chunks.want_all());
    }
    learn_size(download).await;
    let transfer = match download.when(first).await {
        First::Nothing => return Ok(None),
        First::Idle => {
            let total = download.state().total().unwrap_or_default();
            return Ok(Some(Transfer::finished(source, total)));
        }
        First::All => Transfer::open(source, 0, None).await,
        First::Range(range) => open_range(download, source, range).await,
    };
    let mut transfer = transfer.map_err(DownloadError::Upstream)?;
    let fits = transfer.total().is_none_or(|total| download.state().chunks.fits(total));
    if !fits || !download.agrees(&transfer) {
        // An earlier download, or a HEAD, was told another size.
        forget(download, slot).await;
        download.update(|state| state.chunks.want_all());
        transfer = Transfer::open(source, 0, None).await.map_err(DownloadError::Upstream)?;
    }
    download.update(|state| {
        if let Some(total) = transfer.total() {
            state.chunks.set_total(total);
        }
        // All bytes come, also those that no client needs.
        if transfer.is_from_front() {
            state.chunks.want_all();
        }
    });
    let front = download.state().chunks.front();
    transfer.rewind(front);
    Ok(Some(transfer))
}

async fn open_range(download: &Download, source: &Source, range: Range<u64>) -> Result<Transfer, Error> {
    let total = download.state().total();
    let is_to_the_end = range.end == u64::MAX || Some(range.end) == total;
    let last = (!is_to_the_end).then(|| range.end.saturating_sub(1));
    match last {
        None if range.start == 0 => Transfer::open(source, 0, None).await,
        last => Transfer::open_reading_on(source, range.start, last).await,
    }
}

/// Asks for the size of a blob of which only a range is needed, so that forebay requests no more than that. Where the
/// upstream does not tell, or where the blob is small, all of it is needed.
async fn learn_size(download: &Arc<Download>) {
    let is_lazy = |state: &DownloadState| !state.chunks.is_complete_wanted() && state.total().is_none();
    if !is_lazy(&download.state()) {
        return download.update(|state| {
            if state.total().is_some_and(|total| total <= LARGE) {
                state.chunks.want_all();
            }
        });
    }
    let Source { upstream, repository, digest } = &download.source;
    let is_empty = || Digest::of(digest.algorithm(), b"") == *digest;
    let told = upstream.head_blob_to_get(repository, digest).await;
    let total = told.ok().and_then(|head| head.len).filter(|len| *len > 0 || is_empty());
    download.update(|state| match total {
        Some(total) if total > LARGE && is_lazy(state) => state.chunks.set_total(total),
        _ => state.chunks.want_all(),
    });
}

fn first(state: &DownloadState) -> Option<First> {
    let chunks = &state.chunks;
    if chunks.is_whole() {
        return Some(First::Nothing);
    }
    if chunks.total().is_none() {
        if !chunks.to_check(1).is_empty() {
            return None;
        }
        return Some(if chunks.front() > 0 { First::Range(chunks.front()..u64::MAX) } else { First::All });
    }
    if let Some(run) = chunks.lowest_free(u64::MAX) {
        return (!chunks.waits_for_check(&run)).then_some(First::Range(run));
    }
    // What is left, and needed, is being checked.
    chunks.to_check(1).is_empty().then_some(First::Idle)
}
