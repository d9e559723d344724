//! Why a blob cannot be sent.

use crate::{
    cache::{ReadError, download::DownloadError},
    peer::Refused,
    upstream,
};

/// Why a blob cannot be sent.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BlobError {
    #[error("the upstream cannot give the blob")]
    Upstream(#[source] upstream::Error),
    #[error("the upstream's content does not match the digest")]
    Mismatch,
    #[error("the range lies outside the blob")]
    Range { len: u64 },
    #[error("too many ranges, or of more bytes than the blob has")]
    TooManyRanges,
    #[error("the blob is on its way by mirrors that may wait for this request")]
    WaitCycle,
    #[error("too many blobs pass straight through")]
    Crowded(#[source] Refused),
    #[error("forebay has no descriptor left")]
    Exhausted,
    #[error("forebay is shutting down")]
    Abandoned,
}

impl From<ReadError> for BlobError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Upstream(error) => Self::Upstream(error),
            ReadError::Mismatch => Self::Mismatch,
            ReadError::Storage(_) | ReadError::Abandoned => Self::Abandoned,
        }
    }
}

impl From<DownloadError> for BlobError {
    fn from(error: DownloadError) -> Self {
        match error {
            DownloadError::Upstream(error) => Self::Upstream(error),
            DownloadError::Mismatch => Self::Mismatch,
            DownloadError::Storage(_) | DownloadError::NoRoom | DownloadError::Damaged | DownloadError::Abandoned => {
                Self::Abandoned
            }
        }
    }
}
