//! Chunks that an earlier process left: they count once their checksums were compared.

use std::ops::Range;

use super::{Chunk, Chunks, Hold};
use crate::cache::storage::ChunkRecord;

impl Chunks {
    /// Takes over what an earlier process left of a blob.
    pub(in crate::cache::download) fn restore(
        &mut self,
        size: u64,
        total: Option<u64>,
        records: impl IntoIterator<Item = ChunkRecord>,
    ) {
        let left = |record: ChunkRecord| Chunk {
            written: record.written.min(size),
            crc: record.crc,
            hold: if record.written > 0 { Hold::Left } else { Hold::Free },
        };
        self.size = size;
        self.chunks = records.into_iter().map(left).collect();
        self.left = self.chunks.iter().filter(|chunk| chunk.hold == Hold::Left).count();
        self.front = 0;
        if let Some(total) = total {
            self.set_total(total);
        }
    }

    /// Up to `most` chunks to check, those that readers wait for first; with their records.
    pub(in crate::cache::download) fn to_check(&self, most: usize) -> Vec<(usize, ChunkRecord)> {
        // The task that checks looks after each write, and few downloads resume an earlier one.
        if self.left == 0 {
            return Vec::new();
        }
        let is_left = |index: &usize| self.get(*index).hold == Hold::Left;
        let waited = self.readers.values().filter(|reader| reader.waits.is_some());
        let mut chosen: Vec<usize> = waited.map(|reader| self.index(reader.position)).filter(is_left).take(1).collect();
        if chosen.is_empty() && self.complete {
            let begun = self.begun_and_left();
            chosen.extend(begun);
            let others = (self.front..self.chunks.len()).filter(|index| is_left(index) && Some(*index) != begun);
            chosen.extend(others.take(most.saturating_sub(chosen.len())));
        } else if chosen.is_empty() {
            let needed = self.readers.values().filter_map(|reader| self.chunks_of(reader)).flatten();
            chosen.extend(needed.filter(is_left).take(1));
        }
        let record = |index: usize| ChunkRecord { written: self.get(index).written, crc: self.get(index).crc };
        chosen.into_iter().map(|index| (index, record(index))).collect()
    }

    /// The first chunk of which an earlier process left a part that was not checked yet: what is missing is requested
    /// behind that part.
    fn begun_and_left(&self) -> Option<usize> {
        if self.left == 0 {
            return None;
        }
        let is_begun = |index: &usize| {
            let chunk = self.get(*index);
            chunk.hold == Hold::Left && chunk.written < self.len(*index)
        };
        (self.front..self.chunks.len()).find(is_begun)
    }

    /// Whether the check of a chunk decides what has to be requested first.
    pub(in crate::cache::download) fn waits_for_check(&self, run: &Range<u64>) -> bool {
        self.begun_and_left().is_some_and(|index| self.complete && self.start(index) < run.start)
    }

    /// The chunk was compared with its checksum.
    pub(in crate::cache::download) fn checked(&mut self, index: usize, is_right: bool) {
        let chunk = self.get_mut(index);
        if chunk.hold != Hold::Left {
            return;
        }
        chunk.hold = Hold::Free;
        if !is_right {
            (chunk.written, chunk.crc) = (0, 0);
        }
        self.left -= 1;
        self.advance_front();
    }
}
