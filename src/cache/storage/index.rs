//! What is on disk, how recently each thing was used, and what has to go to make room (pure).
//!
//! Space is reserved before bytes arrive, so `used + reserved` never exceeds `max_size`: the disk is
//! bounded with everything in flight. The index *names* victims; the store unlinks them.
//! An object that is being read is never named: unlinking an open file frees nothing.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use lru::LruCache;

use crate::{
    cache::{ContentKey, ObjectKind, Visibility, storage::tag_record::TagKey},
    oci::{AcceptClass, Algorithm, Digest, sha256_of_hex},
};

/// What file systems allocate in: a file's last block is paid for whole, and a directory takes one at least.
pub const BLOCK: u64 = 4096;
/// What was used within so many minutes stays when room is made for what no client has asked for.
const MIN_IDLE: u32 = 60;
/// How many such objects are passed over before there is no room.
const MAX_PASSED_OVER: usize = 4096;

/// One object on disk.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum IndexKey {
    Blob(ContentKey),
    Manifest(ContentKey),
    Tag(TagKey),
    /// What a broken fill left in `tmp/`, for the next fill of this blob to go on with.
    Partial(ContentKey),
}

impl IndexKey {
    pub fn kind(&self) -> ObjectKind {
        match self {
            Self::Blob(_) => ObjectKind::Blob,
            Self::Manifest(_) => ObjectKind::Manifest,
            Self::Tag(_) => ObjectKind::Tag,
            Self::Partial(_) => ObjectKind::Partial,
        }
    }
}

/// A key as the index holds it, millions at once: a sha256 digest is its 32 bytes, without an allocation.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CompactKey(Compact);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Compact {
    Blob(Visibility, [u8; 32]),
    Manifest(Visibility, [u8; 32]),
    Partial(Visibility, [u8; 32]),
    /// Tags, and digests of other algorithms: there are few of them.
    Other(Box<IndexKey>),
}

impl CompactKey {
    /// Of a file below `blobs/` or `manifests/`, by its name; `None` when it is no digest's.
    pub fn of_file(visibility: Visibility, kind: ObjectKind, algorithm: Algorithm, name: &str) -> Option<Self> {
        if algorithm == Algorithm::Sha256 {
            let hash = sha256_of_hex(name)?;
            match kind {
                ObjectKind::Blob => return Some(Self(Compact::Blob(visibility, hash))),
                ObjectKind::Manifest => return Some(Self(Compact::Manifest(visibility, hash))),
                ObjectKind::Tag | ObjectKind::Partial => return None,
            }
        }
        let digest: Digest = format!("{}:{name}", algorithm.as_str()).parse().ok()?;
        match kind {
            ObjectKind::Blob => Some(Self::from(&IndexKey::Blob(visibility.key(&digest)))),
            ObjectKind::Manifest => Some(Self::from(&IndexKey::Manifest(visibility.key(&digest)))),
            ObjectKind::Tag | ObjectKind::Partial => None,
        }
    }

    fn tag(&self) -> Option<&TagKey> {
        match &self.0 {
            Compact::Other(key) => match &**key {
                IndexKey::Tag(tag) => Some(tag),
                IndexKey::Blob(_) | IndexKey::Manifest(_) | IndexKey::Partial(_) => None,
            },
            Compact::Blob(..) | Compact::Manifest(..) | Compact::Partial(..) => None,
        }
    }

    fn kind(&self) -> ObjectKind {
        match &self.0 {
            Compact::Blob(..) => ObjectKind::Blob,
            Compact::Manifest(..) => ObjectKind::Manifest,
            Compact::Partial(..) => ObjectKind::Partial,
            Compact::Other(key) => key.kind(),
        }
    }

    pub fn key(&self) -> IndexKey {
        match &self.0 {
            Compact::Blob(visibility, hash) => IndexKey::Blob(visibility.key(&Digest::from_sha256(hash))),
            Compact::Manifest(visibility, hash) => IndexKey::Manifest(visibility.key(&Digest::from_sha256(hash))),
            Compact::Partial(visibility, hash) => IndexKey::Partial(visibility.key(&Digest::from_sha256(hash))),
            Compact::Other(key) => IndexKey::clone(key),
        }
    }
}

impl From<&IndexKey> for CompactKey {
    fn from(key: &IndexKey) -> Self {
        let compact = match key {
            IndexKey::Blob(id) => id.digest.sha256().map(|hash| Compact::Blob(id.visibility, hash)),
            IndexKey::Manifest(id) => id.digest.sha256().map(|hash| Compact::Manifest(id.visibility, hash)),
            IndexKey::Partial(id) => id.digest.sha256().map(|hash| Compact::Partial(id.visibility, hash)),
            IndexKey::Tag(_) => None,
        };
        Self(compact.unwrap_or_else(|| Compact::Other(Box::new(key.clone()))))
    }
}

struct IndexEntry {
    len: u64,
    /// How many readers have it open.
    pins: u32,
    /// When it came or was used last, in minutes since 1970.
    used: u32,
}

/// Bytes on disk and number of the objects of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub bytes: u64,
    pub objects: u64,
}

/// The room asked for cannot be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoRoom;

/// The index of everything on disk, in order of last use.
pub struct LruIndex {
    max_size: u64,
    /// Now, in minutes since 1970, to within a few.
    minute: u32,
    entries: LruCache<CompactKey, IndexEntry>,
    /// Bytes allocated by entries.
    used: u64,
    /// The part of `used` that cannot be evicted now.
    pinned: u64,
    /// Bytes promised to fills and writes in flight.
    reserved: u64,
    /// The part of them that is on disk already.
    written: u64,
    /// Bytes of directories, and of the files that say whose they are.
    overhead: u64,
    /// The directories that take more than a block.
    large_directories: HashMap<PathBuf, u64>,
    totals: [Totals; ObjectKind::EVERY.len()],
    /// The classes of clients that a tag has records for; the key's own class says nothing.
    classes: HashMap<TagKey, Vec<AcceptClass>>,
}

/// What a file of `len` bytes takes on disk. An upstream may claim any length: the sum stops at the largest.
pub const fn allocated(len: u64) -> u64 {
    len.div_ceil(BLOCK).saturating_mul(BLOCK)
}

impl LruIndex {
    pub fn new(max_size: u64) -> Self {
        Self {
            max_size,
            minute: 0,
            entries: LruCache::unbounded(),
            used: 0,
            pinned: 0,
            reserved: 0,
            written: 0,
            overhead: 0,
            large_directories: HashMap::new(),
            totals: Default::default(),
            classes: HashMap::new(),
        }
    }

    /// A minute passed, whatever the clock says: where that is set, nothing lay idle by it.
    pub fn pass_minute(&mut self) {
        self.minute = self.minute.saturating_add(1);
    }

    /// It is so late, in minutes since 1970.
    pub fn set_minute(&mut self, minute: u32) {
        self.minute = minute;
    }

    /// The records of a tag, for whatever clients.
    pub fn tag_classes(&self, tag: &TagKey) -> Vec<TagKey> {
        let name = tag.of_all_classes();
        let classes = self.classes.get(&name).into_iter().flatten();
        classes.map(|class| TagKey { class: *class, ..name.clone() }).collect()
    }

    /// The records of a tag beyond `most`: those for the classes of clients that used theirs the longest time ago.
    pub fn surplus_classes(&self, tag: &TagKey, most: usize) -> Vec<TagKey> {
        let mut keys = self.tag_classes(tag);
        let surplus = keys.len().saturating_sub(most);
        if surplus > 0 {
            let used = |key: &TagKey| {
                self.entries.peek(&CompactKey::from(&IndexKey::Tag(key.clone()))).map(|entry| entry.used)
            };
            keys.retain(|key| key.class != tag.class);
            keys.sort_by_cached_key(used);
        }
        keys.truncate(surplus);
        keys
    }

    /// Bytes on disk and promised.
    pub fn total(&self) -> u64 {
        self.used + self.reserved + self.overhead
    }

    pub fn totals(&self, kind: ObjectKind) -> Totals {
        self.totals[kind as usize]
    }

    pub fn contains(&self, key: &IndexKey) -> bool {
        self.entries.contains(&key.into())
    }

    /// How long an object is; this is no use of it.
    pub fn len_of(&self, key: &IndexKey) -> Option<u64> {
        self.entries.peek(&key.into()).map(|entry| entry.len)
    }

    /// Bytes that are no object's.
    pub fn overhead(&self) -> u64 {
        self.overhead
    }

    /// A file that is no object was found.
    pub fn add_other(&mut self, len: u64) {
        self.overhead += allocated(len);
    }

    /// A directory was made, or found.
    pub fn add_directory(&mut self) {
        self.overhead += BLOCK;
    }

    /// A directory takes this many bytes now: one of many names takes more than a block.
    pub fn measure_directory(&mut self, path: &Path, bytes: u64) {
        let bytes = allocated(bytes);
        let before = if bytes > BLOCK {
            self.large_directories.insert(path.to_owned(), bytes)
        } else {
            self.large_directories.remove(path)
        };
        self.overhead = (self.overhead + bytes.max(BLOCK)).saturating_sub(before.unwrap_or(BLOCK));
    }

    /// A directory is gone.
    pub fn remove_directory(&mut self, path: &Path) {
        let bytes = self.large_directories.remove(path).unwrap_or(BLOCK);
        self.overhead = self.overhead.saturating_sub(bytes);
    }

    /// Adds an object as the most recently used; one that is there already is only touched.
    pub fn insert(&mut self, key: IndexKey, len: u64) {
        let key = CompactKey::from(&key);
        if let Some(entry) = self.entries.get_mut(&key)
            && entry.len == len
        {
            entry.used = self.minute;
            return;
        }
        let pins = self.remove(&key).map_or(0, |entry| entry.pins);
        self.add(key, len, pins, self.minute);
    }

    /// Adds an object that no client has asked for: it is the first to go.
    pub fn insert_unused(&mut self, key: IndexKey, len: u64) {
        self.insert(key.clone(), len);
        self.entries.demote(&(&key).into());
    }

    fn add(&mut self, key: CompactKey, len: u64, pins: u32, used: u32) {
        self.used += allocated(len);
        if pins > 0 {
            self.pinned += allocated(len);
        }
        let totals = &mut self.totals[key.kind() as usize];
        totals.bytes += allocated(len);
        totals.objects += 1;
        if let Some(tag) = key.tag() {
            self.classes.entry(tag.of_all_classes()).or_default().push(tag.class);
        }
        self.entries.put(key, IndexEntry { len, pins, used });
    }

    /// Adds what the start-up scan found, with its length and the minute of its last use, the most recently used first: each
    /// below all that is there. The scan may come with it in portions. No time is earlier than a last use: where the clock was not
    /// set yet, it is the time of the latest one.
    pub fn insert_scanned(&mut self, found: impl IntoIterator<Item = (CompactKey, u64, u32)>) {
        for (key, len, used) in found {
            self.minute = self.minute.max(used);
            if !self.entries.contains(&key) {
                self.add(key.clone(), len, 0, used);
                self.entries.demote(&key);
            }
        }
    }

    /// Marks as used now, and keeps it from being evicted until [`LruIndex::unpin`]; its length, if it is there.
    pub fn pin(&mut self, key: &IndexKey) -> Option<u64> {
        let entry = self.entries.get_mut(&key.into())?;
        entry.used = self.minute;
        entry.pins += 1;
        if entry.pins == 1 {
            self.pinned += allocated(entry.len);
        }
        Some(entry.len)
    }

    pub fn unpin(&mut self, key: &IndexKey) {
        // Gone meanwhile when its file was deleted by hand.
        if let Some(entry) = self.entries.peek_mut(&key.into())
            && entry.pins > 0
        {
            entry.pins -= 1;
            if entry.pins == 0 {
                self.pinned -= allocated(entry.len);
            }
        }
    }

    /// Forgets an object whose file is gone; its length, if it was there.
    pub fn forget(&mut self, key: &IndexKey) -> Option<u64> {
        self.remove(&key.into()).map(|entry| entry.len)
    }

    fn remove(&mut self, key: &CompactKey) -> Option<IndexEntry> {
        let entry = self.entries.pop(key)?;
        if let Some(tag) = key.tag() {
            let name = tag.of_all_classes();
            if let Some(classes) = self.classes.get_mut(&name) {
                classes.retain(|class| *class != tag.class);
                if classes.is_empty() {
                    self.classes.remove(&name);
                }
            }
        }
        self.used -= allocated(entry.len);
        if entry.pins > 0 {
            self.pinned -= allocated(entry.len);
        }
        let totals = &mut self.totals[key.kind() as usize];
        totals.bytes -= allocated(entry.len);
        totals.objects -= 1;
        Some(entry)
    }

    /// Promises `bytes`, naming what must be unlinked first; those are forgotten here already.
    ///
    /// `spare` is what the file system can give before `min_free` is touched, bytes promised to others
    /// not yet subtracted. Nothing is evicted when evicting everything would not be enough.
    pub fn reserve(&mut self, bytes: u64, spare: u64) -> Result<Vec<(IndexKey, u64)>, NoRoom> {
        self.reserve_from(bytes, spare, |_| true)
    }

    /// The same for what no client has asked for: it drives out only what was not used for a while.
    pub fn reserve_ahead(&mut self, bytes: u64, spare: u64) -> Result<Vec<(IndexKey, u64)>, NoRoom> {
        let minute = self.minute;
        self.reserve_from(bytes, spare, |entry| minute.saturating_sub(entry.used) >= MIN_IDLE)
    }

    fn reserve_from(
        &mut self,
        bytes: u64,
        spare: u64,
        may_go: impl Fn(&IndexEntry) -> bool,
    ) -> Result<Vec<(IndexKey, u64)>, NoRoom> {
        let mut short = self.short(bytes, spare);
        if short > self.used - self.pinned {
            return Err(NoRoom);
        }
        let (mut victims, mut passed_over) = (Vec::new(), 0);
        for (key, entry) in self.entries.iter().rev() {
            if short == 0 || passed_over == MAX_PASSED_OVER {
                break;
            }
            if !may_go(entry) {
                passed_over += 1;
            } else if entry.pins == 0 {
                short = short.saturating_sub(allocated(entry.len));
                victims.push((key.clone(), entry.len));
            }
        }
        if short > 0 {
            return Err(NoRoom);
        }
        for (key, _) in &victims {
            self.remove(key);
        }
        self.reserved += bytes;
        Ok(victims.into_iter().map(|(key, len)| (key.key(), len)).collect())
    }

    /// How much has to go before there is room for `bytes`.
    pub fn short(&self, bytes: u64, spare: u64) -> u64 {
        let over_size = self.total().saturating_add(bytes).saturating_sub(self.max_size);
        let over_disk = (self.reserved - self.written).saturating_add(bytes).saturating_sub(spare);
        over_size.max(over_disk)
    }

    /// How many bytes more would have to go than may.
    pub fn missing(&self, bytes: u64, spare: u64) -> u64 {
        self.short(bytes, spare).saturating_sub(self.used - self.pinned)
    }

    /// How many bytes may not go, since they are read.
    pub fn kept_by_readers(&self) -> u64 {
        self.pinned
    }

    /// How many bytes are promised.
    pub fn reserved(&self) -> u64 {
        self.reserved
    }

    /// How many bytes an object takes that readers keep.
    pub fn pinned_bytes(&self, key: &IndexKey) -> Option<u64> {
        self.entries.peek(&key.into()).filter(|entry| entry.pins > 0).map(|entry| allocated(entry.len))
    }

    /// Names what is too much already, as after `max_size` was lowered; those are forgotten here.
    pub fn shrink(&mut self) -> Vec<(IndexKey, u64)> {
        let excess = self.total().saturating_sub(self.max_size).min(self.used - self.pinned);
        let target = self.total() - excess;
        let limit = std::mem::replace(&mut self.max_size, target);
        let victims = self.reserve(0, u64::MAX).unwrap_or_default();
        self.max_size = limit;
        victims
    }

    /// Promises bytes that are taken already: those of an object that was just forgotten but stays on disk.
    pub fn promise(&mut self, bytes: u64) {
        self.reserved += bytes;
    }

    /// Promised bytes are on disk now: the file system has them no more to give.
    pub fn note_written(&mut self, bytes: u64) {
        self.written = self.written.saturating_add(bytes).min(self.reserved);
    }

    /// Gives a promise of `bytes` back, of which `written` were on disk.
    pub fn release(&mut self, bytes: u64, written: u64) {
        self.reserved = self.reserved.saturating_sub(bytes);
        self.written = self.written.saturating_sub(written).min(self.reserved);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::oci::Algorithm;

    fn blob(number: u8) -> IndexKey {
        IndexKey::Blob(Visibility::Shared.key(&Digest::of(Algorithm::Sha256, &[number])))
    }

    const PLENTY: u64 = u64::MAX / 4;

    #[test]
    fn the_classes_of_a_tag_are_those_that_have_a_record() {
        let of = |tag: &str, class: &str| {
            TagKey::from_path(Visibility::Shared, std::path::Path::new(&format!("u/team/app/{tag}@{class}"))).unwrap()
        };
        let mut index = LruIndex::new(4 * BLOCK);
        for key in [of("1", "01"), of("1", "02"), of("2", "01"), of("1", "02")] {
            index.insert(IndexKey::Tag(key), 10);
        }
        assert_eq!(index.tag_classes(&of("1", "80")), [of("1", "01"), of("1", "02")]);
        index.forget(&IndexKey::Tag(of("1", "01")));
        assert_eq!(index.tag_classes(&of("1", "80")), [of("1", "02")]);
        // Of more than are kept those go that were used the longest time ago, and never the one that is there anew.
        for (minute, class) in [(30, "04"), (10, "05"), (20, "06")] {
            index.set_minute(minute);
            index.insert(IndexKey::Tag(of("3", class)), 10);
        }
        assert_eq!(index.surplus_classes(&of("3", "06"), 3), []);
        assert_eq!(index.surplus_classes(&of("3", "06"), 2), [of("3", "05")]);
        assert_eq!(index.surplus_classes(&of("3", "05"), 1), [of("3", "06"), of("3", "04")]);
        for class in ["04", "05", "06"] {
            index.forget(&IndexKey::Tag(of("3", class)));
        }
        // Evicted: nothing is left of it.
        assert_eq!(index.reserve(4 * BLOCK, PLENTY).unwrap().len(), 2);
        assert!(index.tag_classes(&of("1", "80")).is_empty() && index.classes.is_empty());
    }

    #[test]
    fn a_directory_of_many_names_counts_as_the_blocks_it_has() {
        let (mut index, path) = (LruIndex::new(100 * BLOCK), Path::new("/cache/tags/u/app"));
        index.add_other(30);
        index.add_directory();
        for (bytes, blocks) in [(0, 2), (BLOCK, 2), (5 * BLOCK, 6), (5 * BLOCK, 6), (7 * BLOCK, 8), (512, 2)] {
            index.measure_directory(path, bytes);
            assert_eq!((index.total(), index.overhead()), (blocks * BLOCK, blocks * BLOCK), "{bytes} bytes");
        }
        index.measure_directory(path, 9 * BLOCK);
        index.remove_directory(path);
        assert_eq!((index.overhead(), index.large_directories.len()), (BLOCK, 0));
    }

    #[test]
    fn the_least_recently_used_goes_first_and_no_more_than_needed() {
        let mut index = LruIndex::new(4 * BLOCK);
        for number in 0..4 {
            index.insert(blob(number), BLOCK);
        }
        index.insert(blob(0), BLOCK);
        assert_eq!(index.reserve(2 * BLOCK, PLENTY), Ok(vec![(blob(1), BLOCK), (blob(2), BLOCK)]));
        assert_eq!(index.total(), 4 * BLOCK);
        assert!(index.contains(&blob(0)) && index.contains(&blob(3)));
    }

    #[test]
    fn what_no_client_used_goes_first_until_one_does() {
        for is_used in [false, true] {
            let mut index = LruIndex::new(3 * BLOCK);
            for number in 0..2 {
                index.insert(blob(number), BLOCK);
            }
            index.insert_unused(blob(2), BLOCK);
            if is_used {
                index.pin(&blob(2));
                index.unpin(&blob(2));
            }
            let first = if is_used { 0 } else { 2 };
            assert_eq!(index.reserve(BLOCK, PLENTY), Ok(vec![(blob(first), BLOCK)]));
        }
    }

    #[test]
    fn room_ahead_is_made_of_what_was_idle_for_an_hour() {
        // When each was used last, the oldest first; now; what goes for one block and for two.
        for (used, now, one, two) in [
            ([100, 100, 100], 159, None, None),
            ([99, 100, 100], 159, Some(0), None),
            ([99, 99, 100], 159, Some(0), Some([0, 1])),
            // After the clock was set back.
            ([100, 100, 100], 50, None, None),
        ] {
            for (blocks, expected) in [(1, one.map(|one| vec![one])), (2, two.map(|two| two.to_vec()))] {
                let mut index = LruIndex::new(3 * BLOCK);
                for (number, minute) in (0..).zip(used) {
                    index.set_minute(minute);
                    index.insert(blob(number), BLOCK);
                }
                index.set_minute(now);
                let room = index.reserve_ahead(blocks * BLOCK, PLENTY);
                let expected =
                    expected.map(|gone| gone.into_iter().map(|number| (blob(number), BLOCK)).collect()).ok_or(NoRoom);
                assert_eq!(room, expected, "{used:?} {now} {blocks}");
                // Nothing is lost, and nothing promised, where there is no room.
                assert_eq!(index.total(), 3 * BLOCK);
            }
        }
        let mut index = LruIndex::new(2 * BLOCK);
        index.set_minute(100);
        index.insert_scanned([(CompactKey::from(&blob(0)), BLOCK, 90), (CompactKey::from(&blob(1)), BLOCK, 0)]);
        // Used again.
        index.insert(blob(1), BLOCK);
        assert_eq!(index.reserve_ahead(BLOCK, PLENTY), Err(NoRoom));
        index.insert_unused(blob(1), BLOCK);
        assert_eq!(index.reserve_ahead(BLOCK, PLENTY), Err(NoRoom), "one layer does not drive out the one before it");
    }

    #[test]
    fn room_ahead_is_the_same_whatever_the_clock_says() {
        const USED: u32 = 30_000_000;
        for (clock, passed, gone) in [
            (USED, 0, None),
            (USED, 59, None),
            (USED, 60, Some(1)),
            // A machine that has no clock before the network is there: the time is that of the latest use.
            (0, 0, None),
            (0, 59, None),
            (0, 60, Some(1)),
            (15_000_000, 60, Some(1)),
            // It was used 40 minutes before the start.
            (USED + 40, 19, None),
            (USED + 40, 20, Some(1)),
        ] {
            let mut index = LruIndex::new(2 * BLOCK);
            index.set_minute(clock);
            let scanned = |number, used| (CompactKey::from(&blob(number)), BLOCK, used);
            index.insert_scanned([scanned(0, USED), scanned(1, USED)]);
            // One is used all the time.
            for _ in 0..passed {
                index.pass_minute();
                index.pin(&blob(0));
                index.unpin(&blob(0));
            }
            let expected = gone.map(|number| vec![(blob(number), BLOCK)]).ok_or(NoRoom);
            assert_eq!(index.reserve_ahead(BLOCK, PLENTY), expected, "{clock} {passed}");
            assert!(index.contains(&blob(0)));
        }
    }

    #[test]
    fn what_is_being_read_stays() {
        let mut index = LruIndex::new(2 * BLOCK);
        index.insert(blob(0), BLOCK);
        index.insert(blob(1), BLOCK);
        assert_eq!(index.pin(&blob(0)), Some(BLOCK));
        assert_eq!(index.reserve(2 * BLOCK, PLENTY), Err(NoRoom), "evicting the other alone is not enough");
        assert!(index.contains(&blob(1)), "and then nothing is evicted in vain");
        assert_eq!(index.reserve(BLOCK, PLENTY), Ok(vec![(blob(1), BLOCK)]));
        index.unpin(&blob(0));
        index.release(BLOCK, 0);
        assert_eq!(index.reserve(2 * BLOCK, PLENTY), Ok(vec![(blob(0), BLOCK)]));
    }

    #[test]
    fn too_large_for_the_whole_cache_evicts_nothing() {
        let mut index = LruIndex::new(10 * BLOCK);
        index.insert(blob(0), 3 * BLOCK);
        assert_eq!(index.reserve(11 * BLOCK, PLENTY), Err(NoRoom));
        assert!(index.contains(&blob(0)));
    }

    #[test]
    fn a_nearly_full_disk_evicts_although_max_size_is_far() {
        let mut index = LruIndex::new(1000 * BLOCK);
        index.insert(blob(0), 3 * BLOCK);
        index.insert(blob(1), 3 * BLOCK);
        assert_eq!(index.reserve(2 * BLOCK, BLOCK), Ok(vec![(blob(0), 3 * BLOCK)]));
        assert_eq!(index.reserve(20 * BLOCK, BLOCK), Err(NoRoom));
    }

    #[test]
    fn scanned_objects_are_older_than_those_used_since_the_start() {
        let mut index = LruIndex::new(3 * BLOCK);
        index.insert(blob(9), BLOCK);
        for number in [2, 9, 1] {
            index.insert_scanned([(CompactKey::from(&blob(number)), BLOCK, 0)]);
        }
        assert_eq!(index.total(), 3 * BLOCK);
        assert_eq!(index.reserve(2 * BLOCK, PLENTY), Ok(vec![(blob(1), BLOCK), (blob(2), BLOCK)]));
    }

    #[test]
    fn every_key_is_held_as_it_is() {
        let tag = TagKey::from_path(Visibility::Shared, std::path::Path::new("docker.io/library/alpine/3@80")).unwrap();
        for (algorithm, visibility) in Algorithm::ALL.into_iter().zip(Visibility::ALL.into_iter().rev().cycle()) {
            let digest = Digest::of(algorithm, b"content");
            let id = visibility.key(&digest);
            let keys = [
                IndexKey::Blob(id.clone()),
                IndexKey::Manifest(id.clone()),
                IndexKey::Partial(id.clone()),
                IndexKey::Tag(tag.clone()),
            ];
            for key in keys {
                let compact = CompactKey::from(&key);
                assert_eq!((compact.key(), compact.kind()), (key.clone(), key.kind()));
            }
            for (kind, key) in
                [(ObjectKind::Blob, IndexKey::Blob(id.clone())), (ObjectKind::Manifest, IndexKey::Manifest(id.clone()))]
            {
                let of = |name: &str| CompactKey::of_file(visibility, kind, algorithm, name);
                assert_eq!(of(digest.hex()), Some(CompactKey::from(&key)));
                for name in
                    ["", "lock", &digest.hex()[1..], &digest.hex().to_uppercase(), &format!("{}0", digest.hex())]
                {
                    assert_eq!(of(name), None, "{name}");
                }
            }
        }
        assert!(size_of::<CompactKey>() <= 40, "the memory of a million blobs");
    }

    #[derive(Clone, Debug)]
    enum Step {
        Insert(u8, u64),
        Pin(u8),
        Unpin(u8),
        Forget(u8),
        Reserve(u64),
        Release,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0..12u8, 0..40_000u64).prop_map(|(number, len)| Step::Insert(number, len)),
            (0..12u8).prop_map(Step::Pin),
            (0..12u8).prop_map(Step::Unpin),
            (0..12u8).prop_map(Step::Forget),
            (0..90_000u64).prop_map(Step::Reserve),
            Just(Step::Release),
        ]
    }

    proptest! {
        /// As the store uses it: an object is inserted only out of room reserved for it.
        #[test]
        fn never_over_the_limit_and_the_sums_are_those_of_a_plain_list(steps in proptest::collection::vec(step(), 1..200)) {
            let max = 100_000;
            let mut index = LruIndex::new(max);
            let mut model: Vec<(IndexKey, u64, u32)> = Vec::new();
            let mut promised: Vec<u64> = Vec::new();
            for step in steps {
                match step {
                    Step::Insert(number, len) => {
                        let key = blob(number);
                        if model.iter().any(|(known, ..)| *known == key) {
                            continue;
                        }
                        if let Ok(victims) = index.reserve(allocated(len), PLENTY) {
                            for (victim, _) in &victims {
                                let at = model.iter().position(|(known, _, pins)| known == victim && *pins == 0);
                                prop_assert!(at.is_some(), "a victim is known and not being read");
                                model.remove(at.unwrap());
                            }
                            index.release(allocated(len), 0);
                            index.insert(key.clone(), len);
                            model.push((key, len, 0));
                        }
                    }
                    Step::Pin(number) => {
                        let key = blob(number);
                        let found = model.iter_mut().find(|(known, ..)| *known == key);
                        prop_assert_eq!(index.pin(&key).is_some(), found.is_some());
                        if let Some(entry) = found { entry.2 += 1; }
                    }
                    Step::Unpin(number) => {
                        let key = blob(number);
                        if let Some(entry) = model.iter_mut().find(|(known, _, pins)| *known == key && *pins > 0) {
                            entry.2 -= 1;
                            index.unpin(&key);
                        }
                    }
                    Step::Forget(number) => {
                        let key = blob(number);
                        prop_assert_eq!(index.forget(&key).is_some(), model.iter().any(|(known, ..)| *known == key));
                        model.retain(|(known, ..)| *known != key);
                    }
                    Step::Reserve(bytes) => {
                        if let Ok(victims) = index.reserve(bytes, PLENTY) {
                            model.retain(|(known, ..)| !victims.iter().any(|(victim, _)| victim == known));
                            promised.push(bytes);
                        }
                    }
                    Step::Release => {
                        if let Some(bytes) = promised.pop() { index.release(bytes, 0); }
                    }
                }
                prop_assert!(index.total() <= max);
                let used: u64 = model.iter().map(|(_, len, _)| allocated(*len)).sum();
                let pinned: u64 = model.iter().filter(|(.., pins)| *pins > 0).map(|(_, len, _)| allocated(*len)).sum();
                prop_assert_eq!(index.totals(ObjectKind::Blob).bytes, used);
                prop_assert_eq!(index.total(), used + promised.iter().sum::<u64>());
                prop_assert_eq!(index.pinned, pinned);
                prop_assert_eq!(index.totals(ObjectKind::Blob).objects, model.len() as u64);
            }
        }
    }
}
