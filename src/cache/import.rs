//! Imports: the images of an archive come into the cache without an upstream.
//!
//! What must hold: whatever an archive says, no byte of it is visible before it is verified, and no tag means an image of
//! which a part is missing. Memory, entries and bytes on disk are bounded. What came of an archive that is refused is named
//! by no tag: blobs of it that are on disk by then are evicted in time like others. What has a name is pinned before that.
//! No removal runs meanwhile: it would take what was here when the archive brought it. Names are given also if the client
//! leaves while they are.

mod content;
mod error;
mod images;
mod receive;

use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

pub(crate) use self::{
    error::ImportError,
    images::{ImportTarget, Imported},
    receive::Import,
};
use super::{BlobCache, DiskStore, ManifestCache, Pins};
use crate::offload::Offload;

/// Takes archives. A cheap handle.
#[derive(Clone)]
pub(crate) struct Imports(Arc<ImportsInner>);

struct ImportsInner {
    store: DiskStore,
    pins: Pins,
    manifests: ManifestCache,
    blobs: BlobCache,
    documents: Offload,
    tasks: TaskTracker,
    /// One import at a time.
    place: Arc<Semaphore>,
    /// One import or removal at a time.
    turn: Arc<Semaphore>,
}

impl Imports {
    /// `turn`: [`Removal::turn`](super::Removal::turn).
    pub(crate) fn new(
        (store, pins): (DiskStore, Pins),
        (manifests, blobs): (ManifestCache, BlobCache),
        (tasks, turn): (TaskTracker, Arc<Semaphore>),
    ) -> Self {
        let (documents, place) = (Offload::default(), Arc::new(Semaphore::new(1)));
        Self(Arc::new(ImportsInner { store, pins, manifests, blobs, documents, tasks, place, turn }))
    }

    /// Begins an import. `len`: the bytes of the archive, if that is known.
    ///
    /// # Errors
    /// Another import or a removal runs, the archive is too large for the cache, or there is no place for pins.
    pub(crate) fn begin(&self, len: Option<u64>) -> Result<Import, ImportError> {
        let place = self.0.place.clone().try_acquire_owned().map_err(|_| ImportError::Busy)?;
        let turn = self.0.turn.clone().try_acquire_owned().map_err(|_| ImportError::Removal)?;
        self.0.pins.check_place()?;
        self.0.check_room(len.unwrap_or_default())?;
        Ok(Import::new(self.0.clone(), [place, turn]))
    }
}

impl ImportsInner {
    /// Checks that so many bytes would fit if all that can be evicted is: what has no room in any case is refused early.
    fn check_room(&self, bytes: u64) -> Result<(), ImportError> {
        let status = self.store.status();
        let free = status.free_bytes.map(|free| free.saturating_sub(status.min_free));
        let evictable = status.usage.total();
        let most = status.max_bytes.min(free.map_or(u64::MAX, |free| free.saturating_add(evictable)));
        if bytes > most { Err(ImportError::TooLarge { bytes, most }) } else { Ok(()) }
    }
}
