//! Which bytes of a download are in the file, which are being fetched, and what a reader finds (pure).

use std::{fs::File, io, ops::Range, sync::Arc};

use super::{extents::Extents, transfer::Transfer};
use crate::{
    cache::storage::{self, Pin},
    file_slice::FileSlice,
    upstream::{self, ContentNotes},
};

/// How many bytes at the end are withheld until the digest is verified.
const WITHHELD_TAIL: u64 = 16 * 1024;

/// Why a download ended without a blob. Every subscriber gets the error.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum DownloadError {
    #[error("the upstream failed")]
    Upstream(#[source] upstream::Error),
    #[error("the content does not match its digest")]
    Mismatch,
    /// The bytes do not match the digest either, but an earlier download left part of them on disk, so the upstream may
    /// not be at fault.
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
    /// All bytes are in the file and verified.
    Complete,
    Failed(DownloadError),
}

pub(super) struct DownloadState {
    pub(super) progress: Progress,
    /// The size of the blob in bytes, once known.
    pub(super) total: Option<u64>,
    /// What the upstream's response contained in addition to the bytes, once it has arrived.
    pub(super) remark: Option<ContentNotes>,
    pub(super) file: Option<Arc<File>>,
    /// The download has failed, and its file may be truncated: no new reads begin.
    pub(super) closing: bool,
    pub(super) name: Option<storage::TempName>,
    pub(super) written: Extents,
    /// How many written bytes the reservation does not know of yet.
    pub(super) unreported: u64,
    /// How many bytes from the start an earlier download left: they may be wrong until the whole blob is verified.
    pub(super) leftover: u64,
    /// Bytes that range transfers fetch or have fetched: the main transfer does not write them.
    pub(super) claimed: Extents,
    /// Whether the name of the file announces gaps. Until then no byte is written behind missing bytes.
    pub(super) gaps_allowed: bool,
    /// The position of the main transfer.
    pub(super) main_position: u64,
    /// Where the next request of the main transfer begins, behind a claimed range.
    pub(super) skipping_to: Option<u64>,
    pub(super) range_transfers: usize,
    /// The range of the main transfer while extra connections fetch the others; if `None`, the main transfer fetches
    /// all unclaimed bytes.
    pub(super) main_range: Option<Range<u64>>,
    /// How many bytes one connection takes at a time, once extra connections share the whole blob.
    pub(super) segment: Option<u64>,
    /// The number of extra connections that fetch, and of those that are being opened.
    pub(super) extra_connections: usize,
    pub(super) connections_opening: usize,
    /// An extra connection failed: no more are opened.
    pub(super) connections_refused: bool,
    /// The upstream ignores `Range`.
    pub(super) ranges_ignored: bool,
    /// forebay requests no ranges from the upstream, because content assembled from ranges was recently wrong.
    pub(super) without_ranges: bool,
    /// The file contains bytes of more than one response.
    pub(super) from_ranges: bool,
    /// How many range transfers failed.
    pub(super) range_failures: usize,
    /// The blob was on disk when the download began: nothing is transferred.
    pub(super) was_cached: bool,
    /// The open transfer of a download that found no space, for the first reader that streams without the cache.
    pub(super) spare_transfer: Option<Transfer>,
    /// The task of this download has ended, including the commit.
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

    /// What a reader at `position` finds that wants bytes up to `end` (exclusive), or all.
    pub(super) fn look(&self, position: u64, end: Option<u64>, whole: bool) -> Look {
        let end = end.or(self.total);
        let has_all = end.is_some_and(|end| position >= end);
        // A reader that has its range is done, even if the rest of the download fails.
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
            // The blob is shorter than its announced size, on which this range is based.
            _ if complete => Look::Failed(DownloadError::Abandoned),
            _ => Look::Wait,
        }
    }

    /// The first bytes that are not written and that no transfer but the main one fetches.
    pub(super) fn first_gap(&self, total: u64) -> Option<Range<u64>> {
        self.first_gap_but(&(0..0), total)
    }

    /// The same, without the bytes in `taken`.
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
