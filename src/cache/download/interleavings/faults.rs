//! What goes wrong in the model: requests that break, checks, ends of the process, eviction.

use super::{
    super::{chunks::Chunks, state::DownloadState},
    simulation::{CHUNK, Simulation},
};
use crate::cache::storage::ChunkRecord;

impl Simulation {
    pub(super) fn cut(&mut self) {
        if let Some(index) = self.any_stream() {
            self.finish(index, false);
        }
    }

    /// All workers are cancelled at once; readers stay, and the next lead worker continues.
    pub(super) fn cancel(&mut self) {
        while !self.streams.is_empty() {
            self.finish(0, false);
        }
    }

    pub(super) fn check(&mut self) {
        for (index, record) in self.state.chunks.to_check(2) {
            let start = index * CHUNK as usize;
            let bytes: Option<Vec<u8>> = self.file[start..start + record.written as usize].iter().copied().collect();
            let is_right = bytes.is_some_and(|bytes| crc32c::crc32c(&bytes) == record.crc);
            if !is_right {
                self.file[start..(start + CHUNK as usize).min(self.content.len())].fill(None);
            }
            self.state.chunks.checked(index, is_right);
        }
    }

    /// The process is killed or ends, and the next one continues; perhaps the disk damages a byte.
    pub(super) fn restart(&mut self) {
        let is_kill = self.random.once_in(2);
        if is_kill && !self.writes_notes {
            return self.evict();
        }
        if !is_kill {
            while !self.streams.is_empty() {
                self.finish(0, false);
            }
            self.noted = self.state.chunks.records();
            self.noted.resize(self.content.len().div_ceil(CHUNK as usize), ChunkRecord::default());
        }
        let (workers, total) = (self.streams.len() as u64, self.state.total());
        let before = self.file.iter().flatten().count() as u64;
        for (index, record) in self.noted.iter().enumerate() {
            let (start, end) = (index * CHUNK as usize, ((index + 1) * CHUNK as usize).min(self.file.len()));
            self.file[start + record.written as usize..end].fill(None);
        }
        let kept = self.file.iter().flatten().count() as u64;
        assert!(before - kept <= workers * CHUNK, "a kill of {workers} workers lost {} bytes", before - kept);
        self.lost += before - kept;
        if self.random.once_in(4) {
            let at = self.random.below(self.total()) as usize;
            if let Some(byte) = &mut self.file[at] {
                *byte ^= 1;
                self.lost += CHUNK;
            }
        }
        self.streams.clear();
        self.readers.clear();
        self.state = DownloadState::new(Chunks::of_size(CHUNK));
        self.state.chunks.restore(CHUNK, total, self.noted.clone());
        self.writes_notes = total.is_some();
        if total.is_none() {
            self.state.chunks.want_all();
        }
    }

    /// The file is evicted between two downloads.
    pub(super) fn evict(&mut self) {
        self.streams.clear();
        self.readers.clear();
        self.lost += self.file.iter().flatten().count() as u64;
        self.file.fill(None);
        self.begin_anew();
    }
}
