//! The start-up scan: rebuilds the index from the files on disk, while forebay already serves requests.
//!
//! Several threads read the shards, since a disk answers concurrent reads faster than sequential ones. The index takes
//! each file as it is found, and sorts them at the end, so that the scan keeps no list of them in memory.
//!
//! What must hold: at the end, what this process wrote or removed meanwhile is counted once, or not at all.

use std::{
    fs::{DirEntry, ReadDir},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT};

use super::{DiskStore, IndexKey, blocking, file_names, layout};
use crate::{
    cache::{
        ObjectKind, Visibility, freshness,
        storage::{lru_index::CompactKey, tag_record::TagKey},
    },
    oci::Algorithm,
};

/// The file of a broken download is kept no longer than this.
const PARTIAL_MAX_AGE: Duration = Duration::from_secs(24 * 60 * 60);
/// How many threads read shards.
const READERS: usize = 4;
/// How many foreign names are logged individually.
const MAX_WARNINGS: usize = 5;

/// One object on disk: its key, its length, and its last use in nanoseconds since 1970.
type ScannedFile = (CompactKey, u64, i64);

/// A directory of files that are named by digests.
struct Shard {
    path: PathBuf,
    visibility: Visibility,
    kind: ObjectKind,
    algorithm: Algorithm,
}

impl DiskStore {
    /// Reads the whole directory. Errors are logged and skipped: a file that cannot be read is a miss.
    pub async fn scan(&self) {
        self.scan_then(|| {}).await;
    }

    /// The same; `prepare` runs when all is known that is on disk, and before anything of it can be evicted.
    pub async fn scan_then(&self, prepare: impl FnOnce() + Send + 'static) {
        let store = self.clone();
        blocking(move || store.scan_blocking(prepare)).await;
    }

    fn scan_blocking(&self, prepare: impl FnOnce()) {
        let started = std::time::Instant::now();
        let root = &self.0.root;
        for leftover in self.0.leftovers.lock().drain(..) {
            sweep(&leftover);
        }
        self.count_directory(root);
        let foreign = &self.0.foreign;
        for entry in list(root).into_iter().flat_map(entries) {
            if !entry.file_name().to_str().is_some_and(layout::is_known) {
                foreign.note(&entry.path());
            } else if let Ok(metadata) = entry.metadata()
                && metadata.is_file()
            {
                self.0.index.overhead(|overhead| overhead.add_file(metadata.len()));
            }
        }
        let mut shards = Vec::new();
        for visibility in Visibility::ALL {
            for (kind, name) in [(ObjectKind::Blob, "blobs"), (ObjectKind::Manifest, "manifests")] {
                shards.extend(self.shards(visibility, &self.folder(visibility, name), kind, foreign));
            }
            let tags = self.folder(visibility, "tags");
            self.scan_tags(visibility, &tags, &tags, foreign);
        }
        self.scan_shards(&shards, foreign);
        self.0.index.finish_scan();
        prepare();
        self.finish_scan();
        foreign.report(root);
        let objects: u64 = ObjectKind::EVERY.iter().map(|kind| self.0.index.totals(*kind).objects).sum();
        tracing::info!(objects, elapsed = ?started.elapsed(), "the cache directory was scanned");
    }

    /// From here on, the index knows everything on disk, in its order.
    fn finish_scan(&self) {
        self.settle_uses();
        self.0.scanned.send_replace(true);
        for key in std::mem::take(&mut *self.0.gone.lock()) {
            self.forget_if_gone(&key);
        }
        self.shrink();
    }

    fn shards(&self, visibility: Visibility, top: &Path, kind: ObjectKind, foreign: &Foreign) -> Vec<Shard> {
        let mut shards = Vec::new();
        self.count_directory(top);
        for directory in list(top).into_iter().flat_map(entries) {
            let name = directory.file_name();
            let algorithm = Algorithm::ALL.into_iter().find(|known| name.to_str() == Some(known.as_str()));
            let (Some(algorithm), true) = (algorithm, is_directory(&directory)) else {
                foreign.note(&directory.path());
                continue;
            };
            self.count_directory(&directory.path());
            for shard in list(&directory.path()).into_iter().flat_map(entries) {
                if is_directory(&shard) && shard.file_name().to_str().is_some_and(is_shard) {
                    shards.push(Shard { path: shard.path(), visibility, kind, algorithm });
                } else {
                    foreign.note(&shard.path());
                }
            }
        }
        shards
    }

    /// Adds the objects in the shards to the index.
    fn scan_shards(&self, shards: &[Shard], foreign: &Foreign) {
        let next = AtomicUsize::new(0);
        let read = || {
            while let Some(shard) = shards.get(next.fetch_add(1, Ordering::Relaxed)) {
                self.scan_shard(shard, foreign);
            }
        };
        std::thread::scope(|scope| {
            // A thread that cannot be spawned does no harm: the others, and this one, take its shards. The scope waits
            // for them, and panics if one of them did.
            for _ in 1..READERS {
                let _ = std::thread::Builder::new().name("scan".into()).spawn_scoped(scope, read);
            }
            read();
        });
    }

    fn scan_shard(&self, shard: &Shard, foreign: &Foreign) {
        let Some(files) = list(&shard.path) else { return };
        self.count_directory(&shard.path);
        let found = entries(files).filter_map(|file| {
            let name = file.file_name();
            let name = name
                .to_str()
                .filter(|name| shard.path.file_name().is_some_and(|shard| name.get(..2) == shard.to_str()));
            match name.and_then(|name| CompactKey::of_file(shard.visibility, shard.kind, shard.algorithm, name)) {
                Some(key) => found(key, false, &file, foreign),
                None => {
                    foreign.note(&file.path());
                    None
                }
            }
        });
        self.0.index.insert_scanned(found);
    }

    fn scan_tags(&self, visibility: Visibility, top: &Path, directory: &Path, foreign: &Foreign) {
        let Some(files) = list(directory) else { return };
        self.count_directory(directory);
        for file in entries(files) {
            if file.file_type().is_ok_and(|kind| kind.is_dir()) {
                self.scan_tags(visibility, top, &file.path(), foreign);
                continue;
            }
            let path = file.path();
            match path.strip_prefix(top).ok().and_then(|path| TagKey::from_path(visibility, path)) {
                Some(tag) => {
                    let found = found(CompactKey::from(&IndexKey::Tag(tag)), false, &file, foreign);
                    self.0.index.insert_scanned(found);
                }
                None => foreign.note(&path),
            }
        }
    }

    /// Looks into `tmp/` before anything is downloaded: all files there are of an earlier process. The scan removes
    /// those of no use, under names that no download uses, since that may take long.
    pub(super) fn scan_temporary(&self) {
        let (directory, foreign) = (self.0.root.join("tmp"), &self.0.foreign);
        self.count_directory(&directory);
        for file in list(&directory).into_iter().flat_map(entries) {
            // A modification time in the future counts as age 0: the clock was set back.
            let modified = file.metadata().and_then(|metadata| metadata.modified()).ok();
            let age = modified.map(|at| at.elapsed().unwrap_or_default());
            let name = file.file_name();
            if !name.to_str().is_some_and(file_names::is_ours) || is_directory(&file) {
                foreign.note(&file.path());
                continue;
            }
            match name.to_str().and_then(file_names::resumable) {
                Some(id) if age.is_some_and(|age| age < PARTIAL_MAX_AGE) => {
                    let found = found(CompactKey::from(&IndexKey::Partial(id)), true, &file, foreign);
                    self.0.index.insert_scanned(found);
                }
                _ => {
                    let leftover = directory.join(file_names::unique_name());
                    match std::fs::rename(file.path(), &leftover) {
                        Ok(()) => self.0.leftovers.lock().push(leftover),
                        Err(error) => tracing::warn!(path = %file.path().display(), %error, "cannot sweep"),
                    }
                }
            }
        }
    }

    /// Counts a directory by its size on disk: a directory of many names takes more than one block.
    fn count_directory(&self, directory: &Path) {
        let Ok(metadata) = directory.metadata() else { return };
        self.0.index.overhead(|overhead| {
            overhead.add_directory(directory);
            overhead.set_directory_size(directory, metadata.blocks() * 512);
        });
        if !directory.exists() {
            // It was pruned meanwhile.
            self.0.index.overhead(|overhead| overhead.remove_directory(directory));
        }
        if let Err(error) = layout::close(directory, &metadata)
            && directory != self.0.root
        {
            tracing::warn!(path = %directory.display(), %error, "cannot keep other users from a directory of the cache");
        }
    }
}

/// `is_sparse`: the file has gaps, and counts for what is allocated.
fn found(key: CompactKey, is_sparse: bool, file: &DirEntry, foreign: &Foreign) -> Option<ScannedFile> {
    let metadata = file.metadata().ok()?;
    if !metadata.is_file() {
        foreign.note(&file.path());
        None
    } else {
        if let Err(error) = layout::close(&file.path(), &metadata) {
            tracing::debug!(path = %file.path().display(), %error, "cannot keep other users from a file of the cache");
        }
        let modified = metadata.mtime().saturating_mul(1_000_000_000).saturating_add(metadata.mtime_nsec());
        let used = last_use(modified, SystemTime::now());
        if used != modified {
            // Done once; otherwise the object would be the most recently used one at each start.
            note_now(&file.path());
        }
        let len = if is_sparse { metadata.blocks() * 512 } else { metadata.len() };
        Some((key, len, used))
    }
}

/// When a file was last used, by its mtime (both in nanoseconds since 1970). An mtime in the future, from a clock that
/// was set back since, does not say how recent the use was, so it becomes `now`. If the clock is not set yet, the mtime
/// is taken as it is: all uses would be in the future, and would lose their order.
fn last_use(modified: i64, now: SystemTime) -> i64 {
    let now = now.duration_since(UNIX_EPOCH).ok().filter(|_| freshness::is_set(now));
    modified.min(now.map_or(i64::MAX, |now| i64::try_from(now.as_nanos()).unwrap_or(i64::MAX)))
}

fn note_now(path: &Path) {
    let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
    let times = Timestamps { last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT }, last_modification: now };
    if let Err(error) = rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW) {
        tracing::debug!(path = %path.display(), %error, "cannot note a time that the clock has");
    }
}

fn list(directory: &Path) -> Option<ReadDir> {
    match std::fs::read_dir(directory) {
        Ok(entries) => Some(entries),
        Err(error) => {
            if !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) {
                tracing::error!(path = %directory.display(), %error, "cannot read a directory of the cache");
            }
            None
        }
    }
}

fn entries(directory: ReadDir) -> impl Iterator<Item = DirEntry> {
    directory.filter_map(|entry| {
        entry.inspect_err(|error| tracing::error!(%error, "cannot read an entry of the cache")).ok()
    })
}

/// Whether the entry is a directory. A symbolic link is not one: its target is not forebay's.
fn is_directory(entry: &DirEntry) -> bool {
    entry.file_type().is_ok_and(|kind| kind.is_dir())
}

/// Whether the name is two lower-case hexadecimal digits, as in digests.
fn is_shard(name: &str) -> bool {
    name.len() == 2 && name.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Counts the entries that forebay did not create: they are left alone and logged.
#[derive(Default)]
pub(super) struct Foreign(AtomicUsize);

impl Foreign {
    fn note(&self, path: &Path) {
        if self.0.fetch_add(1, Ordering::Relaxed) < MAX_WARNINGS {
            tracing::warn!(path = %path.display(), "this is not forebay's and is left alone");
        }
    }

    fn report(&self, root: &Path) {
        let found = self.0.load(Ordering::Relaxed);
        if found > 0 {
            tracing::warn!(
                found, directory = %root.display(),
                "the cache directory holds what forebay did not make; it is not counted in cache.max_size"
            );
        }
    }
}

/// Removes a temporary file that a crash left.
fn sweep(path: &Path) {
    match std::fs::remove_file(path) {
        Ok(()) => tracing::info!(path = %path.display(), "swept"),
        Err(error) => tracing::warn!(path = %path.display(), %error, "cannot sweep"),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::tests::store, *};
    use crate::oci::Digest;

    #[test]
    fn a_clock_that_is_not_set_leaves_uses_in_their_order() {
        const SECOND: i64 = 1_000_000_000;
        let (set, year_2000) = (1_800_000_000_i64, 946_684_800_i64);
        for (modified, now, expected) in [
            (set - 10, set, set - 10),
            (set, set, set),
            (0, set, 0),
            // The clock was set back since.
            (set + 10, set, set),
            (set + 1_000_000_000, set, set),
            // The clock starts in 1970 at each boot, or in the year the board was made.
            (set, 10, set),
            (set + 10, 10, set + 10),
            (0, 10, 0),
            (5, 10, 5),
            (set, year_2000, set),
            (set, -10, set),
        ] {
            let clock = match u64::try_from(now) {
                Ok(now) => UNIX_EPOCH + Duration::from_secs(now),
                Err(_) => UNIX_EPOCH - Duration::from_secs(now.unsigned_abs()),
            };
            assert_eq!(last_use(modified * SECOND, clock), expected * SECOND, "{modified} at {now}");
        }
        assert_eq!(last_use(i64::MAX, UNIX_EPOCH), i64::MAX);
    }

    #[tokio::test]
    async fn what_is_removed_during_the_scan_is_not_counted() {
        let directory = tempfile::tempdir().unwrap();
        let store = store(directory.path());
        let key = IndexKey::Manifest(Visibility::Shared.key(&Digest::of(Algorithm::Sha256, b"gone")));
        store.write(key.clone(), vec![1; 10_000]).await.unwrap();
        store.remove(key.clone()).await;
        // The scan had seen the file before it was removed.
        store.0.index.insert_scanned([(CompactKey::from(&key), 10_000, 0)]);
        store.scan().await;
        assert!(!store.has(&key));
        assert_eq!(store.0.index.totals(ObjectKind::Manifest).bytes, 0);
    }

    #[tokio::test]
    async fn what_is_written_during_the_scan_counts_once() {
        let (directory, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let totals = async |root: &Path, before_scan: bool| {
            let store = store(root);
            if !before_scan {
                store.scan().await;
            }
            for (number, path) in ["u/team/app/1@01", "u/team/app/2@01", "u/other/1@01"].into_iter().enumerate() {
                let tag = TagKey::from_path(Visibility::Shared, Path::new(path)).unwrap();
                store.write(IndexKey::Tag(tag), vec![1; 100]).await.unwrap();
                let digest = Digest::of(Algorithm::Sha256, &[number as u8]);
                store.write(IndexKey::Manifest(Visibility::Shared.key(&digest)), vec![1; 5000]).await.unwrap();
            }
            let removed = TagKey::from_path(Visibility::Shared, Path::new("u/other/1@01")).unwrap();
            store.remove(IndexKey::Tag(removed)).await;
            if before_scan {
                store.scan().await;
            }
            let index = &store.0.index;
            (ObjectKind::EVERY.map(|kind| index.totals(kind)), index.total(), index.reserved())
        };
        assert_eq!(totals(directory.path(), true).await, totals(other.path(), false).await);
    }
}
