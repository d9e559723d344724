//! Going on with what an earlier download of the blob left.

use std::{io, sync::Arc, time::Duration};

use super::{Download, DownloadError, Downloads, table::Leftover, transfer::Transfer};
use crate::cache::storage::{TempBlob, blocking, change};

/// How long the hash of what an earlier download left may take before the upstream is asked for the rest beside it.
const HASH_TIMEOUT: Duration = Duration::from_secs(5);
/// Takes what an earlier download left, if there is something; whether that is the whole blob.
pub(super) async fn resume(
    downloads: &Downloads,
    download: &Arc<Download>,
    slot: &mut Option<TempBlob>,
    prefix: &mut u64,
) -> Result<bool, DownloadError> {
    let source = &download.source;
    // One of the downloads of a blob resumes it.
    if download.beside {
        return Ok(false);
    }
    let left = downloads.store().resume(&source.id(), source.upstream.registry()).await;
    let Some((temp, len)) = left else { return Ok(false) };
    *prefix = len;
    download.update(|state| {
        // It is kept again, should the upstream not respond.
        state.written.insert(0..len);
        state.leftover = len;
        state.file = Some(temp.file().clone());
    });
    *slot = Some(temp);
    // A kill may have come between the last byte and the rename.
    let hashing = tokio::time::timeout(HASH_TIMEOUT, left_is_whole(downloads, download, len));
    match download.unless_cancelled(async { Ok(hashing.await) }).await? {
        Ok(Ok(true)) => return Ok(true),
        // It is hashed while the upstream is asked for the rest.
        Ok(Ok(false)) | Err(_) => {}
        Ok(Err(error)) => {
            tracing::warn!(%error, digest = %source.digest, "cannot read what an earlier download left");
            forget(download, slot, prefix).await;
        }
    }
    Ok(false)
}

/// Whether the first `prefix` bytes, which an earlier download left, are all of the blob.
pub(super) async fn is_whole(download: &Arc<Download>, prefix: u64) -> io::Result<bool> {
    download.hash.digest(download, prefix).await.map(|digest| digest == download.source.digest)
}

/// The same: hashed once, and not again for each download that comes to nothing in an outage.
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

/// Asks the upstream for what is missing behind `prefix`; starts from the front when it will not be asked so. `None`:
/// nothing is missing.
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

/// Removes the file, which can take a while when it is large.
pub(super) async fn discard(temp: Option<TempBlob>) {
    change(move || drop(temp)).await;
}
