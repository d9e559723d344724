//! The cache directory: readable with `ls`, no database.
//!
//! ```text
//! blobs/sha256/ab/abcd…               verified content, named by its digest; mtime is the last use
//! manifests/sha256/ab/abcd…           media type, a line end, the manifest's bytes
//! tags/<upstream>/<repository>/<tag>@<accept class>   digest, media type, when it was last confirmed
//! clients/{blobs,manifests,tags}/…    the same of upstreams whose clients' own credentials decide
//! tmp/…                               bytes in flight, pushed ones too, and what broken fills left to go on with
//! lock                                held while a forebay uses the directory
//! CACHEDIR.TAG, forebay-layout        that this is a cache; the version of this layout
//! ```
//!
//! What must hold: whatever has its final name is whole and was verified; nothing is written before
//! room for it was reserved; what is unlinked is forgotten by the index first. Everything here blocks,
//! so the async functions hand their work to the blocking pool.

pub mod index;
mod inspect;
mod io_limits;
mod kind;
mod layout;
mod object;
pub mod recency;
mod reservation;
mod scan;
pub mod tag_record;
mod temp_file;
mod temp_upload;
mod verified_at;

use std::{
    fmt,
    fs::{DirBuilder, File},
    io,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
    time::{Duration, SystemTime},
};

use parking_lot::{Mutex, MutexGuard};

use rustix::fs::{FlockOperation, OFlags, flock};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;

use self::{
    index::{IndexKey, LruIndex},
    recency::{LastUse, Uses},
    reservation::GiveUp,
};
pub use self::{
    inspect::{InspectedObject, Inspection, SHARDS, is_damage},
    io_limits::{change, write},
    kind::ObjectKind,
    object::Landing,
    reservation::{NoSpace, Purpose, Reservation, Short},
    temp_file::{Name as TempName, TempBlob, write_all_at},
    temp_upload::TempUpload,
};
use super::{Config, ContentKey, Visibility, freshness, slow_readers::SlowReaders};
use crate::{
    metrics::Metrics,
    oci::{Algorithm, Digest},
};

/// A use is noted on disk at most this often per object: recency needs no better, and each note is a write.
const TOUCH_INTERVAL: Duration = Duration::from_secs(60);

/// How often a rename is tried whose directory is pruned meanwhile.
const MAX_RENAMES: u32 = 8;
/// How many uses the index is told of while its lock is held.
const USES_AT_A_TIME: usize = 256;
/// How many objects used from memory are remembered as noted.
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
    min_free: u64,
    index: Mutex<LruIndex>,
    /// One reservation at a time: the victims of one are unlinked before the next looks at the sums.
    space: Arc<tokio::sync::Mutex<()>>,
    /// One reservation at a time ends fills and readers, so that none are ended for room that others, which are about to go, make.
    ending: Semaphore,
    scanned: watch::Sender<bool>,
    /// What was noted as used on disk within [`TOUCH_INTERVAL`].
    touched: moka::sync::Cache<IndexKey, ()>,
    /// What was used from memory, for the index to be told.
    uses: Uses,
    readers: SlowReaders,
    give_up: OnceLock<GiveUp>,
    metrics: Metrics,
    /// Dropped last; the kernel gives the lock up with it.
    _lock: File,
}

/// A verified blob, open for reading; it is not evicted while this lives.
pub struct StoredBlob {
    pub file: Arc<File>,
    pub len: u64,
    pub pin: Arc<Pin>,
}

/// Keeps one object from being evicted.
pub struct Pin {
    store: DiskStore,
    key: IndexKey,
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Pin").field(&self.key).finish()
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.store.index().unpin(&self.key);
    }
}

impl DiskStore {
    /// Makes the layout where it is missing and takes the directory for this process.
    ///
    /// Start [`DiskStore::scan`] next: nothing is written before it has been through.
    pub fn open(config: &Config, metrics: Metrics) -> Result<Self, OpenError> {
        metrics.objects_may_be_corrupt(&[ObjectKind::Blob, ObjectKind::Manifest]);
        let root = config.directory.clone();
        let failed = |source| OpenError::Io { path: root.clone(), source };
        // Before anything is made in it, and again under the lock.
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
        let mut index = LruIndex::new(config.max_size);
        index.set_minute(minute());
        Ok(Self(Arc::new(DiskStoreInner {
            min_free: config.min_free,
            index: Mutex::new(index),
            space: Arc::default(),
            ending: Semaphore::new(1),
            scanned: watch::Sender::new(false),
            touched: moka::sync::Cache::builder().max_capacity(MAX_TOUCHED).time_to_live(TOUCH_INTERVAL).build(),
            uses: Uses::default(),
            readers: SlowReaders::new(config.reader_window, metrics.clone()),
            give_up: OnceLock::new(),
            metrics,
            _lock: lock,
            root,
        })))
    }

    /// Looks whether the directory may be used, and changes nothing.
    ///
    /// # Errors
    /// As [`DiskStore::open`], but for what only this process may not see.
    pub fn check(config: &Config) -> Result<(), OpenError> {
        match layout::check(&config.directory) {
            Err(OpenError::Io { source, .. }) if source.kind() == io::ErrorKind::PermissionDenied => Ok(()),
            checked => checked,
        }
    }

    /// Who reads what, also of answers that are not on disk.
    pub fn readers(&self) -> &SlowReaders {
        &self.0.readers
    }

    /// Whether a blob is cached, as far as is known.
    pub fn has_blob(&self, id: &ContentKey) -> bool {
        self.index().contains(&IndexKey::Blob(id.clone()))
    }

    /// Whether a manifest may be cached: that is known once everything is counted.
    pub fn has_manifest(&self, id: &ContentKey) -> bool {
        !self.is_scanned() || self.index().contains(&IndexKey::Manifest(id.clone()))
    }

    /// Opens a verified blob and notes its use; `None` when it is not cached.
    ///
    /// A file that was deleted or cut by hand is a miss, not an error.
    pub async fn open_blob(&self, id: &ContentKey) -> io::Result<Option<StoredBlob>> {
        let key = IndexKey::Blob(id.clone());
        // Most misses end here, without a thread being asked.
        if self.is_scanned() && !self.index().contains(&key) {
            return Ok(None);
        }
        let store = self.clone();
        blocking(move || store.open_blob_blocking(key)).await
    }

    fn open_blob_blocking(&self, key: IndexKey) -> io::Result<Option<StoredBlob>> {
        let path = self.path(&key);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.index().forget(&key);
                self.publish();
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let metadata = file.metadata()?;
        let pinned = {
            let mut index = self.index();
            if !self.is_scanned() {
                index.insert(key.clone(), metadata.len());
            }
            index.pin(&key)
        };
        let Some(len) = pinned else {
            // Evicted between the look into the index and the opening: gone for everyone else as well.
            return Ok(None);
        };
        let pin = Arc::new(Pin { store: self.clone(), key });
        if len != metadata.len() || verified_at::noted(&file).is_some_and(|noted| noted.len != len) {
            self.note_corrupt(&pin.key, &path, "it has another length");
            self.remove_blocking(&pin.key);
            return Ok(None);
        }
        let file = Arc::new(file);
        touch(&file, &metadata);
        Ok(Some(StoredBlob { file, len, pin }))
    }

    /// An object was used from memory: it is the most recently used on disk as well.
    pub fn note_use(&self, used: &LastUse, key: impl FnOnce() -> IndexKey) {
        if let Some(key) = self.0.uses.note(used, key) {
            self.used(key);
        }
    }

    /// A client got it by another way than its file: it is the most recently used.
    pub fn used(&self, key: IndexKey) {
        {
            let mut index = self.index();
            if index.pin(&key).is_none() {
                return;
            }
            index.unpin(&key);
        }
        if self.0.touched.contains_key(&key) {
            return;
        }
        let path = self.path(&key);
        self.0.touched.insert(key, ());
        // Nobody waits for it: that a use is not noted costs a little order after a restart.
        io_limits::change_if_idle(move || {
            if let Ok(file) = File::open(&path)
                && let Ok(metadata) = file.metadata()
                && metadata.modified().is_ok_and(|modified| is_note_due(modified, SystemTime::now()))
            {
                note_now(&file);
            }
        });
    }

    /// Tells the index what was used from memory, now and then, until the end.
    pub async fn keep_uses(self, end: CancellationToken) {
        while tokio::time::timeout(TOUCH_INTERVAL, end.cancelled()).await.is_err() {
            self.index().pass_minute();
            let store = self.clone();
            blocking(move || store.settle_uses()).await;
        }
    }

    /// Tells the index what was used from memory since it was last told.
    fn settle_uses(&self) {
        for keys in self.0.uses.take().chunks(USES_AT_A_TIME) {
            let mut index = self.index();
            for key in keys {
                if index.pin(key).is_some() {
                    index.unpin(key);
                }
            }
        }
    }

    /// Removes an object, for good reason: it proved to be wrong. One that is not there costs nothing: an upstream's 404
    /// of a tag that was never kept must not wait behind a disk that is slow to sync.
    pub async fn remove(&self, key: IndexKey) {
        if self.is_scanned() && !self.index().contains(&key) {
            return;
        }
        let store = self.clone();
        change(move || store.remove_blocking(&key)).await;
    }

    /// The same of one whose bytes are not those of its digest: it is told and counted.
    pub async fn remove_damaged(&self, key: IndexKey) {
        let store = self.clone();
        change(move || {
            store.note_corrupt(&key, &store.path(&key), "it has another digest");
            store.remove_blocking(&key);
        })
        .await;
    }

    fn remove_blocking(&self, key: &IndexKey) {
        self.index().forget(key);
        self.unlink(key);
        self.publish();
    }

    /// Unlinks what the index has forgotten. That it is gone already is fine.
    fn unlink(&self, key: &IndexKey) {
        let path = self.path(key);
        if let Err(error) = std::fs::remove_file(&path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::error!(path = %path.display(), %error, "cannot remove a file of the cache");
        }
        if let IndexKey::Tag(tag) = key {
            self.prune_directories(tag.visibility, &path);
        }
    }

    /// Removes the directories of repositories without tags, up to `tags/` itself.
    fn prune_directories(&self, visibility: Visibility, path: &Path) {
        let top = self.folder(visibility, "tags");
        for directory in path.ancestors().skip(1).take_while(|directory| **directory != top) {
            if std::fs::remove_dir(directory).is_err() {
                break;
            }
            self.index().remove_directory(directory);
        }
    }

    fn path(&self, key: &IndexKey) -> PathBuf {
        match key {
            IndexKey::Blob(id) => sharded(self.folder(id.visibility, "blobs"), &id.digest),
            IndexKey::Manifest(id) => sharded(self.folder(id.visibility, "manifests"), &id.digest),
            IndexKey::Tag(tag) => self.folder(tag.visibility, "tags").join(tag.path()),
            IndexKey::Partial(id) => self.0.root.join("tmp").join(temp_file::name(id, false)),
        }
    }

    /// Where a pool has its objects of one kind.
    fn folder(&self, visibility: Visibility, kind: &str) -> PathBuf {
        match visibility {
            Visibility::Shared => self.0.root.join(kind),
            Visibility::PerClient => self.0.root.join("clients").join(kind),
        }
    }

    /// Makes the directories above `path`, counting each new one.
    fn make_parents(&self, path: &Path) -> io::Result<()> {
        for directory in self.missing_parents(path).into_iter().rev() {
            match DirBuilder::new().mode(0o700).create(directory) {
                Ok(()) => {
                    self.index().add_directory();
                    self.measure_above(directory);
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// What a link in the place of a directory leads to is not forebay's: nothing is put or made there.
    fn refuse_links(&self, path: &Path) -> io::Result<()> {
        for directory in path.ancestors().skip(1).take_while(|directory| **directory != self.0.root) {
            if directory.symlink_metadata().is_ok_and(|metadata| !metadata.is_dir()) {
                let why = format!("{} is not a directory of forebay's; remove it", directory.display());
                return Err(io::Error::new(io::ErrorKind::NotADirectory, why));
            }
        }
        Ok(())
    }

    /// Gives a temporary file its final name, in directories that are made where they are missing.
    fn rename(&self, temporary: &Path, path: &Path) -> io::Result<()> {
        for _ in 0..MAX_RENAMES {
            let parents = self.refuse_links(path).and_then(|()| self.make_parents(path));
            match parents.and_then(|()| std::fs::rename(temporary, path)) {
                // A directory was empty, and pruned, before the next one or the file came.
                Err(error) if error.kind() == io::ErrorKind::NotFound && temporary.exists() => {}
                renamed => {
                    self.measure_above(path);
                    return renamed;
                }
            }
        }
        Err(io::ErrorKind::NotFound.into())
    }

    /// The directory of `path` has a name more, and may have grown by that.
    fn measure_above(&self, path: &Path) {
        if let Some(directory) = path.parent()
            && let Ok(metadata) = directory.metadata()
        {
            self.index().measure_directory(directory, metadata.blocks() * 512);
        }
    }

    /// Evicts what is too much, since directories grew or `max_size` was lowered. Blocks.
    fn shrink(&self) {
        let excess = self.index().shrink();
        for (key, len) in excess {
            self.unlink(&key);
            self.0.metrics.evicted(len);
        }
    }

    /// The directories above `path` that are not there, the lowest first.
    fn missing_parents<'a>(&self, path: &'a Path) -> Vec<&'a Path> {
        let above = path.ancestors().skip(1).take_while(|directory| directory.starts_with(&self.0.root));
        above.take_while(|directory| !directory.exists()).collect()
    }

    /// Bytes the file system can still give before `min_free` is touched.
    fn spare(&self) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(&self.0.root)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize).saturating_sub(self.0.min_free))
    }

    fn is_scanned(&self) -> bool {
        *self.0.scanned.borrow()
    }

    /// The index. Its lock is held for moments only and never across an await; a panic inside leaves sums
    /// that are at worst a little off, which is better than no cache.
    fn index(&self) -> MutexGuard<'_, LruIndex> {
        self.0.index.lock()
    }

    fn publish(&self) {
        let (totals, overhead) = {
            let index = self.index();
            (ObjectKind::EVERY.map(|kind| (kind, index.totals(kind))), index.overhead())
        };
        self.0.metrics.cache_overhead(overhead);
        for (kind, totals) in totals {
            self.0.metrics.cache(kind, totals.bytes, totals.objects);
        }
    }
}

fn sharded(mut path: PathBuf, digest: &Digest) -> PathBuf {
    path.extend([digest.algorithm().as_str(), &digest.hex()[..2], digest.hex()]);
    path
}

/// The digest that these hexadecimal digits are of.
fn digest_of(algorithm: Algorithm, hex: &str) -> Option<Digest> {
    format!("{}:{hex}", algorithm.as_str()).parse().ok()
}

impl OpenError {
    /// Whether trying again cannot help.
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

/// Notes a use on disk, now and then and unless the disk is busy: a hit does not wait for it.
fn touch(file: &Arc<File>, metadata: &std::fs::Metadata) {
    if metadata.modified().is_ok_and(|modified| is_note_due(modified, SystemTime::now())) {
        let file = file.clone();
        io_limits::change_if_idle(move || note_now(&file));
    }
}

/// Whether a use now is to be noted at a file whose last one was then.
fn is_note_due(modified: SystemTime, now: SystemTime) -> bool {
    let is_due = match now.duration_since(modified) {
        Ok(age) => age > TOUCH_INTERVAL,
        // One in the future is of a clock that was set back since: it would be the most recent use for ever.
        Err(ahead) => ahead.duration() > TOUCH_INTERVAL,
    };
    // By a clock that is not set yet the file would be older than all others after the next start.
    is_due && freshness::is_set(now)
}

/// Since 1970.
fn minute() -> u32 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u32::try_from(since.as_secs() / 60).unwrap_or(u32::MAX)
}

fn note_now(file: &File) {
    if let Err(error) = file.set_modified(SystemTime::now()) {
        tracing::debug!(%error, "cannot note the use of a cached blob");
    }
}

/// Runs `work` on the blocking pool. A panic there goes on here.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => value,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // Only a runtime that is shutting down cancels blocking work; nobody waits for the answer then.
            Err(_) => std::future::pending().await,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_use_is_noted_once_a_minute_by_a_clock_that_is_set() {
        let set = 1_800_000_000;
        for (modified, now, expected) in [
            (set, set, false),
            (set - 60, set, false),
            (set - 61, set, true),
            (0, set, true),
            // It was set back since.
            (set + 60, set, false),
            (set + 61, set, true),
            // It is not set yet.
            (set, 10, false),
            (set, 0, false),
            (0, 100, false),
            (set, 1_000_000_000, false),
        ] {
            let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
            assert_eq!(is_note_due(at(modified), at(now)), expected, "{modified} at {now}");
        }
    }
}
