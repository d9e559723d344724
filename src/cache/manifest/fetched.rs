//! What an upstream request found, and what a client is served.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use super::content::VerifiedManifest;
use crate::{
    cache::{Outcome, storage::tag_record::TagRecord},
    oci::{Digest, MediaType},
    upstream,
};

/// A manifest to send.
#[derive(Clone, Debug)]
pub(crate) struct ServedManifest {
    pub content: Arc<VerifiedManifest>,
    pub outcome: Outcome,
    /// When the upstream last confirmed the tag, if the client requested one.
    pub confirmed: Option<SystemTime>,
}

/// The response to a `HEAD` of a manifest.
#[derive(Clone, Debug)]
pub(crate) struct ManifestHead {
    pub digest: Digest,
    pub media_type: MediaType,
    /// In bytes.
    pub size: u64,
    pub outcome: Outcome,
    /// When the upstream last confirmed the tag, if the client requested one.
    pub confirmed: Option<SystemTime>,
}

/// What an upstream request found.
#[derive(Clone)]
pub(super) enum Fetched {
    /// The tag still points where its record says.
    Unchanged(Arc<TagRecord>),
    Head(Arc<TagRecord>),
    Content {
        content: Arc<VerifiedManifest>,
        confirmed: Option<SystemTime>,
    },
}

impl Fetched {
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
    pub(super) fn of(content: &VerifiedManifest, outcome: Outcome, confirmed: Option<SystemTime>) -> Self {
        let (digest, media_type) = (content.digest.clone(), content.media_type.clone());
        Self { digest, media_type, size: content.bytes.len() as u64, outcome, confirmed }
    }

    pub(super) fn recorded(record: &TagRecord, outcome: Outcome) -> Self {
        let (digest, media_type) = (record.digest.clone(), record.media_type.clone());
        Self { digest, media_type, size: record.size, outcome, confirmed: Some(record.confirmed) }
    }
}

impl TagRecord {
    /// `None` if the upstream left out what a client needs.
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

    pub(super) fn of(content: &VerifiedManifest, confirmed: SystemTime) -> Self {
        Self {
            digest: content.digest.clone(),
            media_type: content.media_type.clone(),
            size: content.bytes.len() as u64,
            confirmed,
            urls: Arc::default(),
        }
    }
}

/// When a response of this age was true.
pub(super) fn confirmed_before(age: Duration) -> SystemTime {
    SystemTime::now().checked_sub(age).unwrap_or(UNIX_EPOCH)
}
