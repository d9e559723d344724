//! The readers of objects, and the files of blobs that stay open without one (pure).
//!
//! What must hold: what leaves the index, or is replaced in it, leaves nothing open here; a reader of an object that was
//! removed does not count for a later one of the same name.

use std::{
    fs::File,
    hash::BuildHasher as _,
    sync::{Arc, atomic::Ordering},
};

use super::{CompactKey, LruIndex, SHARDS, allocated, shard::Shard, shard_of};

/// An object that is kept from being evicted until [`LruIndex::unpin`].
#[derive(Debug)]
pub struct Pinned {
    pub len: u64,
    /// Tells this object from a later one of the same name.
    pub serial: u64,
    /// Its file, if it is kept open.
    pub file: Option<Arc<File>>,
    /// Whether this is its first use within this minute.
    pub is_first: bool,
}

impl LruIndex {
    /// Marks an object as used now and keeps it from being evicted until [`LruIndex::unpin`].
    pub fn pin(&self, key: &CompactKey) -> Option<Pinned> {
        self.change(key, |shard, hash| {
            let slot = shard.find(hash, key)?;
            Some(self.pin_used(shard, slot))
        })
    }

    /// The same, if its file is kept open.
    pub fn pin_open(&self, key: &CompactKey) -> Option<Pinned> {
        self.change(key, |shard, hash| {
            let slot = shard.find(hash, key)?;
            let kept = shard.kept_mut(slot).filter(|kept| kept.file.is_some())?;
            kept.was_read = true;
            Some(self.pin_used(shard, slot))
        })
    }

    fn pin_used(&self, shard: &mut Shard, slot: u32) -> Pinned {
        let is_first = self.renew(shard, slot);
        let serial = self.pin_slot(shard, slot);
        let file = shard.kept(slot).and_then(|kept| kept.file.clone());
        let len = shard.at(slot).map_or(0, |entry| entry.len);
        Pinned { len, serial, file, is_first }
    }

    pub(super) fn pin_slot(&self, shard: &mut Shard, slot: u32) -> u64 {
        let len = shard.at(slot).map_or(0, |entry| entry.len);
        let kept = shard.pin(slot);
        if kept.pins == 1 {
            self.pinned.fetch_add(allocated(len), Ordering::Relaxed);
        }
        kept.serial
    }

    /// Ends a pin with this serial number.
    pub fn unpin(&self, key: &CompactKey, serial: u64) {
        self.change(key, |shard, hash| {
            // The object is missing, or another one, if its file was deleted by hand meanwhile.
            let Some(slot) = shard.find(hash, key) else { return };
            self.unpin_slot(shard, slot, serial);
        });
    }

    pub(super) fn unpin_slot(&self, shard: &mut Shard, slot: u32, serial: u64) {
        let len = shard.at(slot).map_or(0, |entry| entry.len);
        if let Some(kept) = shard.kept_mut(slot).filter(|kept| kept.serial == serial && kept.pins > 0) {
            kept.pins -= 1;
            if kept.pins == 0 {
                self.pinned.fetch_sub(allocated(len), Ordering::Relaxed);
            }
        }
        shard.tidy(slot);
    }

    /// Keeps the file of a pinned object open, and closes another one if there are too many.
    pub fn keep_open(&self, key: &CompactKey, serial: u64, file: &Arc<File>) {
        let hash = self.hasher.hash_one(key);
        let number = shard_of(hash);
        let mut closed = None;
        let is_kept = self.change_shard(number, |shard| {
            let slot = shard.find(hash, key)?;
            let kept = shard.kept_mut(slot).filter(|kept| kept.serial == serial && kept.file.is_none())?;
            kept.file = Some(file.clone());
            if self.open.fetch_add(1, Ordering::Relaxed) >= self.max_open {
                closed = shard.file_to_close(Some(slot));
            }
            Some(())
        });
        if is_kept.is_none() {
            return;
        }
        for other in (1..=SHARDS).map(|step| (number + step) % SHARDS) {
            if closed.is_some() || self.open.load(Ordering::Relaxed) <= self.max_open {
                break;
            }
            // The last one is the shard of this file itself.
            closed = self.change_shard(other, |shard| shard.file_to_close(None));
        }
        self.closed(closed.as_ref());
    }

    /// Takes the open file of an object, which was changed by hand.
    pub fn take_open(&self, key: &CompactKey) -> Option<Arc<File>> {
        let file = self.change(key, |shard, hash| {
            let slot = shard.find(hash, key)?;
            let file = shard.kept_mut(slot)?.file.take();
            shard.tidy(slot);
            file
        });
        self.closed(file.as_ref());
        file
    }

    /// Closes the files that nothing has read since the last call.
    pub fn close_idle(&self) {
        for number in 0..SHARDS {
            let idle = self.change_shard(number, Shard::idle_files);
            self.open.fetch_sub(idle.len(), Ordering::Relaxed);
        }
    }

    /// How many files are kept open.
    pub fn open_files(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    pub(super) fn closed(&self, file: Option<&Arc<File>>) {
        if file.is_some() {
            self.open.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            BLOCK,
            tests::{PLENTY, blob, compact, index, reserve},
        },
        *,
    };

    #[test]
    fn a_reader_of_what_was_removed_keeps_nothing_of_its_successor() {
        let index = index(4 * BLOCK);
        index.insert(blob(0), BLOCK);
        let before = index.pin(&compact(0)).unwrap();
        index.forget(&blob(0));
        assert_eq!(index.kept_by_readers(), 0);
        index.insert(blob(0), BLOCK);
        let after = index.pin(&compact(0)).unwrap();
        index.unpin(&compact(0), before.serial);
        assert_eq!(index.pinned_bytes(&blob(0)), Some(BLOCK), "the other reader is there still");
        index.unpin(&compact(0), after.serial);
        assert_eq!((index.pinned_bytes(&blob(0)), index.kept_by_readers()), (None, 0));
    }

    fn open_file() -> Arc<File> {
        Arc::new(File::open("/dev/null").unwrap())
    }

    fn keep(index: &LruIndex, number: u64) -> Arc<File> {
        let (pinned, file) = (index.pin(&compact(number)).unwrap(), open_file());
        index.keep_open(&compact(number), pinned.serial, &file);
        index.unpin(&compact(number), pinned.serial);
        file
    }

    #[test]
    fn a_file_stays_open_as_long_as_its_object_stays() {
        let end: [fn(&LruIndex); 5] = [
            |index| drop(index.forget(&blob(0))),
            |index| drop(reserve(index, 4 * BLOCK, PLENTY)),
            |index| index.insert(blob(0), BLOCK),
            |index| assert!(index.fulfil(&compact(0), 2 * BLOCK, true, (0, 0)) > 0),
            |index| drop(index.take_open(&compact(0))),
        ];
        for (number, end) in end.into_iter().enumerate() {
            let index = index(4 * BLOCK);
            index.insert(blob(0), BLOCK);
            let file = keep(&index, 0);
            let pinned = index.pin_open(&compact(0)).unwrap();
            assert!(Arc::ptr_eq(&file, &pinned.file.unwrap()));
            index.unpin(&compact(0), pinned.serial);
            assert_eq!((Arc::strong_count(&file), index.open_files()), (2, 1));
            end(&index);
            assert_eq!((Arc::strong_count(&file), index.open_files()), (1, 0), "{number}");
            assert!(index.pin_open(&compact(0)).is_none());
        }
    }

    #[test]
    fn a_file_that_nothing_reads_is_closed() {
        let index = index(PLENTY);
        for number in 0..2 {
            index.insert(blob(number), BLOCK);
            keep(&index, number);
        }
        let reader = index.pin_open(&compact(1)).unwrap();
        // Zero was not read since it was opened.
        index.close_idle();
        assert_eq!((index.open_files(), index.pin_open(&compact(0)).is_some()), (1, false));
        index.close_idle();
        assert_eq!(index.open_files(), 1, "a reader has it");
        index.unpin(&compact(1), reader.serial);
        index.close_idle();
        assert_eq!(index.open_files(), 0);
    }

    #[test]
    fn no_more_files_stay_open_than_allowed() {
        for max_open in [0, 1, 7, 100] {
            let index = LruIndex::new(PLENTY, max_open);
            for number in 0..300 {
                index.insert(blob(number), BLOCK);
                let file = keep(&index, number);
                assert_eq!(index.open_files(), max_open.min(usize::try_from(number).unwrap() + 1));
                assert_eq!(Arc::strong_count(&file), if max_open == 0 { 1 } else { 2 }, "the last one stays");
            }
        }
        // What nothing was kept of, before it was replaced, is not kept.
        let index = index(PLENTY);
        index.insert(blob(0), BLOCK);
        let serial = index.pin(&compact(0)).unwrap().serial;
        index.forget(&blob(0));
        index.insert(blob(0), BLOCK);
        index.keep_open(&compact(0), serial + 7, &open_file());
        assert_eq!(index.open_files(), 0);
    }
}
