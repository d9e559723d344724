//! What the workers and the readers of a download share.

use std::{fs::File, io, sync::Arc};

use super::{chunks::Chunks, transfer::Transfer, workers::Workers};
use crate::{
    cache::storage::{ChunkNotes, Pin, TempRoom},
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

impl DownloadError {
    /// Whether only the cache failed: the upstream still sends the blob.
    fn is_of_cache(&self) -> bool {
        matches!(self, Self::Storage(_) | Self::NoRoom)
    }
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
    /// Which bytes are in the file, which are being fetched, and which readers need.
    pub(super) chunks: Chunks,
    pub(super) workers: Workers,
    /// What the upstream's response contained in addition to the bytes, once it has arrived.
    pub(super) remark: Option<ContentNotes>,
    pub(super) file: Option<TempContent>,
    /// The blob was on disk when the download began: nothing is transferred.
    pub(super) was_cached: bool,
    /// The open transfer of a download that found no space, for the first reader that streams without the cache.
    pub(super) spare_transfer: Option<Transfer>,
    /// The task of this download has ended, including the commit.
    pub(super) ended: bool,
    /// Keeps the finished blob in the cache for its readers.
    pub(super) _pin: Option<Arc<Pin>>,
}

/// The file of a download, as workers and readers use it.
#[derive(Clone)]
pub(super) struct TempContent {
    pub(super) file: Arc<File>,
    /// `None` if the file is complete.
    pub(super) room: Option<Arc<TempRoom>>,
    /// Where whole chunks are noted, if a kill shall not lose them.
    pub(super) notes: Option<Arc<ChunkNotes>>,
}

impl TempContent {
    /// A file that no worker writes.
    pub(super) fn whole(file: Arc<File>) -> Self {
        Self { file, room: None, notes: None }
    }
}

/// What a reader finds at its position.
pub(super) enum Look {
    Slice(FileSlice),
    End,
    Wait,
    Failed(DownloadError),
}

impl DownloadState {
    pub(super) fn new(chunks: Chunks) -> Self {
        Self {
            progress: Progress::Opening,
            chunks,
            workers: Workers::default(),
            remark: None,
            file: None,
            was_cached: false,
            spare_transfer: None,
            ended: false,
            _pin: None,
        }
    }

    pub(super) fn total(&self) -> Option<u64> {
        self.chunks.total()
    }

    pub(super) fn is_over(&self) -> bool {
        matches!(self.progress, Progress::Complete | Progress::Failed(_))
    }

    /// What a reader at `position` finds that wants bytes up to `end` (exclusive), or all.
    pub(super) fn look(&self, position: u64, end: Option<u64>, whole: bool) -> Look {
        let end = end.or(self.total());
        let has_all = end.is_some_and(|end| position >= end);
        // A reader that has its range is done, even if the rest of the download fails.
        if has_all && !whole {
            return Look::End;
        }
        let (complete, failed) = match &self.progress {
            Progress::Complete if has_all => return Look::End,
            Progress::Complete => (true, None),
            Progress::Opening | Progress::Writing => (false, None),
            // All readers first read what is in the file, so that they need the same rest without the cache.
            Progress::Failed(error) if error.is_of_cache() => (false, Some(error)),
            Progress::Failed(error) => return Look::Failed(error.clone()),
        };
        let withheld = if whole && !complete { WITHHELD_TAIL } else { 0 };
        let run = self.chunks.written_to(position);
        let limit = match end {
            Some(end) => run.min(end.saturating_sub(withheld)),
            None => run.saturating_sub(withheld),
        };
        match (&self.file, failed) {
            (Some(content), _) if limit > position => {
                Look::Slice(FileSlice { file: content.file.clone(), offset: position, len: limit - position })
            }
            (_, Some(error)) => Look::Failed(error.clone()),
            // The blob is shorter than its announced size, on which this range is based.
            _ if complete => Look::Failed(DownloadError::Abandoned),
            _ => Look::Wait,
        }
    }
}
