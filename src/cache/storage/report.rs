//! What the metrics say of the cache directory.
//!
//! The sums change with each reservation, so they are read when the metrics are. The free space of the file system is
//! noted whenever forebay asks for it, and once a minute: a disk that hangs must not hang the metrics.

use std::{
    io,
    sync::{Arc, atomic::Ordering},
    time::{Duration, SystemTime},
};

use super::{DiskStore, ObjectKind, Usage};
use crate::metrics::Metrics;

/// How full the cache is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreStatus {
    pub usage: Usage,
    pub max_bytes: u64,
    /// What forebay leaves free on the file system.
    pub min_free: u64,
    /// What the file system had free when it was last asked, a minute ago at most; `None`: it does not answer.
    pub free_bytes: Option<u64>,
    /// Whether the start-up scan is complete.
    pub is_scanned: bool,
    /// When the object was used that was used the longest time ago; `None`: not known yet, or there is none.
    pub oldest_use: Option<SystemTime>,
}

/// No file system has as many bytes.
pub(super) const NOT_KNOWN: u64 = u64::MAX;

impl DiskStore {
    /// Has the metrics say what is there whenever they are read, for as long as the store is open.
    pub(super) fn report(&self) {
        let store = Arc::downgrade(&self.0);
        self.0.metrics.before_reading(move |metrics| {
            if let Some(store) = store.upgrade() {
                DiskStore(store).tell(metrics);
            }
        });
        self.note_free();
    }

    /// How full the cache is. Does not touch the disk.
    pub fn status(&self) -> StoreStatus {
        let index = &self.0.index;
        let oldest = index.oldest_use().filter(|_| self.is_scanned());
        StoreStatus {
            usage: index.usage(),
            max_bytes: index.max_size(),
            min_free: self.0.min_free.load(Ordering::Relaxed),
            free_bytes: Some(self.0.free.load(Ordering::Relaxed)).filter(|free| *free != NOT_KNOWN),
            is_scanned: self.is_scanned(),
            oldest_use: oldest.map(|minute| SystemTime::UNIX_EPOCH + Duration::from_secs(u64::from(minute) * 60)),
        }
    }

    fn tell(&self, metrics: &Metrics) {
        let usage = self.0.index.usage();
        for (kind, totals) in ObjectKind::EVERY.into_iter().zip(usage.totals) {
            metrics.cache(kind, totals.bytes, totals.objects);
        }
        metrics.cache_overhead(usage.overhead);
        metrics.cache_in_flight(usage.in_flight);
        metrics.cache_pinned(self.0.index.operator_bytes());
        // Before the start-up scan is complete, the oldest use is not known.
        let oldest = self.0.index.oldest_use().filter(|_| self.is_scanned());
        metrics.cache_oldest_use(oldest.map(|minute| u64::from(minute) * 60));
    }

    /// The free space of the file system, in bytes. Blocks.
    pub(super) fn free(&self) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(&self.0.root)?;
        let free = stat.f_bavail.saturating_mul(stat.f_frsize);
        self.0.metrics.cache_filesystem_free(free);
        self.0.free.store(free, Ordering::Relaxed);
        Ok(free)
    }

    /// Has the metrics say how much is free. Blocks.
    pub(super) fn note_free(&self) {
        if let Err(error) = self.free() {
            self.0.free.store(NOT_KNOWN, Ordering::Relaxed);
            tracing::warn!(%error, "cannot ask the file system of the cache for its free space");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::tests::store, *};
    use crate::{
        cache::{
            Visibility,
            storage::{Purpose, Reservation, lru_index::IndexKey},
        },
        oci::{Algorithm, Digest},
    };

    fn blob(number: u64) -> IndexKey {
        IndexKey::Blob(Visibility::Shared.key(&Digest::of(Algorithm::Sha256, &number.to_be_bytes())))
    }

    /// The sum of `forebay_cache_bytes` over all kinds.
    fn told(store: &DiskStore) -> u64 {
        let text = store.0.metrics.encode().unwrap();
        let lines = text.lines().filter(|line| line.starts_with("forebay_cache_bytes{"));
        lines.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
    }

    /// A generator of numbers that are the same at each run (xorshift64).
    struct Random(u64);

    impl Random {
        fn below(&mut self, end: u64) -> u64 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            self.0 % end
        }
    }

    #[tokio::test]
    async fn the_kinds_sum_to_what_eviction_counts() {
        let directory = tempfile::tempdir().unwrap();
        let store = store(directory.path());
        store.clone().scan().await;
        let (mut random, mut held) = (Random(7), Vec::<(u64, Reservation)>::new());
        let (mut had_in_flight, mut had_objects) = (false, false);
        for step in 0..600 {
            match random.below(5) {
                // 1 MiB is the size of the cache: some evict, and some find no room.
                0 | 1 => {
                    let len = random.below(200_000);
                    if let Ok(reservation) = store.reserve_for(Purpose::Unawaited, &blob(step), len).await {
                        held.push((step, reservation));
                    }
                }
                2 if !held.is_empty() => {
                    let at = usize::try_from(random.below(held.len() as u64)).unwrap();
                    held.swap_remove(at).1.note_written(random.below(100_000));
                }
                3 if !held.is_empty() => {
                    let (number, reservation) = held.swap_remove(0);
                    reservation.fulfil(Purpose::Client, blob(number), random.below(150_000));
                }
                _ => {
                    let number = random.below(step + 1);
                    store.remove(blob(number)).await;
                }
            }
            let usage = store.0.index.usage();
            had_in_flight |= usage.in_flight > 0;
            had_objects |= usage.totals.iter().any(|totals| totals.objects > 1);
            let counted = store.0.index.total();
            assert_eq!((told(&store), usage.total()), (counted, counted), "step {step}");
        }
        assert!(had_in_flight && had_objects);
        held.clear();
        assert_eq!(store.0.index.usage().in_flight, 0);
    }

    #[tokio::test]
    async fn the_oldest_use_is_told_once_there_is_one() {
        let directory = tempfile::tempdir().unwrap();
        let store = store(directory.path());
        let name = "forebay_cache_oldest_use_timestamp_seconds";
        let told = || {
            let text = store.0.metrics.encode().unwrap();
            text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok())
        };
        store.0.index.set_minute(100);
        store.0.index.insert(blob(1), 10);
        assert_eq!(told(), None, "the scan may find an older one");
        store.clone().scan().await;
        store.0.index.set_minute(200);
        store.0.index.insert(blob(2), 10);
        assert_eq!(told(), Some(100 * 60));
        store.0.index.forget(&blob(1));
        assert_eq!(told(), Some(200 * 60));
        store.0.index.forget(&blob(2));
        store.0.index.insert_unused(blob(3), 10);
        assert_eq!(told(), None);
    }

    #[tokio::test]
    async fn a_closed_store_is_not_kept_by_its_metrics() {
        let directory = tempfile::tempdir().unwrap();
        let first = store(directory.path());
        let metrics = first.0.metrics.clone();
        drop(first);
        metrics.encode().unwrap();
        // The lock of the directory is free.
        drop(store(directory.path()));
    }
}
