//! The file of a download in progress: a file below `tmp/` that becomes a blob, is kept to be resumed, or is removed.
//! If the process ends before one of these, the file stays as after a kill.
//!
//! A file that is kept belongs to the [`Origin`] of its bytes. For the names of the files, see `file_names`; for what
//! says which bytes are there, `partial_map`.

use std::{
    fs::File,
    io,
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::Path,
    sync::Arc,
};

use parking_lot::Mutex;
use rustix::fs::OFlags;

use super::{
    ChunkRecord, DiskStore, IndexKey, PartialMap, Pin, Purpose, Reservation, TempRoom, blocking,
    file_names::unique_name,
    partial_map::Footer,
    temp_file::{TempFile, TempName, remove},
    verified_at, write,
};
use crate::cache::{ContentKey, Origin};

/// A broken download with fewer bytes than this is not kept.
const WORTH_KEEPING: u64 = 64 * 1024;

/// The file of a download, which commits, keeps or discards it.
pub struct TempBlob {
    id: ContentKey,
    temp: TempFile,
    /// The fingerprint of the origin; `None` for a file that is never kept.
    origin: Option<[u8; 16]>,
    /// How many of its bytes an earlier download left.
    left: u64,
    /// Whether a download has resumed these bytes in vain.
    failed: bool,
    /// The file is the whole blob, which an earlier process has verified.
    is_verified: bool,
}

/// What an earlier download left.
pub enum Leftover {
    /// These chunks, whose checksums are to be compared.
    Chunks(PartialMap),
    /// The whole blob of this size, verified: the process ended just before the file got its final name.
    Verified(u64),
}

impl DiskStore {
    /// Creates the file of a download, for which `reservation` has room. Each digest has one such file at a time, apart
    /// from those made [concurrently](DiskStore::create_beside). If the download breaks, the file belongs to this
    /// origin.
    pub async fn create(&self, id: &ContentKey, origin: &Origin, reservation: Reservation) -> io::Result<TempBlob> {
        let (store, id, origin) = (self.clone(), id.clone(), origin.fingerprint());
        write(move || {
            let name = TempName::Partial(id.clone());
            // The file that an earlier download left under this name, if it is not resumed, is overwritten: it must
            // not be evicted during this download.
            store.0.index.forget(&IndexKey::Partial(id.clone()));
            // Creates a new file: readers of the earlier one must not see it truncated.
            remove(&name.path(&store));
            let temp = TempFile::create(store, name, reservation)?;
            Ok(TempBlob { id, temp, origin: Some(origin), left: 0, failed: false, is_verified: false })
        })
        .await
    }

    /// The same, while another download of this content runs. The file is never kept for a later download.
    pub async fn create_beside(&self, id: &ContentKey, reservation: Reservation) -> io::Result<TempBlob> {
        let (store, id) = (self.clone(), id.clone());
        write(move || {
            let temp = TempFile::create(store, TempName::Unique(unique_name()), reservation)?;
            Ok(TempBlob { id, temp, origin: None, left: 0, failed: false, is_verified: false })
        })
        .await
    }

    /// Whether an earlier download of this blob from this origin left all of its bytes.
    pub async fn has_left_whole(&self, id: &ContentKey, origin: &Origin) -> bool {
        let key = IndexKey::Partial(id.clone());
        if !self.0.index.contains(&key) {
            return false;
        }
        let (path, origin) = (self.path(&key), origin.fingerprint());
        blocking(move || {
            let is_whole = || {
                Some(match left_in(&open_left(&path)?, &origin)? {
                    (_, Leftover::Chunks(map)) => map.total == Some(map.written()),
                    (_, Leftover::Verified(_)) => true,
                })
            };
            is_whole().unwrap_or_default()
        })
        .await
    }

    /// The file that an earlier download of this blob from this origin left, and what it holds; `None` if there is
    /// none.
    ///
    /// Bytes of another origin are not resumed: they are not verified, and if they were wrong, the clients of this
    /// origin would get them, or the error.
    pub async fn resume(&self, id: &ContentKey, origin: &Origin) -> Option<(TempBlob, Leftover)> {
        let key = IndexKey::Partial(id.clone());
        let (store, id) = (self.clone(), id.clone());
        if !self.0.index.contains(&key) {
            return None;
        }
        let origin = origin.fingerprint();
        blocking(move || {
            let file = open_left(&store.path(&key))?;
            let (failed, content) = left_in(&file, &origin)?;
            let left = match &content {
                Leftover::Chunks(map) => map.written(),
                Leftover::Verified(len) => *len,
            };
            let (reservation, _) = Reservation::adopt(&store, &key, &IndexKey::Blob(id.clone()))?;
            let temp = TempFile::opened(store, TempName::Partial(id.clone()), file, reservation);
            let is_verified = matches!(content, Leftover::Verified(_));
            Some((TempBlob { id, temp, origin: Some(origin), left, failed, is_verified }, content))
        })
        .await
    }
}

/// Blocks.
fn open_left(path: &Path) -> Option<File> {
    let flags = OFlags::NOFOLLOW.bits().cast_signed();
    File::options().read(true).write(true).custom_flags(flags).open(path).ok()
}

/// What a download of this origin left in the file, and whether another one resumed it in vain. Blocks.
fn left_in(file: &File, origin: &[u8; 16]) -> Option<(bool, Leftover)> {
    match Footer::read(file).ok()?.filter(|(footer, _)| footer.origin == *origin) {
        Some((footer, map)) => Some((footer.failed, Leftover::Chunks(map))),
        // Bytes that were verified before a kill are the content, whichever registry sent them.
        None => {
            let noted = verified_at::noted(file).filter(|noted| noted.verified.is_some())?;
            Some((false, Leftover::Verified(noted.len)))
        }
    }
}

impl TempBlob {
    /// The file, for clients that read it while it grows.
    pub fn file(&self) -> &Arc<File> {
        &self.temp.file
    }

    /// The room of the file.
    pub fn room(&self) -> &Arc<TempRoom> {
        &self.temp.room
    }

    /// Where the chunks of a blob of `total` bytes are noted while the download runs; `None` if the file is not kept.
    pub fn notes(&self, chunk: u64, total: u64) -> Option<ChunkNotes> {
        let footer = Footer {
            chunk,
            total: Some(total),
            count: total.div_ceil(chunk),
            origin: self.origin?,
            failed: self.failed,
        };
        Some(ChunkNotes { file: self.temp.file.clone(), footer: Mutex::new(NotedFooter { footer, is_written: false }) })
    }

    /// Gives the file its final name after the whole content was verified. Blocks.
    ///
    /// The pin keeps the blob in the cache for the readers that began while it grew.
    pub fn commit(self, purpose: Purpose, len: u64) -> io::Result<Arc<Pin>> {
        self.temp.commit(purpose, IndexKey::Blob(self.id), len)
    }

    /// The file of a download that discards it: it is removed when this is dropped, which blocks.
    pub fn doomed(self) -> Self {
        Self { temp: self.temp.doomed(), ..self }
    }

    /// Keeps the file for the next download, after this one broke with these chunks. Blocks.
    ///
    /// No byte is cut off or overwritten: it may still be queued in a socket, even for a client whose reader has ended.
    /// The bytes of an earlier download are removed once two downloads have resumed them, the upstream has `answered`
    /// both, and neither received another byte.
    pub fn keep(self, purpose: Purpose, map: &PartialMap, answered: bool) -> io::Result<()> {
        let Self { id, temp, origin, left, failed, is_verified } = self;
        if is_verified {
            let len = temp.file.metadata()?.blocks() * 512;
            temp.keep(purpose, IndexKey::Partial(id), len);
            return Ok(());
        }
        let written = map.written();
        let Some(origin) = origin.filter(|_| written >= WORTH_KEEPING) else {
            temp.discard();
            return Ok(());
        };
        let in_vain = left > 0 && written <= left && (answered || failed);
        if in_vain && answered && failed {
            temp.discard();
            return Ok(());
        }
        let count = map.total.map_or(map.records.len() as u64, |total| total.div_ceil(map.chunk));
        let footer = Footer { chunk: map.chunk, total: map.total, count, origin, failed: in_vain };
        let before = temp.file.metadata()?.len();
        if let Err(error) = footer.write(&temp.file).and_then(|()| footer.write_records(&temp.file, &map.records)) {
            // A full disk may have no room for the map, but the one that was noted while the download ran is there.
            if !has_noted(&temp.file, before, origin) {
                temp.discard();
                return Err(error);
            }
            tracing::debug!(%error, "a broken download keeps only the chunks that it noted");
        }
        let len = temp.file.metadata()?.blocks() * 512;
        temp.keep(purpose, IndexKey::Partial(id), len);
        Ok(())
    }
}

/// Whether the file had a map of this origin when it had `len` bytes; if it had, it is as long again. Blocks.
fn has_noted(file: &File, len: u64, origin: [u8; 16]) -> bool {
    let is_as_before = |file: &File| file.metadata().is_ok_and(|metadata| metadata.len() == len);
    (is_as_before(file) || file.set_len(len).is_ok())
        && Footer::read(file).is_ok_and(|noted| noted.is_some_and(|(footer, _)| footer.origin == origin))
}

/// Notes in the file which chunks are whole, so that a kill loses no others.
pub struct ChunkNotes {
    file: Arc<File>,
    footer: Mutex<NotedFooter>,
}

struct NotedFooter {
    footer: Footer,
    is_written: bool,
}

impl ChunkNotes {
    /// Notes a chunk, and `all` chunks when nothing is noted yet. Blocks.
    pub fn note(&self, index: usize, record: ChunkRecord, all: impl FnOnce() -> Vec<ChunkRecord>) -> io::Result<()> {
        let mut noted = self.footer.lock();
        if !noted.is_written {
            noted.footer.write(&self.file)?;
            noted.footer.write_records(&self.file, &all())?;
            noted.is_written = true;
        }
        noted.footer.write_record(&self.file, index, record)
    }
}

#[cfg(test)]
mod tests;
