//! Looks at what is cached for the inventory of images.
//!
//! What must hold: nothing here counts as a use, so that an inventory changes nothing about what is evicted next.

use std::{
    fs::File,
    io::{self, Read as _},
    os::unix::fs::OpenOptionsExt as _,
};

use rustix::fs::OFlags;

use super::{
    DiskStore, IndexKey,
    lru_index::{CompactKey, OnDisk, Usage},
    tag_record::TagKey,
};

impl DiskStore {
    /// How many bytes an object takes on disk, if it is there.
    pub fn bytes_on_disk(&self, key: &CompactKey) -> Option<u64> {
        self.0.index.bytes_of(key)
    }

    /// All tags that have records, as far as the index knows, once for each class.
    pub fn tags(&self) -> impl Iterator<Item = TagKey> {
        self.0.index.tags()
    }

    /// The records of a tag for all classes of clients, as far as the index knows.
    pub fn records_of(&self, tag: &TagKey) -> Vec<TagKey> {
        self.0.index.tag_classes(tag)
    }

    /// The blobs and manifests that are wanted.
    pub fn contents(&self, wanted: impl Fn(&CompactKey, OnDisk) -> bool) -> impl Iterator<Item = (CompactKey, OnDisk)> {
        self.0.index.objects(move |key, object| key.place().is_some() && wanted(key, object))
    }

    /// When an object was last used, in minutes since 1970.
    pub fn used_at(&self, key: &IndexKey) -> Option<u32> {
        self.0.index.used_at(key)
    }

    /// All that counts against `max_size`.
    pub fn usage(&self) -> Usage {
        self.0.index.usage()
    }

    /// The content of an object that is on disk and has at most `most` bytes. Blocks.
    ///
    /// # Errors
    /// Those of reading the file.
    pub fn peek(&self, key: &IndexKey, most: u64) -> io::Result<Option<Vec<u8>>> {
        if !self.0.index.contains(key) {
            return Ok(None);
        }
        let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
        let file = match File::options().read(true).custom_flags(flags).open(self.path(key)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut content = Vec::new();
        file.take(most.saturating_add(1)).read_to_end(&mut content)?;
        Ok((content.len() as u64 <= most).then_some(content))
    }

    /// The same off the threads that serve clients; `None` also if the file cannot be read.
    pub async fn peek_off_thread(&self, key: IndexKey, most: u64) -> Option<Vec<u8>> {
        let store = self.clone();
        super::blocking(move || store.peek(&key, most).ok().flatten()).await
    }
}
