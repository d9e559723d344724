//! Room on disk, reserved before bytes arrive.

use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::time::timeout;

use super::{DiskStore, IndexKey, Pin, blocking, io_limits::evict};
use crate::cache::{
    slow_readers::Holding,
    storage::lru_index::{BLOCK, CompactKey, NoRoom, Shortage, allocated},
};

/// How long a write that has no room waits for the start-up scan, before which nothing is evicted.
const SCAN_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a reservation waits while another one ends downloads and readers; then it fails.
const ENDING_TIMEOUT: Duration = Duration::from_secs(2);
/// How often one reservation tries while others take the room that was freed meanwhile.
const MAX_TRIES: u32 = 16;
/// How often one reservation ends readers: another reservation may take the room that this frees.
const MAX_ENDINGS: u32 = 2;

/// forebay cannot make room: the object is too large for the cache, clients read everything that could be evicted, or
/// the disk fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the cache has no room for this")]
pub struct NoSpace;

/// The purpose of a reservation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// A client requested the object or needs it for a response: the least recently used objects are evicted, then slow
    /// readers are ended.
    Client,
    /// A client once requested the object but no client waits for it, or it is the copy of a push: the same, but no
    /// reader is ended.
    Unawaited,
    /// The object is prefetched: only objects that were idle for a while are evicted for it, and it is itself evicted
    /// first.
    Ahead,
}

/// How much room is missing after every possible eviction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Short {
    /// In bytes.
    pub missing: u64,
    /// How many of these bytes readers keep in the cache: all readers, or only slow ones where downloads may be ended.
    pub kept: u64,
}

impl Short {
    /// There will be no room, whichever downloads and readers end.
    const HOPELESS: Self = Self { missing: u64::MAX, kept: 0 };
}

/// Ends downloads that no client waits for, to free their room; returns whether there were any.
pub(super) type GiveUp = Box<dyn Fn(Short) -> BoxFuture<'static, bool> + Send + Sync>;

/// What to reserve, in bytes.
#[derive(Clone, Copy)]
struct Wanted {
    len: u64,
    /// For directories that have to be created.
    directories: u64,
}

impl Wanted {
    fn bytes(self) -> u64 {
        self.len.saturating_add(self.directories)
    }
}

/// What came of a reservation that may evict.
enum Tried {
    Reserved(Reservation),
    /// There is room by now.
    Free,
    /// There will be room once others' victims are unlinked.
    Unlinking,
}

/// A number of bytes on disk that no other write will use; released on drop.
pub struct Reservation {
    store: DiskStore,
    bytes: u64,
    /// The part of `bytes` that is on disk.
    written: u64,
    /// The part of `bytes` for directories that have to be created.
    directories: u64,
}

impl DiskStore {
    /// Makes room for an object of `len` bytes and the directories it needs; evicts the least recently used objects.
    pub async fn reserve(&self, key: &IndexKey, len: u64) -> Result<Reservation, NoSpace> {
        self.reserve_for(Purpose::Client, key, len).await
    }

    /// Sets the function that is called before any reader is ended, when room for clients is short.
    pub fn on_shortage(&self, give_up: impl Fn(Short) -> BoxFuture<'static, bool> + Send + Sync + 'static) {
        // It is set once per process.
        let _ = self.0.give_up.set(Box::new(give_up));
    }

    /// The same for this purpose.
    pub async fn reserve_for(&self, purpose: Purpose, key: &IndexKey, len: u64) -> Result<Reservation, NoSpace> {
        let path = self.path(key);
        let store = self.clone();
        let directories = move || store.missing_parents(&path).len() as u64 * BLOCK;
        self.reserve_bytes(purpose, allocated(len), directories).await
    }

    /// The same for a client's object without a name.
    #[cfg(test)]
    async fn reserve_unnamed(&self, len: u64, directories: u64) -> Result<Reservation, NoSpace> {
        self.reserve_bytes(Purpose::Client, allocated(len), move || directories).await
    }

    /// The same for `len` bytes on disk and those of the directories it needs.
    pub(super) async fn reserve_bytes(
        &self,
        purpose: Purpose,
        len: u64,
        directories: impl FnOnce() -> u64 + Send + 'static,
    ) -> Result<Reservation, NoSpace> {
        // A prefetch must not take the room for which another reservation ends downloads and readers: a client waits
        // for that room. It also waits until forebay knows how much of its budget is used.
        if purpose == Purpose::Ahead && (!self.scanned().await || self.0.ending.available_permits() == 0) {
            return Err(NoSpace);
        }
        let (reserved, wanted) = self.reserve_free(len, directories).await;
        if let Ok(reservation) = reserved {
            return Ok(reservation);
        }
        // Which object was used the longest time ago is not known before the start-up scan is complete.
        if !self.scanned().await {
            return Err(NoSpace);
        }
        let again = async || self.reserve_evicting(purpose, wanted).await;
        match again().await {
            Ok(reservation) => return Ok(reservation),
            Err(Short::HOPELESS) => return Err(NoSpace),
            Err(_) => {}
        }
        // Other reservations that fit succeed meanwhile.
        let turn = timeout(ENDING_TIMEOUT, self.0.ending.acquire()).await;
        let mut reserved = again().await;
        let Ok(Ok(_turn)) = turn else { return reserved.map_err(|_| NoSpace) };
        if let Err(short) = reserved
            && self.give_up_downloads(short).await
        {
            reserved = again().await;
        }
        for _ in 0..MAX_ENDINGS {
            match reserved {
                Err(Short { missing, kept }) if missing == kept && self.end_slow_readers(missing).await => {
                    reserved = again().await;
                }
                _ => break,
            }
        }
        reserved.map_err(|_| NoSpace)
    }

    /// Tries without eviction; also returns what to try next.
    async fn reserve_free(
        &self,
        len: u64,
        directories: impl FnOnce() -> u64 + Send + 'static,
    ) -> (Result<Reservation, Short>, Wanted) {
        let store = self.clone();
        // The reservation is made inside, so that it is released even when the caller was dropped.
        blocking(move || {
            let wanted = Wanted { len, directories: directories() };
            let reserved = store
                .spare_now()
                .and_then(|spare| store.0.index.reserve_free(wanted.bytes(), spare).map_err(|NoRoom| Short::HOPELESS));
            (reserved.map(|()| Reservation::new(&store, wanted)), wanted)
        })
        .await
    }

    /// Tries with eviction. Waits for others' victims only if there will be room once they are unlinked.
    async fn reserve_evicting(&self, purpose: Purpose, wanted: Wanted) -> Result<Reservation, Short> {
        let mut unlinks = self.0.unlinks.subscribe();
        for _ in 0..MAX_TRIES {
            let store = self.clone();
            match evict(move || store.evict_for(purpose, wanted)).await? {
                Tried::Reserved(reservation) => return Ok(reservation),
                Tried::Free => {}
                // The store holds the sender.
                Tried::Unlinking => drop(unlinks.changed().await),
            }
        }
        Err(Short::HOPELESS)
    }

    /// Ends downloads without clients; returns whether there were any.
    async fn give_up_downloads(&self, short: Short) -> bool {
        let Some(give_up) = self.0.give_up.get() else { return false };
        let of_slow = self.readers().most_room(|holding| self.frees(holding));
        give_up(Short { kept: short.kept.min(of_slow), ..short }).await
    }

    /// Ends slow readers and waits for them; returns whether there were any.
    async fn end_slow_readers(&self, missing: u64) -> bool {
        let ended = self.readers().make_room(missing, |holding| self.frees(holding));
        let any = ended.is_some();
        if let Some(ended) = ended {
            ended.gone().await;
        }
        any
    }

    fn frees(&self, holding: &Holding) -> Option<u64> {
        match holding {
            Holding::Blob(id) => self.0.index.pinned_bytes(&IndexKey::Blob(id.clone())),
            Holding::Bytes(..) | Holding::Through(..) => None,
        }
    }

    /// Waits a little for the start-up scan; returns whether it is complete.
    pub(super) async fn scanned(&self) -> bool {
        let mut scanned = self.0.scanned.subscribe();
        let waited = tokio::time::timeout(SCAN_TIMEOUT, scanned.wait_for(|scanned| *scanned)).await;
        waited.is_ok_and(|scanned| scanned.is_ok())
    }

    fn spare_now(&self) -> Result<u64, Short> {
        self.spare().map_err(|error| {
            self.disk_failed("cannot ask the file system of the cache for its free space", &self.0.root, &error);
            Short::HOPELESS
        })
    }

    /// Tries with eviction, and unlinks what was evicted; other reservations do not wait for that. Blocks.
    fn evict_for(&self, purpose: Purpose, wanted: Wanted) -> Result<Tried, Short> {
        let (bytes, spare) = (wanted.bytes(), self.spare_now()?);
        self.settle_uses();
        let index = &self.0.index;
        let (reserved, evicted) = match purpose {
            Purpose::Client | Purpose::Unawaited => index.reserve(bytes, spare),
            Purpose::Ahead => index.reserve_ahead(bytes, spare),
        };
        let reserved = reserved.map(|()| Reservation::new(self, wanted));
        if !evicted.is_empty() {
            self.unlink_evicted(evicted);
        }
        if let Ok(reservation) = reserved {
            return Ok(Tried::Reserved(reservation));
        }
        let (Shortage { missing, unlinking }, kept) = (index.shortage(bytes, spare), index.kept_by_readers());
        match purpose {
            Purpose::Ahead => Err(Short::HOPELESS),
            // Readers ended just now.
            _ if missing == 0 => Ok(Tried::Free),
            _ if missing <= unlinking => Ok(Tried::Unlinking),
            Purpose::Client if missing <= kept.saturating_add(index.reserved()) => {
                Err(Short { missing, kept: kept.min(missing) })
            }
            Purpose::Client | Purpose::Unawaited => Err(Short::HOPELESS),
        }
    }
}

impl Reservation {
    fn new(store: &DiskStore, wanted: Wanted) -> Self {
        Self { store: store.clone(), bytes: wanted.bytes(), written: 0, directories: wanted.directories }
    }

    /// How many bytes an object of `len` bytes needs in addition, and the store that has to reserve them.
    pub(super) fn missing(&self, len: u64) -> Option<(DiskStore, u64)> {
        let wanted = allocated(len).saturating_add(self.directories);
        (wanted > self.bytes).then(|| (self.store.clone(), wanted - self.bytes))
    }

    /// `bytes` more of the reservation are on disk.
    pub fn note_written(&mut self, bytes: u64) {
        let more = bytes.min(self.bytes - self.written);
        self.written += more;
        self.store.0.index.note_written(more);
    }

    pub(super) fn absorb(&mut self, mut other: Reservation) {
        self.bytes += std::mem::take(&mut other.bytes);
    }

    /// Takes over the room of an object in the index, if it is there; the object will become `future`.
    pub(super) fn adopt(store: &DiskStore, key: &IndexKey, future: &IndexKey) -> Option<(Self, u64)> {
        let directories = store.missing_parents(&store.path(future)).len() as u64 * BLOCK;
        let len = store.0.index.adopt(key)?.len;
        let bytes = allocated(len);
        Some((Self { store: store.clone(), bytes, written: bytes, directories }, len))
    }

    /// Turns the reservation into an object of `len` bytes that is on disk now.
    pub(super) fn fulfil(self, purpose: Purpose, key: IndexKey, len: u64) {
        drop(self.fulfil_pinned(purpose, key, len));
    }

    /// The same for an object that has readers: it cannot be evicted before it is pinned. Blocks.
    pub(super) fn fulfil_pinned(mut self, purpose: Purpose, key: IndexKey, len: u64) -> Pin {
        let key = CompactKey::from(&key);
        let reserved = (std::mem::take(&mut self.bytes), std::mem::take(&mut self.written));
        let serial = self.store.0.index.fulfil(&key, len, purpose != Purpose::Ahead, reserved);
        self.store.shrink();
        Pin { store: self.store.clone(), key, serial }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.store.0.index.release(self.bytes, self.written);
        }
    }
}

#[cfg(test)]
mod tests;
