//! Why a manifest cannot be served.

use std::{sync::Arc, time::SystemTime};

use crate::{rule::RuleName, upstream};

#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum ManifestError {
    #[error("the upstream cannot give the manifest")]
    Upstream(#[source] upstream::Error),
    #[error("the upstream's manifest does not match its digest")]
    Mismatch,
    #[error("the upstream gives the manifest another media type than its content has")]
    OtherType,
    #[error("the upstream's response for the tag is not a manifest")]
    NoManifest,
    #[error("little is left of the upstream's rate limit, so the tag's cached manifest is not replaced")]
    NearRateLimit,
    #[error("the upstream answered a moment ago that there is no such manifest")]
    CachedNotFound(#[source] upstream::Error),
    #[error("the upstream cannot be reached, and the client does not accept the media type of the cached manifest")]
    NotAcceptable,
    #[error("mirrors that may wait for this request have requested the same manifest")]
    WaitCycle,
    #[error("the rule {rule} serves nothing for this tag yet")]
    TooYoung {
        rule: Arc<RuleName>,
        /// When what the tag names now will be served at the earliest.
        until: SystemTime,
    },
    #[error("the request was abandoned")]
    Abandoned,
}

impl ManifestError {
    /// Whether a stale manifest may be served instead.
    pub(crate) fn is_outage(&self) -> bool {
        match self {
            Self::Upstream(error) => error.kind.is_outage(),
            // A registry that sends damaged manifests is no better than one that is down.
            Self::Mismatch | Self::OtherType | Self::NoManifest | Self::NearRateLimit => true,
            Self::CachedNotFound(_)
            | Self::NotAcceptable
            | Self::WaitCycle
            | Self::TooYoung { .. }
            | Self::Abandoned => false,
        }
    }
}
