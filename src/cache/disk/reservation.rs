//! Room on disk, promised before bytes arrive.

use std::time::Duration;

use super::{DiskStore, Key, blocking};
use crate::cache::lru::allocated;

/// How long a write waits for the start-up scan; until it is through, nobody knows how much is used.
const SCAN_PATIENCE: Duration = Duration::from_secs(2);

/// No room can be made: too large for the cache, everything is being read, or the disk is failing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the cache has no room for this")]
pub struct NoSpace;

/// A number of bytes on disk that nobody else will use; given back on drop.
pub struct Reservation {
    store: DiskStore,
    bytes: u64,
}

impl DiskStore {
    /// Makes room for a file of `len` bytes, evicting what was not used for longest.
    pub async fn reserve(&self, len: u64) -> Result<Reservation, NoSpace> {
        let mut scanned = self.0.scanned.subscribe();
        let waited = tokio::time::timeout(SCAN_PATIENCE, scanned.wait_for(|scanned| *scanned)).await;
        if !waited.is_ok_and(|scanned| scanned.is_ok()) {
            return Err(NoSpace);
        }
        let bytes = allocated(len);
        let store = self.clone();
        let _turn = self.0.space.lock().await;
        // The reservation is made inside, so that it is given back even when nobody waits any more.
        blocking(move || store.reserve_blocking(bytes)).await
    }

    fn reserve_blocking(&self, bytes: u64) -> Result<Reservation, NoSpace> {
        let spare = self.spare().map_err(|error| {
            tracing::error!(%error, "cannot ask the file system of the cache for its free space");
            NoSpace
        })?;
        let victims = self.index().reserve(bytes, spare).map_err(|_| NoSpace)?;
        let reservation = Reservation { store: self.clone(), bytes };
        if !victims.is_empty() {
            for (key, len) in &victims {
                self.unlink(key);
                self.0.metrics.evicted(*len);
                tracing::debug!(?key, len, "evicted");
            }
            self.publish();
        }
        Ok(reservation)
    }
}

impl Reservation {
    /// Bytes promised.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Makes sure that a file of `len` bytes fits.
    pub async fn grow_to(&mut self, len: u64) -> Result<(), NoSpace> {
        let wanted = allocated(len);
        if wanted > self.bytes {
            let more = self.store.reserve(wanted - self.bytes).await?;
            self.absorb(more);
        }
        Ok(())
    }

    fn absorb(&mut self, mut other: Reservation) {
        self.bytes += std::mem::take(&mut other.bytes);
    }

    /// Takes over the room that an object in the index has, if it is there.
    pub(super) fn adopt(store: &DiskStore, key: &Key) -> Option<(Self, u64)> {
        let mut index = store.index();
        let len = index.forget(key)?;
        index.promise(allocated(len));
        drop(index);
        Some((Self { store: store.clone(), bytes: allocated(len) }, len))
    }

    /// Turns the promise into an object of `len` bytes that is on disk now.
    pub(super) fn fulfil(mut self, key: Key, len: u64) {
        {
            let mut index = self.store.index();
            index.release(std::mem::take(&mut self.bytes));
            index.insert(key, len);
        }
        self.store.publish();
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.store.index().release(self.bytes);
        }
    }
}
