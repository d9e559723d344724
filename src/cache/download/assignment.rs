//! Which bytes each worker takes next (pure).
//!
//! The lead worker begins with one request and reads on through free chunks. If it is not quick, one more worker begins
//! at the *end* of the blob: the lead worker ends where that one began, so nothing is lost if it gained nothing. If it
//! gained something, all workers from then on take the next *segment* in order, so that readers stream from the start.
//! What a reader waits for comes first, always.

use std::ops::Range;

use super::{
    chunks::{LEAD, ReaderId, WorkerId},
    state::DownloadState,
};

/// How long one segment should take, in seconds: long enough that the time of its request does not matter.
pub(super) const SEGMENT_TIME: f64 = 1.0;
/// The smallest and the largest segment, in bytes.
const SEGMENT: std::ops::RangeInclusive<u64> = 1024 * 1024..=32 * 1024 * 1024;
/// How many bytes the lead worker fetches for one reader before it looks for another that waits.
const TURN: u64 = 8 * 1024 * 1024;

/// A worker to start, and the bytes that it has taken.
#[derive(Debug)]
pub(super) struct NewWorker {
    pub(super) id: WorkerId,
    pub(super) run: Range<u64>,
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a float saturates")]
fn segment(each: f64) -> u64 {
    ((each * SEGMENT_TIME) as u64).clamp(*SEGMENT.start(), *SEGMENT.end())
}

impl DownloadState {
    /// A worker for a reader that waits, if that helps it; at most `most` workers in all.
    pub(super) fn worker_for_reader(&mut self, reader: ReaderId, most: usize) -> Option<NewWorker> {
        if !self.workers.may_add(most) {
            return None;
        }
        let run = self.chunks.wanted_by_reader(reader, *SEGMENT.end())?;
        Some(self.add_worker(run))
    }

    /// A worker that is to raise the rate; `each`: the rate of one in bytes per second.
    pub(super) fn worker_for_rate(&mut self, each: f64, most: usize) -> Option<NewWorker> {
        if 1 + self.workers.count() >= most {
            return None;
        }
        let len = segment(each);
        let run = if self.workers.count() == 0 {
            self.chunks.last_free(len)?
        } else {
            if self.workers.segment.replace(len).is_none() {
                self.chunks.take_ahead_of_stream(len);
            }
            self.next_segment()?
        };
        Some(self.add_worker(run))
    }

    fn add_worker(&mut self, run: Range<u64>) -> NewWorker {
        let id = self.workers.add();
        self.chunks.take(id, &run);
        NewWorker { id, run }
    }

    /// What a worker takes after it has fetched all it had; `None`: it ends.
    pub(super) fn next_run(&mut self, worker: WorkerId, for_reader: bool) -> Option<Range<u64>> {
        let wanted = self.chunks.wanted(self.workers.segment.unwrap_or(TURN));
        let run = match self.workers.segment {
            _ if wanted.is_some() => wanted?,
            _ if for_reader => return None,
            Some(_) => self.next_segment()?,
            None if self.workers.settled => return None,
            None => self.chunks.last_free(*SEGMENT.end())?,
        };
        self.chunks.take(worker, &run);
        Some(run)
    }

    fn next_segment(&self) -> Option<Range<u64>> {
        let len = self.workers.segment?;
        // Segments shrink towards the end, so that no worker works alone on the last one.
        let fair = self.chunks.missing()? / (2 * (self.workers.open as u64 + 1));
        self.chunks.lowest_free(len.min(fair.max(len / 4).max(*SEGMENT.start())))
    }

    /// What the lead worker requests next. It takes the chunks of a segment at once; otherwise it takes the first chunk,
    /// and each further one when its stream enters it.
    pub(super) fn next_of_lead(&mut self) -> Option<Range<u64>> {
        if let Some(wanted) = self.chunks.wanted(TURN) {
            // What follows is needed as well: its stream reads on, until another reader waits elsewhere.
            let on = self.chunks.lowest_free(u64::MAX).filter(|run| run.start == wanted.start);
            let run = on.filter(|_| self.workers.segment.is_none()).unwrap_or(wanted);
            self.chunks.take_first(run.start);
            return Some(run);
        }
        if self.workers.segment.is_some() && self.workers.open > 0 {
            let run = self.next_segment()?;
            self.chunks.take(LEAD, &run);
            return Some(run);
        }
        let run = self.chunks.lowest_free(u64::MAX)?;
        self.chunks.take_first(run.start);
        Some(run)
    }

    /// Whether the lead worker must leave its stream for a reader, because there may be no other worker.
    pub(super) fn lead_is_wanted(&self, most: usize) -> bool {
        let Some(wanted) = self.chunks.wanted(TURN) else { return false };
        let workers = &self.workers;
        // Where requests for parts fail, readers wait for the stream, unless it has passed what they wait for.
        let may_help = workers.may_help();
        !workers.ranges_ignored && !workers.may_add(most) && (may_help || self.chunks.is_behind_stream(wanted.start))
    }
}
