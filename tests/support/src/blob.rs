//! Blobs to serve and to compare with, and what of them is on disk.

use std::{
    collections::HashMap,
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use forebay::{oci::Digest, upstream::Registry};

use super::{fake_registry::FakeRegistry, mirror::UPSTREAM, partial_map};

pub const REPOSITORY: &str = "team/app";

/// A generator of numbers that are the same at each run (xorshift64*).
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next_u64(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Less than `end`.
    pub fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next_u64() >> 1).unwrap() % end.max(1)
    }

    /// True once in `times`.
    pub fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }
}

/// `len` bytes, of which no two stretches are alike.
pub fn content(len: usize, seed: u64) -> Bytes {
    let mut random = Random::new(seed + 1);
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        bytes.extend_from_slice(&random.next_u64().to_le_bytes());
    }
    bytes.truncate(len);
    bytes.into()
}

/// Adds a blob of `len` bytes to the registry.
pub fn add(registry: &FakeRegistry, len: usize, seed: u64) -> (Digest, Bytes) {
    let content = content(len, seed);
    (registry.add_blob(REPOSITORY, content.clone()), content)
}

pub fn path(digest: &Digest) -> String {
    format!("/v2/{REPOSITORY}/blobs/{digest}")
}

/// Whether these bytes are the ones the digest is of.
pub fn is(bytes: &[u8], digest: &Digest) -> bool {
    Digest::of(digest.algorithm(), bytes) == *digest
}

/// Where the blob is in a cache directory.
pub fn file(cache: &Path, digest: &Digest) -> PathBuf {
    cache.join("blobs").join(digest.algorithm().as_str()).join(&digest.hex()[..2]).join(digest.hex())
}

/// What a broken fill of the blob leaves.
pub fn partial(cache: &Path, digest: &Digest) -> PathBuf {
    cache.join("tmp").join(format!("{}-{}.part", digest.algorithm().as_str(), digest.hex()))
}

/// Puts what a broken fill of the blob from this registry left into a cache directory.
pub fn leave(cache: &Path, registry: &FakeRegistry, digest: &Digest, bytes: &[u8]) {
    let origin = Registry::new(&UPSTREAM.into(), &[registry.url()]).fingerprint();
    let total = registry.blob(REPOSITORY, digest).map(|blob| blob.len());
    fs::write(partial(cache, digest), partial_map::append(bytes, total, origin.as_bytes())).unwrap();
}

/// How far what a broken fill left has no gaps.
pub fn front(partial: &Path) -> u64 {
    let mut front = 0;
    for (written, _) in partial_map::records(&fs::read(partial).unwrap()) {
        front += u64::from(written);
        if u64::from(written) < partial_map::CHUNK as u64 {
            break;
        }
    }
    front
}

/// How many bytes of each chunk a broken fill noted.
pub fn chunks(partial: &Path) -> Vec<u64> {
    partial_map::records(&fs::read(partial).unwrap()).iter().map(|(written, _)| u64::from(*written)).collect()
}

/// How many bytes a broken fill left.
pub fn written(partial: &Path) -> u64 {
    partial_map::records(&fs::read(partial).unwrap()).iter().map(|(written, _)| u64::from(*written)).sum()
}

/// What a broken fill left from the front on.
pub fn left(partial: &Path) -> Vec<u8> {
    let mut bytes = fs::read(partial).unwrap();
    bytes.truncate(usize::try_from(front(partial)).unwrap());
    bytes
}

/// Whether the cache directory holds nothing but what says whose it is.
pub fn is_empty(cache: &Path) -> bool {
    let of_layout = ["lock", "CACHEDIR.TAG", "forebay-layout"];
    files(cache).iter().all(|file| of_layout.iter().any(|name| file.ends_with(name)))
}

/// All files below a directory. One that goes away meanwhile may be in it or not.
pub fn files(directory: &Path) -> Vec<PathBuf> {
    walk(directory).into_iter().filter(|(_, metadata)| metadata.is_file()).map(|(path, _)| path).collect()
}

/// The bytes that the file system has allocated for a directory and all below it, as `du` counts them.
pub fn allocated(directory: &Path) -> u64 {
    blocks(directory).values().sum()
}

/// The same, where nothing changed while one looked; else `None`.
pub fn allocated_at_once(directory: &Path) -> Option<u64> {
    let first = blocks(directory);
    (first == blocks(directory)).then(|| first.values().sum())
}

/// The allocated bytes by inode: a file that is renamed while one looks is there twice, and is one.
fn blocks(directory: &Path) -> HashMap<u64, u64> {
    walk(directory).into_iter().map(|(_, metadata)| (metadata.ino(), metadata.blocks() * 512)).collect()
}

/// How many directories there are, with the topmost.
pub fn directories(directory: &Path) -> usize {
    walk(directory).iter().filter(|(_, metadata)| metadata.is_dir()).count()
}

/// Every file below `blobs/` has the content it is named by.
pub fn assert_verified(cache: &Path) {
    for path in files(&cache.join("blobs")) {
        let algorithm = path.ancestors().nth(2).unwrap().file_name().unwrap().to_str().unwrap();
        let digest = format!("{algorithm}:{}", path.file_name().unwrap().to_str().unwrap());
        assert!(is(&fs::read(&path).unwrap(), &digest.parse().unwrap()), "{digest} is not what it is named by");
    }
}

fn walk(directory: &Path) -> Vec<(PathBuf, fs::Metadata)> {
    let mut found = Vec::new();
    if let Ok(metadata) = fs::symlink_metadata(directory) {
        found.push((directory.to_owned(), metadata));
    }
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => found.extend(walk(&entry.path())),
            Ok(metadata) => found.push((entry.path(), metadata)),
            Err(_) => {}
        }
    }
    found
}
