//! The scrub: hashes cached objects again, to find bit rot before a verification is older than `cache.verify_every`.
//!
//! What must hold: the scrub reads one object at a time, in small chunks and off the async threads; it pauses while a
//! download, a push or a client waits for a disk; it never counts as a use and keeps no object from being evicted. A
//! damaged object is removed at once.

mod schedule;
mod suspects;
mod verification;

use std::{
    convert::Infallible,
    fmt,
    hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher, RandomState},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::{
    sync::{Mutex, OwnedSemaphorePermit, watch},
    time::{Instant, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;

use self::{suspects::Suspects, verification::Verification};
use super::{
    Config, ContentKey, DiskStore,
    hash::turn_to_spare,
    storage::{InspectedObject, NotOpened, SHARDS, blocking, is_damage, lru_index::IndexKey},
};
use crate::{disk_wait::DiskWait, metrics::Metrics, peer::PeerPrefix};

/// The interval at which the scrub checks whether others still wait for the disk.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);
/// After this many checks the scrub reads one chunk regardless: 1 MiB per second during downloads that never pause.
const MAX_LOOKS: u32 = 50;
/// After each chunk the scrub rests for as long as the chunk took, but no longer than this.
const MAX_REST: Duration = Duration::from_millis(100);

/// A cheap handle on the scrub.
#[derive(Clone)]
pub(crate) struct Scrub(Arc<ScrubInner>);

struct ScrubInner {
    store: DiskStore,
    metrics: Metrics,
    /// A reload changes it; a walk that is under way begins anew then.
    verify_every: watch::Sender<Duration>,
    suspects: Suspects,
    /// Held by the scrub's work on the blocking pool.
    disk_job: Arc<Mutex<()>>,
}

impl fmt::Debug for Scrub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Scrub").field(&self.verify_every()).finish()
    }
}

/// A whole blob that forebay is sending to a client out of the cache.
#[derive(Debug)]
pub(crate) struct WholeHit {
    scrub: Scrub,
    pair: u64,
}

impl WholeHit {
    /// The client received the whole blob.
    pub(crate) fn ended(self) {
        self.scrub.0.suspects.had(self.pair);
    }
}

/// The result of verifying an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ObjectState {
    Right,
    /// It was evicted, removed or replaced.
    Gone,
    /// Its bytes were wrong, and it was removed.
    Damaged,
    /// It exists but cannot be read.
    Unreadable,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Haste {
    /// The walk reached the object.
    None,
    /// The object is verified before others.
    Suspect,
}

impl Scrub {
    pub(crate) fn new(config: &Config, store: DiskStore, metrics: Metrics) -> Self {
        let (suspects, disk_job) = (Suspects::new(), Arc::default());
        let verify_every = watch::Sender::new(config.verify_every);
        Self(Arc::new(ScrubInner { store, metrics, verify_every, suspects, disk_job }))
    }

    /// Changes how old a verification may be.
    pub(crate) fn set_verify_every(&self, verify_every: Duration) {
        self.0.verify_every.send_if_modified(|current| std::mem::replace(current, verify_every) != verify_every);
    }

    fn verify_every(&self) -> Duration {
        *self.0.verify_every.borrow()
    }

    fn is_off(&self) -> bool {
        self.verify_every().is_zero()
    }

    /// A client requested a whole blob and gets it out of the cache.
    pub(crate) fn whole_hit(&self, peer: PeerPrefix, id: &ContentKey) -> Option<WholeHit> {
        (!self.is_off()).then(|| WholeHit { scrub: self.clone(), pair: self.0.suspects.wanted(peer, id) })
    }

    /// Verifies cached objects, again and again, until the shutdown.
    pub(crate) async fn run(self, end: CancellationToken) {
        let mut changes = self.0.verify_every.subscribe();
        loop {
            let verify_every = *changes.borrow_and_update();
            let walking = async {
                if verify_every.is_zero() { std::future::pending().await } else { self.walk_on(verify_every).await }
            };
            tokio::select! {
                () = end.cancelled() => break,
                // The sender is in this scrub.
                _ = changes.changed() => {}
                never = walking => match never {},
            }
        }
        // A read in progress holds the store until it ends.
        drop(self.0.disk_job.lock().await);
    }

    /// Runs `work` off the async threads.
    async fn disk_job<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let held = self.0.disk_job.clone().lock_owned().await;
        blocking(move || {
            let done = work();
            drop(held);
            done
        })
        .await
    }

    async fn walk_on(&self, verify_every: Duration) -> Infallible {
        self.0.store.until_scanned().await;
        self.survey().await;
        // The walk begins at a random shard, so that frequent restarts leave no part unverified for ever.
        let random = RandomState::new().hash_one(());
        let start = usize::try_from(random % SHARDS as u64).unwrap_or(0);
        let mut number = (random >> 32) as u32;
        loop {
            self.walk(start, number, verify_every).await;
            number = number.wrapping_add(1);
        }
    }

    /// Finds out how old the oldest verification is, without reading any object.
    async fn survey(&self) {
        let mut oldest = Oldest::default();
        for shard in 0..SHARDS {
            for found in self.list(shard).await {
                oldest.note(found.verified);
            }
        }
        oldest.publish(&self.0.metrics);
    }

    async fn list(&self, shard: usize) -> Vec<InspectedObject> {
        let store = self.0.store.clone();
        self.disk_job(move || store.list(shard)).await
    }

    /// Walks through the whole cache once, at an even pace, and verifies the objects that are due.
    async fn walk(&self, start: usize, number: u32, verify_every: Duration) {
        let (began, time) = (Instant::now(), schedule::walk_time(verify_every));
        let (bytes, objects) = self.0.store.sums();
        let (mut passed, total) = (0u64, schedule::cost(bytes, objects));
        let mut oldest = Oldest::default();
        for shard in 0..SHARDS {
            for found in self.list((start + shard) % SHARDS).await {
                let key = found.key.key();
                let share = BuildHasherDefault::<DefaultHasher>::default().hash_one(&found.key) as u32;
                let is_due = schedule::is_due(found.verified, SystemTime::now(), verify_every, share, number);
                let verdict = if is_due { Some(self.verify(&key, Haste::None).await) } else { None };
                match verdict {
                    Some(ObjectState::Right) => oldest.note(Some(SystemTime::now())),
                    Some(ObjectState::Gone | ObjectState::Damaged) => {}
                    Some(ObjectState::Unreadable) => oldest.note(found.verified),
                    None if self.0.store.has(&key) => oldest.note(found.verified),
                    None => {}
                }
                passed = passed.saturating_add(schedule::cost(found.len, 1));
                self.rest_until(began + schedule::due_after(time, passed, total)).await;
            }
        }
        oldest.publish(&self.0.metrics);
        self.rest_until(began + time).await;
    }

    /// Verifies suspects until `end`.
    async fn rest_until(&self, end: Instant) {
        loop {
            tokio::select! {
                biased;
                suspect = self.0.suspects.next() => { self.verify(&IndexKey::Blob(suspect), Haste::Suspect).await; }
                () = sleep_until(end) => return,
            }
        }
    }

    /// Verifies an object for an operator, whenever it was verified before.
    pub(crate) async fn verify_now(&self, key: &IndexKey) -> ObjectState {
        self.verify(key, Haste::None).await
    }

    async fn verify(&self, key: &IndexKey, haste: Haste) -> ObjectState {
        let opened = {
            let (store, key) = (self.0.store.clone(), key.clone());
            self.disk_job(move || store.inspect(&key)).await
        };
        let check = match opened {
            Ok(check) => check,
            Err(NotOpened::Gone) => return ObjectState::Gone,
            Err(NotOpened::Damaged) => return ObjectState::Damaged,
            Err(NotOpened::Unreadable) => return ObjectState::Unreadable,
        };
        let Some(mut reading) = Verification::new(key, check) else { return ObjectState::Gone };
        loop {
            let Some(turn) = self.give_way(key).await else { return ObjectState::Gone };
            let began = Instant::now();
            let (now, read) = self
                .disk_job(move || {
                    let read = reading.step();
                    drop(turn);
                    (reading, read)
                })
                .await;
            reading = now;
            match read {
                Ok(bytes) => self.0.metrics.scrubbed(bytes),
                Err(error) if is_damage(&error) => return self.corrupt(key, reading, error.to_string()).await,
                Err(error) => {
                    tracing::warn!(?key, %error, "cannot read what is cached to verify it");
                    return ObjectState::Unreadable;
                }
            }
            if reading.check.is_over() {
                break;
            }
            if haste == Haste::None {
                while let Some(suspect) = self.0.suspects.take() {
                    Box::pin(self.verify(&IndexKey::Blob(suspect), Haste::Suspect)).await;
                }
                sleep(began.elapsed().min(MAX_REST)).await;
            }
        }
        let (reading, is_right) = self
            .disk_job(move || {
                let is_right = reading.is_right();
                if is_right {
                    reading.check.note_right();
                }
                (reading, is_right)
            })
            .await;
        if is_right { ObjectState::Right } else { self.corrupt(key, reading, "it has another digest".to_owned()).await }
    }

    async fn corrupt(&self, key: &IndexKey, reading: Verification, problem: String) -> ObjectState {
        let (store, key) = (self.0.store.clone(), key.clone());
        match self.disk_job(move || store.remove_corrupt(&key, &reading.check, &problem)).await {
            true => ObjectState::Damaged,
            false => ObjectState::Gone,
        }
    }

    /// Waits while others wait for a disk or a processor, up to a limit; `None` when the object is gone: the scrub must
    /// not hold its file open.
    async fn give_way(&self, key: &IndexKey) -> Option<Turn> {
        for _ in 0..MAX_LOOKS {
            if !self.0.store.has(key) {
                return None;
            }
            if !DiskWait::any()
                && let Some(turn) = turn_to_spare()
            {
                return Some(Turn { _hash: Some(turn) });
            }
            sleep(LOOK_INTERVAL).await;
        }
        Some(Turn { _hash: None })
    }
}

/// The permission to read and hash one chunk.
struct Turn {
    /// Released on drop; absent if no hashing turn was to spare.
    _hash: Option<OwnedSemaphorePermit>,
}

/// The oldest verification among many.
#[derive(Default)]
struct Oldest(Option<SystemTime>);

impl Oldest {
    /// An unknown time is ignored.
    fn note(&mut self, verified: Option<SystemTime>) {
        self.0 = match (self.0, verified) {
            (Some(oldest), Some(verified)) => Some(oldest.min(verified)),
            (oldest, verified) => oldest.or(verified),
        };
    }

    fn publish(&self, metrics: &Metrics) {
        let now = SystemTime::now();
        let oldest = self.0.map_or(now, |oldest| oldest.min(now));
        metrics.oldest_verification(oldest.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()));
    }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::FileExt as _, path::Path};

    use super::*;
    use crate::{
        cache::{Origin, Visibility, storage::Purpose},
        oci::{Algorithm, Digest},
        upstream::Registry,
    };

    const LEN: usize = 400_000;

    async fn scrub(directory: &Path, verify_every: Duration) -> Scrub {
        let config = Config { verify_every, ..Config::at(directory) };
        let metrics = Metrics::new().unwrap();
        let store = DiskStore::open(&config, metrics.clone()).unwrap();
        store.scan().await;
        Scrub::new(&config, store, metrics)
    }

    /// Writes bytes into the cache, whether or not they match the digest.
    async fn put(store: &DiskStore, id: &ContentKey, bytes: &[u8]) -> IndexKey {
        let key = IndexKey::Blob(id.clone());
        let room = store.reserve(&key, bytes.len() as u64).await.unwrap();
        let temp =
            store.create(id, &Origin::of_registry(&Registry::new(&"docker.io".into(), &[])), room).await.unwrap();
        temp.file().write_all_at(bytes, 0).unwrap();
        temp.commit(Purpose::Client, bytes.len() as u64).unwrap();
        key
    }

    fn content(number: u8) -> (ContentKey, Vec<u8>) {
        let bytes = vec![number; LEN];
        (Visibility::Shared.key(&Digest::of(Algorithm::Sha256, &bytes)), bytes)
    }

    fn corrupt(scrub: &Scrub) -> bool {
        let text = scrub.0.metrics.encode().unwrap();
        !text.contains("forebay_cache_corrupt_objects_total{kind=\"blob\"} 0\n")
    }

    #[tokio::test]
    async fn blobs_of_all_pools_and_algorithms_are_verified() {
        let directory = tempfile::tempdir().unwrap();
        let scrub = scrub(directory.path(), Duration::from_millis(1)).await;
        let store = scrub.0.store.clone();
        let (mut wrong, mut right) = (Vec::new(), Vec::new());
        for visibility in Visibility::ALL {
            for algorithm in Algorithm::ALL {
                let id = |bytes: &[u8]| visibility.key(&Digest::of(algorithm, bytes));
                wrong.push(put(&store, &id(b"wrong"), b"wrung").await);
                wrong.push(put(&store, &id(b"full"), b"").await);
                right.push(put(&store, &id(b"right"), b"right").await);
                right.push(put(&store, &id(b""), b"").await);
            }
        }
        let end = CancellationToken::new();
        let running = tokio::spawn(scrub.clone().run(end.clone()));
        while wrong.iter().any(|key| store.has(key)) {
            sleep(Duration::from_millis(5)).await;
        }
        assert!(right.iter().all(|key| store.has(key)) && corrupt(&scrub));
        end.cancel();
        running.await.unwrap();
    }

    #[tokio::test]
    async fn a_scrub_that_was_off_begins_when_it_is_switched_on() {
        let directory = tempfile::tempdir().unwrap();
        let scrub = scrub(directory.path(), Duration::ZERO).await;
        let store = scrub.0.store.clone();
        let key = put(&store, &content(1).0, b"wrong").await;
        let end = CancellationToken::new();
        let running = tokio::spawn(scrub.clone().run(end.clone()));
        tokio::task::yield_now().await;
        assert!(store.has(&key));
        scrub.set_verify_every(Duration::from_millis(1));
        while store.has(&key) {
            sleep(Duration::from_millis(5)).await;
        }
        end.cancel();
        running.await.unwrap();
    }

    #[tokio::test]
    async fn what_is_evicted_or_replaced_meanwhile_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let scrub = scrub(directory.path(), Duration::from_secs(1)).await;
        let store = &scrub.0.store;
        let (id, bytes) = content(1);
        let key = put(store, &id, &vec![2; LEN]).await;
        let old = store.inspect(&key).unwrap();
        store.remove(key.clone()).await;
        assert_eq!(scrub.verify(&key, Haste::None).await, ObjectState::Gone);
        assert_eq!(put(store, &id, &bytes).await, key);
        store.remove_corrupt(&key, &old, "of the one before");
        assert_eq!(scrub.verify(&key, Haste::None).await, ObjectState::Right);
        // The object is removed while the scrub waits for its turn.
        let wait = DiskWait::begin();
        let (verdict, ()) = tokio::join!(scrub.verify(&key, Haste::None), store.remove(key.clone()));
        drop(wait);
        assert_eq!(verdict, ObjectState::Gone);
        assert!(!corrupt(&scrub));
    }

    #[tokio::test]
    async fn what_cannot_be_read_stays_and_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let scrub = scrub(directory.path(), Duration::from_secs(1)).await;
        let store = &scrub.0.store;
        for make in [
            |path: &Path| std::fs::create_dir(path).unwrap(),
            // A pipe without a writer: opening it must not block.
            |path: &Path| {
                rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap()
            },
            |path: &Path| std::os::unix::fs::symlink("/dev/zero", path).unwrap(),
        ] {
            let (id, bytes) = content(3);
            let key = put(store, &id, &bytes).await;
            let hex = id.digest.hex();
            let path = directory.path().join("blobs/sha256").join(&hex[..2]).join(hex);
            std::fs::remove_file(&path).unwrap();
            make(&path);
            assert_eq!(scrub.verify(&key, Haste::None).await, ObjectState::Unreadable);
            let _ = std::fs::remove_dir(&path).or_else(|_| std::fs::remove_file(&path));
            // The file was removed by hand: the scrub finds out.
            assert_eq!(scrub.verify(&key, Haste::None).await, ObjectState::Gone);
            assert!(!store.has(&key) && !corrupt(&scrub));
        }
    }

    #[tokio::test]
    async fn to_verify_changes_nothing_of_what_is_evicted_next() {
        let directory = tempfile::tempdir().unwrap();
        let scrub = scrub(directory.path(), Duration::from_secs(1)).await;
        let store = &scrub.0.store;
        let ((first, bytes), (second, others)) = (content(1), content(2));
        let (first, second) = (put(store, &first, &bytes).await, put(store, &second, &others).await);
        assert_eq!(scrub.verify(&first, Haste::None).await, ObjectState::Right);
        let held = store.inspect(&first).unwrap();
        store.reserve(&IndexKey::Blob(content(3).0), LEN as u64).await.unwrap();
        assert!(!store.has(&first) && store.has(&second));
        drop(held);
    }

    #[tokio::test(start_paused = true)]
    async fn it_gives_way_and_comes_to_an_end_all_the_same() {
        let directory = tempfile::tempdir().unwrap();
        let scrub = scrub(directory.path(), Duration::from_secs(1)).await;
        let (id, bytes) = content(1);
        let key = put(&scrub.0.store, &id, &bytes).await;
        let (_wait, began) = (DiskWait::begin(), Instant::now());
        assert!(matches!(scrub.give_way(&key).await, Some(Turn { _hash: None })));
        assert_eq!(began.elapsed(), LOOK_INTERVAL * MAX_LOOKS);
    }
}
