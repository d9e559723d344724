//! Seeded interleavings of what workers, readers, the disk and a kill do to a download, against a model of the file.
//!
//! No I/O and no clock: the steps of the lead worker, of other workers, of readers, of the disk and of a kill come in an
//! order that only the seed decides.

use proptest::prelude::*;

use super::{
    assignment::NewWorker,
    chunks::{Admit, Chunks, LEAD, ReaderId, WorkerId},
    state::DownloadState,
};
use crate::{cache::storage::ChunkRecord, oci::ByteRange};

const CHUNK: u64 = 16;

/// A generator of numbers that are the same at each run (xorshift64*).
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % end.max(1)
    }

    fn once_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }
}

/// A request to the upstream, and the bytes that are not in the file yet.
struct Stream {
    id: WorkerId,
    position: u64,
    end: u64,
    for_reader: bool,
    unwritten: Vec<(u64, u64)>,
}

struct Reader {
    id: ReaderId,
    position: u64,
    end: u64,
}

struct Simulation {
    random: Random,
    content: Vec<u8>,
    most: usize,
    state: DownloadState,
    /// What is in the file; `None`: nothing, or nothing that counts.
    file: Vec<Option<u8>>,
    /// The map on disk.
    noted: Vec<ChunkRecord>,
    streams: Vec<Stream>,
    readers: Vec<Reader>,
    /// How many bytes the upstream sent that were written.
    fetched: u64,
    lost: u64,
}

impl Simulation {
    fn new(seed: u64) -> Self {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let total = 1 + random.below(12 * CHUNK);
        let most = 1 + random.below(5) as usize;
        let content: Vec<u8> = (0..total).map(|_| random.below(256) as u8).collect();
        let mut simulation = Self {
            random,
            most,
            state: DownloadState::new(Chunks::of_size(CHUNK)),
            file: vec![None; content.len()],
            noted: vec![ChunkRecord::default(); content.len().div_ceil(CHUNK as usize)],
            content,
            streams: Vec::new(),
            readers: Vec::new(),
            fetched: 0,
            lost: 0,
        };
        simulation.state.chunks.set_total(total);
        simulation
    }

    fn total(&self) -> u64 {
        self.content.len() as u64
    }

    fn step(&mut self) {
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

    fn join(&mut self) {
        let (first, last) = (self.random.below(self.total()), self.random.below(self.total()));
        let range = ByteRange::Bounded { first: first.min(last), last: first.max(last) };
        let range = if self.random.once_in(3) { None } else { Some(range) };
        let id = self.state.chunks.join(range);
        let (position, end) = match range {
            Some(_) => (first.min(last), first.max(last) + 1),
            None => (0, self.total()),
        };
        self.readers.push(Reader { id, position, end });
    }

    fn leave(&mut self) {
        if !self.readers.is_empty() {
            let index = self.random.below(self.readers.len() as u64) as usize;
            self.state.chunks.leave(self.readers.swap_remove(index).id);
        }
    }

    fn read(&mut self) {
        let Some(index) = (!self.readers.is_empty()).then(|| self.random.below(self.readers.len() as u64) as usize)
        else {
            return;
        };
        let Reader { id, position, end } = self.readers[index];
        let to = self.state.chunks.written_to(position).min(end);
        if to > position {
            let to = position + 1 + self.random.below(to - position);
            for offset in position..to {
                assert_eq!(self.file[offset as usize], Some(self.content[offset as usize]), "at {offset}");
            }
            self.readers[index].position = to;
            self.state.chunks.reads_at(id, to, Some(end));
            if to == end {
                self.state.chunks.leave(id);
                self.readers.swap_remove(index);
            }
            return;
        }
        self.state.chunks.waits(id);
        if let Some(NewWorker { id, run }) = self.state.worker_for_reader(id, self.most) {
            self.open(id, run.start, run.end, true);
        }
    }

    fn open(&mut self, id: WorkerId, position: u64, end: u64, for_reader: bool) {
        assert!(position < end && end <= self.total());
        self.streams.push(Stream { id, position, end, for_reader, unwritten: Vec::new() });
        if id != LEAD {
            self.state.workers.opening -= 1;
            self.state.workers.open += 1;
        }
    }

    /// The lead worker begins a request if it has none.
    fn lead(&mut self) {
        if self.streams.iter().all(|stream| stream.id != LEAD)
            && let Some(run) = self.state.next_of_lead()
        {
            self.open(LEAD, run.start, run.end, false);
            self.state.chunks.set_stream(Some(run.start..run.end));
        }
    }

    fn any_stream(&mut self) -> Option<usize> {
        let count = self.streams.len() as u64;
        (count > 0).then(|| self.random.below(count) as usize)
    }

    fn receive(&mut self) {
        let Some(index) = self.any_stream() else { return };
        let len = 1 + self.random.below(2 * CHUNK);
        let stream = &mut self.streams[index];
        let end = stream.end.min(stream.position + len);
        let mut goes_on = true;
        while stream.position < end {
            let len = end - stream.position;
            let len = if stream.id == LEAD {
                match self.state.chunks.admit(LEAD, stream.position, len, false) {
                    Some(Admit::Write(len)) => len,
                    Some(Admit::Skip(len)) => {
                        stream.position += len;
                        continue;
                    }
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
            self.state.chunks.set_stream(Some(at..end));
            goes_on &= !self.state.lead_is_wanted(self.most);
        }
        if !goes_on || at == end {
            self.finish(index, true);
        }
    }

    fn write(&mut self) {
        if let Some(index) = self.any_stream() {
            self.flush(index);
        }
    }

    fn flush(&mut self, index: usize) {
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
                if let Some((index, record)) = whole {
                    self.noted[index] = record;
                }
                self.fetched += part;
                (offset, len) = (offset + part, len - part);
            }
        }
    }

    /// The request of a worker is over; `came`: it brought all that the worker had taken.
    fn finish(&mut self, index: usize, came: bool) {
        self.flush(index);
        let stream = self.streams.swap_remove(index);
        for (index, record) in self.state.chunks.begun_by(stream.id) {
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

    fn cut(&mut self) {
        if let Some(index) = self.any_stream() {
            self.finish(index, false);
        }
    }

    /// All workers are cancelled at once; readers stay, and the next lead worker continues.
    fn cancel(&mut self) {
        while !self.streams.is_empty() {
            self.finish(0, false);
        }
    }

    fn add_for_rate(&mut self) {
        let is_whole = self.state.chunks.is_complete_wanted() && self.state.workers.may_ramp();
        if is_whole && let Some(NewWorker { id, run }) = self.state.worker_for_rate(0.0, self.most) {
            self.open(id, run.start, run.end, false);
        }
    }

    fn check(&mut self) {
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
    fn restart(&mut self) {
        let is_kill = self.random.once_in(2);
        if !is_kill {
            while !self.streams.is_empty() {
                self.finish(0, false);
            }
            self.noted = self.state.chunks.records();
            self.noted.resize(self.content.len().div_ceil(CHUNK as usize), ChunkRecord::default());
        }
        let workers = self.streams.len() as u64;
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
        self.state.chunks.restore(CHUNK, Some(self.total()), self.noted.clone());
    }

    /// The file is evicted between two downloads.
    fn evict(&mut self) {
        self.streams.clear();
        self.readers.clear();
        self.lost += self.file.iter().flatten().count() as u64;
        self.file.fill(None);
        self.noted.fill(ChunkRecord::default());
        self.state = DownloadState::new(Chunks::of_size(CHUNK));
        self.state.chunks.set_total(self.total());
    }

    fn assert_consistent(&self) {
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
    fn complete(&mut self) {
        let id = self.state.chunks.join(None);
        self.readers.push(Reader { id, position: 0, end: self.total() });
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

fn run(seed: u64) {
    let mut simulation = Simulation::new(seed);
    for _ in 0..simulation.random.below(400) {
        simulation.step();
    }
    simulation.complete();
}

#[test]
fn ten_thousand_interleavings_lose_and_repeat_no_byte() {
    for seed in 0..10_000 {
        assert!(std::panic::catch_unwind(|| run(seed)).is_ok(), "seed {seed}");
    }
}

proptest! {
    /// The map against a plain set of bytes.
    #[test]
    fn what_is_written_can_be_read(total in 1..200u64, steps in proptest::collection::vec((0..200u64, 1..40u64), 1..40)) {
        let mut chunks = Chunks::of_size(CHUNK);
        chunks.set_total(total);
        let mut model = vec![false; total as usize];
        for (start, len) in steps {
            let mut position = start.min(total - 1);
            let end = (position + len).min(total);
            while position < end {
                let Some(Admit::Write(len)) = chunks.admit(LEAD, position, end - position, false) else { break };
                let len = len.min(CHUNK - position % CHUNK);
                prop_assert!(!model[position as usize]);
                chunks.wrote(position, len, 0);
                model[position as usize..(position + len) as usize].fill(true);
                position += len;
            }
            chunks.release(LEAD);
            for offset in 0..total {
                let run = model[offset as usize..].iter().take_while(|written| **written).count() as u64;
                prop_assert_eq!(chunks.written_to(offset), offset + run);
            }
            prop_assert_eq!(chunks.written(), model.iter().filter(|written| **written).count() as u64);
            prop_assert_eq!(chunks.missing(), Some(total - chunks.written()));
            prop_assert_eq!(chunks.is_whole(), model.iter().all(|written| *written));
        }
    }
}
