//! What comes of a question: an answer, a manifest to serve, or why there is none.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use super::Content;
use crate::{
    cache::{Outcome, storage::tag_record::TagRecord},
    oci::{Digest, MediaType},
    upstream,
};

/// Why a manifest cannot be had.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ManifestError {
    #[error("the upstream cannot give the manifest")]
    Upstream(#[source] upstream::Error),
    #[error("the upstream's manifest does not match its digest")]
    Mismatch,
    #[error("the upstream gives the manifest another type than its content has")]
    OtherType,
    #[error("the upstream answers for the tag with what is no manifest")]
    NoManifest,
    #[error("little is left of the upstream's limit, so that the tag's former manifest goes on")]
    LimitNearlyUsed,
    #[error("no such manifest, as the upstream said a moment ago")]
    CachedNotFound(#[source] upstream::Error),
    #[error("the upstream cannot be asked, and the manifest at hand has a type the client does not accept")]
    NotAcceptable,
    #[error("the manifest is asked for by mirrors that may wait for this request")]
    WaitCycle,
    #[error("the request was given up")]
    Abandoned,
}

/// A manifest to send.
#[derive(Clone, Debug)]
pub struct ServedManifest {
    pub content: Arc<Content>,
    pub outcome: Outcome,
    /// When the tag was last confirmed, where it was asked for by one.
    pub confirmed: Option<SystemTime>,
}

/// What a HEAD of a manifest says.
#[derive(Clone, Debug)]
pub struct ManifestHead {
    pub digest: Digest,
    pub media_type: MediaType,
    /// In bytes.
    pub size: u64,
    pub outcome: Outcome,
    /// When the tag was last confirmed, where it was asked for by one.
    pub confirmed: Option<SystemTime>,
}

/// What an upstream answered, and what that was in terms of the cache.
#[derive(Clone)]
pub(super) enum ManifestLookup {
    /// The tag points where it did.
    Unchanged(Arc<TagRecord>),
    Head(Arc<TagRecord>),
    Content {
        content: Arc<Content>,
        confirmed: Option<SystemTime>,
    },
}

impl ManifestError {
    /// Whether what is cached may be served instead.
    pub fn is_outage(&self) -> bool {
        match self {
            Self::Upstream(error) => error.kind.is_outage(),
            // A registry that sends damaged manifests is no better than one that is down.
            Self::Mismatch | Self::OtherType | Self::NoManifest | Self::LimitNearlyUsed => true,
            Self::CachedNotFound(_) | Self::NotAcceptable | Self::WaitCycle | Self::Abandoned => false,
        }
    }
}

impl ManifestLookup {
    /// What the tag or digest means.
    pub(super) fn digest(&self) -> &Digest {
        match self {
            Self::Unchanged(record) | Self::Head(record) => &record.digest,
            Self::Content { content, .. } => &content.digest,
        }
    }

    pub(super) fn head(&self, outcome: Outcome) -> ManifestHead {
        match self {
            Self::Unchanged(record) | Self::Head(record) => ManifestHead::recorded(record, outcome),
            Self::Content { content, confirmed } => ManifestHead::of(content, outcome, *confirmed),
        }
    }
}

impl From<ServedManifest> for ManifestHead {
    fn from(served: ServedManifest) -> Self {
        Self::of(&served.content, served.outcome, served.confirmed)
    }
}

impl ManifestHead {
    pub(super) fn of(content: &Content, outcome: Outcome, confirmed: Option<SystemTime>) -> Self {
        let (digest, media_type) = (content.digest.clone(), content.media_type.clone());
        Self { digest, media_type, size: content.bytes.len() as u64, outcome, confirmed }
    }

    pub(super) fn recorded(record: &TagRecord, outcome: Outcome) -> Self {
        let (digest, media_type) = (record.digest.clone(), record.media_type.clone());
        Self { digest, media_type, size: record.size, outcome, confirmed: Some(record.confirmed) }
    }
}

impl TagRecord {
    /// `None` when the upstream left out what a client needs to know.
    pub(super) fn from_head(head: upstream::ManifestHead) -> Option<Self> {
        let upstream::ManifestHead { media_type, digest, len, age, .. } = head;
        Some(Self {
            digest: digest?,
            media_type: media_type?,
            size: len?,
            confirmed: confirmed_before(age),
            urls: Arc::default(),
        })
    }

    pub(super) fn of(content: &Content, confirmed: SystemTime) -> Self {
        Self {
            digest: content.digest.clone(),
            media_type: content.media_type.clone(),
            size: content.bytes.len() as u64,
            confirmed,
            urls: Arc::default(),
        }
    }
}

/// When an answer was true that is so old.
pub(super) fn confirmed_before(age: Duration) -> SystemTime {
    SystemTime::now().checked_sub(age).unwrap_or(UNIX_EPOCH)
}
