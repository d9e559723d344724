//! Reads objects without counting a use, for the scrub, which must not change the eviction order.
//!
//! What must hold: nothing here pins an object, notes a use or changes recency; an object that is evicted or replaced
//! meanwhile is left alone, and the space of its file is not held for longer than one read.

use std::{
    ffi::OsStr,
    fs::File,
    io::{self, IoSliceMut},
    num::NonZero,
    os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::SystemTime,
};

use rustix::{
    fs::{Advice, OFlags},
    io::{Errno, ReadWriteFlags},
};

use super::{
    DiskStore, IndexKey,
    verified_at::{self, ATTRIBUTE, MAX_VALUE, Noted},
};
use crate::{
    cache::{ObjectKind, Visibility, storage::lru_index::CompactKey},
    file_slice::FileSlice,
    metrics::Label as _,
    oci::Algorithm,
};

/// The kinds of objects that are named by digests.
const KINDS: [ObjectKind; 2] = [ObjectKind::Blob, ObjectKind::Manifest];
const PREFIXES: usize = 256;
/// The most directories of objects there can be.
pub const SHARDS: usize = PREFIXES * Visibility::ALL.len() * KINDS.len() * Algorithm::ALL.len();

/// An object that [`DiskStore::list`] found.
pub struct InspectedObject {
    pub key: CompactKey,
    pub len: u64,
    /// When it was last verified, if known.
    pub verified: Option<SystemTime>,
}

/// An open object that the scrub reads to verify it.
pub struct Inspection {
    file: File,
    path: PathBuf,
    /// Device and inode number of the open file.
    identity: (u64, u64),
    /// The length it should have, in bytes.
    pub len: u64,
    offset: u64,
}

/// Why an object is not verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotOpened {
    /// It is not there.
    Gone,
    /// It was damaged, and is removed.
    Damaged,
    Unreadable,
}

impl DiskStore {
    /// Waits until the start-up scan is complete.
    pub async fn until_scanned(&self) {
        let mut scanned = self.0.scanned.subscribe();
        // The store holds the sender.
        let _ = scanned.wait_for(|scanned| *scanned).await;
    }

    /// The bytes and the number of all objects that are named by digests.
    pub fn sums(&self) -> (u64, u64) {
        let totals = KINDS.map(|kind| self.0.index.totals(kind));
        (totals.iter().map(|totals| totals.bytes).sum(), totals.iter().map(|totals| totals.objects).sum())
    }

    pub fn has(&self, key: &IndexKey) -> bool {
        self.0.index.contains(key)
    }

    /// The objects of one directory out of [`SHARDS`]. Blocks.
    pub fn list(&self, shard: usize) -> Vec<InspectedObject> {
        let (prefix, rest) = (shard % PREFIXES, shard / PREFIXES);
        let (algorithm, rest) = (Algorithm::ALL[rest % Algorithm::ALL.len()], rest / Algorithm::ALL.len());
        let (kind, visibility) =
            (KINDS[rest % KINDS.len()], Visibility::ALL[rest / KINDS.len() % Visibility::ALL.len()]);
        let mut directory = self.folder(visibility, if kind == ObjectKind::Blob { "blobs" } else { "manifests" });
        directory.extend([algorithm.as_str(), &*format!("{prefix:02x}")]);
        let Ok(entries) = std::fs::read_dir(&directory) else { return Vec::new() };
        let object = |name: &OsStr, path: &Path| {
            let key = CompactKey::of_file(visibility, kind, algorithm, name.to_str()?)?;
            let metadata = path.symlink_metadata().ok().filter(std::fs::Metadata::is_file)?;
            let mut value = [0; MAX_VALUE];
            let read = rustix::fs::lgetxattr(path, ATTRIBUTE, &mut value).ok();
            let noted = read.and_then(|read| Noted::parse(value.get(..read)?));
            Some(InspectedObject { key, len: metadata.len(), verified: noted.and_then(|noted| noted.verified) })
        };
        entries.filter_map(|entry| entry.ok().and_then(|entry| object(&entry.file_name(), &entry.path()))).collect()
    }

    /// Opens an object to verify it. Blocks.
    ///
    /// # Errors
    /// It is missing, cannot be read, or is damaged.
    pub fn inspect(&self, key: &IndexKey) -> Result<Inspection, NotOpened> {
        let path = self.path(key);
        let len = self.0.index.len_of(key).ok_or(NotOpened::Gone)?;
        // The object may be evicted, and fetched anew, between this look into the index and the opening.
        let is_still_it = || self.0.index.len_of(key) == Some(len);
        let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
        let opened = File::options().read(true).custom_flags(flags).open(&path);
        let (file, metadata) = match opened.and_then(|file| file.metadata().map(|metadata| (file, metadata))) {
            Ok(opened) => opened,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if is_still_it() {
                    self.0.index.forget(key);
                }
                return Err(NotOpened::Gone);
            }
            Err(error) => {
                if is_damage(&error) && is_still_it() {
                    self.note_corrupt(key, &path, &error.to_string());
                    self.remove_blocking(key);
                    return Err(NotOpened::Damaged);
                }
                tracing::warn!(path = %path.display(), %error, "cannot open what is cached to verify it");
                return Err(NotOpened::Unreadable);
            }
        };
        // The kernel shall not read ahead bytes that the scrub does not read.
        let _ = rustix::fs::fadvise(&file, 0, None, Advice::Random);
        if !metadata.is_file() {
            tracing::warn!(path = %path.display(), "this is no file, where a cached object should be");
            return Err(NotOpened::Unreadable);
        }
        let noted = verified_at::noted(&file).map_or(len, |noted| noted.len);
        let identity = (metadata.dev(), metadata.ino());
        let check = Inspection { file, path, identity, len, offset: 0 };
        if metadata.len() != len || noted != len {
            let is_removed = is_still_it() && self.remove_corrupt(key, &check, "it has another length");
            return Err(if is_removed { NotOpened::Damaged } else { NotOpened::Gone });
        }
        Ok(check)
    }

    /// The bytes do not match the digest: forgets and removes the object, unless it was replaced meanwhile; returns whether
    /// it did. Blocks.
    pub fn remove_corrupt(&self, key: &IndexKey, check: &Inspection, problem: &str) -> bool {
        let there = check.path.symlink_metadata().ok().map(|metadata| (metadata.dev(), metadata.ino()));
        let is_it = there == Some(check.identity) && self.has(key);
        if is_it {
            self.note_corrupt(key, &check.path, problem);
            self.remove_blocking(key);
        }
        is_it
    }

    /// Logs and counts an object that no longer matches its digest.
    pub(super) fn note_corrupt(&self, key: &IndexKey, path: &Path, problem: &str) {
        self.0.metrics.corrupt_object(key.kind());
        tracing::error!(
            path = %path.display(),
            kind = key.kind().as_str(),
            problem,
            "a cached object is damaged: it is removed, and fetched again when it is wanted; look after the disk"
        );
    }
}

impl Inspection {
    /// Reads the next bytes into `buffer`; returns 0 at the end. Bytes that were not in the page cache before are
    /// dropped from it again, so that the scrub does not evict pages that clients read. Blocks.
    ///
    /// # Errors
    /// Those of reading the file.
    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = usize::try_from(self.len - self.offset).unwrap_or(usize::MAX).min(buffer.len());
        let is_cold = is_cold(&self.file, self.offset);
        self.file.read_exact_at(&mut buffer[..wanted], self.offset)?;
        if is_cold && let Some(len) = NonZero::new(wanted as u64) {
            // Where the file system ignores the advice, the pages stay in memory.
            let _ = rustix::fs::fadvise(&self.file, self.offset, Some(len), Advice::DontNeed);
        }
        self.offset += wanted as u64;
        Ok(wanted)
    }

    /// The whole file, to read it elsewhere. It may be evicted meanwhile: then its space is free once this is dropped.
    pub(crate) fn into_slice(self) -> FileSlice {
        FileSlice { file: std::sync::Arc::new(self.file), offset: 0, len: self.len }
    }

    /// Whether the whole file was read.
    pub fn is_over(&self) -> bool {
        self.offset == self.len
    }

    /// Notes that the object matches its digest. Blocks.
    pub fn note_right(&self) {
        verified_at::note(&self.file, self.len);
    }
}

/// Whether the page at this offset is not in the page cache. Source: preadv2(2), RWF_NOWAIT.
fn is_cold(file: &File, offset: u64) -> bool {
    let mut byte = [0];
    let read = rustix::io::preadv2(file, &mut [IoSliceMut::new(&mut byte)], offset, ReadWriteFlags::NOWAIT);
    read == Err(Errno::AGAIN)
}

/// Whether the error means that the bytes are lost. Other errors concern permissions, descriptors, ….
pub fn is_damage(error: &io::Error) -> bool {
    let lost = [Errno::IO, Errno::BADMSG, Errno::UCLEAN].map(|errno| Some(errno.raw_os_error()));
    error.kind() == io::ErrorKind::UnexpectedEof || lost.contains(&error.raw_os_error())
}
