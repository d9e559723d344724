//! The cache directory: readable with `ls`, no database.
//!
//! ```text
//! blobs/sha256/ab/abcd…               verified content, named by its digest; the mtime is the last use
//! manifests/sha256/ab/abcd…           media type, a line end, the manifest's bytes
//! tags/<upstream>/<repository>/<tag>@<accept class>   digest, media type, time of the last confirmation
//! clients/{blobs,manifests,tags}/…    the same for upstreams that decide access by the clients' own credentials
//! tmp/…                               downloads and pushes in progress, and broken downloads that can be resumed
//! lock                                locked while a forebay process uses the directory
//! CACHEDIR.TAG, forebay-layout        marks the directory as a cache; the version of this layout
//! ```
//!
//! What must hold: every file under its final name is complete and verified; forebay writes nothing before it has
//! reserved room for it; the index forgets an object before its file is unlinked. Everything here blocks, so the async
//! functions run their work on the blocking pool.

mod catalog;
mod directories;
mod disk_log;
mod evictions;
mod file_names;
mod inspect;
mod io_limits;
mod kind;
mod layout;
pub mod lru_index;
mod object;
pub mod partial_map;
pub mod recent_uses;
mod report;
mod reservation;
mod scan;
mod stored_blob;
pub mod tag_record;
mod temp_blob;
mod temp_file;
mod temp_upload;
mod verified_at;

use std::{
    collections::HashSet,
    fs::{DirBuilder, File},
    io,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::PathBuf,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::SystemTime,
};

use parking_lot::Mutex;
use rustix::fs::{FlockOperation, OFlags, flock};
use tokio::sync::{Semaphore, watch};

use self::{
    disk_log::{DiskLines, disk_lines},
    evictions::Evictions,
    lru_index::{CompactKey, Evicted, IndexKey, LruIndex, Victim, max_operator_bytes},
    recent_uses::{TOUCH_INTERVAL, Uses},
    reservation::GiveUp,
    scan::Foreign,
};
pub use self::{
    evictions::EvictionTotals,
    inspect::{InspectedObject, Inspection, NotOpened, SHARDS, is_damage},
    io_limits::{begin_write, change, write},
    kind::ObjectKind,
    lru_index::Usage,
    object::Landing,
    partial_map::{ChunkRecord, PartialMap, map_size},
    report::StoreStatus,
    reservation::{NoSpace, Purpose, Reservation, Short},
    stored_blob::{MAX_OPEN, Pin, StoredBlob},
    temp_blob::{ChunkNotes, Leftover, TempBlob},
    temp_file::{TempRoom, write_all_at},
    temp_upload::TempUpload,
};
use super::{Config, ContentKey, Visibility, slow_readers::SlowReaders};
use crate::{
    metrics::Metrics,
    oci::{Algorithm, Digest},
};

/// For how many objects used from memory forebay remembers that their use was noted on disk.
const MAX_TOUCHED: u64 = 50_000;

/// The directory cannot be used as a cache.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("cannot use {path} as the cache directory")]
    Io { path: PathBuf, source: io::Error },
    #[error("{path} is in use by another forebay; give each its own `cache.directory`")]
    InUse { path: PathBuf },
    #[error("{path} (cache.directory, or --cache-dir) is refused: {problem}")]
    Refused { path: PathBuf, problem: String },
}

/// A cheap handle on the cache directory.
#[derive(Clone)]
pub struct DiskStore(Arc<DiskStoreInner>);

struct DiskStoreInner {
    root: PathBuf,
    min_free: AtomicU64,
    /// What the file system had free when it was last asked, in bytes.
    free: AtomicU64,
    index: LruIndex,
    /// One reservation at a time ends downloads and readers, so that none are ended for room that downloads and readers
    /// which are already ending will free.
    ending: Semaphore,
    scanned: watch::Sender<bool>,
    /// Changes whenever evicted objects are unlinked.
    unlinks: watch::Sender<()>,
    /// What was removed while the start-up scan ran.
    gone: Mutex<Vec<IndexKey>>,
    /// What the start-up scan has to remove.
    leftovers: Mutex<Vec<PathBuf>>,
    foreign: Foreign,
    /// The objects whose use was noted on disk within [`TOUCH_INTERVAL`].
    touched: moka::sync::Cache<IndexKey, ()>,
    /// The uses from memory that the index has not seen yet.
    uses: Uses,
    readers: SlowReaders,
    evictions: Evictions,
    give_up: OnceLock<GiveUp>,
    disk_lines: DiskLines,
    metrics: Metrics,
    /// Dropped last.
    _lock: DirectoryLock,
}

/// The lock of a directory, for one process.
///
/// It is released by name: a program that another thread starts at this moment has a copy of the descriptor until it runs,
/// and would keep the lock of a descriptor that is only closed. Source: flock(2).
struct DirectoryLock(File);

impl Drop for DirectoryLock {
    fn drop(&mut self) {
        // Closing it releases the lock soon in any case.
        let _ = flock(&self.0, FlockOperation::Unlock);
    }
}

impl DiskStore {
    /// Creates whatever is missing of the layout and locks the directory for this process.
    ///
    /// Call [`DiskStore::scan`] next: nothing is evicted before the scan is complete.
    pub fn open(config: &Config, metrics: Metrics) -> Result<Self, OpenError> {
        metrics.objects_may_be_corrupt(&[ObjectKind::Blob, ObjectKind::Manifest]);
        let root = config.directory.clone();
        let failed = |source| OpenError::Io { path: root.clone(), source };
        // Before anything is created in the directory, and again under the lock.
        layout::check(&root)?;
        DirBuilder::new().recursive(true).mode(0o700).create(&root).map_err(failed)?;
        let flags = OFlags::NOFOLLOW.bits().cast_signed();
        let mut options = File::options();
        options.create(true).truncate(false).write(true).mode(0o600).custom_flags(flags);
        let lock = options.open(root.join(layout::LOCK)).map_err(failed)?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|error| match error {
            rustix::io::Errno::WOULDBLOCK => OpenError::InUse { path: root.clone() },
            other => failed(other.into()),
        })?;
        layout::make(&root)?;
        metrics.cache_max(config.max_size);
        let index = LruIndex::new(config.max_size, config.max_open);
        index.set_minute(minute());
        let store = Self(Arc::new(DiskStoreInner {
            min_free: AtomicU64::new(config.min_free),
            free: AtomicU64::new(report::NOT_KNOWN),
            index,
            ending: Semaphore::new(1),
            scanned: watch::Sender::new(false),
            unlinks: watch::Sender::new(()),
            gone: Mutex::default(),
            leftovers: Mutex::default(),
            foreign: Foreign::default(),
            touched: moka::sync::Cache::builder().max_capacity(MAX_TOUCHED).time_to_live(TOUCH_INTERVAL).build(),
            uses: Uses::default(),
            readers: SlowReaders::new(config.reader_window, metrics.clone()),
            evictions: Evictions::default(),
            give_up: OnceLock::new(),
            disk_lines: disk_lines(),
            metrics,
            _lock: DirectoryLock(lock),
            root,
        }));
        store.scan_temporary();
        store.report();
        Ok(store)
    }

    /// Checks whether the directory may be used, and changes nothing.
    ///
    /// # Errors
    /// As [`DiskStore::open`], except where this process lacks the permission to look.
    pub fn check(config: &Config) -> Result<(), OpenError> {
        match layout::check(&config.directory) {
            Err(OpenError::Io { source, .. }) if source.kind() == io::ErrorKind::PermissionDenied => Ok(()),
            checked => checked,
        }
    }

    /// Takes over `max_size` and `min_free`. [`DiskStore::shrink_to_limits`] evicts what exceeds a lower `max_size`; objects
    /// that clients read stay until the next eviction.
    pub fn set_limits(&self, config: &Config) {
        self.0.min_free.store(config.min_free, Ordering::Relaxed);
        self.0.index.set_max_size(config.max_size);
        self.0.metrics.cache_max(config.max_size);
    }

    /// Evicts what exceeds `max_size`, after it was lowered. Before the start-up scan is complete it does nothing: the scan
    /// ends with the same.
    pub async fn shrink_to_limits(self) {
        change(move || self.shrink()).await;
    }

    /// The readers of blobs and responses, including those that are not on disk.
    pub fn readers(&self) -> &SlowReaders {
        &self.0.readers
    }

    /// Whether a blob is cached, as far as the index knows.
    pub fn has_blob(&self, id: &ContentKey) -> bool {
        self.0.index.contains(&IndexKey::Blob(id.clone()))
    }

    /// Whether a manifest may be cached: always true before the start-up scan is complete.
    pub fn has_manifest(&self, id: &ContentKey) -> bool {
        !self.is_scanned() || self.0.index.contains(&IndexKey::Manifest(id.clone()))
    }

    /// Keeps an object from being evicted, also one that is not cached yet, until as many calls of
    /// [`DiskStore::release_held`].
    pub fn hold(&self, key: &IndexKey) {
        self.0.index.hold(&CompactKey::from(key));
    }

    pub fn release_held(&self, key: &IndexKey) {
        self.0.index.release_held(&CompactKey::from(key));
    }

    /// Keeps these objects from being evicted, and no others that were kept by this: see [`DiskStore::max_operator_bytes`].
    pub fn hold_for_operator(&self, wanted: &HashSet<CompactKey>) {
        self.0.index.hold_for_operator(wanted);
    }

    /// Whether an object is one of those, whether there is room for it or not.
    pub fn is_held_for_operator(&self, key: &CompactKey) -> bool {
        self.0.index.is_held_for_operator(key)
    }

    /// How many bytes on disk are kept by [`DiskStore::hold_for_operator`].
    pub fn operator_bytes(&self) -> u64 {
        self.0.index.operator_bytes()
    }

    /// How many bytes may be kept so: what is more is evicted like the rest.
    pub fn max_operator_bytes(&self) -> u64 {
        max_operator_bytes(self.0.index.max_size())
    }

    fn path(&self, key: &IndexKey) -> PathBuf {
        match key {
            IndexKey::Blob(id) => sharded(self.folder(id.visibility, "blobs"), &id.digest),
            IndexKey::Manifest(id) => sharded(self.folder(id.visibility, "manifests"), &id.digest),
            IndexKey::Tag(tag) => self.folder(tag.visibility, "tags").join(tag.path()),
            IndexKey::Partial(id) => self.0.root.join("tmp").join(file_names::partial(id)),
        }
    }

    /// The directory of one kind of objects in a pool.
    fn folder(&self, visibility: Visibility, kind: &str) -> PathBuf {
        match visibility {
            Visibility::Shared => self.0.root.join(kind),
            Visibility::PerClient => self.0.root.join("clients").join(kind),
        }
    }

    /// Removes an object that proved to be wrong. A missing object costs nothing: an upstream's 404 for a tag that was
    /// never cached must not wait for a disk that is slow to sync.
    pub async fn remove(&self, key: IndexKey) {
        if self.is_scanned() && !self.0.index.contains(&key) {
            return;
        }
        let store = self.clone();
        change(move || store.remove_blocking(&key)).await;
    }

    /// The same for an object whose bytes do not match its digest: this is logged and counted.
    pub async fn remove_damaged(&self, key: IndexKey) {
        let store = self.clone();
        change(move || {
            store.note_corrupt(&key, &store.path(&key), "it has another digest");
            store.remove_blocking(&key);
        })
        .await;
    }

    fn remove_blocking(&self, key: &IndexKey) {
        let was_scanned = self.is_scanned();
        let forgotten = self.0.index.forget(key);
        if self.unlink(key) && !was_scanned {
            // The scan may have seen the file, and told the index since, or will.
            self.0.gone.lock().push(key.clone());
            self.forget_if_gone(key);
        }
        // If the file was open, it is off the disk now.
        drop(forgotten);
    }

    fn forget_if_gone(&self, key: &IndexKey) {
        if !self.path(key).exists() {
            self.0.index.forget(key);
        }
    }

    /// Unlinks an object that the index has forgotten; returns whether there was a file. A missing one is no error.
    fn unlink(&self, key: &IndexKey) -> bool {
        let path = self.path(key);
        let removed = std::fs::remove_file(&path);
        if let Err(error) = &removed
            && error.kind() != io::ErrorKind::NotFound
        {
            self.disk_failed("cannot remove a file of the cache", &path, error);
        }
        if let IndexKey::Tag(tag) = key {
            self.prune_directories(tag.visibility, &path);
        }
        removed.is_ok()
    }

    /// Evicts objects until the cache is within its limit again, after directories grew or `max_size` was lowered. Before
    /// the start-up scan is complete, nothing is evicted. Blocks.
    fn shrink(&self) {
        if self.is_scanned() {
            self.unlink_evicted(self.0.index.shrink());
        }
    }

    /// Unlinks what the index evicted. Blocks.
    fn unlink_evicted(&self, mut evicted: Evicted) {
        for Victim { key, len, file } in &mut evicted.victims {
            self.unlink(key);
            // With this file, if it was kept open, the bytes are off the disk.
            drop(file.take());
            self.0.metrics.evicted(*len);
            self.0.evictions.add(*len);
            tracing::debug!(?key, len, "evicted");
        }
        self.0.index.unlinked(&evicted);
        self.0.unlinks.send_replace(());
    }

    /// How many bytes can still be written before the free space of the file system falls below `min_free`.
    fn spare(&self) -> io::Result<u64> {
        Ok(self.free()?.saturating_sub(self.0.min_free.load(Ordering::Relaxed)))
    }

    fn is_scanned(&self) -> bool {
        *self.0.scanned.borrow()
    }
}

fn sharded(mut path: PathBuf, digest: &Digest) -> PathBuf {
    path.extend([digest.algorithm().as_str(), &digest.hex()[..2], digest.hex()]);
    path
}

/// The digest with these hexadecimal digits.
fn digest_of(algorithm: Algorithm, hex: &str) -> Option<Digest> {
    format!("{}:{hex}", algorithm.as_str()).parse().ok()
}

impl OpenError {
    /// Whether a retry cannot help.
    pub fn is_configuration(&self) -> bool {
        match self {
            Self::Refused { .. } => true,
            Self::InUse { .. } => false,
            Self::Io { source, .. } => matches!(
                source.kind(),
                io::ErrorKind::PermissionDenied
                    | io::ErrorKind::ReadOnlyFilesystem
                    | io::ErrorKind::NotADirectory
                    | io::ErrorKind::AlreadyExists
            ),
        }
    }
}

/// The current time in minutes since 1970.
fn minute() -> u32 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u32::try_from(since.as_secs() / 60).unwrap_or(u32::MAX)
}

/// Runs `work` on the blocking pool. A panic of `work` continues in the caller.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => value,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // Only a runtime that is shutting down cancels blocking work; no caller waits for the result then.
            Err(_) => std::future::pending().await,
        },
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// A store of 1 MiB in this directory.
    pub(super) fn store(directory: &Path) -> DiskStore {
        DiskStore::open(&Config::at(directory), Metrics::new().unwrap()).unwrap()
    }

    /// As a program has one between its start and its first instruction.
    #[tokio::test]
    async fn a_copy_of_the_descriptor_keeps_no_lock() {
        let directory = tempfile::tempdir().unwrap();
        let first = store(directory.path());
        let _copy = first.0._lock.0.try_clone().unwrap();
        drop(first);
        store(directory.path());
    }
}
