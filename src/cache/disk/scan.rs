//! The start-up scan: rebuilds the index from what is on disk, while requests are served already.

use std::{
    fs::{DirEntry, ReadDir},
    io,
    os::unix::fs::MetadataExt,
    path::Path,
    time::{Duration, SystemTime},
};

use super::{DiskStore, Key, blocking, digest_of, temp};
use crate::{
    cache::{lru::BLOCK, tag_record::TagKey},
    oci::Algorithm,
};

/// What broken fills left is not kept for longer than this.
const PARTIAL_MAX_AGE: Duration = Duration::from_secs(24 * 60 * 60);

/// What was found: its key, length, and last use.
type Found = Vec<(Key, u64, SystemTime)>;

impl DiskStore {
    /// Reads the whole directory. Errors are logged and skipped: what cannot be read is a miss.
    pub async fn scan(&self) {
        let store = self.clone();
        blocking(move || store.scan_blocking()).await;
    }

    fn scan_blocking(&self) {
        let started = std::time::Instant::now();
        let mut found = Found::new();
        let root = &self.0.root;
        self.count_directory(root);
        self.scan_temporary(&root.join("tmp"), &mut found);
        self.scan_sharded(&root.join("blobs"), Key::Blob, &mut found);
        self.scan_sharded(&root.join("manifests"), Key::Manifest, &mut found);
        self.scan_tags(&root.join("tags"), &root.join("tags"), &mut found);
        found.sort_by_key(|(.., used)| *used);
        let objects = found.len();
        let excess = {
            let mut index = self.index();
            index.insert_scanned(found.into_iter().map(|(key, len, _)| (key, len)));
            index.shrink()
        };
        for (key, len) in excess {
            self.unlink(&key);
            self.0.metrics.evicted(len);
        }
        self.0.scanned.send_replace(true);
        self.publish();
        tracing::info!(objects, elapsed = ?started.elapsed(), "the cache directory was scanned");
    }

    fn scan_sharded(&self, top: &Path, key: impl Fn(crate::oci::Digest) -> Key + Copy, found: &mut Found) {
        self.count_directory(top);
        for algorithm in Algorithm::ALL {
            let directory = top.join(algorithm.as_str());
            let Some(shards) = list(&directory) else { continue };
            self.count_directory(&directory);
            for shard in entries(shards) {
                let Some(files) = list(&shard.path()) else { continue };
                self.count_directory(&shard.path());
                for file in entries(files) {
                    let name = file.file_name();
                    match name.to_str().and_then(|name| digest_of(algorithm, name)) {
                        Some(digest) => push(found, key(digest), &file),
                        None => sweep(&file.path()),
                    }
                }
            }
        }
    }

    fn scan_tags(&self, top: &Path, directory: &Path, found: &mut Found) {
        let Some(files) = list(directory) else { return };
        self.count_directory(directory);
        for file in entries(files) {
            if file.file_type().is_ok_and(|kind| kind.is_dir()) {
                self.scan_tags(top, &file.path(), found);
                continue;
            }
            let path = file.path();
            match path.strip_prefix(top).ok().and_then(TagKey::from_path) {
                Some(tag) => push(found, Key::Tag(tag), &file),
                None => sweep(&path),
            }
        }
    }

    /// A fill that runs already has its file here too; it is younger than this process.
    fn scan_temporary(&self, directory: &Path, found: &mut Found) {
        self.count_directory(directory);
        let Some(files) = list(directory) else { return };
        for file in entries(files) {
            let age = file.metadata().and_then(|metadata| metadata.modified()).ok().and_then(|at| at.elapsed().ok());
            let name = file.file_name();
            match name.to_str().and_then(temp::resumable) {
                Some(digest) if age.is_some_and(|age| age < PARTIAL_MAX_AGE) => {
                    push(found, Key::Partial(digest), &file)
                }
                _ => sweep(&file.path()),
            }
        }
    }

    /// A directory of many names takes more than one block.
    fn count_directory(&self, directory: &Path) {
        let bytes = directory.metadata().map_or(BLOCK, |metadata| metadata.blocks() * 512);
        self.index().add_directory(bytes);
    }
}

fn push(found: &mut Found, key: Key, file: &DirEntry) {
    if let Ok(metadata) = file.metadata()
        && metadata.is_file()
    {
        found.push((key, metadata.len(), metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH)));
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
