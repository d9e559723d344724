//! An upload that is being captured: a file below `tmp/` that becomes a blob, or is removed.
//!
//! Which blob it is, is not known before its end. A restart removes what a kill leaves of it.

use std::{fs::File, io, sync::Arc};

use super::{
    DiskStore, IndexKey, NoSpace, Pin, Purpose, Reservation, file_names,
    lru_index::{BLOCK, allocated},
    temp_file::{TempFile, TempName},
    write,
};

/// How many directories may have to be made for a blob, whatever its digest.
const MAX_DIRECTORIES: u64 = 4;

/// The file of an upload, written from the front; removed on drop unless it was committed.
pub struct TempUpload(TempFile);

impl DiskStore {
    /// Makes room for an upload of `len` bytes.
    pub async fn reserve_upload(&self, len: u64) -> Result<Reservation, NoSpace> {
        let directories = MAX_DIRECTORIES * BLOCK;
        self.reserve_bytes(Purpose::Unawaited, allocated(len), move || directories).await
    }

    /// Makes the file of an upload, for which `reservation` has room; no other upload has its `number`.
    ///
    /// The start-up scan, which removes such files, is over: before, nothing can be reserved.
    pub async fn create_upload(&self, number: u64, reservation: Reservation) -> io::Result<TempUpload> {
        let store = self.clone();
        write(move || {
            let name = TempName::unique(&store, file_names::upload(number));
            Ok(TempUpload(TempFile::create(store, name, reservation)?))
        })
        .await
    }
}

impl TempUpload {
    pub fn file(&self) -> &Arc<File> {
        &self.0.file
    }

    /// Makes sure there is room for `len` bytes in all.
    pub async fn grow_to(&mut self, len: u64) -> Result<(), NoSpace> {
        self.0.grow_to(Purpose::Unawaited, len).await
    }

    /// `bytes` more of what is reserved are on disk.
    pub fn note_written(&mut self, bytes: u64) {
        self.0.note_written(bytes);
    }

    /// Its `len` bytes were verified to be this object's: gives it its final name. Blocks.
    pub fn commit(self, key: IndexKey, len: u64) -> io::Result<Arc<Pin>> {
        self.0.commit(Purpose::Client, key, len)
    }
}
