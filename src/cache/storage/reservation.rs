//! Room on disk, reserved before bytes arrive.

use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::time::timeout;

use super::{DiskStore, IndexKey, Pin, blocking};
use crate::cache::{
    slow_readers::Holding,
    storage::lru_index::{BLOCK, allocated},
};

/// How long a write waits for the start-up scan; before that, forebay does not know how much space is used.
const SCAN_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a reservation waits while another one ends downloads and readers; then it fails.
const ENDING_TIMEOUT: Duration = Duration::from_secs(2);
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
        // for that room.
        if !self.scanned().await || purpose == Purpose::Ahead && self.0.ending.available_permits() == 0 {
            return Err(NoSpace);
        }
        let (reserved, directories) = self.reserve_now(purpose, len, directories).await;
        match reserved {
            Ok(reservation) => return Ok(reservation),
            Err(Short::HOPELESS) => return Err(NoSpace),
            Err(_) => {}
        }
        // The lock of `space` is not held here: other reservations that fit succeed meanwhile.
        let turn = timeout(ENDING_TIMEOUT, self.0.ending.acquire()).await;
        let again = async || self.reserve_now(purpose, len, move || directories).await.0;
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

    /// Tries once; also returns the bytes of `directories`.
    async fn reserve_now(
        &self,
        purpose: Purpose,
        len: u64,
        directories: impl FnOnce() -> u64 + Send + 'static,
    ) -> (Result<Reservation, Short>, u64) {
        let store = self.clone();
        let turn = self.0.space.clone().lock_owned().await;
        // The reservation is made inside, so that it is released even when the caller was dropped; the turn ends after
        // the last victim is unlinked, even then.
        blocking(move || {
            let directories = directories();
            let reserved = store.reserve_blocking(purpose, len, directories);
            drop(turn);
            (reserved, directories)
        })
        .await
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
            Holding::Blob(id) => self.0.index.lock().pinned_bytes(&IndexKey::Blob(id.clone())),
            Holding::Bytes(..) | Holding::Through(..) => None,
        }
    }

    /// Waits a little for the start-up scan; returns whether it is complete.
    pub(super) async fn scanned(&self) -> bool {
        let mut scanned = self.0.scanned.subscribe();
        let waited = tokio::time::timeout(SCAN_TIMEOUT, scanned.wait_for(|scanned| *scanned)).await;
        waited.is_ok_and(|scanned| scanned.is_ok())
    }

    fn reserve_blocking(&self, purpose: Purpose, len: u64, directories: u64) -> Result<Reservation, Short> {
        let bytes = len.saturating_add(directories);
        let spare = self.spare().map_err(|error| {
            tracing::error!(%error, "cannot ask the file system of the cache for its free space");
            Short::HOPELESS
        })?;
        if self.0.index.lock().short(bytes, spare) > 0 {
            self.settle_uses();
        }
        let victims = {
            let mut index = self.0.index.lock();
            match purpose {
                Purpose::Client | Purpose::Unawaited => {
                    let (missing, kept) = (index.missing(bytes, spare), index.kept_by_readers());
                    let most = kept.saturating_add(index.reserved());
                    let short = Short { missing, kept: kept.min(missing) };
                    let is_hopeless = purpose == Purpose::Unawaited || missing > most;
                    index.reserve(bytes, spare).map_err(|_| if is_hopeless { Short::HOPELESS } else { short })
                }
                Purpose::Ahead => index.reserve_ahead(bytes, spare).map_err(|_| Short::HOPELESS),
            }
        }?;
        let reservation = Reservation { store: self.clone(), bytes, written: 0, directories };
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
    /// Makes sure that an object of `len` bytes fits.
    pub async fn grow_to(&mut self, purpose: Purpose, len: u64) -> Result<(), NoSpace> {
        let wanted = allocated(len).saturating_add(self.directories);
        if wanted > self.bytes {
            let more = self.store.reserve_bytes(purpose, wanted - self.bytes, || 0).await?;
            self.absorb(more);
        }
        Ok(())
    }

    /// `bytes` more of the reservation are on disk.
    pub fn note_written(&mut self, bytes: u64) {
        let more = bytes.min(self.bytes - self.written);
        self.written += more;
        self.store.0.index.lock().note_written(more);
    }

    fn absorb(&mut self, mut other: Reservation) {
        self.bytes += std::mem::take(&mut other.bytes);
    }

    /// Takes over the room of an object in the index, if it is there; the object will become `future`.
    pub(super) fn adopt(store: &DiskStore, key: &IndexKey, future: &IndexKey) -> Option<(Self, u64)> {
        let directories = store.missing_parents(&store.path(future)).len() as u64 * BLOCK;
        let mut index = store.0.index.lock();
        let len = index.forget(key)?;
        index.promise(allocated(len));
        drop(index);
        let mut reservation = Self { store: store.clone(), bytes: allocated(len), written: 0, directories };
        reservation.note_written(allocated(len));
        Some((reservation, len))
    }

    /// Turns the reservation into an object of `len` bytes that is on disk now.
    pub(super) fn fulfil(self, purpose: Purpose, key: IndexKey, len: u64) {
        drop(self.fulfil_pinned(purpose, key, len));
    }

    /// The same for an object that has readers: it cannot be evicted before it is pinned. Blocks.
    pub(super) fn fulfil_pinned(mut self, purpose: Purpose, key: IndexKey, len: u64) -> Pin {
        {
            let mut index = self.store.0.index.lock();
            index.release(std::mem::take(&mut self.bytes), std::mem::take(&mut self.written));
            index.insert(key.clone(), len);
            index.pin(&key);
            if purpose == Purpose::Ahead {
                index.insert_unused(key.clone(), len);
            }
        }
        self.store.shrink();
        self.store.publish();
        Pin { store: self.store.clone(), key }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.store.0.index.lock().release(self.bytes, self.written);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        net::IpAddr,
        sync::{Arc, Mutex},
    };

    use tokio::task::JoinHandle;

    use super::{super::tests::store, *};
    use crate::{
        cache::{Reading, Visibility},
        oci::{Algorithm, Digest},
        transport::Recipient,
    };

    /// A blob whose reader, a client, takes no bytes.
    struct Stuck {
        recipient: Recipient,
        _pin: Pin,
        _reading: Reading,
    }

    impl Stuck {
        async fn begin(store: &DiskStore, len: u64) -> Self {
            let id = Visibility::Shared.key(&Digest::of(Algorithm::Sha256, &len.to_be_bytes()));
            let room = store.reserve_unnamed(len, 0).await.unwrap();
            let pin = room.fulfil_pinned(Purpose::Client, IndexKey::Blob(id.clone()), len);
            let recipient = Recipient::default();
            recipient.meter.waits();
            let reading = store.readers().begin(IpAddr::from([10, 0, 0, 1]).into(), &recipient, Holding::Blob(id));
            Self { recipient, _pin: pin, _reading: reading }
        }
    }

    fn reserve(store: &DiskStore, len: u64) -> JoinHandle<Result<Reservation, NoSpace>> {
        let store = store.clone();
        tokio::spawn(async move { store.reserve_unnamed(len, 0).await })
    }

    #[tokio::test(start_paused = true)]
    async fn what_has_room_is_reserved_while_readers_go() {
        let directory = tempfile::tempdir().unwrap();
        let store = store(directory.path());
        store.scan().await;
        let stuck = Stuck::begin(&store, 600_000).await;
        let large = reserve(&store, 800_000);
        stuck.recipient.end.cancelled().await;
        let _small = store.reserve_unnamed(100_000, 0).await.unwrap();
        assert!(!large.is_finished(), "the reader has not gone yet");
        drop(stuck);
        assert!(large.await.unwrap().is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn what_no_client_waits_for_ends_no_reader() {
        let directory = tempfile::tempdir().unwrap();
        let store = store(directory.path());
        store.scan().await;
        let stuck = Stuck::begin(&store, 600_000).await;
        for purpose in [Purpose::Unawaited, Purpose::Ahead] {
            assert!(store.reserve_bytes(purpose, allocated(800_000), || 0).await.is_err(), "{purpose:?}");
        }
        assert!(!stuck.recipient.end.is_cancelled());
        let large = reserve(&store, 800_000);
        stuck.recipient.end.cancelled().await;
        drop(stuck);
        assert!(large.await.unwrap().is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn another_reader_goes_where_the_room_of_one_was_taken() {
        for (others, expected) in [([150_000, 0], Ok(())), ([150_000, 250_000], Err(NoSpace))] {
            let directory = tempfile::tempdir().unwrap();
            let store = store(directory.path());
            store.scan().await;
            let (first, second) = (Stuck::begin(&store, 600_000).await, Stuck::begin(&store, 200_000).await);
            let large = reserve(&store, 800_000);
            first.recipient.end.cancelled().await;
            assert!(!second.recipient.end.is_cancelled());
            let _taken = store.reserve_unnamed(others[0], 0).await.unwrap();
            drop(first);
            second.recipient.end.cancelled().await;
            let _taken_too = store.reserve_unnamed(others[1], 0).await.unwrap();
            drop(second);
            assert_eq!(large.await.unwrap().map(drop), expected, "{others:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_ended_before_makes_room_for_others() {
        let directory = tempfile::tempdir().unwrap();
        let store = store(directory.path());
        store.scan().await;
        let (first, second) = (Stuck::begin(&store, 600_000).await, Stuck::begin(&store, 200_000).await);
        let left = reserve(&store, 800_000);
        first.recipient.end.cancelled().await;
        left.abort();
        assert!(left.await.is_err_and(|error| error.is_cancelled()));
        let large = reserve(&store, 700_000);
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(!second.recipient.end.is_cancelled() && !large.is_finished());
        drop(first);
        assert!(large.await.unwrap().is_ok());
        assert!(!second.recipient.end.is_cancelled());
    }

    #[tokio::test(start_paused = true)]
    async fn a_reservation_waits_for_its_turn_to_end_readers() {
        let directory = tempfile::tempdir().unwrap();
        let store = store(directory.path());
        store.scan().await;
        let stuck = Stuck::begin(&store, 600_000).await;
        let large = reserve(&store, 800_000);
        stuck.recipient.end.cancelled().await;
        let others = [0; 40].map(|_| reserve(&store, 800_000));
        // They all fail after the same time, not one after the other.
        for other in others {
            assert_eq!(other.await.unwrap().map(drop), Err(NoSpace));
        }
        assert!(!large.is_finished());
        drop(stuck);
        assert!(large.await.unwrap().is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_fetched_ahead_into_room_that_clients_await() {
        let directory = tempfile::tempdir().unwrap();
        let store = store(directory.path());
        store.scan().await;
        let key = IndexKey::Blob(Visibility::Shared.key(&Digest::of(Algorithm::Sha256, b"ahead")));
        let ahead = async || store.reserve_for(Purpose::Ahead, &key, 1000).await.map(drop);
        let stuck = Stuck::begin(&store, 600_000).await;
        assert_eq!(ahead().await, Ok(()));
        let large = reserve(&store, 800_000);
        stuck.recipient.end.cancelled().await;
        assert_eq!(ahead().await, Err(NoSpace));
        drop(stuck);
        let large = large.await.unwrap();
        assert!(large.is_ok());
        assert_eq!(ahead().await, Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn what_quick_readers_keep_is_no_room_beside_fills() {
        for (slow, expected) in [(true, 600_000), (false, 0)] {
            let directory = tempfile::tempdir().unwrap();
            let store = store(directory.path());
            store.scan().await;
            let told = Arc::new(Mutex::new(Vec::new()));
            let note = told.clone();
            store.on_shortage(move |short| {
                note.lock().unwrap().push(short);
                Box::pin(async { false })
            });
            let stuck = Stuck::begin(&store, 600_000).await;
            if !slow {
                stuck.recipient.meter.goes_on();
            }
            let _fill = store.reserve_unnamed(300_000, 0).await.unwrap();
            assert_eq!(reserve(&store, 900_000).await.unwrap().map(drop), Err(NoSpace));
            let kept: Vec<_> = told.lock().unwrap().iter().map(|short| short.kept).collect();
            assert_eq!(kept, [allocated(expected)]);
        }
    }

    #[tokio::test]
    async fn the_next_reservation_waits_for_victims_of_one_that_left() {
        let directory = tempfile::tempdir().unwrap();
        let store = store(directory.path());
        store.scan().await;
        let (begun, is_begun) = tokio::sync::oneshot::channel();
        let (go_on, goes_on) = std::sync::mpsc::channel::<()>();
        let first = tokio::spawn({
            let store = store.clone();
            // It runs in the step that also unlinks victims.
            let directories = move || {
                begun.send(()).unwrap();
                let _ = goes_on.recv();
                0
            };
            async move { store.reserve_bytes(Purpose::Client, 1000, directories).await.map(drop) }
        });
        is_begun.await.unwrap();
        first.abort();
        assert!(first.await.unwrap_err().is_cancelled());
        assert!(store.0.space.try_lock().is_err(), "the first is still at work");
        drop(go_on);
        drop(store.0.space.lock().await);
        // Its reservation is released with it.
        while store.0.index.lock().reserved() > 0 {
            tokio::task::yield_now().await;
        }
    }
}
