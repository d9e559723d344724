//! The task of a download: it requests the blob, writes, hashes, verifies and commits it.

use std::{
    ops::Range,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use super::{
    Complete, Download, DownloadError, DownloadEvent, DownloadState, Downloads, Progress, abandoned,
    end::DownloadEnd,
    file_space, hasher,
    lead::{Copied, copy_all},
    leftover::{self, content_of, discard, is_whole},
    opening,
    state::TempContent,
    steer,
    transfer::Transfer,
};
use crate::{
    cache::{
        DownloadResult,
        storage::{PartialMap, Purpose, TempBlob, change, lru_index::IndexKey},
    },
    error_chain::ErrorChain,
    metrics::megabytes_per_second,
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
        // Starts only workers that end with the download.
        never = steer::steer(&downloads, &download) => match never {},
        never = leftover::check(&download) => match never {},
        // Cancels the download, which ends `work`.
        never = abandoned::watch(&downloads, &download) => match never {},
    };
    tell_rate(&download, download.begun.elapsed());
    let result = match worked {
        Ok(Done::AlreadyThere) => return drop(ended),
        Ok(Done::Verified { len }) => commit(&downloads, &download, temp, len).await,
        Err(error) => {
            let error = unless_of_store(&download, error);
            let result = result_of(&error);
            report(&downloads, &download, &error, result);
            if matches!(error, DownloadError::Mismatch) && download.state().workers.from_parts {
                tracing::warn!(%upstream, digest = %download.source.digest, "the blob is read in one go for a while");
                downloads.wrong_parts().note((download.source.id(), download.source.origin()));
            }
            // From now on, requests for the blob start a new download.
            download.cancel.cancel();
            end_workers(&download).await;
            keep_or_discard(&download, &error, temp).await;
            downloads.end(&download, Progress::Failed(error));
            result
        }
    };
    drop(ended);
    downloads.followers().tell(|| DownloadEvent::of(&download, Some(result)));
    downloads.metrics().fill(&upstream, result);
}

/// What the store told of the blob was wrong: the next download begins anew, without it.
fn unless_of_store(download: &Download, error: DownloadError) -> DownloadError {
    match error {
        DownloadError::Upstream(_) if download.source.upstream.is_store_wrong() => DownloadError::Damaged,
        error => error,
    }
}

/// How quickly all workers received the blob, and how long they waited for the disk instead.
fn tell_rate(download: &Download, time: Duration) {
    let (bytes, stalled) = (download.received(), download.stalled.load(Ordering::Relaxed));
    tracing::debug!(
        digest = %download.source.digest,
        bytes,
        seconds = time.as_secs_f64(),
        disk_seconds = Duration::from_micros(stalled).as_secs_f64(),
        megabytes_per_second = megabytes_per_second(bytes, time),
        "the download ended",
    );
}

/// No write runs after this.
async fn end_workers(download: &Download) {
    download.ends_workers.cancel();
    download.when(|state| (state.workers.count() == 0).then_some(())).await;
}

/// Keeps what a broken download has for the next one, unless it may be wrong.
async fn keep_or_discard(download: &Arc<Download>, error: &DownloadError, temp: Option<TempBlob>) {
    let may_be_right = match error {
        DownloadError::Upstream(_) | DownloadError::Abandoned => true,
        // What lazy clients brought stays if there is no room for the whole. What an earlier download left of a blob
        // without room goes: each client would request the rest in vain.
        DownloadError::NoRoom => {
            let state = download.state();
            state.total().is_some() && matches!(state.progress, Progress::Writing)
        }
        DownloadError::Mismatch | DownloadError::Damaged | DownloadError::Storage(_) => false,
    };
    let Some(temp) = temp else { return };
    if !may_be_right {
        return discard(Some(temp)).await;
    }
    let map = {
        let chunks = &download.state().chunks;
        PartialMap { chunk: chunks.size(), total: chunks.total(), records: chunks.records() }
    };
    // An outage does not tell whether the kept bytes are right.
    let answered = matches!(error, DownloadError::Upstream(error) if !error.kind.is_outage());
    let purpose = download.purpose();
    if let Err(error) = change(move || temp.keep(purpose, &map, answered)).await {
        tracing::warn!(%error, "cannot keep what a broken download has");
    }
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
            state.chunks.set_whole(blob.len);
            state.file = Some(TempContent::whole(blob.file));
            state.was_cached = true;
            state._pin = Some(blob.pin);
            state.progress = Progress::Complete;
        });
        return Ok(Done::AlreadyThere);
    }
    download.state().workers.single = downloads.wrong_parts().include(&(source.id(), source.origin()));
    let mut left = leftover::resume(downloads, download, slot).await;
    hasher::go_on(download);
    let opened = download.unless_cancelled(opening::open(download, slot)).await?;
    let Some(mut transfer) = opened else { return found(download).await };
    if slot.is_none() {
        left = 0;
    }
    transfer = download.reported_by(transfer);
    file_space::free_space(downloads, download, slot, &mut transfer).await?;
    let Some(temp) = slot else { return Err(DownloadError::NoRoom) };
    download.update(|state| {
        let map = state.total().map(|total| (state.chunks.size(), total));
        // A kill loses a blob of one chunk in any case.
        let map = map.filter(|(chunk, total)| total > chunk);
        state.file = Some(content_of(temp, map));
        state.remark = Some(transfer.remark().clone());
        state.chunks.set_stream(Some(transfer.position()..transfer.end_of_request()));
        state.chunks.take_first(transfer.position());
        state.progress = Progress::Writing;
    });
    downloads.followers().tell(|| DownloadEvent::of(download, None));
    if left > 0 {
        let requests = download.requests.lock();
        tracing::info!(digest = %source.digest, left, %requests, "a download is resumed");
    }
    hasher::go_on(download);
    receive(downloads, download, transfer, left).await
}

/// Copies transfers into the file until no bytes are missing, and verifies the file.
async fn receive(
    downloads: &Downloads,
    download: &Arc<Download>,
    mut transfer: Transfer,
    left: u64,
) -> Result<Done, DownloadError> {
    let source = &download.source;
    loop {
        let copied = copy_all(downloads, download, &mut transfer).await;
        let is_at_end = matches!(copied, Ok(Copied::ToTheEnd)) && transfer.end_of_request() == u64::MAX;
        if let Err(error) = copied {
            let front = download.state().chunks.front();
            // The blob may be complete: the announced length was wrong, or the upstream announced no length.
            if !matches!(error, DownloadError::Upstream(_)) || !is_right(download, front).await? {
                return Err(error);
            }
            transfer = Transfer::finished(source, front);
        }
        if transfer.is_unsure()
            && !is_right(download, transfer.position()).await?
            && transfer.doubt().map_err(DownloadError::Upstream)?
        {
            continue;
        }
        if transfer.total().is_some_and(|total| !download.state().chunks.fits(total)) {
            return Err(DownloadError::NoRoom);
        }
        download.update(|state| {
            if let Some(total) = transfer.total().or(state.total()).or(is_at_end.then_some(transfer.position())) {
                state.chunks.set_total(total);
            }
            state.workers.from_parts |= transfer.has_parts();
        });
        match next(downloads, download).await? {
            None => {
                // A worker whose part an announced size that proved too large still has may be writing.
                end_workers(download).await;
                return verify(download, left).await;
            }
            Some(run) => {
                let total = download.state().total();
                let last = (Some(run.end) != total).then(|| run.end - 1);
                let next = Transfer::going_on(source, run.start, last, total).reads_to_end();
                transfer = download.reported_by(next);
            }
        }
    }
}

/// What the lead worker waits for.
enum Next {
    Whole,
    Run(Range<u64>),
    /// Half of the blob is here, of which clients needed only ranges.
    Half,
}

/// Waits for bytes that the lead worker has to request; `None` when no bytes are missing.
async fn next(downloads: &Downloads, download: &Arc<Download>) -> Result<Option<Range<u64>>, DownloadError> {
    let mut completes = downloads.complete() != Complete::Never;
    loop {
        let look = |state: &mut DownloadState| {
            if state.chunks.is_whole() {
                return Some(Next::Whole);
            }
            if completes && !state.chunks.is_complete_wanted() && state.chunks.has_half() {
                return Some(Next::Half);
            }
            // Its last stream is over. Readers learn of the next one before they look for another worker.
            state.chunks.set_stream(None);
            let run = state.next_of_lead()?;
            state.chunks.set_stream(Some(run.clone()));
            Some(Next::Run(run))
        };
        match download.unless_cancelled(async { Ok(download.when_mut(look).await) }).await? {
            Next::Whole => return Ok(None),
            Next::Run(run) => return Ok(Some(run)),
            Next::Half => {
                completes = false;
                let room = {
                    let chunks = &download.state().chunks;
                    chunks.room().saturating_add(chunks.total().unwrap_or_default().saturating_sub(chunks.promised()))
                };
                // Without room for the whole, the ranges that clients need still come.
                if file_space::grow(downloads, download, download.purpose(), room).await.is_ok() {
                    download.update(|state| state.chunks.want_all());
                }
            }
        }
    }
}

/// An earlier download left all bytes, which are verified now.
async fn found(download: &Arc<Download>) -> Result<Done, DownloadError> {
    let len = download.state().total().unwrap_or_default();
    if !is_right(download, len).await? {
        return Err(DownloadError::Damaged);
    }
    tracing::info!(digest = %download.source.digest, len, "an earlier download left the whole blob");
    download.update(|state| {
        state.was_cached = true;
        state.progress = Progress::Complete;
    });
    Ok(Done::Verified { len })
}

/// `left` bytes came from an earlier download, and were never synced.
async fn verify(download: &Arc<Download>, left: u64) -> Result<Done, DownloadError> {
    let total = download.state().total().unwrap_or_default();
    let digest = download.hash.digest(download, total).await.map_err(|error| DownloadError::Storage(error.into()))?;
    if digest != download.source.digest {
        if left > 0 {
            return Err(DownloadError::Damaged);
        }
        // The next download does not ask the store.
        return Err(match download.source.upstream.note_mismatch(&download.source.digest) {
            true => DownloadError::Damaged,
            false => DownloadError::Mismatch,
        });
    }
    download.update(|state| state.progress = Progress::Complete);
    Ok(Done::Verified { len: total })
}

/// Whether the first `len` bytes are in the file and are the whole blob.
async fn is_right(download: &Arc<Download>, len: u64) -> Result<bool, DownloadError> {
    if download.state().chunks.front() < len {
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
            downloads.to_be_uploaded(&download.source);
            // A client may have joined the download during the commit.
            if purpose == Purpose::Ahead && download.is_wanted() {
                downloads.store().used(IndexKey::Blob(download.source.id()));
            }
            DownloadResult::Complete
        }
        Err(error) => {
            let digest = &download.source.digest;
            downloads.store().disk_failed("a verified blob cannot be put into the cache", digest, &error);
            DownloadResult::StorageFailed
        }
    }
}

fn result_of(error: &DownloadError) -> DownloadResult {
    match error {
        DownloadError::Upstream(error) if matches!(error.kind, ErrorKind::Exhausted | ErrorKind::Paused) => {
            DownloadResult::Abandoned
        }
        DownloadError::Upstream(error) if error.kind.is_outage() => DownloadResult::UpstreamFailed,
        DownloadError::Upstream(_) => DownloadResult::Refused,
        DownloadError::Mismatch | DownloadError::Damaged => DownloadResult::Mismatch,
        DownloadError::Storage(_) => DownloadResult::StorageFailed,
        DownloadError::NoRoom => DownloadResult::NoRoom,
        DownloadError::Abandoned => DownloadResult::Abandoned,
    }
}

/// Logs why a download failed: one line per upstream, kind and minute, with the number of those left out. What the
/// upstream itself does wrong has lines of its own, and an error is for the operator alone to mend.
fn report(downloads: &Downloads, download: &Download, error: &DownloadError, result: DownloadResult) {
    let (upstream, repository, digest) =
        (download.source.upstream.name(), &download.source.repository, &download.source.digest);
    let (reason, requests) = (ErrorChain(error), download.requests.lock());
    match result {
        DownloadResult::NoRoom | DownloadResult::Abandoned => {
            tracing::info!(%upstream, %repository, %digest, %reason, %requests, "a blob is not cached");
        }
        DownloadResult::Refused | DownloadResult::Complete => {
            tracing::debug!(%upstream, %repository, %digest, %reason, %requests, "the upstream refuses a blob");
        }
        DownloadResult::Mismatch | DownloadResult::UpstreamFailed | DownloadResult::StorageFailed => {
            let left_out = downloads.lines().admit((upstream.clone(), result));
            match left_out {
                Some(left_out) if result == DownloadResult::StorageFailed => {
                    tracing::error!(%upstream, %repository, %digest, %reason, %requests, left_out, "a download failed");
                }
                Some(left_out) => {
                    tracing::warn!(%upstream, %repository, %digest, %reason, %requests, left_out, "a download failed");
                }
                None => tracing::debug!(%upstream, %repository, %digest, %reason, %requests, "a download failed"),
            }
        }
    }
}
