//! The main transfer of a download: ask, write, hash, verify, commit.

use std::{io, ops::Range, sync::Arc, time::Duration};

use bytes::Bytes;

use super::{
    Download, DownloadError, DownloadState, Downloads, Progress, abandoned, hasher, parallel,
    table::{DownloadEnd, Leftover},
    writer::WritePipeline,
};
use crate::{
    cache::{
        DownloadResult,
        download::transfer::Transfer,
        storage::{Purpose, Reservation, TempBlob, blocking, change, index::IndexKey},
    },
    error_chain::ErrorChain,
    upstream::ErrorKind,
};

/// How much room is asked for at a time while the size is not known, in bytes.
const ROOM_STEP: u64 = 16 * 1024 * 1024;
/// How long the hash of what an earlier download left may take before the upstream is asked for the rest beside it.
const HASH_TIMEOUT: Duration = Duration::from_secs(5);
/// A stretch that somebody else fetches is jumped over by a new request when it is longer than this, in bytes;
/// a shorter one is quicker to read past.
const MIN_SKIP: u64 = 4 * 1024 * 1024;

/// Runs a download to its end.
pub(super) async fn run(downloads: Downloads, download: Arc<Download>) {
    let ended = DownloadEnd { downloads: downloads.clone(), download: download.clone() };
    let _in_flight = downloads.metrics().fill_started();
    let upstream = download.source.upstream.name().clone();
    let mut temp = None;
    let worked = tokio::select! {
        worked = work(&downloads, &download, &mut temp) => worked,
        // Opens and ends nothing but extra_connections, which end with the download.
        never = parallel::steer(&downloads, &download) => match never {},
        // Cancels the download; `work` ends by that.
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
            // Nobody may write any more when the file is kept, so that its length says what it has.
            download.cancel.cancel();
            download.when(|state| (state.range_transfers == 0).then_some(())).await;
            let prefix = download.update(|state| {
                state.closing = true;
                state.written.end_of_run(0)
            });
            // An outage says nothing about what is kept.
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
    /// Another download was quicker.
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
    // What is left is gone on with by one of the downloads of a blob.
    if !download.beside
        && let Some((temp, len)) = downloads.store().resume(&source.id(), source.upstream.registry()).await
    {
        prefix = len;
        download.update(|state| {
            // Also what is kept again, should the upstream not answer.
            state.written.insert(0..prefix);
            state.leftover = prefix;
            state.file = Some(temp.file().clone());
        });
        *slot = Some(temp);
        // A kill may have come between the last byte and the name.
        let hashing = tokio::time::timeout(HASH_TIMEOUT, left_is_whole(downloads, download, prefix));
        match unless_cancelled(download, async { Ok(hashing.await) }).await? {
            Ok(Ok(true)) => return Ok(found(download, prefix)),
            // It is hashed beside what the upstream is asked for.
            Ok(Ok(false)) | Err(_) => {}
            Ok(Err(error)) => {
                tracing::warn!(%error, digest = %source.digest, "cannot read what an earlier download left");
                forget(download, slot, &mut prefix).await;
            }
        }
    }
    let Some(mut transfer) = unless_cancelled(download, open(downloads, download, slot, &mut prefix)).await? else {
        return Ok(found(download, prefix));
    };
    if without_ranges {
        transfer = transfer.without_ranges();
    }
    transfer = transfer.telling(&download.flow, &download.skipped);
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
    loop {
        if let Err(error) = pipeline(downloads, download, temp, &mut transfer).await {
            let prefix = download.state().written.end_of_run(0);
            // All may be here: a length that proves wrong was announced, or no end was ever told.
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
                // A range of an announced size that proved too long may still be written.
                download.ranges.cancel();
                download.when(|state| (state.range_transfers == 0).then_some(())).await;
                download.close_gaps().await;
                return verify(download, total, prefix).await;
            }
            Some(gap) => {
                // Somebody asked for that range and did not get it: perhaps nobody does.
                transfer = Transfer::going_on(source, gap.start, Some(gap.end - 1), Some(total))
                    .reads_to_end()
                    .telling(&download.flow, &download.skipped);
                if without_ranges {
                    transfer = transfer.without_ranges();
                }
            }
        }
    }
}

/// Whether the first `prefix` bytes, which an earlier download left, are all of the blob.
async fn is_whole(download: &Arc<Download>, prefix: u64) -> io::Result<bool> {
    download.hash.digest(download, prefix).await.map(|digest| digest == download.source.digest)
}

/// The same: hashed once, and not again for each download that comes to nothing in an outage.
async fn left_is_whole(downloads: &Downloads, download: &Arc<Download>, prefix: u64) -> io::Result<bool> {
    let file = download.state().file.clone().ok_or(io::ErrorKind::NotFound)?;
    let modified = blocking(move || file.metadata()?.modified()).await?;
    let (id, left) = (download.source.id(), Leftover { prefix, modified });
    if downloads.in_part().get(&id) == Some(left) {
        return Ok(false);
    }
    let whole = is_whole(download, prefix).await?;
    if !whole {
        downloads.in_part().insert(id, left);
    }
    Ok(whole)
}

/// All `len` bytes are here from an earlier download, and right.
fn found(download: &Download, len: u64) -> Done {
    tracing::info!(digest = %download.source.digest, len, "an earlier download left the whole blob");
    download.update(|state| {
        state.total = Some(len);
        state.was_cached = true;
        state.progress = Progress::Complete;
    });
    Done::Verified { len }
}

/// Asks the upstream for what is missing behind `prefix`; starts from the prefix when it will not be asked so. `None`:
/// nothing is missing.
async fn open(
    downloads: &Downloads,
    download: &Arc<Download>,
    slot: &mut Option<TempBlob>,
    prefix: &mut u64,
) -> Result<Option<Transfer>, DownloadError> {
    let source = &download.source;
    if *prefix == 0 {
        return Transfer::open(source, 0, None).await.map(Some).map_err(DownloadError::Upstream);
    }
    // Where no parts are wanted, what is left is overwritten.
    let without_ranges = download.state().without_ranges;
    let part = if without_ranges { None } else { Some(Transfer::open_part(source, *prefix, None).await) };
    if let Some(Ok(transfer)) = part {
        return Ok(Some(transfer));
    }
    // The hash may take longer than the upstream is made to wait for it.
    if left_is_whole(downloads, download, *prefix).await.is_ok_and(|whole| whole) {
        return Ok(None);
    }
    if let Some(Err(error)) = part
        && !error.may_be_due_to_range()
    {
        return Err(DownloadError::Upstream(error));
    }
    // What is left is kept until that has been answered.
    let transfer = Transfer::open(source, 0, None).await.map_err(DownloadError::Upstream)?;
    forget(download, slot, prefix).await;
    Ok(Some(transfer))
}

/// Starts anew, without what an earlier download left; nothing of it is being hashed.
async fn forget(download: &Download, slot: &mut Option<TempBlob>, prefix: &mut u64) {
    discard(slot.take()).await;
    *prefix = 0;
    download.update(|state| {
        state.written = Default::default();
        state.leftover = 0;
        state.file = None;
    });
    download.hash.restart(download.source.digest.algorithm());
}

/// Removes the file, which can take a while when it is large.
async fn discard(temp: Option<TempBlob>) {
    change(move || drop(temp)).await;
}

/// For what room is made next, where there is none for this purpose: once more for a client that came meanwhile. Where none
/// did, no client joins the download any more, but starts anew.
fn once_more(downloads: &Downloads, download: &Arc<Download>, refused: Purpose) -> Option<Purpose> {
    (refused != Purpose::Client && !downloads.give_up_without_clients(download)).then_some(Purpose::Client)
}

/// Makes sure that the file has room for `len` bytes.
async fn grow(
    downloads: &Downloads,
    download: &Arc<Download>,
    temp: &mut TempBlob,
    purpose: Purpose,
    len: u64,
) -> Result<(), DownloadError> {
    let mut next = Some(purpose);
    while let Some(purpose) = next {
        if unless_cancelled(download, async { Ok(temp.grow_to(purpose, len).await) }).await?.is_ok() {
            return Ok(());
        }
        next = once_more(downloads, download, purpose);
    }
    Err(DownloadError::NoRoom)
}

/// Room for the whole of a blob that has no file yet.
async fn reserve(
    downloads: &Downloads,
    download: &Arc<Download>,
    purpose: Purpose,
    len: u64,
) -> Result<Reservation, DownloadError> {
    let key = IndexKey::Blob(download.source.id());
    let mut next = Some(purpose);
    while let Some(purpose) = next {
        let reserved = async { Ok(downloads.store().reserve_for(purpose, &key, len).await) };
        if let Ok(reservation) = unless_cancelled(download, reserved).await? {
            return Ok(reservation);
        }
        next = once_more(downloads, download, purpose);
    }
    Err(DownloadError::NoRoom)
}

/// Reserves what the blob takes before its first byte is written.
async fn free_space(
    downloads: &Downloads,
    download: &Arc<Download>,
    slot: &mut Option<TempBlob>,
    transfer: &mut Transfer,
    prefix: u64,
) -> Result<(), DownloadError> {
    let len = transfer.total().unwrap_or(prefix + ROOM_STEP);
    if let Some(temp) = slot {
        let grown = grow(downloads, download, temp, download.purpose(), len).await;
        if matches!(grown, Err(DownloadError::NoRoom)) {
            discard(slot.take()).await;
        }
        return grown;
    }
    let reservation = match reserve(downloads, download, download.purpose(), len).await {
        Ok(reservation) => reservation,
        Err(error) => {
            leave_transfer(download, transfer);
            return Err(error);
        }
    };
    let id = download.source.id();
    let created = match download.beside {
        true => downloads.store().create_beside(&id, reservation).await,
        false => downloads.store().create(&id, download.source.upstream.registry(), reservation).await,
    };
    match created {
        Ok(temp) => {
            *slot = Some(temp);
            Ok(())
        }
        Err(error) => {
            leave_transfer(download, transfer);
            Err(DownloadError::Storage(error.into()))
        }
    }
}

/// Leaves the transfer to the first reader that goes through, if there may be one.
fn leave_transfer(download: &Download, transfer: &mut Transfer) {
    if !download.cancel.is_cancelled() {
        let finished = Transfer::finished(&download.source, 0);
        download.state().spare_transfer = Some(std::mem::replace(transfer, finished).untold());
    }
}

/// Writes what the transfer gives until it ends, but for what others fetch.
async fn pipeline(
    downloads: &Downloads,
    download: &Arc<Download>,
    temp: &mut TempBlob,
    transfer: &mut Transfer,
) -> Result<(), DownloadError> {
    let mut pipeline = WritePipeline::new(download, temp.file(), true);
    let copied = copy(downloads, download, temp, transfer, &mut pipeline).await;
    // Whatever happened: nobody writes any more when this returns.
    let finished = pipeline.finish().await;
    temp.note_written(download.update(|state| std::mem::take(&mut state.unreported)));
    copied.and(finished)
}

async fn copy(
    downloads: &Downloads,
    download: &Arc<Download>,
    temp: &mut TempBlob,
    transfer: &mut Transfer,
    pipeline: &mut WritePipeline,
) -> Result<(), DownloadError> {
    let mut failed_skip = 0;
    let mut alone = false;
    loop {
        let Some(bytes) = unless_cancelled(download, pipeline.receive(transfer)).await? else { return Ok(()) };
        if transfer.is_from_front() && !alone {
            // Also those extra_connections that wait for a place where they are needed.
            download.update(DownloadState::without_connections);
            // What they leave undone is read on the way, wherever it is: else all would have to come once more.
            let ended = async {
                download.when(|state| (state.extra_connections + state.connections_opening == 0).then_some(())).await;
                Ok(())
            };
            unless_cancelled(download, ended).await?;
            let gap = {
                let state = download.state();
                state.total.and_then(|total| state.first_gap(total))
            };
            transfer.rewind(gap.map_or(u64::MAX, |gap| gap.start));
            alone = true;
        }
        let (offset, mut bytes) = (transfer.position() - bytes.len() as u64, bytes);
        let written_now = loop {
            match admit(download, offset, bytes, pipeline) {
                Ok(written_now) => break written_now,
                Err(BehindHole(back)) => {
                    bytes = back;
                    download.allow_gaps().await.map_err(|error| DownloadError::Storage(error.into()))?;
                }
            }
        };
        temp.note_written(written_now);
        // Also when the size was told only by the answer to a resumed request: nothing is written without room.
        let room = transfer.total().unwrap_or(transfer.position() + ROOM_STEP);
        grow(downloads, download, temp, download.purpose(), room).await?;
        if !transfer.is_from_front()
            && is_gap_behind(download, pipeline.first_unwritten().unwrap_or(transfer.position()))
        {
            return Ok(());
        }
        if download.state().is_beyond_main_range(transfer.position()) {
            return Ok(());
        }
        skip_claimed(download, transfer, pipeline, &mut failed_skip).await?;
    }
}

/// These bytes may come to stand behind some that are not there, and the file's name does not say so yet.
struct BehindHole(Bytes);

/// Moves the prefix, and passes on which of these bytes the main transfer is to write; how many bytes have written_now in
/// the file since it was asked last.
fn admit(
    download: &Download,
    mut offset: u64,
    mut bytes: Bytes,
    pipeline: &mut WritePipeline,
) -> Result<u64, BehindHole> {
    let mut state = download.state();
    // Who claimed bytes may still be on the way to say so; a kill in between would leave zeros that look like content.
    if !state.gaps_allowed && !state.claimed.is_empty() {
        return Err(BehindHole(bytes));
    }
    while !bytes.is_empty() && !state.is_beyond_main_range(offset) {
        // What is in the file stays as it is: it may be hashed already.
        let taken = state.claimed.end_of_run(offset).max(state.written.end_of_run(offset)) - offset;
        if taken > 0 {
            let skipped = usize::try_from(taken).unwrap_or(usize::MAX).min(bytes.len());
            offset += skipped as u64;
            drop(bytes.split_to(skipped));
            continue;
        }
        let next = [state.claimed.next_start(offset), state.written.next_start(offset)];
        let next = next.into_iter().flatten().min().unwrap_or(u64::MAX).min(state.end_of_main_range());
        let free = next - offset;
        let piece = bytes.split_to(usize::try_from(free).unwrap_or(usize::MAX).min(bytes.len()));
        let len = piece.len() as u64;
        pipeline.push(offset, piece);
        offset += len;
    }
    state.main_position = state.main_position.max(offset);
    Ok(std::mem::take(&mut state.unreported))
}

/// Whether a range transfer gave up on bytes that were passed over, in prefix of `position`: somebody waits for them.
fn is_gap_behind(download: &Download, position: u64) -> bool {
    let state = download.state();
    // What one lane gives up another takes.
    if state.segment.is_some() && state.extra_connections > 0 {
        return false;
    }
    let gap = state.total.and_then(|total| state.first_gap(total));
    gap.is_some_and(|gap| gap.start < position)
}

/// Goes over a long stretch that somebody else fetches, by a new request behind it; where that fails (`failed_skip`) it is
/// not tried again.
async fn skip_claimed(
    download: &Download,
    transfer: &mut Transfer,
    pipeline: &mut WritePipeline,
    failed_skip: &mut u64,
) -> Result<(), DownloadError> {
    let position = transfer.position();
    let (end, total, segments) = {
        let state = download.state();
        (state.claimed.end_of_run(position), state.total, state.segment.is_some())
    };
    let Some(total) = total else { return Ok(()) };
    // Nothing is left to ask for, and what still comes is there already.
    if end > position && end >= total {
        *transfer = Transfer::finished(&download.source, total);
        return Ok(());
    }
    // Where the whole comes since parts are not to be had, there is none behind it either.
    if segments || transfer.is_from_front() || end - position < MIN_SKIP || end == *failed_skip {
        return Ok(());
    }
    *failed_skip = end;
    // So that a reader that waits there does not ask for the same bytes once more.
    download.state().skipping_to = Some(end);
    // The answer may take a while; what is here is not to wait for it.
    pipeline.finish().await?;
    let opened =
        unless_cancelled(download, async { Ok(Transfer::open_part(&download.source, end, None).await) }).await?;
    // Where that does not work, the transfer at hand is read on.
    let behind = opened.ok().filter(|behind| behind.skipping() == 0 && download.agrees(behind));
    download.update(|state| {
        state.skipping_to = None;
        if behind.is_some() {
            state.main_position = state.main_position.max(end);
        }
    });
    if let Some(behind) = behind {
        *transfer = behind.telling(&download.flow, &download.skipped);
    }
    Ok(())
}

/// Waits for the range transfers, and names what one of them left undone; `None` when everything is there.
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
        // A lane may have been quicker to take it.
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

/// Whether the first `len` bytes are here, and the whole blob.
async fn is_right(download: &Arc<Download>, len: u64) -> Result<bool, DownloadError> {
    if download.state().written.end_of_run(0) < len {
        return Ok(false);
    }
    is_whole(download, len).await.map_err(|error| DownloadError::Storage(error.into()))
}

/// Makes a blob of the verified file. Its readers have it already; a disk that fails now costs only the caching.
async fn commit(downloads: &Downloads, download: &Download, temp: Option<TempBlob>, len: u64) -> DownloadResult {
    let Some(temp) = temp else { return DownloadResult::StorageFailed };
    let purpose = download.purpose();
    match change(move || temp.commit(purpose, len)).await {
        Ok(pin) => {
            download.update(|state| state._pin = Some(pin));
            // A client may have come meanwhile.
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

async fn unless_cancelled<T>(
    download: &Download,
    work: impl Future<Output = Result<T, DownloadError>>,
) -> Result<T, DownloadError> {
    tokio::select! {
        biased;
        () = download.cancel.cancelled() => Err(DownloadError::Abandoned),
        worked = work => worked,
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

#[cfg(test)]
mod tests {
    use tokio_util::{sync::CancellationToken, task::TaskTracker};

    use super::*;
    use crate::{
        cache::{Config, DiskStore, Source, Visibility},
        metrics::Metrics,
        oci::{Algorithm, Digest},
        upstream::{self, Context, ReadBudget, Upstream},
    };

    const MAX_SIZE: u64 = 1 << 20;

    fn downloads(directory: &std::path::Path) -> (Downloads, Source) {
        let cache = Config { max_size: MAX_SIZE, ..Config::at(directory) };
        let config = upstream::Config::at("registry.example", &["https://registry.example"]);
        let metrics = Metrics::new().unwrap();
        let context =
            Context { metrics: metrics.clone(), via: "1.1 forebay-test".into(), budget: ReadBudget::default() };
        let store = DiskStore::open(&cache, metrics.clone()).unwrap();
        let source = Source {
            upstream: Upstream::new(&config, context).unwrap(),
            repository: "team/app".parse().unwrap(),
            digest: Digest::of(Algorithm::Sha256, b""),
        };
        (Downloads::new(store, metrics, TaskTracker::new(), CancellationToken::new()), source)
    }

    /// A download on the list that no task works for.
    fn download(downloads: &Downloads, source: &Source, wanted: bool) -> Arc<Download> {
        let cancel = downloads.shutdown().child_token();
        let download = Arc::new(Download::new(source.clone(), false, wanted, downloads.metrics().clone(), cancel));
        drop(downloads.enter_new(download.clone()));
        download
    }

    /// What a client used a moment ago downloads the cache.
    async fn used(downloads: &Downloads, len: u64) {
        let (store, id) = (downloads.store(), Visibility::Shared.key(&Digest::of(Algorithm::Sha256, b"used")));
        store.scan().await;
        let reservation = store.reserve(&IndexKey::Blob(id.clone()), len).await.unwrap();
        let temp = store.create_beside(&id, reservation).await.unwrap();
        drop(change(move || temp.commit(Purpose::Client, len)).await.unwrap());
    }

    #[tokio::test]
    async fn a_client_that_comes_while_room_is_made_has_its_own() {
        // Whether a client began the download, and whether one comes after it was looked for whom room is to be made.
        for (wanted, comes, result) in [(false, false, false), (false, true, true), (true, false, true)] {
            for has_file in [false, true] {
                let directory = tempfile::tempdir().unwrap();
                let (downloads, source) = downloads(directory.path());
                used(&downloads, MAX_SIZE * 3 / 4).await;
                let download = download(&downloads, &source, wanted);
                let purpose = download.purpose();
                let client = if comes { Some(downloads.join(&source).await) } else { None };
                let made = if has_file {
                    let reservation = downloads.store().reserve(&IndexKey::Blob(source.id()), 1).await.unwrap();
                    let mut temp = downloads.store().create_beside(&source.id(), reservation).await.unwrap();
                    grow(&downloads, &download, &mut temp, purpose, MAX_SIZE / 2).await
                } else {
                    reserve(&downloads, &download, purpose, MAX_SIZE / 2).await.map(drop)
                };
                assert_eq!(made.is_ok(), result, "{wanted} {comes} {has_file} {made:?}");
                // One that comes too late starts anew, and for itself.
                assert_eq!((download.can_be_joined(), downloads.has(&source)), (result, result));
                drop(client);
            }
        }
    }
}
