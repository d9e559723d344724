//! Continues with the bytes that an earlier download of the blob left.

use std::{io, sync::Arc, time::Duration};

use super::{Download, DownloadError, Downloads, table::Leftover, transfer::Transfer};
use crate::cache::storage::{TempBlob, blocking, change};

/// How long hashing the bytes of an earlier download may take before forebay requests the rest from the upstream
/// concurrently.
const HASH_TIMEOUT: Duration = Duration::from_secs(5);
/// Takes the bytes of an earlier download, if there are any. Returns whether they are the whole blob.
pub(super) async fn resume(
    downloads: &Downloads,
    download: &Arc<Download>,
    slot: &mut Option<TempBlob>,
    prefix: &mut u64,
) -> Result<bool, DownloadError> {
    let source = &download.source;
    // Only one of the concurrent downloads of a blob resumes it.
    if download.beside {
        return Ok(false);
    }
    let left = downloads.store().resume(&source.id(), source.upstream.registry()).await;
    let Some((temp, len)) = left else { return Ok(false) };
    *prefix = len;
    download.update(|state| {
        // The bytes are kept again if the upstream does not respond.
        state.written.insert(0..len);
        state.leftover = len;
        state.file = Some(temp.file().clone());
    });
    *slot = Some(temp);
    // The process may have been killed between the last byte and the rename.
    let hashing = tokio::time::timeout(HASH_TIMEOUT, left_is_whole(downloads, download, len));
    match download.unless_cancelled(async { Ok(hashing.await) }).await? {
        Ok(Ok(true)) => return Ok(true),
        // Hashing continues while forebay requests the rest from the upstream.
        Ok(Ok(false)) | Err(_) => {}
        Ok(Err(error)) => {
            tracing::warn!(%error, digest = %source.digest, "cannot read what an earlier download left");
            forget(download, slot, prefix).await;
        }
    }
    Ok(false)
}

/// Whether the first `prefix` bytes, which an earlier download left, are the whole blob.
pub(super) async fn is_whole(download: &Arc<Download>, prefix: u64) -> io::Result<bool> {
    download.hash.digest(download, prefix).await.map(|digest| digest == download.source.digest)
}

/// The same, but the bytes are hashed only once, not again by each download that fails in an outage.
pub(super) async fn left_is_whole(downloads: &Downloads, download: &Arc<Download>, prefix: u64) -> io::Result<bool> {
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

/// Requests from the upstream the bytes behind `prefix`, or the whole blob if the upstream refuses that range. `None`:
/// no bytes are missing.
pub(super) async fn open(
    downloads: &Downloads,
    download: &Arc<Download>,
    slot: &mut Option<TempBlob>,
    prefix: &mut u64,
) -> Result<Option<Transfer>, DownloadError> {
    let source = &download.source;
    if *prefix == 0 {
        return Transfer::open(source, 0, None).await.map(Some).map_err(DownloadError::Upstream);
    }
    // If ranges are disabled for the upstream, the new download overwrites the bytes of the earlier one.
    let without_ranges = download.state().without_ranges;
    let part = if without_ranges { None } else { Some(Transfer::open_part(source, *prefix, None).await) };
    if let Some(Ok(transfer)) = part {
        return Ok(Some(transfer));
    }
    // Hashing may take longer than the timeout after which forebay asks the upstream.
    if left_is_whole(downloads, download, *prefix).await.is_ok_and(|whole| whole) {
        return Ok(None);
    }
    if let Some(Err(error)) = part
        && !error.may_be_due_to_range()
    {
        return Err(DownloadError::Upstream(error));
    }
    // The bytes of the earlier download are kept until the upstream has responded.
    let transfer = Transfer::open(source, 0, None).await.map_err(DownloadError::Upstream)?;
    forget(download, slot, prefix).await;
    Ok(Some(transfer))
}

/// Restarts the download without the bytes of an earlier one. No hash job may be running.
pub(super) async fn forget(download: &Download, slot: &mut Option<TempBlob>, prefix: &mut u64) {
    discard(slot.take()).await;
    *prefix = 0;
    download.update(|state| {
        state.written = Default::default();
        state.leftover = 0;
        state.file = None;
    });
    download.hash.restart(download.source.digest.algorithm());
}

/// Removes the file, which can take a while if it is large.
pub(super) async fn discard(temp: Option<TempBlob>) {
    change(move || drop(temp)).await;
}
