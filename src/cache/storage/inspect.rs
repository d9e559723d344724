//! Looking at objects without using them: for the scrub, which must not change what is evicted next.
//!
//! What must hold: nothing here pins, touches or makes recent; an object that is evicted or replaced meanwhile is left
//! alone, and the space of its file is not held for longer than one read.

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
    metrics::Label as _,
    oci::Algorithm,
};

/// The kinds that are named by digests.
const KINDS: [ObjectKind; 2] = [ObjectKind::Blob, ObjectKind::Manifest];
const PREFIXES: usize = 256;
/// How many directories of objects there may be.
pub const SHARDS: usize = PREFIXES * Visibility::ALL.len() * KINDS.len() * Algorithm::ALL.len();

/// An object as it was found.
pub struct InspectedObject {
    pub key: CompactKey,
    pub len: u64,
    /// When it was last verified, as far as is known.
    pub verified: Option<SystemTime>,
}

/// An object that is being read to be checked.
pub struct Inspection {
    file: File,
    path: PathBuf,
    /// Device and number of the file that is read.
    identity: (u64, u64),
    /// How long it should be.
    pub len: u64,
    offset: u64,
}

impl DiskStore {
    /// Waits until the index knows all that is there.
    pub async fn until_scanned(&self) {
        let mut scanned = self.0.scanned.subscribe();
        // The store has the other end.
        let _ = scanned.wait_for(|scanned| *scanned).await;
    }

    /// The bytes and the number of all objects that are named by digests.
    pub fn sums(&self) -> (u64, u64) {
        let index = self.0.index.lock();
        let totals = KINDS.map(|kind| index.totals(kind));
        (totals.iter().map(|totals| totals.bytes).sum(), totals.iter().map(|totals| totals.objects).sum())
    }

    pub fn has(&self, key: &IndexKey) -> bool {
        self.0.index.lock().contains(key)
    }

    /// The objects of one directory, of [`SHARDS`]. Blocks.
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

    /// Opens an object to check it; `None` when it is not there, cannot be read, or was found to be damaged. Blocks.
    pub fn inspect(&self, key: &IndexKey) -> Option<Inspection> {
        let path = self.path(key);
        let len = self.0.index.lock().len_of(key)?;
        // It may be evicted, and fetched anew, between the look into the index and the opening.
        let is_still_it = || self.0.index.lock().len_of(key) == Some(len);
        let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
        let opened = File::options().read(true).custom_flags(flags).open(&path);
        let (file, metadata) = match opened.and_then(|file| file.metadata().map(|metadata| (file, metadata))) {
            Ok(opened) => opened,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if is_still_it() {
                    self.0.index.lock().forget(key);
                    self.publish();
                }
                return None;
            }
            Err(error) => {
                if is_damage(&error) && is_still_it() {
                    self.note_corrupt(key, &path, &error.to_string());
                    self.remove_blocking(key);
                } else {
                    tracing::warn!(path = %path.display(), %error, "cannot open what is cached to verify it");
                }
                return None;
            }
        };
        // What is not read here is not to be in memory for it.
        let _ = rustix::fs::fadvise(&file, 0, None, Advice::Random);
        if !metadata.is_file() {
            tracing::warn!(path = %path.display(), "this is no file, where a cached object should be");
            return None;
        }
        let noted = verified_at::noted(&file).map_or(len, |noted| noted.len);
        let identity = (metadata.dev(), metadata.ino());
        let check = Inspection { file, path, identity, len, offset: 0 };
        if metadata.len() != len || noted != len {
            if is_still_it() {
                self.remove_corrupt(key, &check, "it has another length");
            }
            return None;
        }
        Some(check)
    }

    /// The bytes are not those of the digest: forgets and removes the object, if it is still this one. Blocks.
    pub fn remove_corrupt(&self, key: &IndexKey, check: &Inspection, problem: &str) {
        let there = check.path.symlink_metadata().ok().map(|metadata| (metadata.dev(), metadata.ino()));
        if there == Some(check.identity) && self.has(key) {
            self.note_corrupt(key, &check.path, problem);
            self.remove_blocking(key);
        }
    }

    /// Tells of an object that is not what its digest says any more.
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
    /// Reads what is next into `buffer`; 0 at the end. What was not in memory before leaves it again, so that the scrub
    /// does not push out what clients read. Blocks.
    ///
    /// # Errors
    /// The file's.
    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = usize::try_from(self.len - self.offset).unwrap_or(usize::MAX).min(buffer.len());
        let is_cold = is_cold(&self.file, self.offset);
        self.file.read_exact_at(&mut buffer[..wanted], self.offset)?;
        if is_cold && let Some(len) = NonZero::new(wanted as u64) {
            // Where the file system takes no advice it stays there.
            let _ = rustix::fs::fadvise(&self.file, self.offset, Some(len), Advice::DontNeed);
        }
        self.offset += wanted as u64;
        Ok(wanted)
    }

    /// Whether all of it was read.
    pub fn is_over(&self) -> bool {
        self.offset == self.len
    }

    /// It is what its digest says. Blocks.
    pub fn note_right(&self) {
        verified_at::note(&self.file, self.len);
    }
}

/// Source: preadv2(2), RWF_NOWAIT.
fn is_cold(file: &File, offset: u64) -> bool {
    let mut byte = [0];
    let read = rustix::io::preadv2(file, &mut [IoSliceMut::new(&mut byte)], offset, ReadWriteFlags::NOWAIT);
    read == Err(Errno::AGAIN)
}

/// Whether the bytes are lost. Other errors are a matter of permissions, descriptors, ….
pub fn is_damage(error: &io::Error) -> bool {
    let lost = [Errno::IO, Errno::BADMSG, Errno::UCLEAN].map(|errno| Some(errno.raw_os_error()));
    error.kind() == io::ErrorKind::UnexpectedEof || lost.contains(&error.raw_os_error())
}
