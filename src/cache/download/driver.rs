//! The main transfer of a fill: ask, write, hash, verify, commit.

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
/// How long the hash of what an earlier fill left may take before the upstream is asked for the rest beside it.
const HASH_PATIENCE: Duration = Duration::from_secs(5);
/// A stretch that somebody else fetches is jumped over by a new request when it is longer than this, in bytes;
/// a shorter one is quicker to read past.
const WORTH_A_JUMP: u64 = 4 * 1024 * 1024;

/// Runs a fill to its end.
pub(super) async fn run(fills: Downloads, fill: Arc<Download>) {
    let ended = DownloadEnd { fills: fills.clone(), fill: fill.clone() };
    let _in_flight = fills.metrics().fill_started();
    let upstream = fill.source.upstream.name().clone();
    let mut temp = None;
    let worked = tokio::select! {
        worked = work(&fills, &fill, &mut temp) => worked,
        // Opens and ends nothing but lanes, which end with the fill.
        never = parallel::steer(&fills, &fill) => match never {},
        // Cancels the fill; `work` ends by that.
        never = abandoned::watch(&fills, &fill) => match never {},
    };
    let result = match worked {
        Ok(Done::AlreadyThere) => return drop(ended),
        Ok(Done::Verified { len }) => commit(&fills, &fill, temp, len).await,
        Err(error) => {
            let result = result_of(&error);
            report(&fill, &error);
            if matches!(error, DownloadError::Mismatch) && fill.state().in_parts {
                tracing::warn!(%upstream, "blobs are read in one go for a while, without ranges");
                fills.distrust().note(fill.source.upstream.registry());
            }
            // Nobody may write any more when the file is kept, so that its length says what it has.
            fill.cancel.cancel();
            fill.when(|state| (state.range_transfers == 0).then_some(())).await;
            let front = fill.update(|state| {
                state.closing = true;
                state.written.end_of_run(0)
            });
            // An outage says nothing about what is kept.
            let answered = matches!(&error, DownloadError::Upstream(error) if !error.kind.is_outage());
            match (&error, temp) {
                (DownloadError::Upstream(_) | DownloadError::Abandoned, Some(temp)) => {
                    let purpose = fill.purpose();
                    if let Err(error) = change(move || temp.keep(purpose, front, answered)).await {
                        tracing::warn!(%error, "cannot keep what a broken fill has");
                    }
                }
                (_, temp) => discard(temp).await,
            }
            fills.end(&fill, Progress::Failed(error));
            result
        }
    };
    drop(ended);
    fills.metrics().fill(&upstream, result);
}

enum Done {
    /// Another fill was quicker.
    AlreadyThere,
    Verified {
        len: u64,
    },
}

async fn work(fills: &Downloads, fill: &Arc<Download>, slot: &mut Option<TempBlob>) -> Result<Done, DownloadError> {
    let source = &fill.source;
    if let Ok(Some(blob)) = fills.store().open_blob(&source.id()).await {
        fill.update(|state| {
            state.total = Some(blob.len);
            state.written.insert(0..blob.len);
            state.file = Some(blob.file);
            state.found = true;
            state._pin = Some(blob.pin);
            state.progress = Progress::Complete;
        });
        return Ok(Done::AlreadyThere);
    }
    let mut front = 0;
    let in_one_go = fills.distrust().covers(source.upstream.registry());
    fill.state().in_one_go = in_one_go;
    // What is left is gone on with by one of the fills of a blob.
    if !fill.beside
        && let Some((temp, len)) = fills.store().resume(&source.id(), source.upstream.registry()).await
    {
        front = len;
        fill.update(|state| {
            // Also what is kept again, should the upstream not answer.
            state.written.insert(0..front);
            state.left = front;
            state.file = Some(temp.file().clone());
        });
        *slot = Some(temp);
        // A kill may have come between the last byte and the name.
        let hashing = tokio::time::timeout(HASH_PATIENCE, left_is_whole(fills, fill, front));
        match unless_cancelled(fill, async { Ok(hashing.await) }).await? {
            Ok(Ok(true)) => return Ok(found(fill, front)),
            // It is hashed beside what the upstream is asked for.
            Ok(Ok(false)) | Err(_) => {}
            Ok(Err(error)) => {
                tracing::warn!(%error, digest = %source.digest, "cannot read what an earlier fill left");
                forget(fill, slot, &mut front).await;
            }
        }
    }
    let Some(mut transfer) = unless_cancelled(fill, open(fills, fill, slot, &mut front)).await? else {
        return Ok(found(fill, front));
    };
    if in_one_go {
        transfer = transfer.in_one_go();
    }
    transfer = transfer.telling(&fill.flow, &fill.skipped);
    make_room(fills, fill, slot, &mut transfer, front).await?;
    let Some(temp) = slot else { return Err(DownloadError::NoRoom) };
    fill.update(|state| {
        state.total = transfer.total();
        state.remark = Some(transfer.remark().clone());
        state.file = Some(temp.file().clone());
        state.name = Some(temp.name().clone());
        state.front = front;
        state.progress = Progress::Writing;
    });
    if front > 0 {
        tracing::info!(digest = %source.digest, front, "goes on with what an earlier fill left");
    }
    hasher::go_on(fill);
    loop {
        if let Err(error) = pour(fills, fill, temp, &mut transfer).await {
            let front = fill.state().written.end_of_run(0);
            // All may be here: a length that proves wrong was announced, or no end was ever told.
            if !matches!(error, DownloadError::Upstream(_)) || !is_right(fill, front).await? {
                return Err(error);
            }
            transfer = Transfer::finished(source, front);
        }
        if transfer.is_unsure()
            && !is_right(fill, transfer.position()).await?
            && transfer.doubt().map_err(DownloadError::Upstream)?
        {
            continue;
        }
        let total = fill.update(|state| {
            let total = transfer.total().or(state.total).unwrap_or(transfer.position());
            state.total = Some(total);
            state.in_parts |= transfer.has_parts();
            total
        });
        match next_gap(fill, total).await {
            None => {
                // A range of an announced size that proved too long may still be written.
                fill.ranges.cancel();
                fill.when(|state| (state.range_transfers == 0).then_some(())).await;
                fill.close_gaps().await;
                return verify(fill, total, front).await;
            }
            Some(gap) => {
                // Somebody asked for that range and did not get it: perhaps nobody does.
                transfer = Transfer::going_on(source, gap.start, Some(gap.end - 1), Some(total))
                    .reads_to_end()
                    .telling(&fill.flow, &fill.skipped);
                if in_one_go {
                    transfer = transfer.in_one_go();
                }
            }
        }
    }
}

/// Whether the first `front` bytes, which an earlier fill left, are all of the blob.
async fn is_whole(fill: &Arc<Download>, front: u64) -> io::Result<bool> {
    fill.hash.digest(fill, front).await.map(|digest| digest == fill.source.digest)
}

/// The same: hashed once, and not again for each fill that comes to nothing in an outage.
async fn left_is_whole(fills: &Downloads, fill: &Arc<Download>, front: u64) -> io::Result<bool> {
    let file = fill.state().file.clone().ok_or(io::ErrorKind::NotFound)?;
    let modified = blocking(move || file.metadata()?.modified()).await?;
    let (id, left) = (fill.source.id(), Leftover { front, modified });
    if fills.in_part().get(&id) == Some(left) {
        return Ok(false);
    }
    let whole = is_whole(fill, front).await?;
    if !whole {
        fills.in_part().insert(id, left);
    }
    Ok(whole)
}

/// All `len` bytes are here from an earlier fill, and right.
fn found(fill: &Download, len: u64) -> Done {
    tracing::info!(digest = %fill.source.digest, len, "an earlier fill left the whole blob");
    fill.update(|state| {
        state.total = Some(len);
        state.found = true;
        state.progress = Progress::Complete;
    });
    Done::Verified { len }
}

/// Asks the upstream for what is missing behind `front`; starts from the front when it will not be asked so. `None`:
/// nothing is missing.
async fn open(
    fills: &Downloads,
    fill: &Arc<Download>,
    slot: &mut Option<TempBlob>,
    front: &mut u64,
) -> Result<Option<Transfer>, DownloadError> {
    let source = &fill.source;
    if *front == 0 {
        return Transfer::open(source, 0, None).await.map(Some).map_err(DownloadError::Upstream);
    }
    // Where no parts are wanted, what is left is overwritten.
    let in_one_go = fill.state().in_one_go;
    let part = if in_one_go { None } else { Some(Transfer::open_part(source, *front, None).await) };
    if let Some(Ok(transfer)) = part {
        return Ok(Some(transfer));
    }
    // The hash may take longer than the upstream is made to wait for it.
    if left_is_whole(fills, fill, *front).await.is_ok_and(|whole| whole) {
        return Ok(None);
    }
    if let Some(Err(error)) = part
        && !error.may_be_of_the_range()
    {
        return Err(DownloadError::Upstream(error));
    }
    // What is left is kept until that has been answered.
    let transfer = Transfer::open(source, 0, None).await.map_err(DownloadError::Upstream)?;
    forget(fill, slot, front).await;
    Ok(Some(transfer))
}

/// Starts anew, without what an earlier fill left; nothing of it is being hashed.
async fn forget(fill: &Download, slot: &mut Option<TempBlob>, front: &mut u64) {
    discard(slot.take()).await;
    *front = 0;
    fill.update(|state| {
        state.written = Default::default();
        state.left = 0;
        state.file = None;
    });
    fill.hash.restart(fill.source.digest.algorithm());
}

/// Removes the file, which can take a while when it is large.
async fn discard(temp: Option<TempBlob>) {
    change(move || drop(temp)).await;
}

/// For what room is made next, where there is none for this purpose: once more for a client that came meanwhile. Where none
/// did, no client joins the fill any more, but starts anew.
fn once_more(fills: &Downloads, fill: &Arc<Download>, refused: Purpose) -> Option<Purpose> {
    (refused != Purpose::Client && !fills.give_up_without_clients(fill)).then_some(Purpose::Client)
}

/// Makes sure that the file has room for `len` bytes.
async fn grow(
    fills: &Downloads,
    fill: &Arc<Download>,
    temp: &mut TempBlob,
    purpose: Purpose,
    len: u64,
) -> Result<(), DownloadError> {
    let mut next = Some(purpose);
    while let Some(purpose) = next {
        if unless_cancelled(fill, async { Ok(temp.grow_to(purpose, len).await) }).await?.is_ok() {
            return Ok(());
        }
        next = once_more(fills, fill, purpose);
    }
    Err(DownloadError::NoRoom)
}

/// Room for the whole of a blob that has no file yet.
async fn reserve(
    fills: &Downloads,
    fill: &Arc<Download>,
    purpose: Purpose,
    len: u64,
) -> Result<Reservation, DownloadError> {
    let key = IndexKey::Blob(fill.source.id());
    let mut next = Some(purpose);
    while let Some(purpose) = next {
        let reserved = async { Ok(fills.store().reserve_for(purpose, &key, len).await) };
        if let Ok(reservation) = unless_cancelled(fill, reserved).await? {
            return Ok(reservation);
        }
        next = once_more(fills, fill, purpose);
    }
    Err(DownloadError::NoRoom)
}

/// Reserves what the blob takes before its first byte is written.
async fn make_room(
    fills: &Downloads,
    fill: &Arc<Download>,
    slot: &mut Option<TempBlob>,
    transfer: &mut Transfer,
    front: u64,
) -> Result<(), DownloadError> {
    let len = transfer.total().unwrap_or(front + ROOM_STEP);
    if let Some(temp) = slot {
        let grown = grow(fills, fill, temp, fill.purpose(), len).await;
        if matches!(grown, Err(DownloadError::NoRoom)) {
            discard(slot.take()).await;
        }
        return grown;
    }
    let reservation = match reserve(fills, fill, fill.purpose(), len).await {
        Ok(reservation) => reservation,
        Err(error) => {
            hand_over(fill, transfer);
            return Err(error);
        }
    };
    let id = fill.source.id();
    let created = match fill.beside {
        true => fills.store().create_beside(&id, reservation).await,
        false => fills.store().create(&id, fill.source.upstream.registry(), reservation).await,
    };
    match created {
        Ok(temp) => {
            *slot = Some(temp);
            Ok(())
        }
        Err(error) => {
            hand_over(fill, transfer);
            Err(DownloadError::Storage(error.into()))
        }
    }
}

/// Leaves the transfer to the first reader that goes through, if there may be one.
fn hand_over(fill: &Download, transfer: &mut Transfer) {
    if !fill.cancel.is_cancelled() {
        let finished = Transfer::finished(&fill.source, 0);
        fill.state().handed_over = Some(std::mem::replace(transfer, finished).untold());
    }
}

/// Writes what the transfer gives until it ends, but for what others fetch.
async fn pour(
    fills: &Downloads,
    fill: &Arc<Download>,
    temp: &mut TempBlob,
    transfer: &mut Transfer,
) -> Result<(), DownloadError> {
    let mut pour = WritePipeline::new(fill, temp.file(), true);
    let poured = pour_on(fills, fill, temp, transfer, &mut pour).await;
    // Whatever happened: nobody writes any more when this returns.
    let finished = pour.finish().await;
    temp.note_written(fill.update(|state| std::mem::take(&mut state.landed)));
    poured.and(finished)
}

async fn pour_on(
    fills: &Downloads,
    fill: &Arc<Download>,
    temp: &mut TempBlob,
    transfer: &mut Transfer,
    pour: &mut WritePipeline,
) -> Result<(), DownloadError> {
    let mut no_jump = 0;
    let mut alone = false;
    loop {
        let Some(bytes) = unless_cancelled(fill, pour.receive(transfer)).await? else { return Ok(()) };
        if transfer.is_from_front() && !alone {
            // Also those lanes that wait for a place where they are needed.
            fill.update(DownloadState::without_lanes);
            // What they leave undone is read on the way, wherever it is: else all would have to come once more.
            let ended = async {
                fill.when(|state| (state.lanes + state.lanes_opening == 0).then_some(())).await;
                Ok(())
            };
            unless_cancelled(fill, ended).await?;
            let gap = {
                let state = fill.state();
                state.total.and_then(|total| state.first_gap(total))
            };
            transfer.rewind(gap.map_or(u64::MAX, |gap| gap.start));
            alone = true;
        }
        let (offset, mut bytes) = (transfer.position() - bytes.len() as u64, bytes);
        let landed = loop {
            match admit(fill, offset, bytes, pour) {
                Ok(landed) => break landed,
                Err(BehindHole(back)) => {
                    bytes = back;
                    fill.allow_gaps().await.map_err(|error| DownloadError::Storage(error.into()))?;
                }
            }
        };
        temp.note_written(landed);
        // Also when the size was told only by the answer to a resumed request: nothing is written without room.
        let room = transfer.total().unwrap_or(transfer.position() + ROOM_STEP);
        grow(fills, fill, temp, fill.purpose(), room).await?;
        if !transfer.is_from_front() && is_gap_behind(fill, pour.first_unwritten().unwrap_or(transfer.position())) {
            return Ok(());
        }
        if fill.state().is_beyond_main(transfer.position()) {
            return Ok(());
        }
        jump(fill, transfer, pour, &mut no_jump).await?;
    }
}

/// These bytes may come to stand behind some that are not there, and the file's name does not say so yet.
struct BehindHole(Bytes);

/// Moves the front, and passes on which of these bytes the main transfer is to write; how many bytes have landed in
/// the file since it was asked last.
fn admit(fill: &Download, mut offset: u64, mut bytes: Bytes, pour: &mut WritePipeline) -> Result<u64, BehindHole> {
    let mut state = fill.state();
    // Who claimed bytes may still be on the way to say so; a kill in between would leave zeros that look like content.
    if !state.gaps_allowed && !state.foreign.is_empty() {
        return Err(BehindHole(bytes));
    }
    while !bytes.is_empty() && !state.is_beyond_main(offset) {
        // What is in the file stays as it is: it may be hashed already.
        let taken = state.foreign.end_of_run(offset).max(state.written.end_of_run(offset)) - offset;
        if taken > 0 {
            let skipped = usize::try_from(taken).unwrap_or(usize::MAX).min(bytes.len());
            offset += skipped as u64;
            drop(bytes.split_to(skipped));
            continue;
        }
        let next = [state.foreign.next_start(offset), state.written.next_start(offset)];
        let next = next.into_iter().flatten().min().unwrap_or(u64::MAX).min(state.end_of_main());
        let free = next - offset;
        let piece = bytes.split_to(usize::try_from(free).unwrap_or(usize::MAX).min(bytes.len()));
        let len = piece.len() as u64;
        pour.push(offset, piece);
        offset += len;
    }
    state.front = state.front.max(offset);
    Ok(std::mem::take(&mut state.landed))
}

/// Whether a range transfer gave up on bytes that were passed over, in front of `position`: somebody waits for them.
fn is_gap_behind(fill: &Download, position: u64) -> bool {
    let state = fill.state();
    // What one lane gives up another takes.
    if state.segment.is_some() && state.lanes > 0 {
        return false;
    }
    let gap = state.total.and_then(|total| state.first_gap(total));
    gap.is_some_and(|gap| gap.start < position)
}

/// Goes over a long stretch that somebody else fetches, by a new request behind it; where that fails (`no_jump`) it is
/// not tried again.
async fn jump(
    fill: &Download,
    transfer: &mut Transfer,
    pour: &mut WritePipeline,
    no_jump: &mut u64,
) -> Result<(), DownloadError> {
    let position = transfer.position();
    let (end, total, segments) = {
        let state = fill.state();
        (state.foreign.end_of_run(position), state.total, state.segment.is_some())
    };
    let Some(total) = total else { return Ok(()) };
    // Nothing is left to ask for, and what still comes is there already.
    if end > position && end >= total {
        *transfer = Transfer::finished(&fill.source, total);
        return Ok(());
    }
    // Where the whole comes since parts are not to be had, there is none behind it either.
    if segments || transfer.is_from_front() || end - position < WORTH_A_JUMP || end == *no_jump {
        return Ok(());
    }
    *no_jump = end;
    // So that a reader that waits there does not ask for the same bytes once more.
    fill.state().jump = Some(end);
    // The answer may take a while; what is here is not to wait for it.
    pour.finish().await?;
    let opened = unless_cancelled(fill, async { Ok(Transfer::open_part(&fill.source, end, None).await) }).await?;
    // Where that does not work, the transfer at hand is read on.
    let behind = opened.ok().filter(|behind| behind.skipping() == 0 && fill.agrees(behind));
    fill.update(|state| {
        state.jump = None;
        if behind.is_some() {
            state.front = state.front.max(end);
        }
    });
    if let Some(behind) = behind {
        *transfer = behind.telling(&fill.flow, &fill.skipped);
    }
    Ok(())
}

/// Waits for the range transfers, and names what one of them left undone; `None` when everything is there.
async fn next_gap(fill: &Download, total: u64) -> Option<Range<u64>> {
    loop {
        let whole = fill
            .when(|state| {
                let whole = state.written.end_of_run(0) >= total;
                (whole || state.first_gap(total).is_some()).then_some(whole)
            })
            .await;
        if whole {
            return None;
        }
        // A lane may have been quicker to take it.
        if let Some(gap) = fill.state().take_for_main(total) {
            return Some(gap);
        }
    }
}

/// `left` bytes came from an earlier fill, and were never synced.
async fn verify(fill: &Arc<Download>, total: u64, left: u64) -> Result<Done, DownloadError> {
    let digest = fill.hash.digest(fill, total).await.map_err(|error| DownloadError::Storage(error.into()))?;
    if digest != fill.source.digest {
        if left > 0 {
            return Err(DownloadError::Damaged);
        }
        fill.metrics.digest_mismatch(fill.source.upstream.name());
        return Err(DownloadError::Mismatch);
    }
    fill.update(|state| state.progress = Progress::Complete);
    Ok(Done::Verified { len: total })
}

/// Whether the first `len` bytes are here, and the whole blob.
async fn is_right(fill: &Arc<Download>, len: u64) -> Result<bool, DownloadError> {
    if fill.state().written.end_of_run(0) < len {
        return Ok(false);
    }
    is_whole(fill, len).await.map_err(|error| DownloadError::Storage(error.into()))
}

/// Makes a blob of the verified file. Its readers have it already; a disk that fails now costs only the caching.
async fn commit(fills: &Downloads, fill: &Download, temp: Option<TempBlob>, len: u64) -> DownloadResult {
    let Some(temp) = temp else { return DownloadResult::StorageFailed };
    let purpose = fill.purpose();
    match change(move || temp.commit(purpose, len)).await {
        Ok(pin) => {
            fill.update(|state| state._pin = Some(pin));
            // A client may have come meanwhile.
            if purpose == Purpose::Ahead && fill.is_wanted() {
                fills.store().used(IndexKey::Blob(fill.source.id()));
            }
            DownloadResult::Complete
        }
        Err(error) => {
            tracing::error!(%error, digest = %fill.source.digest, "a verified blob cannot be put into the cache");
            DownloadResult::StorageFailed
        }
    }
}

async fn unless_cancelled<T>(
    fill: &Download,
    work: impl Future<Output = Result<T, DownloadError>>,
) -> Result<T, DownloadError> {
    tokio::select! {
        biased;
        () = fill.cancel.cancelled() => Err(DownloadError::Abandoned),
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

fn report(fill: &Download, error: &DownloadError) {
    let (upstream, repository, digest) = (fill.source.upstream.name(), &fill.source.repository, &fill.source.digest);
    let reason = ErrorChain(error);
    match error {
        DownloadError::Mismatch | DownloadError::Storage(_) => {
            tracing::error!(%upstream, %repository, %digest, %reason, "a fill failed");
        }
        DownloadError::Upstream(_) | DownloadError::Damaged => {
            tracing::warn!(%upstream, %repository, %digest, %reason, "a fill failed");
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

    fn fills(directory: &std::path::Path) -> (Downloads, Source) {
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

    /// A fill on the list that no task works for.
    fn fill(fills: &Downloads, source: &Source, wanted: bool) -> Arc<Download> {
        let cancel = fills.shutdown().child_token();
        let fill = Arc::new(Download::new(source.clone(), false, wanted, fills.metrics().clone(), cancel));
        drop(fills.enter_new(fill.clone()));
        fill
    }

    /// What a client used a moment ago fills the cache.
    async fn used(fills: &Downloads, len: u64) {
        let (store, id) = (fills.store(), Visibility::Shared.key(&Digest::of(Algorithm::Sha256, b"used")));
        store.scan().await;
        let reservation = store.reserve(&IndexKey::Blob(id.clone()), len).await.unwrap();
        let temp = store.create_beside(&id, reservation).await.unwrap();
        drop(change(move || temp.commit(Purpose::Client, len)).await.unwrap());
    }

    #[tokio::test]
    async fn a_client_that_comes_while_room_is_made_has_its_own() {
        // Whether a client began the fill, and whether one comes after it was looked for whom room is to be made.
        for (wanted, comes, result) in [(false, false, false), (false, true, true), (true, false, true)] {
            for has_file in [false, true] {
                let directory = tempfile::tempdir().unwrap();
                let (fills, source) = fills(directory.path());
                used(&fills, MAX_SIZE * 3 / 4).await;
                let fill = fill(&fills, &source, wanted);
                let purpose = fill.purpose();
                let client = if comes { Some(fills.join(&source).await) } else { None };
                let made = if has_file {
                    let reservation = fills.store().reserve(&IndexKey::Blob(source.id()), 1).await.unwrap();
                    let mut temp = fills.store().create_beside(&source.id(), reservation).await.unwrap();
                    grow(&fills, &fill, &mut temp, purpose, MAX_SIZE / 2).await
                } else {
                    reserve(&fills, &fill, purpose, MAX_SIZE / 2).await.map(drop)
                };
                assert_eq!(made.is_ok(), result, "{wanted} {comes} {has_file} {made:?}");
                // One that comes too late starts anew, and for itself.
                assert_eq!((fill.can_be_joined(), fills.has(&source)), (result, result));
                drop(client);
            }
        }
    }
}
