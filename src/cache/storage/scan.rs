//! The start-up scan: rebuilds the index from the files on disk, while forebay already serves requests.
//!
//! Several threads read the shards, since a disk answers concurrent reads faster than sequential ones. The index takes
//! their results in small portions, because requests need its lock meanwhile.

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
/// In nanoseconds.
const MINUTE: i64 = 60_000_000_000;
/// How many threads read shards.
const READERS: usize = 4;
/// How many foreign names are logged individually.
const MAX_WARNINGS: usize = 5;
/// How many objects are added to the index at a time, which takes a fraction of a millisecond.
const PORTION: usize = 512;

/// One object on disk. It is small because there may be millions at once.
struct ScannedFile {
    /// Last use, in nanoseconds since 1970.
    used: i64,
    key: CompactKey,
    len: u64,
}

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
        let store = self.clone();
        blocking(move || store.scan_blocking()).await;
    }

    fn scan_blocking(&self) {
        let started = std::time::Instant::now();
        let root = &self.0.root;
        let mut rest = Vec::new();
        self.count_directory(root);
        let foreign = Foreign::default();
        for entry in list(root).into_iter().flat_map(entries) {
            if !entry.file_name().to_str().is_some_and(layout::is_known) {
                foreign.note(&entry.path());
            } else if let Ok(metadata) = entry.metadata()
                && metadata.is_file()
            {
                self.0.index.lock().overhead_mut().add_file(metadata.len());
            }
        }
        self.scan_temporary(&root.join("tmp"), &mut rest, &foreign);
        let mut shards = Vec::new();
        for visibility in Visibility::ALL {
            shards.extend(self.shards(visibility, &self.folder(visibility, "blobs"), ObjectKind::Blob, &foreign));
            shards.extend(self.shards(
                visibility,
                &self.folder(visibility, "manifests"),
                ObjectKind::Manifest,
                &foreign,
            ));
            let tags = self.folder(visibility, "tags");
            self.scan_tags(visibility, &tags, &tags, &mut rest, &foreign);
        }
        rest.sort_unstable_by_key(|found| found.used);
        let mut found = self.scan_shards(&shards, &foreign);
        found.push(rest);
        let objects: usize = found.iter().map(Vec::len).sum();
        self.insert_found(found);
        self.settle_uses();
        self.shrink();
        self.0.scanned.send_replace(true);
        self.publish();
        foreign.report(root);
        tracing::info!(objects, elapsed = ?started.elapsed(), "the cache directory was scanned");
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

    /// The objects in the shards, in several lists; each list is sorted by last use, the oldest first.
    fn scan_shards(&self, shards: &[Shard], foreign: &Foreign) -> Vec<Vec<ScannedFile>> {
        let next = AtomicUsize::new(0);
        let read = || {
            let mut found = Vec::new();
            while let Some(shard) = shards.get(next.fetch_add(1, Ordering::Relaxed)) {
                self.scan_shard(shard, &mut found, foreign);
            }
            found.sort_unstable_by_key(|found: &ScannedFile| found.used);
            found
        };
        std::thread::scope(|scope| {
            // A thread that cannot be spawned does no harm: the others, and this one, take its shards.
            let others: Vec<_> = (1..READERS)
                .filter_map(|_| std::thread::Builder::new().name("scan".into()).spawn_scoped(scope, read).ok())
                .collect();
            let mut found = vec![read()];
            for other in others {
                match other.join() {
                    Ok(more) => found.push(more),
                    Err(panic) => std::panic::resume_unwind(panic),
                }
            }
            found
        })
    }

    fn scan_shard(&self, shard: &Shard, found: &mut Vec<ScannedFile>, foreign: &Foreign) {
        let Some(files) = list(&shard.path) else { return };
        self.count_directory(&shard.path);
        for file in entries(files) {
            let name = file.file_name();
            let name = name
                .to_str()
                .filter(|name| shard.path.file_name().is_some_and(|shard| name.get(..2) == shard.to_str()));
            match name.and_then(|name| CompactKey::of_file(shard.visibility, shard.kind, shard.algorithm, name)) {
                Some(key) => push(found, key, &file, foreign),
                None => foreign.note(&file.path()),
            }
        }
    }

    fn scan_tags(
        &self,
        visibility: Visibility,
        top: &Path,
        directory: &Path,
        found: &mut Vec<ScannedFile>,
        foreign: &Foreign,
    ) {
        let Some(files) = list(directory) else { return };
        self.count_directory(directory);
        for file in entries(files) {
            if file.file_type().is_ok_and(|kind| kind.is_dir()) {
                self.scan_tags(visibility, top, &file.path(), found, foreign);
                continue;
            }
            let path = file.path();
            match path.strip_prefix(top).ok().and_then(|path| TagKey::from_path(visibility, path)) {
                Some(tag) => push(found, CompactKey::from(&IndexKey::Tag(tag)), &file, foreign),
                None => foreign.note(&path),
            }
        }
    }

    /// Scans `tmp/`. It also holds the files of downloads that already run; they are younger than this process.
    fn scan_temporary(&self, directory: &Path, found: &mut Vec<ScannedFile>, foreign: &Foreign) {
        self.count_directory(directory);
        let Some(files) = list(directory) else { return };
        for file in entries(files) {
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
                    push(found, CompactKey::from(&IndexKey::Partial(id)), &file, foreign)
                }
                _ => sweep(&file.path()),
            }
        }
    }

    /// Adds all objects to the index, the most recently used first.
    fn insert_found(&self, mut found: Vec<Vec<ScannedFile>>) {
        let mut portion = Vec::with_capacity(PORTION);
        loop {
            while portion.len() < PORTION
                && let Some(newest) = found.iter_mut().max_by_key(|list| list.last().map(|found| found.used))
                && let Some(ScannedFile { used, key, len }) = newest.pop()
            {
                portion.push((key, len, u32::try_from(used / MINUTE).unwrap_or_default()));
            }
            if portion.is_empty() {
                return;
            }
            self.0.index.lock().insert_scanned(portion.drain(..));
        }
    }

    /// Counts a directory by its size on disk: a directory of many names takes more than one block.
    fn count_directory(&self, directory: &Path) {
        let Ok(metadata) = directory.metadata() else { return };
        {
            let mut index = self.0.index.lock();
            index.overhead_mut().add_directory();
            index.overhead_mut().set_directory_size(directory, metadata.blocks() * 512);
        }
        if let Err(error) = layout::close(directory, &metadata)
            && directory != self.0.root
        {
            tracing::warn!(path = %directory.display(), %error, "cannot keep other users from a directory of the cache");
        }
    }
}

fn push(found: &mut Vec<ScannedFile>, key: CompactKey, file: &DirEntry, foreign: &Foreign) {
    let Ok(metadata) = file.metadata() else { return };
    if !metadata.is_file() {
        foreign.note(&file.path());
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
        found.push(ScannedFile { used, key, len: metadata.len() });
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
struct Foreign(AtomicUsize);

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
    use super::*;

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
}
