//! Copies what the main transfer receives into the file, except the ranges that other transfers fetch.

use std::sync::Arc;

use bytes::Bytes;

use super::{
    Download, DownloadError, DownloadState, Downloads,
    file_space::{ROOM_STEP, grow},
    transfer::Transfer,
    writer::WritePipeline,
};
use crate::cache::storage::TempBlob;

/// The main transfer skips a claimed range with a new request if the range is longer than this, in bytes; reading past
/// a shorter one is quicker.
const MIN_SKIP: u64 = 4 * 1024 * 1024;

/// Writes the bytes of the transfer until it ends, except those that other transfers fetch.
pub(super) async fn copy_all(
    downloads: &Downloads,
    download: &Arc<Download>,
    temp: &mut TempBlob,
    transfer: &mut Transfer,
) -> Result<(), DownloadError> {
    let mut pipeline = WritePipeline::new(download, temp.file(), true);
    let copied = copy(downloads, download, temp, transfer, &mut pipeline).await;
    // No write is running when this function returns, whatever happened.
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
        let Some(bytes) = download.unless_cancelled(pipeline.receive(transfer)).await? else { return Ok(()) };
        if transfer.is_from_front() && !alone {
            // This also ends extra connections that wait for a segment.
            download.update(DownloadState::without_connections);
            // The main transfer reads what the extra connections leave undone, wherever it lies; otherwise it would
            // have to read the whole blob once more.
            let ended = async {
                download.when(|state| (state.extra_connections + state.connections_opening == 0).then_some(())).await;
                Ok(())
            };
            download.unless_cancelled(ended).await?;
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
        // This also covers a size that only the response to a resumed request announced: nothing is written without
        // reserved space.
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

/// Bytes that may follow a gap in the file, while the name of the file does not announce gaps yet.
struct BehindHole(Bytes);

/// Advances the main position and queues the bytes that the main transfer has to write. Returns how many bytes were
/// written to the file since the last call.
fn admit(
    download: &Download,
    mut offset: u64,
    mut bytes: Bytes,
    pipeline: &mut WritePipeline,
) -> Result<u64, BehindHole> {
    let mut state = download.state();
    // The transfer that claimed bytes may not have renamed the file yet; a kill before the rename would leave zeros
    // that look like content.
    if !state.gaps_allowed && !state.claimed.is_empty() {
        return Err(BehindHole(bytes));
    }
    while !bytes.is_empty() && !state.is_beyond_main_range(offset) {
        // Bytes in the file are never overwritten: they may be hashed already.
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

/// Whether a range transfer gave up bytes before `position` that the main transfer skipped: a reader waits for them.
fn is_gap_behind(download: &Download, position: u64) -> bool {
    let state = download.state();
    // Another extra connection takes the bytes that one gave up.
    if state.segment.is_some() && state.extra_connections > 0 {
        return false;
    }
    let gap = state.total.and_then(|total| state.first_gap(total));
    gap.is_some_and(|gap| gap.start < position)
}

/// Skips a long claimed range by a new request for what follows it. If that fails, the range is not tried again
/// (`failed_skip`).
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
    // Nothing is left to request: all remaining bytes of the transfer are in the file already.
    if end > position && end >= total {
        *transfer = Transfer::finished(&download.source, total);
        return Ok(());
    }
    // If the upstream sends the whole blob because it serves no ranges, a request for a later range does not help
    // either.
    if segments || transfer.is_from_front() || end - position < MIN_SKIP || end == *failed_skip {
        return Ok(());
    }
    *failed_skip = end;
    // A reader that waits at this position does not request the same bytes again.
    download.state().skipping_to = Some(end);
    // The response may take a while; the bytes received so far are written first.
    pipeline.finish().await?;
    let opened =
        download.unless_cancelled(async { Ok(Transfer::open_part(&download.source, end, None).await) }).await?;
    // If the new request fails, the current transfer continues.
    let behind = opened.ok().filter(|behind| behind.skipping() == 0 && download.agrees(behind));
    download.update(|state| {
        state.skipping_to = None;
        if behind.is_some() {
            state.main_position = state.main_position.max(end);
        }
    });
    if let Some(behind) = behind {
        *transfer = behind.reporting_to(&download.flow, &download.skipped);
    }
    Ok(())
}
