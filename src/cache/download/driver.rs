//! The task of a download: it requests the blob, writes, hashes, verifies and commits it.

use std::{ops::Range, sync::Arc};

use super::{
    Download, DownloadError, Downloads, Progress, abandoned,
    copy::copy_all,
    file_space::free_space,
    hasher,
    leftover::{self, discard, is_whole},
    parallel,
    table::DownloadEnd,
    transfer::Transfer,
};
use crate::{
    cache::{
        DownloadResult,
        storage::{Purpose, TempBlob, change, lru_index::IndexKey},
    },
    error_chain::ErrorChain,
    upstream::ErrorKind,
};

/// Runs a download to its end.
pub(super) async fn run(downloads: Downloads, download: Arc<Download>) {
    let ended = DownloadEnd { downloads: downloads.clone(), download: download.clone() };
    let _in_flight = downloads.metrics().fill_started();
    let upstream = download.source.upstream.name().clone();
    let mut temp = None;
    let worked = tokio::select! {
        worked = work(&downloads, &download, &mut temp) => worked,
        // Opens and closes only extra connections, which end with the download.
        never = parallel::steer(&downloads, &download) => match never {},
        // Cancels the download, which ends `work`.
        never = abandoned::watch(&downloads, &download) => match never {},
    };
    let result = match worked {
        Ok(Done::AlreadyThere) => return drop(ended),
        Ok(Done::Verified { len }) => commit(&downloads, &download, temp, len).await,
        Err(error) => {
            let result = result_of(&error);
            report(&download, &error);
            if matches!(error, DownloadError::Mismatch) && download.state().from_ranges {
                tracing::warn!(%upstream, "blobs are read in one go for a while, without ranges");
                downloads.range_suspensions().note(download.source.upstream.registry());
            }
            // All writes end before the file is kept, so that the length of the file equals its content.
            download.cancel.cancel();
            download.when(|state| (state.range_transfers == 0).then_some(())).await;
            let prefix = download.update(|state| {
                state.closing = true;
                state.written.end_of_run(0)
            });
            // An outage does not tell whether the kept bytes are right.
            let answered = matches!(&error, DownloadError::Upstream(error) if !error.kind.is_outage());
            match (&error, temp) {
                (DownloadError::Upstream(_) | DownloadError::Abandoned, Some(temp)) => {
                    let purpose = download.purpose();
                    if let Err(error) = change(move || temp.keep(purpose, prefix, answered)).await {
                        tracing::warn!(%error, "cannot keep what a broken download has");
                    }
                }
                (_, temp) => discard(temp).await,
            }
            downloads.end(&download, Progress::Failed(error));
            result
        }
    };
    drop(ended);
    downloads.metrics().fill(&upstream, result);
}

enum Done {
    /// Another download had already committed the blob.
    AlreadyThere,
    Verified {
        len: u64,
    },
}

async fn work(
    downloads: &Downloads,
    download: &Arc<Download>,
    slot: &mut Option<TempBlob>,
) -> Result<Done, DownloadError> {
    let source = &download.source;
    if let Ok(Some(blob)) = downloads.store().open_blob(&source.id()).await {
        download.update(|state| {
            state.total = Some(blob.len);
            state.written.insert(0..blob.len);
            state.file = Some(blob.file);
            state.was_cached = true;
            state._pin = Some(blob.pin);
            state.progress = Progress::Complete;
        });
        return Ok(Done::AlreadyThere);
    }
    let mut prefix = 0;
    let without_ranges = downloads.range_suspensions().covers(source.upstream.registry());
    download.state().without_ranges = without_ranges;
    if leftover::resume(downloads, download, slot, &mut prefix).await? {
        return Ok(found(download, prefix));
    }
    let Some(mut transfer) = download.unless_cancelled(leftover::open(downloads, download, slot, &mut prefix)).await?
    else {
        return Ok(found(download, prefix));
    };
    if without_ranges {
        transfer = transfer.without_ranges();
    }
    transfer = transfer.reporting_to(&download.flow, &download.skipped);
    free_space(downloads, download, slot, &mut transfer, prefix).await?;
    let Some(temp) = slot else { return Err(DownloadError::NoRoom) };
    download.update(|state| {
        state.total = transfer.total();
        state.remark = Some(transfer.remark().clone());
        state.file = Some(temp.file().clone());
        state.name = Some(temp.name().clone());
        state.main_position = prefix;
        state.progress = Progress::Writing;
    });
    if prefix > 0 {
        tracing::info!(digest = %source.digest, front = prefix, "a download is resumed");
    }
    hasher::go_on(download);
    receive(downloads, download, temp, transfer, prefix).await
}

/// Copies transfers into the file until no bytes are missing, and verifies the file.
async fn receive(
    downloads: &Downloads,
    download: &Arc<Download>,
    temp: &mut TempBlob,
    mut transfer: Transfer,
    prefix: u64,
) -> Result<Done, DownloadError> {
    let source = &download.source;
    loop {
        if let Err(error) = copy_all(downloads, download, temp, &mut transfer).await {
            let prefix = download.state().written.end_of_run(0);
            // The blob may be complete: the announced length was wrong, or the upstream announced no length.
            if !matches!(error, DownloadError::Upstream(_)) || !is_right(download, prefix).await? {
                return Err(error);
            }
            transfer = Transfer::finished(source, prefix);
        }
        if transfer.is_unsure()
            && !is_right(download, transfer.position()).await?
            && transfer.doubt().map_err(DownloadError::Upstream)?
        {
            continue;
        }
        let total = download.update(|state| {
            let total = transfer.total().or(state.total).unwrap_or(transfer.position());
            state.total = Some(total);
            state.from_ranges |= transfer.has_parts();
            total
        });
        match next_gap(download, total).await {
            None => {
                // A range transfer of an announced size that proved too large may still be writing.
                download.ranges.cancel();
                download.when(|state| (state.range_transfers == 0).then_some(())).await;
                download.close_gaps().await;
                return verify(download, total, prefix).await;
            }
            Some(gap) => {
                // A range transfer did not get these bytes, and perhaps no other will: the main transfer requests them.
                transfer = Transfer::going_on(source, gap.start, Some(gap.end - 1), Some(total))
                    .reads_to_end()
                    .reporting_to(&download.flow, &download.skipped);
                if download.state().without_ranges {
                    transfer = transfer.without_ranges();
                }
            }
        }
    }
}

/// An earlier download left all `len` bytes, and they match the digest.
fn found(download: &Download, len: u64) -> Done {
    tracing::info!(digest = %download.source.digest, len, "an earlier download left the whole blob");
    download.update(|state| {
        state.total = Some(len);
        state.was_cached = true;
        state.progress = Progress::Complete;
    });
    Done::Verified { len }
}

/// Waits for the range transfers and returns a gap that one of them left; `None` when no bytes are missing.
async fn next_gap(download: &Download, total: u64) -> Option<Range<u64>> {
    loop {
        let whole = download
            .when(|state| {
                let whole = state.written.end_of_run(0) >= total;
                (whole || state.first_gap(total).is_some()).then_some(whole)
            })
            .await;
        if whole {
            return None;
        }
        // An extra connection may already have taken the gap.
        if let Some(gap) = download.state().take_for_main(total) {
            return Some(gap);
        }
    }
}

/// `left` bytes came from an earlier download, and were never synced.
async fn verify(download: &Arc<Download>, total: u64, left: u64) -> Result<Done, DownloadError> {
    let digest = download.hash.digest(download, total).await.map_err(|error| DownloadError::Storage(error.into()))?;
    if digest != download.source.digest {
        if left > 0 {
            return Err(DownloadError::Damaged);
        }
        download.metrics.digest_mismatch(download.source.upstream.name());
        return Err(DownloadError::Mismatch);
    }
    download.update(|state| state.progress = Progress::Complete);
    Ok(Done::Verified { len: total })
}

/// Whether the first `len` bytes are in the file and are the whole blob.
async fn is_right(download: &Arc<Download>, len: u64) -> Result<bool, DownloadError> {
    if download.state().written.end_of_run(0) < len {
        return Ok(false);
    }
    is_whole(download, len).await.map_err(|error| DownloadError::Storage(error.into()))
}

/// Makes the verified file a cached blob. Its readers already have the bytes, so a disk that fails now prevents only
/// the caching.
async fn commit(downloads: &Downloads, download: &Download, temp: Option<TempBlob>, len: u64) -> DownloadResult {
    let Some(temp) = temp else { return DownloadResult::StorageFailed };
    let purpose = download.purpose();
    match change(move || temp.commit(purpose, len)).await {
        Ok(pin) => {
            download.update(|state| state._pin = Some(pin));
            // A client may have joined the download during the commit.
            if purpose == Purpose::Ahead && download.is_wanted() {
                downloads.store().used(IndexKey::Blob(download.source.id()));
            }
            DownloadResult::Complete
        }
        Err(error) => {
            tracing::error!(%error, digest = %download.source.digest, "a verified blob cannot be put into the cache");
            DownloadResult::StorageFailed
        }
    }
}

fn result_of(error: &DownloadError) -> DownloadResult {
    match error {
        DownloadError::Upstream(error) if error.kind == ErrorKind::Exhausted => DownloadResult::Abandoned,
        DownloadError::Upstream(_) => DownloadResult::UpstreamFailed,
        DownloadError::Mismatch | DownloadError::Damaged => DownloadResult::Mismatch,
        DownloadError::Storage(_) => DownloadResult::StorageFailed,
        DownloadError::NoRoom => DownloadResult::NoRoom,
        DownloadError::Abandoned => DownloadResult::Abandoned,
    }
}

fn report(download: &Download, error: &DownloadError) {
    let (upstream, repository, digest) =
        (download.source.upstream.name(), &download.source.repository, &download.source.digest);
    let reason = ErrorChain(error);
    match error {
        DownloadError::Mismatch | DownloadError::Storage(_) => {
            tracing::error!(%upstream, %repository, %digest, %reason, "a download failed");
        }
        DownloadError::Upstream(_) | DownloadError::Damaged => {
            tracing::warn!(%upstream, %repository, %digest, %reason, "a download failed");
        }
        DownloadError::NoRoom | DownloadError::Abandoned => {
            tracing::info!(%upstream, %repository, %digest, %reason, "a blob is not cached");
        }
    }
}
