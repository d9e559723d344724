//! What the readers of a download need of it.

use super::{Chunks, Reader, ReaderId};
use crate::oci::ByteRange;

impl Chunks {
    /// Adds a reader of these bytes; without a range it needs the whole blob.
    pub(in crate::cache::download) fn join(&mut self, range: Option<ByteRange>) -> ReaderId {
        let range = range.filter(|range| *range != ByteRange::From { first: 0 });
        let id = self.next_reader;
        self.next_reader += 1;
        let mut reader = Reader { position: 0, end: None, unresolved: range, waits: None };
        match (range, self.total) {
            (None, _) => self.complete = true,
            (Some(range), Some(total)) => {
                reader.unresolved = None;
                (reader.position, reader.end) = place(range, total);
            }
            (Some(_), None) => {}
        }
        self.readers.insert(id, reader);
        id
    }

    pub(in crate::cache::download) fn leave(&mut self, id: ReaderId) {
        self.readers.remove(&id);
    }

    /// The reader has come to this position.
    pub(in crate::cache::download) fn reads_at(&mut self, id: ReaderId, position: u64, end: Option<u64>) {
        if let Some(reader) = self.readers.get_mut(&id) {
            (reader.position, reader.end, reader.unresolved) = (position, end, None);
            reader.waits = None;
        }
    }

    /// The reader waits for the byte at its position.
    pub(in crate::cache::download) fn waits(&mut self, id: ReaderId) {
        let number = self.next_wait;
        if let Some(reader) = self.readers.get_mut(&id)
            && reader.waits.is_none()
        {
            reader.waits = Some(number);
            self.next_wait += 1;
        }
    }

    /// Whether the whole blob is fetched.
    pub(in crate::cache::download) fn is_complete_wanted(&self) -> bool {
        self.complete
    }

    /// From now on the whole blob is fetched.
    pub(in crate::cache::download) fn want_all(&mut self) {
        self.complete = true;
    }

    /// Whether at least half of the blob is in the file or being fetched.
    pub(in crate::cache::download) fn has_half(&self) -> bool {
        self.total.is_some_and(|total| self.promised() >= total.div_ceil(2))
    }
}

/// Where the range begins and ends in a blob of `total` bytes; a range without a byte in it needs nothing.
pub(super) fn place(range: ByteRange, total: u64) -> (u64, Option<u64>) {
    range.resolve(total).map_or((0, Some(0)), |range| (range.first, Some(range.last + 1)))
}
