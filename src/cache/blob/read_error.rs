//! Why a body cannot continue.

use std::{io, sync::Arc};

use crate::{cache::download::DownloadError, upstream};

/// The body cannot continue. The sender breaks the connection: the client must never take this for the end.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum ReadError {
    #[error("the upstream failed in the middle of the blob")]
    Upstream(#[source] upstream::Error),
    #[error("the content does not match its digest")]
    Mismatch,
    #[error("the cache failed in the middle of the blob")]
    Storage(#[source] Arc<io::Error>),
    #[error("the download was given up")]
    Abandoned,
}

impl From<DownloadError> for ReadError {
    fn from(error: DownloadError) -> Self {
        match error {
            DownloadError::Upstream(error) => Self::Upstream(error),
            DownloadError::Mismatch | DownloadError::Damaged => Self::Mismatch,
            DownloadError::Storage(error) => Self::Storage(error),
            DownloadError::NoRoom | DownloadError::Abandoned => Self::Abandoned,
        }
    }
}
