//! The start-up scan: rebuilds the index from what is on disk, while requests are served already.
//!
//! Several threads read the shards, since a disk answers several questions in less time than one after the other.
//! The index takes what they found in small portions: whoever serves a request needs its lock meanwhile.

use std::{
    fs::{DirEntry, ReadDir},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use super::{DiskStore, Key, blocking, temp};
use crate::{
    cache::{Pool, lru::CompactKey, tag_record::TagKey},
    metrics::CacheKind,
    oci::Algorithm,
};

/// What broken fills left is not kept for longer than this.
const PARTIAL_MAX_AGE: Duration = Duration::from_secs(24 * 60 * 60);
/// How many threads read shards.
const READERS: usize = 4;
/// How many objects the index takes at a time, a fraction of a millisecond's work.
const PORTION: usize = 512;

/// One object on disk. There may be millions of them at once, so it is small.
struct Found {
    /// Last use, in nanoseconds since 1970.
    used: i64,
    key: CompactKey,
    len: u64,
}

/// A directory of files that are named by digests.
struct Shard {
    path: PathBuf,
    pool: Pool,
    kind: CacheKind,
    algorithm: Algorithm,
}

impl DiskStore {
    /// Reads the whole directory. Errors are logged and skipped: what cannot be read is a miss.
    pub async fn scan(&self) {
        let store = self.clone();
        blocking(move || store.scan_blocking()).await;
    }

    fn scan_blocking(&self) {
        let started = std::time::Instant::now();
        let root = &self.0.root;
        let mut rest = Vec::new();
        self.count_directory(root);
        self.scan_temporary(&root.join("tmp"), &mut rest);
        let mut shards = Vec::new();
        for pool in Pool::ALL {
            shards.extend(self.shards(pool, &self.folder(pool, "blobs"), CacheKind::Blob));
            shards.extend(self.shards(pool, &self.folder(pool, "manifests"), CacheKind::Manifest));
            let tags = self.folder(pool, "tags");
            self.scan_tags(pool, &tags, &tags, &mut rest);
        }
        rest.sort_unstable_by_key(|found| found.used);
        let mut found = self.scan_shards(&shards);
        found.push(rest);
        let objects: usize = found.iter().map(Vec::len).sum();
        self.insert_found(found);
        let excess = {
            self.settle_uses();
            self.index().shrink()
        };
        for (key, len) in excess {
            self.unlink(&key);
            self.0.metrics.evicted(len);
        }
        self.0.scanned.send_replace(true);
        self.publish();
        tracing::info!(objects, elapsed = ?started.elapsed(), "the cache directory was scanned");
    }

    fn shards(&self, pool: Pool, top: &Path, kind: CacheKind) -> Vec<Shard> {
        let mut shards = Vec::new();
        self.count_directory(top);
        for algorithm in Algorithm::ALL {
            let directory = top.join(algorithm.as_str());
            let Some(below) = list(&directory) else { continue };
            self.count_directory(&directory);
            shards.extend(entries(below).map(|shard| Shard { path: shard.path(), pool, kind, algorithm }));
        }
        shards
    }

    /// What is in the shards, in lists of which each is in order of last use, the oldest first.
    fn scan_shards(&self, shards: &[Shard]) -> Vec<Vec<Found>> {
        let next = AtomicUsize::new(0);
        let read = || {
            let mut found = Vec::new();
            while let Some(shard) = shards.get(next.fetch_add(1, Ordering::Relaxed)) {
                self.scan_shard(shard, &mut found);
            }
            found.sort_unstable_by_key(|found: &Found| found.used);
            found
        };
        std::thread::scope(|scope| {
            // A thread that cannot be had is no loss: the others, and this one, take its shards.
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

    fn scan_shard(&self, shard: &Shard, found: &mut Vec<Found>) {
        let Some(files) = list(&shard.path) else { return };
        self.count_directory(&shard.path);
        for file in entries(files) {
            let name = file.file_name();
            match name.to_str().and_then(|name| CompactKey::of_file(shard.pool, shard.kind, shard.algorithm, name)) {
                Some(key) => push(found, key, &file),
                None => sweep(&file.path()),
            }
        }
    }

    fn scan_tags(&self, pool: Pool, top: &Path, directory: &Path, found: &mut Vec<Found>) {
        let Some(files) = list(directory) else { return };
        self.count_directory(directory);
        for file in entries(files) {
            if file.file_type().is_ok_and(|kind| kind.is_dir()) {
                self.scan_tags(pool, top, &file.path(), found);
                continue;
            }
            let path = file.path();
            match path.strip_prefix(top).ok().and_then(|path| TagKey::from_path(pool, path)) {
                Some(tag) => push(found, CompactKey::from(&Key::Tag(tag)), &file),
                None => sweep(&path),
            }
        }
    }

    /// A fill that runs already has its file here too; it is younger than this process.
    fn scan_temporary(&self, directory: &Path, found: &mut Vec<Found>) {
        self.count_directory(directory);
        let Some(files) = list(directory) else { return };
        for file in entries(files) {
            let age = file.metadata().and_then(|metadata| metadata.modified()).ok().and_then(|at| at.elapsed().ok());
            let name = file.file_name();
            match name.to_str().and_then(temp::resumable) {
                Some(id) if age.is_some_and(|age| age < PARTIAL_MAX_AGE) => {
                    push(found, CompactKey::from(&Key::Partial(id)), &file)
                }
                _ => sweep(&file.path()),
            }
        }
    }

    /// Hands all to the index, the most recently used first.
    fn insert_found(&self, mut found: Vec<Vec<Found>>) {
        let mut portion = Vec::with_capacity(PORTION);
        loop {
            while portion.len() < PORTION
                && let Some(newest) = found.iter_mut().max_by_key(|list| list.last().map(|found| found.used))
                && let Some(Found { key, len, .. }) = newest.pop()
            {
                portion.push((key, len));
            }
            if portion.is_empty() {
                return;
            }
            self.index().insert_scanned(portion.drain(..));
        }
    }

    /// A directory of many names takes more than one block.
    fn count_directory(&self, directory: &Path) {
        let Ok(metadata) = directory.metadata() else { return };
        self.index().add_directory(metadata.blocks() * 512);
    }
}

fn push(found: &mut Vec<Found>, key: CompactKey, file: &DirEntry) {
    if let Ok(metadata) = file.metadata()
        && metadata.is_file()
    {
        let used = metadata.mtime().saturating_mul(1_000_000_000).saturating_add(metadata.mtime_nsec());
        found.push(Found { used, key, len: metadata.len() });
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

/// Removes a file that no forebay wrote under this name, or that a crash left.
fn sweep(path: &Path) {
    match std::fs::remove_file(path) {
        Ok(()) => tracing::info!(path = %path.display(), "swept"),
        Err(error) => tracing::warn!(path = %path.display(), %error, "cannot sweep"),
    }
}
