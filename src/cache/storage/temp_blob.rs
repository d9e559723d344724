//! The file of a download in progress: a file below `tmp/` that becomes a blob, is kept to be resumed, or is removed.
//!
//! A file that is kept belongs to the registry that sent its bytes. For the names of the files, see `file_names`.

use std::{fs::File, io, os::unix::fs::OpenOptionsExt as _, sync::Arc};

use rustix::fs::OFlags;

use super::{
    DiskStore, IndexKey, NoSpace, Pin, Purpose, Reservation, blocking,
    file_names::unique_name,
    partial_attributes::{note_failure, note_prefix, note_registry, noted_prefix, noted_registry, take_failure},
    temp_file::{TempFile, TempName, remove},
    verified_at, write,
};
use crate::{cache::ContentKey, upstream::Registry};

/// A broken download with fewer bytes than this is not kept.
const WORTH_KEEPING: u64 = 64 * 1024;

/// The file of a download; removed on drop unless it was committed or kept.
pub struct TempBlob {
    id: ContentKey,
    temp: TempFile,
    /// How many of its bytes an earlier download left.
    left: u64,
    /// Whether a download has resumed these bytes in vain.
    failed: bool,
}

impl DiskStore {
    /// Creates the file of a download, for which `reservation` has room. Each digest has one such file at a time, apart
    /// from those made [concurrently](DiskStore::create_beside). If the download breaks, the file belongs to this
    /// registry.
    pub async fn create(&self, id: &ContentKey, registry: &Registry, reservation: Reservation) -> io::Result<TempBlob> {
        let (store, id, registry) = (self.clone(), id.clone(), registry.fingerprint());
        write(move || {
            let name = TempName::partial(&store, &id);
            // The file that an earlier download left under this name, if it was found too late to be resumed, is
            // overwritten: it must not be evicted during this download.
            store.0.index.forget(&IndexKey::Partial(id.clone()));
            // Creates a new file: readers of the earlier one must not see it truncated.
            remove(&name.path());
            let temp = TempFile::create(store, name, reservation)?;
            note_registry(&temp.file, &registry);
            Ok(TempBlob::new(id, temp))
        })
        .await
    }

    /// The same, while another download of this content runs. The file is never kept for a later download.
    pub async fn create_beside(&self, id: &ContentKey, reservation: Reservation) -> io::Result<TempBlob> {
        let (store, id) = (self.clone(), id.clone());
        write(move || {
            let name = TempName::unique(&store, unique_name());
            Ok(TempBlob::new(id, TempFile::create(store, name, reservation)?))
        })
        .await
    }

    /// Whether an earlier download of this blob left a file to resume.
    pub async fn has_left(&self, id: &ContentKey) -> bool {
        self.0.index.contains(&IndexKey::Partial(id.clone()))
    }

    /// The file that an earlier download of this blob from this registry left, and its length in bytes; `None` if there
    /// is none.
    ///
    /// Bytes that another registry sent are not resumed: they are not verified, and if they were wrong, the clients of
    /// this registry would get the error.
    pub async fn resume(&self, id: &ContentKey, registry: &Registry) -> Option<(TempBlob, u64)> {
        let key = IndexKey::Partial(id.clone());
        let (store, id) = (self.clone(), id.clone());
        if !self.0.index.contains(&key) {
            return None;
        }
        let registry = registry.fingerprint();
        blocking(move || {
            let flags = OFlags::NOFOLLOW.bits().cast_signed();
            let file = File::options().read(true).write(true).custom_flags(flags).open(store.path(&key)).ok()?;
            // Bytes that were verified before a kill are the content, whichever registry sent them.
            let usable = match noted_registry(&file) {
                Some(noted) => noted == registry,
                None => verified_at::noted(&file).is_some_and(|noted| noted.verified.is_some()),
            };
            if !usable {
                return None;
            }
            let (reservation, len) = Reservation::adopt(&store, &key, &IndexKey::Blob(id.clone()))?;
            store.publish();
            let whole = file.metadata().is_ok_and(|metadata| metadata.len() == len);
            let prefix = noted_prefix(&file).unwrap_or(len);
            let failed = take_failure(&file);
            let name = TempName::partial(&store, &id);
            let temp = TempFile::opened(store, name, file, reservation);
            let temp = TempBlob { id, temp, left: prefix, failed };
            // A file that does not match the index is dropped, which removes it.
            (whole && prefix <= len).then_some((temp, prefix))
        })
        .await
    }
}

impl TempBlob {
    fn new(id: ContentKey, temp: TempFile) -> Self {
        Self { id, temp, left: 0, failed: false }
    }

    /// The file, for clients that read it while it grows.
    pub fn file(&self) -> &Arc<File> {
        &self.temp.file
    }

    pub fn name(&self) -> &TempName {
        &self.temp.name
    }

    /// Makes sure that there is room for `len` bytes in all.
    pub async fn grow_to(&mut self, purpose: Purpose, len: u64) -> Result<(), NoSpace> {
        self.temp.grow_to(purpose, len).await
    }

    /// `bytes` more of the reservation are on disk.
    pub fn note_written(&mut self, bytes: u64) {
        self.temp.note_written(bytes);
    }

    /// Gives the file its final name after the whole content was verified. Blocks.
    ///
    /// The pin keeps the blob in the cache for the readers that began while it grew.
    pub fn commit(self, purpose: Purpose, len: u64) -> io::Result<Arc<Pin>> {
        self.temp.commit(purpose, IndexKey::Blob(self.id), len)
    }

    /// Keeps the file for the next download, after this one broke with `prefix` bytes without a gap. Blocks.
    ///
    /// Bytes behind the prefix are not cut off: the kernel would write zeros into pages that may still be queued in a
    /// socket, even of a client whose reader has ended. If the prefix cannot be noted, nothing is kept. The bytes of an
    /// earlier download are removed once two downloads have resumed them, the upstream has `answered` both, and neither
    /// received another byte.
    pub fn keep(self, purpose: Purpose, prefix: u64, answered: bool) -> io::Result<()> {
        let Self { id, temp, left, failed } = self;
        let len = temp.file.metadata()?.len();
        if prefix < WORTH_KEEPING || len < prefix || temp.name.is_unique() {
            return Ok(());
        }
        if (len > prefix || noted_prefix(&temp.file).is_some()) && !note_prefix(&temp.file, prefix) {
            return Ok(());
        }
        let in_vain = left > 0 && prefix <= left && (answered || failed);
        if in_vain && ((answered && failed) || !note_failure(&temp.file)) {
            return Ok(());
        }
        temp.name.set_gaps(false)?;
        temp.keep(purpose, IndexKey::Partial(id), len);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
