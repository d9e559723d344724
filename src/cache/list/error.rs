//! Why a list cannot be served.

use crate::{cache::ManifestError, oci::Operation, upstream};

#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum ListError {
    #[error("the upstream cannot give the list")]
    Upstream {
        /// The client's request.
        operation: Operation,
        source: upstream::Error,
    },
    #[error("the upstream has no referrers endpoint, and its clients maintain the referrers tag")]
    NoEndpoint,
    #[error("the referrers tag cannot be read")]
    Tag(#[source] ManifestError),
    #[error("mirrors that may wait for this request have requested the same list")]
    WaitCycle,
    #[error("the request was abandoned")]
    Abandoned,
}

impl ListError {
    /// Whether a stale list may be served instead.
    pub(super) fn is_outage(&self) -> bool {
        match self {
            Self::Upstream { source, .. } => source.kind.is_outage(),
            Self::WaitCycle => true,
            Self::NoEndpoint | Self::Tag(_) | Self::Abandoned => false,
        }
    }
}
