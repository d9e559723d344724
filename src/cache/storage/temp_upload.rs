//! Bytes of which nobody knows yet what blob they are: a file below `tmp/` that becomes a blob, or nothing.
//!
//! Its name is none that a fill gives, so what a kill leaves of it is swept.

use std::{fs::File, io, os::unix::fs::OpenOptionsExt as _, path::PathBuf, sync::Arc};

use super::{DiskStore, IndexKey, NoSpace, Pin, Purpose, Reservation, temp_file::remove, write};
use crate::cache::storage::index::{BLOCK, allocated};

/// How many directories may have to be made for a blob, wherever it comes to be.
const MAX_DIRECTORIES: u64 = 4;

/// A file below `tmp/`, written from the front; removed on drop unless it was committed.
pub struct TempUpload {
    store: DiskStore,
    file: Arc<File>,
    path: PathBuf,
    reservation: Option<Reservation>,
    live: bool,
}

impl DiskStore {
    /// Makes room for an object of `len` bytes, whatever it is.
    pub async fn reserve_upload(&self, len: u64) -> Result<Reservation, NoSpace> {
        let directories = MAX_DIRECTORIES * BLOCK;
        self.reserve_bytes(Purpose::Unawaited, allocated(len), move || directories).await
    }

    /// Begins a file of which `reservation` bytes are promised; `number` is no other one's.
    ///
    /// Nothing is promised before the start-up scan is through, so that finds none of these.
    pub async fn create_upload(&self, number: u64, reservation: Reservation) -> io::Result<TempUpload> {
        let store = self.clone();
        write(move || {
            let path = store.0.root.join("tmp").join(format!("upload-{number:016x}.new"));
            let file = File::options().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
            Ok(TempUpload { store, file: Arc::new(file), path, reservation: Some(reservation), live: true })
        })
        .await
    }
}

impl TempUpload {
    pub fn file(&self) -> &Arc<File> {
        &self.file
    }

    /// Makes sure there is room for `len` bytes in all.
    pub async fn grow_to(&mut self, len: u64) -> Result<(), NoSpace> {
        match &mut self.reservation {
            Some(reservation) => reservation.grow_to(Purpose::Unawaited, len).await,
            None => Err(NoSpace),
        }
    }

    /// `bytes` more of what is reserved are on disk.
    pub fn note_written(&mut self, bytes: u64) {
        if let Some(reservation) = &mut self.reservation {
            reservation.note_written(bytes);
        }
    }

    /// Its `len` bytes were verified to be this object's: gives it its final name. Blocks.
    pub fn commit(mut self, key: IndexKey, len: u64) -> io::Result<Arc<Pin>> {
        let pin = self.store.place(&self.file, &self.path, &mut self.reservation, Purpose::Client, key, len)?;
        self.live = false;
        Ok(pin)
    }
}

impl Drop for TempUpload {
    fn drop(&mut self) {
        if self.live {
            remove(&self.path);
        }
    }
}
