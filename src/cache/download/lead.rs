//! The lead worker: it writes what its transfer receives, reads on through free chunks, and leaves out the others.

use std::sync::Arc;

use bytes::Bytes;

use super::{
    Download, DownloadError, DownloadState, Downloads,
    chunks::{Admit, LEAD},
    file_space::{ROOM_STEP, grow},
    transfer::Transfer,
    writer::WritePipeline,
};

/// How many bytes a stream brings before it is left for a reader that waits elsewhere: a request costs more than a few.
const MIN_TURN: u64 = 4 * 1024 * 1024;

/// How far a transfer was copied.
pub(super) enum Copied {
    /// The upstream sent all that was requested.
    ToTheEnd,
    /// Its stream cannot help any more, or another reader needs the worker.
    InPart,
}

/// Writes the bytes of the transfer until it ends, or until it cannot help any more.
pub(super) async fn copy_all(
    downloads: &Downloads,
    download: &Arc<Download>,
    transfer: &mut Transfer,
) -> Result<Copied, DownloadError> {
    let content = download.content()?;
    let mut pipeline = WritePipeline::new(download, content, LEAD);
    let copied = copy(downloads, download, transfer, &mut pipeline).await;
    // No write is running when this function returns, whatever happened.
    let finished = pipeline.finish().await;
    download.update(|state| state.chunks.release(LEAD));
    copied.and_then(|copied| finished.map(|()| copied))
}

async fn copy(
    downloads: &Downloads,
    download: &Arc<Download>,
    transfer: &mut Transfer,
    pipeline: &mut WritePipeline,
) -> Result<Copied, DownloadError> {
    let begun = transfer.position();
    let most = download.source.upstream.connections();
    let mut alone = false;
    loop {
        let Some(bytes) = download.unless_cancelled(pipeline.receive(transfer)).await? else {
            return Ok(Copied::ToTheEnd);
        };
        if transfer.is_from_front() && !alone {
            read_through(download, transfer, pipeline).await?;
            alone = true;
        }
        let reads_through = alone || download.state().workers.ranges_ignored;
        let offset = transfer.position() - bytes.len() as u64;
        let admitted = async { Ok(admit(download, offset, bytes, pipeline, reads_through).await) };
        let goes_on = download.unless_cancelled(admitted).await?;
        download.state().chunks.set_stream(Some(transfer.position()..transfer.end_of_request()));
        // This also covers a size that only the response to a resumed request announced.
        let room = download.state().chunks.room();
        let len = transfer.total().map_or(transfer.position() + ROOM_STEP, |_| room);
        grow(downloads, download, download.purpose(), len).await?;
        // A request that ends soon is read to its end.
        let may_leave = !reads_through
            && transfer.end_of_request().saturating_sub(transfer.position()) > MIN_TURN
            && transfer.position().saturating_sub(begun) >= MIN_TURN;
        if !goes_on || (may_leave && download.state().lead_is_wanted(most)) {
            return Ok(Copied::InPart);
        }
    }
}

/// The upstream sends the whole blob in place of a part. The lead worker reads what the others leave undone, wherever
/// it lies; otherwise it would have to read the whole blob once more.
async fn read_through(
    download: &Arc<Download>,
    transfer: &mut Transfer,
    pipeline: &mut WritePipeline,
) -> Result<(), DownloadError> {
    pipeline.finish().await?;
    let front = download.update(|state| {
        state.workers.lead_alone();
        state.chunks.release(LEAD);
        state.chunks.want_all();
        state.chunks.front()
    });
    transfer.rewind(front);
    Ok(())
}

/// Queues the bytes at `offset` that the lead worker has to write. Returns whether its stream can bring more.
async fn admit(
    download: &Download,
    mut offset: u64,
    mut bytes: Bytes,
    pipeline: &mut WritePipeline,
    reads_through: bool,
) -> bool {
    while !bytes.is_empty() {
        let len = bytes.len() as u64;
        let look = |state: &mut DownloadState| match state.chunks.admit(LEAD, offset, len, reads_through) {
            Some(Admit::Wait) => None,
            admitted => Some(admitted),
        };
        let admitted = download.when_mut(look).await;
        let (Some(Admit::Write(len)) | Some(Admit::Skip(len))) = admitted else { return false };
        let piece = bytes.split_to(usize::try_from(len).unwrap_or(usize::MAX).min(bytes.len()));
        if matches!(admitted, Some(Admit::Write(_))) {
            pipeline.push(offset, piece);
        }
        offset += len;
    }
    true
}
