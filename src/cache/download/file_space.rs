//! Space on disk for the file of a download.

use std::sync::Arc;

use super::{Download, DownloadError, Downloads, transfer::Transfer};
use crate::cache::storage::{Purpose, Reservation, TempBlob, lru_index::IndexKey};

/// How much space a download reserves at a time while the size is unknown, in bytes.
pub(super) const ROOM_STEP: u64 = 16 * 1024 * 1024;
/// The purpose for which to reserve space again after `refused`: that of a client, if one joined meanwhile. `None` if
/// no client joined: then the download is cancelled, and later clients start a new one.
pub(super) fn once_more(downloads: &Downloads, download: &Arc<Download>, refused: Purpose) -> Option<Purpose> {
    (refused != Purpose::Client && !downloads.give_up_without_clients(download)).then_some(Purpose::Client)
}

/// Makes sure that the file of the download has space for `len` bytes.
pub(super) async fn grow(
    downloads: &Downloads,
    download: &Arc<Download>,
    purpose: Purpose,
    len: u64,
) -> Result<(), DownloadError> {
    let Some(room) = download.content()?.room else { return Ok(()) };
    let mut next = Some(purpose);
    while let Some(purpose) = next {
        if download.unless_cancelled(async { Ok(room.grow_to(purpose, len).await) }).await?.is_ok() {
            return Ok(());
        }
        next = once_more(downloads, download, purpose);
    }
    Err(DownloadError::NoRoom)
}

/// Reserves space for the whole of a blob that has no file yet.
pub(super) async fn reserve(
    downloads: &Downloads,
    download: &Arc<Download>,
    purpose: Purpose,
    len: u64,
) -> Result<Reservation, DownloadError> {
    let key = IndexKey::Blob(download.source.id());
    let mut next = Some(purpose);
    while let Some(purpose) = next {
        let reserved = async { Ok(downloads.store().reserve_for(purpose, &key, len).await) };
        if let Ok(reservation) = download.unless_cancelled(reserved).await? {
            return Ok(reservation);
        }
        next = once_more(downloads, download, purpose);
    }
    Err(DownloadError::NoRoom)
}

/// Reserves the space that the download needs now, before its first byte is written, and creates the file.
pub(super) async fn free_space(
    downloads: &Downloads,
    download: &Arc<Download>,
    slot: &mut Option<TempBlob>,
    transfer: &mut Transfer,
) -> Result<(), DownloadError> {
    let len = {
        let chunks = &download.state().chunks;
        let next = transfer.position().saturating_add(ROOM_STEP).min(transfer.end_of_request());
        chunks.total().map_or(next, |_| chunks.room())
    };
    if slot.is_some() {
        return grow(downloads, download, download.purpose(), len).await;
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
        false => downloads.store().create(&id, &download.source.origin(), reservation).await,
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

/// Leaves the transfer to the first reader that streams without the cache, if there may be such a reader.
pub(super) fn leave_transfer(download: &Download, transfer: &mut Transfer) {
    if !download.cancel.is_cancelled() && transfer.position() == 0 {
        // What streams without the cache comes from the registry: its readers set the pace.
        download.source.upstream.leave_peers();
        let finished = Transfer::finished(&download.source, 0);
        download.state().spare_transfer = Some(std::mem::replace(transfer, finished).without_reports());
    }
}

#[cfg(test)]
mod tests {
    use tokio_util::{sync::CancellationToken, task::TaskTracker};

    use super::{
        super::{leftover::content_of, need::Need},
        *,
    };
    use crate::{
        cache::{Config, DiskStore, Source, Visibility, storage::change},
        metrics::Metrics,
        oci::{Algorithm, Digest},
        upstream::{self, Context, Upstream},
    };

    const MAX_SIZE: u64 = 1 << 20;

    fn downloads(directory: &std::path::Path) -> (Downloads, Source) {
        let cache = Config { max_size: MAX_SIZE, ..Config::at(directory) };
        let config = upstream::Config::at("registry.example", &["https://registry.example"]);
        let metrics = Metrics::new().unwrap();
        let context = Context { metrics: metrics.clone(), ..Context::of_test() };
        let store = DiskStore::open(&cache, metrics.clone()).unwrap();
        let source = Source {
            upstream: Upstream::new(&config, context).unwrap(),
            repository: "team/app".parse().unwrap(),
            digest: Digest::of(Algorithm::Sha256, b""),
        };
        (Downloads::new(&cache, store, metrics, TaskTracker::new(), CancellationToken::new()), source)
    }

    /// A download in the table for which no task works.
    fn download(downloads: &Downloads, source: &Source, wanted: bool) -> Arc<Download> {
        let cancel = downloads.shutdown().child_token();
        let download = Arc::new(Download::new(source.clone(), false, wanted, cancel));
        drop(downloads.enter_new(download.clone()));
        download
    }

    /// Adds a blob that a client has just used.
    async fn used(downloads: &Downloads, len: u64) {
        let (store, id) = (downloads.store(), Visibility::Shared.key(&Digest::of(Algorithm::Sha256, b"used")));
        store.scan().await;
        let reservation = store.reserve(&IndexKey::Blob(id.clone()), len).await.unwrap();
        let temp = store.create_beside(&id, reservation).await.unwrap();
        drop(change(move || temp.commit(Purpose::Client, len)).await.unwrap());
    }

    #[tokio::test]
    async fn a_client_that_comes_while_room_is_made_has_its_own() {
        // Whether a client started the download, and whether a client joins after the purpose of the reservation was
        // chosen.
        for (wanted, comes, result) in [(false, false, false), (false, true, true), (true, false, true)] {
            for has_file in [false, true] {
                let directory = tempfile::tempdir().unwrap();
                let (downloads, source) = downloads(directory.path());
                used(&downloads, MAX_SIZE * 3 / 4).await;
                let download = download(&downloads, &source, wanted);
                let purpose = download.purpose();
                let client = if comes { Some(downloads.join(&source, Need::Whole).await) } else { None };
                let made = if has_file {
                    let reservation = downloads.store().reserve(&IndexKey::Blob(source.id()), 1).await.unwrap();
                    let temp = downloads.store().create_beside(&source.id(), reservation).await.unwrap();
                    download.update(|state| state.file = Some(content_of(&temp, None)));
                    grow(&downloads, &download, purpose, MAX_SIZE / 2).await
                } else {
                    reserve(&downloads, &download, purpose, MAX_SIZE / 2).await.map(drop)
                };
                assert_eq!(made.is_ok(), result, "{wanted} {comes} {has_file} {made:?}");
                // A client that comes too late starts a new download for itself.
                assert_eq!((download.can_be_joined(), downloads.has(&source)), (result, result));
                drop(client);
            }
        }
    }
}
