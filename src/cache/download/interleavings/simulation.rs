//! A download as the model of the interleavings runs it: the steps of workers, readers and the disk.

use super::super::{
    assignment::NewWorker,
    chunks::{Admit, Chunks, LEAD, ReaderId, WorkerId},
    state::DownloadState,
};
use crate::{cache::storage::ChunkRecord, oci::ByteRange};

pub(super) const CHUNK: u64 = 16;

/// A generator of numbers that are the same at each run (xorshift64*).
pub(super) struct Random(u64);

impl Random {
    pub(super) fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % end.max(1)
    }

    pub(super) fn once_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }
}

/// How the upstream answers.
#[derive(Clone, Copy)]
pub(super) struct Registry {
    /// It sends the whole blob in place of a part.
    pub(super) ignores_ranges: bool,
    /// Neither a HEAD nor the response for the whole blob tells the size.
    pub(super) hides_size: bool,
}

/// A request to the upstream, and the bytes that are not in the file yet.
pub(super) struct Stream {
    pub(super) id: WorkerId,
    pub(super) position: u64,
    pub(super) end: u64,
    pub(super) for_reader: bool,
    /// The whole blob comes in place of a part.
    pub(super) is_whole: bool,
    pub(super) unwritten: Vec<(u64, u64)>,
}

pub(super) struct Reader {
    pub(super) id: ReaderId,
    pub(super) position: u64,
    pub(super) end: u64,
    pub(super) is_range: bool,
}

pub(super) struct Simulation {
    pub(super) random: Random,
    pub(super) registry: Registry,
    pub(super) content: Vec<u8>,
    pub(super) most: usize,
    pub(super) state: DownloadState,
    /// What is in the file; `None`: nothing, or nothing that counts.
    pub(super) file: Vec<Option<u8>>,
    /// The map on disk. A download that began without the size writes none.
    pub(super) noted: Vec<ChunkRecord>,
    pub(super) writes_notes: bool,
    pub(super) streams: Vec<Stream>,
    pub(super) readers: Vec<Reader>,
    /// How many bytes the upstream sent that were written.
    pub(super) fetched: u64,
    pub(super) lost: u64,
}

impl Simulation {
    pub(super) fn new(seed: u64, registry: Registry) -> Self {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let total = 1 + random.below(12 * CHUNK);
        let most = 1 + random.below(5) as usize;
        let content: Vec<u8> = (0..total).map(|_| random.below(256) as u8).collect();
        let mut simulation = Self {
            random,
            registry,
            most,
            state: DownloadState::new(Chunks::of_size(CHUNK)),
            file: vec![None; content.len()],
            noted: Vec::new(),
            writes_notes: false,
            content,
            streams: Vec::new(),
            readers: Vec::new(),
            fetched: 0,
            lost: 0,
        };
        simulation.begin_anew();
        simulation
    }

    /// A download begins without any bytes.
    pub(super) fn begin_anew(&mut self) {
        self.state = DownloadState::new(Chunks::of_size(CHUNK));
        self.noted = vec![ChunkRecord::default(); self.content.len().div_ceil(CHUNK as usize)];
        self.writes_notes = !self.registry.hides_size;
        match self.registry.hides_size {
            true => self.state.chunks.want_all(),
            false => self.state.chunks.set_total(self.total()),
        }
    }

    pub(super) fn total(&self) -> u64 {
        self.content.len() as u64
    }

    pub(super) fn step(&mut self) {
        match self.random.below(20) {
            0 => self.join(),
            1 => self.leave(),
            2..=5 => self.read(),
            6..=9 => self.lead(),
            10..=12 => self.receive(),
            13..=14 => self.write(),
            15 => self.cut(),
            16 => self.add_for_rate(),
            17 => self.check(),
            18 if self.random.once_in(8) => self.restart(),
            18 if self.random.once_in(8) => self.cancel(),
            19 if self.random.once_in(40) => self.evict(),
            _ => self.receive(),
        }
        self.assert_consistent();
    }

    pub(super) fn join(&mut self) {
        let (first, last) = (self.random.below(self.total()), self.random.below(self.total()));
        let range = ByteRange::Bounded { first: first.min(last), last: first.max(last) };
        let range = if self.random.once_in(3) { None } else { Some(range) };
        let id = self.state.chunks.join(range);
        let (position, end) = match range {
            Some(_) => (first.min(last), first.max(last) + 1),
            None => (0, self.total()),
        };
        if self.state.total().is_none() {
            self.state.chunks.reads_at(id, position, range.map(|_| end));
        }
        self.readers.push(Reader { id, position, end, is_range: range.is_some() });
    }

    pub(super) fn leave(&mut self) {
        if !self.readers.is_empty() {
            let index = self.random.below(self.readers.len() as u64) as usize;
            self.state.chunks.leave(self.readers.swap_remove(index).id);
        }
    }

    pub(super) fn read(&mut self) {
        let Some(index) = (!self.readers.is_empty()).then(|| self.random.below(self.readers.len() as u64) as usize)
        else {
            return;
        };
        let Reader { id, position, end, is_range } = self.readers[index];
        let knows_end = is_range || self.state.total().is_some();
        if knows_end && position == end {
            self.state.chunks.leave(id);
            self.readers.swap_remove(index);
            return;
        }
        let to = self.state.chunks.written_to(position).min(end);
        if to > position {
            let to = position + 1 + self.random.below(to - position);
            for offset in position..to {
                assert_eq!(self.file[offset as usize], Some(self.content[offset as usize]), "at {offset}");
            }
            self.readers[index].position = to;
            self.state.chunks.reads_at(id, to, knows_end.then_some(end));
            return;
        }
        self.state.chunks.waits(id);
        if let Some(NewWorker { id, run }) = self.state.worker_for_reader(id, self.most) {
            self.open_beside(id, run.start, run.end, true);
        }
    }

    /// The request of a worker beside the lead worker gets its response.
    pub(super) fn open_beside(&mut self, id: WorkerId, position: u64, end: u64, for_reader: bool) {
        assert!(position < end && end <= self.total());
        self.state.workers.opening -= 1;
        if self.registry.ignores_ranges {
            self.state.workers.ranges_ignored = true;
            match for_reader {
                true => self.state.workers.failures += 1,
                false => self.state.workers.settled = true,
            }
            return self.state.chunks.release(id);
        }
        self.state.workers.open += 1;
        self.streams.push(Stream { id, position, end, for_reader, is_whole: false, unwritten: Vec::new() });
    }

    /// The lead worker begins a request if it has none.
    pub(super) fn lead(&mut self) {
        if self.streams.iter().any(|stream| stream.id == LEAD) {
            return;
        }
        let run = match self.state.total() {
            Some(_) => self.state.next_of_lead(),
            // What an earlier download left is compared first.
            None if !self.state.chunks.to_check(1).is_empty() => None,
            None => {
                let front = self.state.chunks.front();
                self.state.chunks.take_first(front);
                Some(front..self.total())
            }
        };
        let Some(run) = run else { return };
        let (mut position, mut end) = (run.start, run.end);
        let asks_part = position > 0 || self.state.total().is_some_and(|total| end < total);
        // The response to a part tells the size, or has to be the whole.
        let is_whole =
            asks_part && (self.registry.ignores_ranges || (self.state.total().is_none() && self.random.once_in(2)));
        if is_whole {
            self.state.workers.lead_alone();
            self.state.chunks.release(LEAD);
            self.state.chunks.want_all();
            (position, end) = (self.state.chunks.front(), self.total());
        } else if asks_part {
            self.state.chunks.set_total(self.total());
        }
        self.streams.push(Stream { id: LEAD, position, end, for_reader: false, is_whole, unwritten: Vec::new() });
        self.set_stream(position, end);
    }

    pub(super) fn set_stream(&mut self, position: u64, end: u64) {
        let end = self.state.total().map_or(u64::MAX, |_| end);
        self.state.chunks.set_stream(Some(position..end));
    }

    pub(super) fn any_stream(&mut self) -> Option<usize> {
        let count = self.streams.len() as u64;
        (count > 0).then(|| self.random.below(count) as usize)
    }

    pub(super) fn receive(&mut self) {
        let Some(index) = self.any_stream() else { return };
        let len = 1 + self.random.below(2 * CHUNK);
        let stream = &mut self.streams[index];
        let end = stream.end.min(stream.position + len);
        let reads_through = stream.is_whole || self.state.workers.ranges_ignored;
        let mut goes_on = true;
        while stream.position < end {
            let len = end - stream.position;
            let len = if stream.id == LEAD {
                match self.state.chunks.admit(LEAD, stream.position, len, reads_through) {
                    Some(Admit::Write(len)) => len,
                    Some(Admit::Skip(len)) => {
                        stream.position += len;
                        continue;
                    }
                    Some(Admit::Wait) if reads_through => break,
                    Some(Admit::Wait) => unreachable!("the stream does not read through"),
                    None => {
                        goes_on = false;
                        break;
                    }
                }
            } else {
                len
            };
            stream.unwritten.push((stream.position, len));
            stream.position += len;
        }
        let (id, at, end) = (stream.id, stream.position, stream.end);
        if id == LEAD {
            self.set_stream(at, end);
            goes_on &= reads_through || !self.state.lead_is_wanted(self.most);
        }
        if !goes_on || at == end {
            self.finish(index, true);
        }
        if id == LEAD && at == self.total() {
            // The body ended here.
            self.state.chunks.set_total(at);
        }
    }

    pub(super) fn write(&mut self) {
        if let Some(index) = self.any_stream() {
            self.flush(index);
        }
    }

    pub(super) fn flush(&mut self, index: usize) {
        for (mut offset, mut len) in std::mem::take(&mut self.streams[index].unwritten) {
            while len > 0 {
                let part = len.min(CHUNK - offset % CHUNK);
                let range = offset as usize..(offset + part) as usize;
                assert!(self.file[range.clone()].iter().all(Option::is_none), "{range:?} is written twice");
                let before = self.state.chunks.crc_before(offset);
                let crc = crc32c::crc32c_append(before, &self.content[range.clone()]);
                let whole = self.state.chunks.wrote(offset, part, crc);
                for at in range {
                    self.file[at] = Some(self.content[at]);
                }
                if let Some((index, record)) = whole.filter(|_| self.writes_notes) {
                    self.noted[index] = record;
                }
                self.fetched += part;
                (offset, len) = (offset + part, len - part);
            }
        }
    }

    /// The request of a worker is over; `came`: it brought all that the worker had taken.
    pub(super) fn finish(&mut self, index: usize, came: bool) {
        self.flush(index);
        let stream = self.streams.swap_remove(index);
        for (index, record) in self.state.chunks.begun_by(stream.id).into_iter().filter(|_| self.writes_notes) {
            self.noted[index] = record;
        }
        self.state.chunks.release(stream.id);
        if stream.id == LEAD {
            return self.state.chunks.set_stream(None);
        }
        let next = if came { self.state.next_run(stream.id, stream.for_reader) } else { None };
        match (came, next) {
            (true, Some(run)) => {
                let (position, end) = (run.start, run.end);
                self.streams.push(Stream { position, end, unwritten: Vec::new(), ..stream });
            }
            (came, _) => {
                self.state.workers.open -= 1;
                if !came && stream.for_reader {
                    self.state.workers.failures += 1;
                } else if !came {
                    self.state.workers.settled = true;
                }
            }
        }
    }

    pub(super) fn add_for_rate(&mut self) {
        let is_whole = self.state.chunks.is_complete_wanted() && self.state.workers.may_ramp();
        if is_whole && let Some(NewWorker { id, run }) = self.state.worker_for_rate(0.0, self.most) {
            self.open_beside(id, run.start, run.end, false);
        }
    }

    pub(super) fn assert_consistent(&self) {
        let workers = &self.state.workers;
        let beside = self.streams.iter().filter(|stream| stream.id != LEAD).count();
        assert_eq!((workers.open, workers.opening), (beside, 0));
        assert!(beside < self.most, "{beside} workers beside the lead worker, of {}", self.most);
        for stream in self.streams.iter().filter(|stream| stream.id != LEAD) {
            let overlaps = |other: &&Stream| {
                other.id != stream.id && other.id != LEAD && other.position < stream.end && stream.position < other.end
            };
            assert_eq!(self.streams.iter().filter(overlaps).count(), 0, "two workers fetch the same bytes");
        }
    }

    /// A client requests the whole; everything comes in the end.
    pub(super) fn complete(&mut self) {
        let id = self.state.chunks.join(None);
        self.readers.push(Reader { id, position: 0, end: self.total(), is_range: false });
        for _ in 0..100_000 {
            if self.state.chunks.is_whole() {
                break;
            }
            match self.random.below(5) {
                0 => self.check(),
                1 => self.lead(),
                2 => self.read(),
                _ => self.receive(),
            }
            if self.random.once_in(5) {
                self.write();
            }
            self.assert_consistent();
        }
        let file: Option<Vec<u8>> = self.file.iter().copied().collect();
        assert!(self.state.chunks.is_whole() && file.as_ref() == Some(&self.content));
        assert!(self.fetched <= self.total() + self.lost, "the upstream sent {} bytes", self.fetched);
        for (record, chunk) in self.state.chunks.records().iter().zip(self.content.chunks(CHUNK as usize)) {
            assert_eq!(*record, ChunkRecord { written: chunk.len() as u64, crc: crc32c::crc32c(chunk) });
        }
    }
}
