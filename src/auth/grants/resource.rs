//! What a client requests of a repository.

use std::time::Duration;

use super::{
    evidence::{self, Evidence},
    keys::ContentLocation,
};
use crate::{
    oci::{Accept, AcceptClass, Digest, Reference, Repository},
    offload::Offload,
    upstream::{Error, Upstream},
};

#[derive(Clone, Debug)]
pub(crate) enum Resource {
    /// `cached`: the digest that the cache has for the reference, if that is a tag.
    Manifest { reference: Reference, accept: Accept, cached: Option<Digest> },
    /// `cached_len`: the length of the cached blob.
    Blob { digest: Digest, cached_len: Option<u64> },
}

impl Resource {
    /// The digest that the cache has for a tag.
    pub(crate) fn cached_digest(&self) -> Option<&Digest> {
        match self {
            Self::Manifest { reference: Reference::Tag(_), cached, .. } => cached.as_ref(),
            Self::Manifest { reference: Reference::Digest(_), .. } | Self::Blob { .. } => None,
        }
    }

    /// The manifest that would be served from the cache.
    pub(super) fn manifest(&self) -> Option<&Digest> {
        match self {
            Self::Blob { .. } => None,
            Self::Manifest { reference: Reference::Digest(digest), .. } => Some(digest),
            Self::Manifest { reference: Reference::Tag(_), cached, .. } => cached.as_ref(),
        }
    }

    /// The digest that the repository must contain; `None` for a tag, for which forebay asks the upstream.
    pub(super) fn location(&self, upstream: &Upstream, repository: &Repository) -> Option<ContentLocation> {
        match self {
            Self::Blob { digest, .. } => Some(ContentLocation::of_blob(upstream, repository, digest)),
            Self::Manifest { reference: Reference::Digest(digest), .. } => {
                Some(ContentLocation::of_manifest(upstream, repository, digest))
            }
            Self::Manifest { reference: Reference::Tag(_), .. } => None,
        }
    }

    /// Distinguishes requests for different resources.
    pub(super) fn key(&self) -> (Reference, Option<AcceptClass>) {
        match self {
            Self::Manifest { reference, accept, .. } => (reference.clone(), Some(accept.class())),
            Self::Blob { digest, .. } => (Reference::Digest(digest.clone()), None),
        }
    }

    /// Asks the upstream for exactly this resource. Returns what the response proves, and for how long the upstream
    /// client kept it.
    pub(super) async fn check(
        &self,
        upstream: &Upstream,
        repository: &Repository,
        documents: &Offload,
    ) -> Result<(Evidence, Duration), Error> {
        match self {
            Self::Blob { digest, cached_len } => evidence::of_blob(upstream, repository, digest, *cached_len).await,
            Self::Manifest { reference, accept, .. } => {
                evidence::of_manifest(upstream, repository, reference, accept, documents).await
            }
        }
    }
}
