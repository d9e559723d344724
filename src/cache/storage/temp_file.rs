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

use super::{DiskStore, IndexKey, NoSpace, Pin, Purpose, Reservation, file_names, verified_at};
use crate::cache::ContentKey;

/// A file below `tmp/`. If it was neither committed, kept nor discarded, it goes with its value if no later process
/// would use it; a file that a later download resumes stays as after a kill, since only the end of the process drops one.
/// Where that is not so, the file is [doomed](Self::doomed) first.
pub(super) struct TempFile {
    pub(super) store: DiskStore,
    pub(super) file: Arc<File>,
    pub(super) name: TempName,
    pub(super) room: Arc<TempRoom>,
    is_removed_on_drop: bool,
}

/// The name of a file below `tmp/`.
#[derive(Clone, Debug)]
pub(super) enum TempName {
    /// The name of this content's download, which a later download resumes.
    Partial(ContentKey),
    /// A name that only this file ever has: a restart removes the file.
    Unique(String),
}

impl TempName {
    pub(super) fn path(&self, store: &DiskStore) -> PathBuf {
        let directory = store.0.root.join("tmp");
        match self {
            Self::Partial(id) => directory.join(file_names::partial(id)),
            Self::Unique(name) => directory.join(name),
        }
    }
}

/// The room of a file, which several workers may enlarge and use.
pub struct TempRoom {
    reservation: Mutex<Option<Reservation>>,
    /// One worker at a time enlarges the reservation, so that two do not ask for the same bytes.
    growing: tokio::sync::Mutex<()>,
}

impl TempRoom {
    fn new(reservation: Reservation) -> Arc<Self> {
        Arc::new(Self { reservation: Mutex::new(Some(reservation)), growing: tokio::sync::Mutex::default() })
    }

    /// Makes sure that there is room for `len` bytes in all.
    pub async fn grow_to(&self, purpose: Purpose, len: u64) -> Result<(), NoSpace> {
        if self.missing(len)?.is_none() {
            return Ok(());
        }
        let _turn = self.growing.lock().await;
        let Some((store, missing)) = self.missing(len)? else { return Ok(()) };
        let more = store.reserve_bytes(purpose, missing, || 0).await?;
        self.reservation.lock().as_mut().ok_or(NoSpace)?.absorb(more);
        Ok(())
    }

    /// What has to be reserved in addition, and where.
    fn missing(&self, len: u64) -> Result<Option<(DiskStore, u64)>, NoSpace> {
        let reservation = self.reservation.lock();
        Ok(reservation.as_ref().ok_or(NoSpace)?.missing(len))
    }

    /// `bytes` more of the reservation are on disk.
    pub fn note_written(&self, bytes: u64) {
        if let Some(reservation) = &mut *self.reservation.lock() {
            reservation.note_written(bytes);
        }
    }

    fn take(&self) -> Option<Reservation> {
        self.reservation.lock().take()
    }
}

impl TempFile {
    /// Creates a file; its name must not exist yet. Blocks.
    pub(super) fn create(store: DiskStore, name: TempName, reservation: Reservation) -> io::Result<Self> {
        let file = File::options().read(true).write(true).create_new(true).mode(0o600).open(name.path(&store))?;
        Ok(Self::opened(store, name, file, reservation))
    }

    /// Takes a file that the caller opened by this name.
    pub(super) fn opened(store: DiskStore, name: TempName, file: File, reservation: Reservation) -> Self {
        let is_removed_on_drop = matches!(name, TempName::Unique(_));
        Self { store, file: Arc::new(file), name, room: TempRoom::new(reservation), is_removed_on_drop }
    }

    /// Turns the file into an object of `len` bytes. Blocks.
    ///
    /// It is synced before the rename, so that a power cut leaves either the whole object or nothing under its name.
    pub(super) fn commit(mut self, purpose: Purpose, key: IndexKey, len: u64) -> io::Result<Arc<Pin>> {
        match self.try_commit(purpose, key, len) {
            Ok(pin) => {
                self.is_removed_on_drop = false;
                Ok(pin)
            }
            Err(error) => {
                self.discard();
                Err(error)
            }
        }
    }

    fn try_commit(&self, purpose: Purpose, key: IndexKey, len: u64) -> io::Result<Arc<Pin>> {
        // The note comes first: a kill between the two leaves the map or the note, which both say what is there.
        verified_at::note(&self.file, len);
        self.file.set_len(len)?;
        // A client's own download of this blob, from another registry, was quicker: that object is in use.
        let is_cached = self.store.0.index.contains(&key);
        let purpose = if is_cached { Purpose::Client } else { purpose };
        if purpose == Purpose::Ahead {
            // No client has used it: after a restart, too, it is the first to be evicted.
            self.file.set_modified(SystemTime::UNIX_EPOCH)?;
        }
        self.file.sync_all()?;
        let path = self.store.path(&key);
        let reservation = self.room.take().ok_or(io::ErrorKind::StorageFull)?;
        self.store.rename(&self.name.path(&self.store), &path)?;
        let pin = Arc::new(reservation.fulfil_pinned(purpose, key, len));
        if let Some(parent) = path.parent() {
            File::open(parent)?.sync_all()?;
        }
        Ok(pin)
    }

    /// Removes the file. Blocks.
    pub(super) fn discard(self) {
        drop(self.doomed());
    }

    /// The file, which goes with its value from now on.
    pub(super) fn doomed(mut self) -> Self {
        self.is_removed_on_drop = true;
        self
    }

    /// Keeps the file of `len` bytes under its name, as this object of the index. Blocks.
    pub(super) fn keep(mut self, purpose: Purpose, key: IndexKey, len: u64) {
        self.is_removed_on_drop = false;
        if let Some(reservation) = self.room.take() {
            reservation.fulfil(purpose, key, len);
        }
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        if self.is_removed_on_drop {
            remove(&self.name.path(&self.store));
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
