//! The map of a blob in chunks: which bytes are in the file, who fetches the others, and what readers need (pure).
//!
//! What must hold: one worker at a time writes a chunk, from its start to its end. A worker that stops leaves the bytes
//! that it wrote, and the next one continues behind them, so no byte is written twice. None is requested twice from an
//! upstream that sends parts; another one sends again what is there, and it is discarded. What an earlier process left
//! counts only once its checksum was compared.

mod left;
mod readers;

use std::{collections::BTreeMap, ops::Range};

use crate::{
    cache::storage::{ChunkRecord, map_size},
    oci::ByteRange,
};

/// The size of a chunk in bytes. A kill costs each worker the chunk that is not whole, besides what is not written yet,
/// and the reader of a small range far ahead waits for no more than a chunk; a request costs as much as a few hundred KiB.
pub(super) const CHUNK: u64 = 1024 * 1024;
/// A blob that would have more chunks has larger ones, so that the map stays below 2 MiB.
const MAX_CHUNKS: u64 = 65_536;
/// The same for a blob whose size becomes known after its first bytes: without a limit, an upstream could choose how
/// much memory the map takes.
const MAX_FIXED_CHUNKS: u64 = 1 << 20;
/// How many chunks ahead of the stream of the lead worker a reader waits for that stream: it is there sooner than the
/// response to another request.
const NEAR: usize = 1;

/// A worker of a download.
pub(super) type WorkerId = u32;
/// The worker that opened the download: it reads on through free chunks, and decides whether the download fails.
pub(super) const LEAD: WorkerId = 0;

/// A reader of a download, or a subscriber that does not read yet.
pub(super) type ReaderId = u64;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Hold {
    /// No worker fetches the missing bytes of the chunk.
    #[default]
    Free,
    Taken(WorkerId),
    /// An earlier process left the bytes, and their checksum was not compared yet.
    Left,
}

#[derive(Clone, Copy, Debug, Default)]
struct Chunk {
    /// How many bytes from the start of the chunk are in the file.
    written: u64,
    /// Their CRC-32C.
    crc: u32,
    hold: Hold,
}

/// What a worker does with the bytes that it received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admit {
    /// Write this many of them.
    Write(u64),
    /// Discard this many: they are in the file.
    Skip(u64),
    /// Keep them until the worker that has the chunk has brought it, or has given it back.
    Wait,
}

#[derive(Clone, Copy, Debug)]
struct Reader {
    position: u64,
    /// Exclusive; `None`: to the end of the blob.
    end: Option<u64>,
    /// The requested range, as long as the size of the blob is unknown.
    unresolved: Option<ByteRange>,
    /// Since when it has been waiting, as a number that grows.
    waits: Option<u64>,
}

/// The map of one blob.
#[derive(Debug)]
pub(super) struct Chunks {
    size: u64,
    total: Option<u64>,
    chunks: Vec<Chunk>,
    /// The first chunk that is not wholly written.
    front: usize,
    /// All chunks are fetched, whether a reader needs them or not.
    complete: bool,
    readers: BTreeMap<ReaderId, Reader>,
    next_reader: ReaderId,
    next_wait: u64,
    /// How many chunks an earlier process left that were not checked yet.
    left: usize,
    /// The position of the lead worker's stream, which reads on through free chunks, and where its request ends.
    stream: Option<Range<u64>>,
}

impl Default for Chunks {
    fn default() -> Self {
        Self {
            size: CHUNK,
            total: None,
            chunks: Vec::new(),
            front: 0,
            complete: false,
            readers: BTreeMap::new(),
            next_reader: 0,
            next_wait: 0,
            left: 0,
            stream: None,
        }
    }
}

/// The size of the chunks of a blob of `total` bytes.
pub(super) fn chunk_size(total: u64) -> u64 {
    let fits = total.div_ceil(MAX_CHUNKS).checked_next_power_of_two().unwrap_or(1 << 48);
    fits.max(CHUNK)
}

impl Chunks {
    #[cfg(test)]
    pub(super) fn of_size(size: u64) -> Self {
        Self { size, ..Self::default() }
    }

    pub(super) fn total(&self) -> Option<u64> {
        self.total
    }

    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// Whether the map can have a blob of this size: that of its chunks is fixed once there are bytes.
    pub(super) fn fits(&self, total: u64) -> bool {
        self.chunks.is_empty() || total.div_ceil(self.size) <= MAX_FIXED_CHUNKS
    }

    /// Notes the size of the blob, and where the ranges of readers lie in it.
    pub(super) fn set_total(&mut self, total: u64) {
        if self.chunks.is_empty() && total / self.size > MAX_CHUNKS {
            self.size = chunk_size(total);
        }
        self.total = Some(total);
        self.front = self.front.min(self.index(total));
        self.advance_front();
        for reader in self.readers.values_mut() {
            if let Some(range) = reader.unresolved.take() {
                (reader.position, reader.end) = readers::place(range, total);
            }
        }
    }

    /// Forgets all bytes; the readers stay.
    pub(super) fn forget_bytes(&mut self) {
        *self = Self {
            complete: self.complete,
            readers: std::mem::take(&mut self.readers),
            next_reader: self.next_reader,
            next_wait: self.next_wait,
            ..Self::default()
        };
    }

    /// Marks the whole blob as written and verified.
    pub(super) fn set_whole(&mut self, total: u64) {
        self.chunks.clear();
        self.left = 0;
        self.set_total(total);
        let size = self.size;
        self.chunks.resize_with(self.index_behind(total), Chunk::default);
        for chunk in &mut self.chunks {
            *chunk = Chunk { written: size, ..Chunk::default() };
        }
        if let Some(last) = self.chunks.last_mut() {
            last.written = total - (total - 1) / size * size;
        }
        self.advance_front();
    }

    fn index(&self, position: u64) -> usize {
        usize::try_from(position / self.size).unwrap_or(usize::MAX)
    }

    /// The first chunk that begins at `end` or behind it.
    fn index_behind(&self, end: u64) -> usize {
        usize::try_from(end.div_ceil(self.size)).unwrap_or(usize::MAX)
    }

    fn start(&self, index: usize) -> u64 {
        (index as u64).saturating_mul(self.size)
    }

    /// How many bytes the chunk has when it is whole.
    fn len(&self, index: usize) -> u64 {
        self.total.map_or(self.size, |total| total.saturating_sub(self.start(index)).min(self.size))
    }

    fn get(&self, index: usize) -> Chunk {
        self.chunks.get(index).copied().unwrap_or_default()
    }

    fn get_mut(&mut self, index: usize) -> &mut Chunk {
        if index >= self.chunks.len() {
            self.chunks.resize_with(index + 1, Chunk::default);
        }
        &mut self.chunks[index]
    }

    /// How many bytes of the chunk are in the file and can be read.
    fn readable(&self, index: usize) -> u64 {
        let chunk = self.get(index);
        if chunk.hold == Hold::Left { 0 } else { chunk.written }
    }

    fn is_full(&self, index: usize) -> bool {
        self.readable(index) >= self.len(index)
    }

    fn advance_front(&mut self) {
        while self.front < self.chunks.len() && self.is_full(self.front) {
            self.front += 1;
        }
    }

    /// The number of chunks of a blob whose size is known.
    fn count(&self) -> Option<usize> {
        self.total.map(|total| self.index_behind(total))
    }

    /// The end of the bytes that are in the file from `position` on; `position` itself if that byte is missing.
    pub(super) fn written_to(&self, position: u64) -> u64 {
        let mut index = self.index(position);
        if index < self.front {
            index = self.front;
        } else if self.start(index) + self.readable(index) <= position {
            return position;
        }
        while self.readable(index) >= self.size {
            index += 1;
        }
        let end = self.start(index) + self.readable(index);
        end.min(self.total.unwrap_or(u64::MAX)).max(position)
    }

    /// How many bytes from the start of the blob are in the file.
    pub(super) fn front(&self) -> u64 {
        self.written_to(0)
    }

    /// Whether no byte of the blob is missing.
    pub(super) fn is_whole(&self) -> bool {
        self.total.is_some_and(|total| self.front() >= total)
    }

    /// How many bytes are in the file, those included that were not checked yet.
    pub(super) fn written(&self) -> u64 {
        self.chunks.iter().map(|chunk| chunk.written).sum()
    }

    /// How many bytes the file will have once all workers have fetched their chunks, or the whole.
    pub(super) fn promised(&self) -> u64 {
        if self.complete
            && let Some(total) = self.total
        {
            return total;
        }
        let promised = |(index, chunk): (usize, &Chunk)| match chunk.hold {
            Hold::Taken(_) => self.len(index),
            Hold::Free | Hold::Left => chunk.written,
        };
        self.chunks.iter().enumerate().map(promised).sum()
    }

    /// How much room the file needs for that, with the map at its end.
    pub(super) fn room(&self) -> u64 {
        let map = self.total.filter(|total| *total > self.size).map_or(0, |total| map_size(total, self.size));
        self.promised().saturating_add(map)
    }

    /// What of each chunk is in the file.
    pub(super) fn records(&self) -> Vec<ChunkRecord> {
        self.chunks.iter().map(|chunk| ChunkRecord { written: chunk.written, crc: chunk.crc }).collect()
    }

    // Workers.

    /// What a worker does with `len` bytes at `offset` of its stream. It takes a free chunk that the stream enters.
    /// `None`: the stream cannot help any more. `reads_through`: the worker discards bytes rather than end its stream,
    /// since the upstream sends no parts.
    pub(super) fn admit(&mut self, worker: WorkerId, offset: u64, len: u64, reads_through: bool) -> Option<Admit> {
        let index = self.index(offset);
        let (start, chunk) = (self.start(index), self.get(index));
        let end = start.saturating_add(self.size);
        let next = start + chunk.written;
        match chunk.hold {
            Hold::Taken(by) if by == worker => Some(Admit::Write((end - offset).min(len))),
            Hold::Free if offset == next && next < end => {
                self.get_mut(index).hold = Hold::Taken(worker);
                Some(Admit::Write((end - offset).min(len)))
            }
            // To discard what another worker left of a chunk is quicker than a new request.
            Hold::Free if offset < next && next < end => Some(Admit::Skip((next - offset).min(len))),
            Hold::Free if offset < next => reads_through.then_some(Admit::Skip((next - offset).min(len))),
            Hold::Free => None,
            Hold::Taken(_) | Hold::Left => reads_through.then_some(Admit::Wait),
        }
    }

    /// The missing bytes of free chunks from this one on: at most `most`, and the chunks of the bytes before `end`.
    fn free_run(&self, index: usize, end: u64, most: u64) -> Option<Range<u64>> {
        let total = self.total?;
        let chunk = self.get(index);
        if chunk.hold != Hold::Free || chunk.written >= self.len(index) {
            return None;
        }
        let from = self.start(index) + chunk.written;
        let mut next = index + 1;
        while self.start(next) < end.min(total)
            && self.start(next).saturating_add(self.len(next)) - from <= most
            && self.get(next).hold == Hold::Free
            && self.get(next).written == 0
        {
            next += 1;
        }
        Some(from..self.start(next).min(total))
    }

    /// The lowest missing bytes that no worker fetches, if they may be fetched without a reader that waits.
    pub(super) fn lowest_free(&self, most: u64) -> Option<Range<u64>> {
        if self.complete {
            return (self.front..self.count()?).find_map(|index| self.free_run(index, u64::MAX, most));
        }
        self.readers.values().find_map(|reader| {
            let end = reader.end.or(self.total)?;
            self.chunks_of(reader)?.find_map(|index| self.free_run(index, end, most))
        })
    }

    /// The chunks that a reader still needs.
    fn chunks_of(&self, reader: &Reader) -> Option<Range<usize>> {
        let end = reader.end.or(self.total)?;
        Some(self.index(reader.position)..self.index_behind(end))
    }

    /// The last missing bytes that no worker fetches, at most `most`, and at most half of those that are missing in
    /// front of them. `None` unless the whole blob is fetched.
    pub(super) fn last_free(&self, most: u64) -> Option<Range<u64>> {
        let total = self.total.filter(|_| self.complete)?;
        let is_untouched = |index: &usize| self.get(*index).hold == Hold::Free && self.get(*index).written == 0;
        let last = (self.front..self.count()?).rev().find(is_untouched)?;
        let first = (self.front..=last).rev().take_while(is_untouched).last()?;
        let stream = self.stream.as_ref().map_or(0, |stream| stream.start).max(self.start(first));
        let end = self.start(last).saturating_add(self.size).min(total);
        let most = most.min(end.saturating_sub(stream) / 2);
        let start = self.start(self.index(end.saturating_sub(most).saturating_add(self.size - 1)));
        (start < end).then_some(start..end)
    }

    /// The bytes that the reader needs who has been waiting longest and for whom no worker is on its way.
    pub(super) fn wanted(&self, most: u64) -> Option<Range<u64>> {
        let waiting = self.readers.values().filter(|reader| reader.waits.is_some());
        let mut waiting: Vec<&Reader> = waiting.collect();
        waiting.sort_unstable_by_key(|reader| reader.waits);
        waiting.into_iter().find_map(|reader| self.wanted_by(reader, most))
    }

    /// The same for one reader.
    pub(super) fn wanted_by_reader(&self, id: ReaderId, most: u64) -> Option<Range<u64>> {
        let reader = self.readers.get(&id).filter(|reader| reader.waits.is_some())?;
        self.wanted_by(reader, most)
    }

    fn wanted_by(&self, reader: &Reader, most: u64) -> Option<Range<u64>> {
        let index = self.index(reader.position);
        if let Some(stream) = &self.stream {
            let first = self.index(stream.start);
            if (first..=first + NEAR).contains(&index) && self.start(index) < stream.end {
                return None;
            }
        }
        self.free_run(index, reader.end.unwrap_or(u64::MAX), most)
    }

    /// Gives the chunk in which the lead worker's stream begins to it, if that is free: another worker must not take it
    /// while the request is under way.
    pub(super) fn take_first(&mut self, position: u64) {
        let index = self.index(position);
        let chunk = self.get(index);
        if chunk.hold == Hold::Free && self.start(index) + chunk.written == position && !self.is_full(index) {
            self.get_mut(index).hold = Hold::Taken(LEAD);
        }
    }

    /// Gives the chunks of `run`, all of them free, to this worker.
    pub(super) fn take(&mut self, worker: WorkerId, run: &Range<u64>) {
        for index in self.index(run.start)..self.index_behind(run.end) {
            let chunk = self.get_mut(index);
            debug_assert_eq!(chunk.hold, Hold::Free);
            chunk.hold = Hold::Taken(worker);
        }
    }

    /// Gives the free chunks directly ahead of the lead worker's stream to it, up to `len` bytes, before other workers
    /// take the lowest free ones.
    pub(super) fn take_ahead_of_stream(&mut self, len: u64) {
        let Some(stream) = self.stream.clone() else { return };
        let first = self.index(stream.start);
        for index in first..=self.index(stream.start.saturating_add(len).min(stream.end)) {
            if index >= self.count().unwrap_or(0) || self.is_full(index) {
                break;
            }
            let next = self.start(index) + self.get(index).written;
            let chunk = self.get_mut(index);
            match chunk.hold {
                // The stream enters the chunk where its bytes are missing.
                Hold::Free if next == stream.start || (index > first && chunk.written == 0) => {
                    chunk.hold = Hold::Taken(LEAD);
                }
                Hold::Taken(LEAD) => {}
                Hold::Free | Hold::Taken(_) | Hold::Left => break,
            }
        }
    }

    /// The chunks that a worker has begun and not finished.
    pub(super) fn begun_by(&self, worker: WorkerId) -> Vec<(usize, ChunkRecord)> {
        let chunks = self.chunks.iter().enumerate();
        let begun = chunks.filter(|(index, chunk)| {
            chunk.hold == Hold::Taken(worker) && chunk.written > 0 && chunk.written < self.len(*index)
        });
        begun.map(|(index, chunk)| (index, ChunkRecord { written: chunk.written, crc: chunk.crc })).collect()
    }

    /// Takes the chunks of a worker that has stopped back from it.
    pub(super) fn release(&mut self, worker: WorkerId) {
        for chunk in &mut self.chunks {
            if chunk.hold == Hold::Taken(worker) {
                chunk.hold = Hold::Free;
            }
        }
    }

    /// Where the lead worker's stream is, and where its request ends.
    pub(super) fn set_stream(&mut self, stream: Option<Range<u64>>) {
        self.stream = stream;
    }

    /// Whether the lead worker's stream has passed this byte.
    pub(super) fn is_behind_stream(&self, position: u64) -> bool {
        self.stream.as_ref().is_some_and(|stream| position < stream.start)
    }

    /// The CRC-32C of what the file has of a chunk before `offset`.
    pub(super) fn crc_before(&self, offset: u64) -> u32 {
        let index = self.index(offset);
        debug_assert_eq!(self.start(index) + self.get(index).written, offset);
        self.get(index).crc
    }

    /// Bytes at `offset` are in the file. They lie in one chunk, behind those that it has; `crc` is the CRC-32C of both.
    /// Returns the index and the record of the chunk if it is whole now.
    pub(super) fn wrote(&mut self, offset: u64, len: u64, crc: u32) -> Option<(usize, ChunkRecord)> {
        let index = self.index(offset);
        debug_assert_eq!(self.start(index) + self.get(index).written, offset);
        let chunk = self.get_mut(index);
        chunk.crc = crc;
        chunk.written += len;
        let record = ChunkRecord { written: chunk.written, crc: chunk.crc };
        if index == self.front {
            self.advance_front();
        }
        (record.written >= self.len(index)).then_some((index, record))
    }

    /// The missing bytes that no worker but the lead has taken.
    pub(super) fn missing(&self) -> Option<u64> {
        let count = self.count()?;
        let missing = |index: usize| match self.get(index).hold {
            Hold::Free | Hold::Taken(LEAD) => self.len(index).saturating_sub(self.get(index).written),
            Hold::Taken(_) | Hold::Left => 0,
        };
        Some((self.front..count).map(missing).sum())
    }
}

#[cfg(test)]
mod tests;
