//! The workers of a download beside the lead worker: how many there are, and whether there may be more (pure).

use super::chunks::WorkerId;

/// After this many failed requests for readers, the lead worker fetches the rest alone.
const MAX_FAILURES: usize = 4;

/// The workers beside the lead worker.
#[derive(Debug, Default)]
pub(super) struct Workers {
    last: WorkerId,
    /// Those that receive, and those that wait for a response.
    pub(super) open: usize,
    pub(super) opening: usize,
    /// How many bytes one worker takes at a time, once several share the blob.
    pub(super) segment: Option<u64>,
    /// No more workers are added, except for readers that wait; those that need another segment end.
    pub(super) settled: bool,
    /// The upstream ignores `Range`.
    pub(super) ranges_ignored: bool,
    /// The blob is read in one response as far as possible, since its parts were wrong.
    pub(super) single: bool,
    /// The file has bytes of more than one response.
    pub(super) from_parts: bool,
    /// How many requests for readers failed.
    pub(super) failures: usize,
}

impl Workers {
    /// How many there are beside the lead worker.
    pub(super) fn count(&self) -> usize {
        self.open + self.opening
    }

    /// Whether another worker may request a part.
    pub(super) fn may_add(&self, most: usize) -> bool {
        !self.ranges_ignored && self.may_help() && 1 + self.count() < most
    }

    /// Whether requests for parts are worth a try.
    pub(super) fn may_help(&self) -> bool {
        !self.single && self.failures < MAX_FAILURES
    }

    /// Whether workers for the sake of the rate make sense.
    pub(super) fn may_ramp(&self) -> bool {
        !self.settled && !self.ranges_ignored && !self.single
    }

    /// The number of a new worker, whose request is sent now.
    pub(super) fn add(&mut self) -> WorkerId {
        self.last += 1;
        self.opening += 1;
        self.from_parts = true;
        self.last
    }

    /// The lead worker continues alone.
    pub(super) fn lead_alone(&mut self) {
        self.settled = true;
        self.segment = None;
    }
}
