//! A file below `tmp/` that is renamed to become an object, or is removed.

use std::{
    fs::File,
    io::{self, IoSlice},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use parking_lot::Mutex;

use super::{DiskStore, IndexKey, NoSpace, Pin, Purpose, Reservation, file_names, partial_attributes, verified_at};
use crate::cache::ContentKey;

/// A file below `tmp/`; removed on drop unless it was committed or kept.
pub(super) struct TempFile {
    pub(super) store: DiskStore,
    pub(super) file: Arc<File>,
    pub(super) name: TempName,
    reservation: Option<Reservation>,
    is_unfinished: bool,
}

/// The name of a file below `tmp/`. A cheap handle.
#[derive(Clone)]
pub struct TempName(Arc<Mutex<Spelling>>);

struct Spelling {
    directory: PathBuf,
    kind: NameKind,
}

enum NameKind {
    /// The name of this content's download; it shows whether the file may have gaps.
    Partial { id: ContentKey, gaps: bool },
    /// A name that only this file ever has: a restart removes the file.
    Unique(String),
}

impl TempName {
    /// The usual name of this content's download.
    pub(super) fn partial(store: &DiskStore, id: &ContentKey) -> Self {
        Self::new(store, NameKind::Partial { id: id.clone(), gaps: false })
    }

    /// The name of a file that a restart removes.
    pub(super) fn unique(store: &DiskStore, name: String) -> Self {
        Self::new(store, NameKind::Unique(name))
    }

    fn new(store: &DiskStore, kind: NameKind) -> Self {
        Self(Arc::new(Mutex::new(Spelling { directory: store.0.root.join("tmp"), kind })))
    }

    /// From now on, bytes may be written out of order. Blocks.
    pub fn allow_gaps(&self) -> io::Result<()> {
        self.set_gaps(true)
    }

    /// Notes that `file`, which has this name, has no gaps any more. Blocks.
    pub fn close_gaps(&self, file: &File) -> io::Result<()> {
        partial_attributes::remove_prefix(file);
        self.set_gaps(false)
    }

    pub(super) fn set_gaps(&self, wanted: bool) -> io::Result<()> {
        let mut spelling = self.0.lock();
        let old = spelling.path();
        let Spelling { directory, kind: NameKind::Partial { id, gaps } } = &mut *spelling else { return Ok(()) };
        if *gaps != wanted {
            std::fs::rename(old, directory.join(file_names::partial(id, wanted)))?;
            *gaps = wanted;
        }
        Ok(())
    }

    pub(super) fn is_unique(&self) -> bool {
        matches!(self.0.lock().kind, NameKind::Unique(_))
    }

    pub(super) fn path(&self) -> PathBuf {
        self.0.lock().path()
    }
}

impl Spelling {
    fn path(&self) -> PathBuf {
        match &self.kind {
            NameKind::Partial { id, gaps } => self.directory.join(file_names::partial(id, *gaps)),
            NameKind::Unique(name) => self.directory.join(name),
        }
    }
}

impl TempFile {
    /// Creates a file; its name must not exist yet. Blocks.
    pub(super) fn create(store: DiskStore, name: TempName, reservation: Reservation) -> io::Result<Self> {
        let file = File::options().read(true).write(true).create_new(true).mode(0o600).open(name.path())?;
        Ok(Self::opened(store, name, file, reservation))
    }

    /// Takes a file that the caller opened by this name.
    pub(super) fn opened(store: DiskStore, name: TempName, file: File, reservation: Reservation) -> Self {
        Self { store, file: Arc::new(file), name, reservation: Some(reservation), is_unfinished: true }
    }

    /// Makes sure that there is room for `len` bytes in all.
    pub(super) async fn grow_to(&mut self, purpose: Purpose, len: u64) -> Result<(), NoSpace> {
        match &mut self.reservation {
            Some(reservation) => reservation.grow_to(purpose, len).await,
            None => Err(NoSpace),
        }
    }

    /// `bytes` more of the reservation are on disk.
    pub(super) fn note_written(&mut self, bytes: u64) {
        if let Some(reservation) = &mut self.reservation {
            reservation.note_written(bytes);
        }
    }

    /// Turns the file into an object of `len` bytes. Blocks.
    ///
    /// It is synced before the rename, so that a power cut leaves either the whole object or nothing under its name.
    pub(super) fn commit(mut self, purpose: Purpose, key: IndexKey, len: u64) -> io::Result<Arc<Pin>> {
        self.file.set_len(len)?;
        // The notes of the download are removed first: with them still present, the next note would make the file
        // system allocate a block for attributes.
        partial_attributes::remove_notes(&self.file);
        verified_at::note(&self.file, len);
        // A client's own download of this blob, from another registry, was quicker: that object is in use.
        let is_cached = self.store.0.index.contains(&key);
        let purpose = if is_cached { Purpose::Client } else { purpose };
        if purpose == Purpose::Ahead {
            // No client has used it: after a restart, too, it is the first to be evicted.
            self.file.set_modified(SystemTime::UNIX_EPOCH)?;
        }
        self.file.sync_all()?;
        let path = self.store.path(&key);
        let reservation = self.reservation.take().ok_or(io::ErrorKind::StorageFull)?;
        self.store.rename(&self.name.path(), &path)?;
        let pin = Arc::new(reservation.fulfil_pinned(purpose, key, len));
        if let Some(parent) = path.parent() {
            File::open(parent)?.sync_all()?;
        }
        self.is_unfinished = false;
        Ok(pin)
    }

    /// Keeps the file of `len` bytes under its name, as this object of the index. Blocks.
    pub(super) fn keep(mut self, purpose: Purpose, key: IndexKey, len: u64) {
        self.is_unfinished = false;
        if let Some(reservation) = self.reservation.take() {
            reservation.fulfil(purpose, key, len);
        }
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        if self.is_unfinished {
            remove(&self.name.path());
        }
    }
}

/// Removes a temporary file, if it exists.
pub(super) fn remove(path: &Path) {
    if let Err(error) = std::fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::error!(path = %path.display(), %error, "cannot remove a temporary file of the cache");
    }
}

/// Writes all of `buffers`, one after the other, starting at `offset`. Blocks.
pub fn write_all_at(file: &File, mut buffers: &mut [IoSlice<'_>], mut offset: u64) -> io::Result<()> {
    while !buffers.is_empty() {
        match rustix::io::pwritev(file, buffers, offset) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                IoSlice::advance_slices(&mut buffers, written);
                offset += written as u64;
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
