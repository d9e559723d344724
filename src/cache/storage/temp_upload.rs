//! An upload that forebay captures: a file below `tmp/` that becomes a blob, or is removed.
//!
//! The blob's digest is not known before the upload's end. After a kill, the next start removes the file.

use std::{fs::File, io, sync::Arc};

use super::{
    DiskStore, IndexKey, NoSpace, Pin, Purpose, Reservation, file_names,
    lru_index::{BLOCK, allocated},
    temp_file::{TempFile, TempName},
    write,
};

/// The most directories that have to be created for a blob, whatever its digest.
const MAX_DIRECTORIES: u64 = 4;

/// The file of an upload, written from the front; removed on drop unless it was committed.
pub struct TempUpload(TempFile);

impl DiskStore {
    /// Makes room for an upload of `len` bytes.
    pub async fn reserve_upload(&self, len: u64) -> Result<Reservation, NoSpace> {
        let directories = MAX_DIRECTORIES * BLOCK;
        self.reserve_bytes(Purpose::Unawaited, allocated(len), move || directories).await
    }

    /// Creates the file of an upload, for which `reservation` has room; no other upload has the same `number`.
    pub async fn create_upload(&self, number: u64, reservation: Reservation) -> io::Result<TempUpload> {
        let store = self.clone();
        write(move || {
            let name = TempName::Unique(file_names::upload(number));
            Ok(TempUpload(TempFile::create(store, name, reservation)?))
        })
        .await
    }
}

impl TempUpload {
    pub fn file(&self) -> &Arc<File> {
        &self.0.file
    }

    /// Makes sure that there is room for `len` bytes in all.
    pub async fn grow_to(&mut self, len: u64) -> Result<(), NoSpace> {
        self.0.room.grow_to(Purpose::Unawaited, len).await
    }

    /// `bytes` more of the reservation are on disk.
    pub fn note_written(&mut self, bytes: u64) {
        self.0.room.note_written(bytes);
    }

    /// Gives the file its final name after its `len` bytes were verified to be this object's. Blocks.
    pub fn commit(self, key: IndexKey, len: u64) -> io::Result<Arc<Pin>> {
        self.0.commit(Purpose::Client, key, len)
    }
}
