//! Which bytes of a download are here, which are being fetched, and what a reader finds (pure).

use std::{fs::File, io, ops::Range, sync::Arc};

use super::{extents::Extents, transfer::Transfer};
use crate::{
    cache::storage::{self, Pin},
    file_slice::FileSlice,
    upstream::{self, ContentNotes},
};

/// How much of the end is held back until the digest is known to be right, in bytes.
const WITHHELD_TAIL: u64 = 16 * 1024;

/// Why a download ended without a blob. Every subscriber gets it.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum DownloadError {
    #[error("the upstream failed")]
    Upstream(#[source] upstream::Error),
    #[error("the content does not match its digest")]
    Mismatch,
    /// Nor does it here, but part of it was on disk before, so that this says nothing about the upstream.
    #[error("what an earlier download left does not match the digest with the rest")]
    Damaged,
    #[error("the cache cannot be written")]
    Storage(#[source] Arc<io::Error>),
    #[error("there is no room in the cache")]
    NoRoom,
    #[error("the download was given up")]
    Abandoned,
}

/// The state of a download.
#[derive(Clone, Debug)]
pub(crate) enum Progress {
    /// The request was sent and has no response yet.
    Opening,
    Writing,
    /// All bytes are here and right.
    Complete,
    Failed(DownloadError),
}

pub(super) struct DownloadState {
    pub(super) progress: Progress,
    /// The size of the blob in bytes, once known.
    pub(super) total: Option<u64>,
    /// What the upstream's response said beside the bytes, once it has come.
    pub(super) remark: Option<ContentNotes>,
    pub(super) file: Option<Arc<File>>,
    /// The download has failed, and its file may be cut: no new reads begin.
    pub(super) closing: bool,
    pub(super) name: Option<storage::TempName>,
    pub(super) written: Extents,
    /// How many of these bytes the reservation has not been told of.
    pub(super) unreported: u64,
    /// How many bytes from the front an earlier download left: nothing says that they are right until the whole is
    /// verified.
    pub(super) leftover: u64,
    /// Bytes that range transfers fetch or fetched: the main transfer writes nothing there.
    pub(super) claimed: Extents,
    /// Whether the file's name says that it may have holes. Nothing is written behind bytes that are not there before.
    pub(super) gaps_allowed: bool,
    /// Where the main transfer is.
    pub(super) main_position: u64,
    /// Where its next request begins, behind a claimed range.
    pub(super) skipping_to: Option<u64>,
    pub(super) range_transfers: usize,
    /// The range of the main transfer, once extra connections fetch the others; without it, the main transfer fetches
    /// all that is not claimed.
    pub(super) main_range: Option<Range<u64>>,
    /// How much of the blob one connection takes at a time, once there are extra connections for all of it.
    pub(super) segment: Option<u64>,
    /// Extra connections that fetch, and that are being opened.
    pub(super) extra_connections: usize,
    pub(super) connections_opening: usize,
    /// An extra connection failed: no more are opened.
    pub(super) connections_refused: bool,
    /// The upstream ignores Range.
    pub(super) ranges_ignored: bool,
    /// The upstream is not asked for ranges, since content assembled from them was wrong lately.
    pub(super) without_ranges: bool,
    /// More than one answer went into the file.
    pub(super) from_ranges: bool,
    /// How many range transfers failed.
    pub(super) range_failures: usize,
    /// It was on disk when the download began: nothing is transferred.
    pub(super) was_cached: bool,
    /// The open transfer of a download that found no room, for the first reader that goes through.
    pub(super) spare_transfer: Option<Transfer>,
    /// The task of this download is over, and with it the commit.
    pub(super) ended: bool,
    /// Keeps the finished blob in the cache for its readers.
    pub(super) _pin: Option<Arc<Pin>>,
}

/// What a reader finds at its position.
pub(super) enum Look {
    Slice(FileSlice),
    End,
    Wait,
    Failed(DownloadError),
}

impl DownloadState {
    pub(super) fn new() -> Self {
        Self {
            progress: Progress::Opening,
            total: None,
            remark: None,
            file: None,
            closing: false,
            name: None,
            written: Extents::default(),
            unreported: 0,
            leftover: 0,
            claimed: Extents::default(),
            gaps_allowed: false,
            main_position: 0,
            skipping_to: None,
            range_transfers: 0,
            main_range: None,
            segment: None,
            extra_connections: 0,
            connections_opening: 0,
            connections_refused: false,
            ranges_ignored: false,
            without_ranges: false,
            from_ranges: false,
            range_failures: 0,
            was_cached: false,
            spare_transfer: None,
            ended: false,
            _pin: None,
        }
    }

    pub(super) fn is_over(&self) -> bool {
        matches!(self.progress, Progress::Complete | Progress::Failed(_))
    }

    /// What is there for a reader at `position` that wants bytes up to `end` (exclusive), or all.
    pub(super) fn look(&self, position: u64, end: Option<u64>, whole: bool) -> Look {
        let end = end.or(self.total);
        let has_all = end.is_some_and(|end| position >= end);
        // A reader that has its range is done, whatever becomes of the rest.
        if has_all && !whole {
            return Look::End;
        }
        let complete = match &self.progress {
            Progress::Failed(error) => return Look::Failed(error.clone()),
            Progress::Complete if has_all => return Look::End,
            Progress::Complete => true,
            Progress::Opening | Progress::Writing => false,
        };
        let withheld = if whole && !complete { WITHHELD_TAIL } else { 0 };
        let run = self.written.end_of_run(position);
        let limit = match end {
            Some(end) => run.min(end.saturating_sub(withheld)),
            None => run.saturating_sub(withheld),
        };
        match &self.file {
            Some(file) if limit > position && !self.closing => {
                Look::Slice(FileSlice { file: file.clone(), offset: position, len: limit - position })
            }
            // The blob proved shorter than its announced size, for which this range was cut out.
            _ if complete => Look::Failed(DownloadError::Abandoned),
            _ => Look::Wait,
        }
    }

    /// The first bytes that are neither there nor being fetched by anyone but the main transfer.
    pub(super) fn first_gap(&self, total: u64) -> Option<Range<u64>> {
        self.first_gap_but(&(0..0), total)
    }

    /// The same, and not among `taken` either.
    pub(super) fn first_gap_but(&self, taken: &Range<u64>, total: u64) -> Option<Range<u64>> {
        let mut start = 0;
        loop {
            let end = self.written.end_of_run(start).max(self.claimed.end_of_run(start));
            let end = if taken.contains(&end) { taken.end } else { end };
            if end == start {
                break;
            }
            start = end;
        }
        let next = |extents: &Extents| extents.next_start(start).unwrap_or(total);
        let end = next(&self.written).min(next(&self.claimed)).min(total);
        let end = if taken.start > start { end.min(taken.start) } else { end };
        (start < total).then_some(start..end)
    }
}
