//! How a download into the cache ended: a label of the metrics.

use crate::metrics::Label;

/// How a download into the cache ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum DownloadResult {
    Complete,
    /// The bytes do not match the digest.
    Mismatch,
    UpstreamFailed,
    /// The upstream does not have the blob, or refuses it: the client that requested it gets the refusal.
    Refused,
    StorageFailed,
    /// The blob streams through uncached: it is larger than the cache, or all cached blobs are being read.
    NoRoom,
    /// No client needed the download any more.
    Abandoned,
}

impl Label for DownloadResult {
    const ALL: &'static [Self] = &[
        Self::Complete,
        Self::Mismatch,
        Self::UpstreamFailed,
        Self::Refused,
        Self::StorageFailed,
        Self::NoRoom,
        Self::Abandoned,
    ];

    fn as_str(self) -> &'static str {
        match self {
            DownloadResult::Complete => "complete",
            DownloadResult::Mismatch => "mismatch",
            DownloadResult::UpstreamFailed => "upstream_failed",
            DownloadResult::Refused => "refused",
            DownloadResult::StorageFailed => "storage_failed",
            DownloadResult::NoRoom => "no_room",
            DownloadResult::Abandoned => "abandoned",
        }
    }

    fn index(self) -> usize {
        self as usize
    }
}
