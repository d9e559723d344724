//! A client's request for a manifest.

use crate::{
    cache::{Visibility, storage::tag_record::TagKey},
    cluster::Key,
    oci::{Accept, Digest, Repository, Tag},
    upstream::Upstream,
};

/// Where a client requests a manifest, and which media types it accepts.
#[derive(Clone)]
pub(crate) struct ManifestRequest {
    pub upstream: Upstream,
    pub repository: Repository,
    pub accept: Accept,
    /// The digest that the upstream gave this client for the tag. The client does not get a manifest that is cached
    /// for the tag under another digest.
    pub tag_digest: Option<Digest>,
}

impl ManifestRequest {
    pub(super) fn visibility(&self) -> Visibility {
        Visibility::of(&self.upstream)
    }

    /// Whether the client may get the manifest of this digest for the tag.
    pub(super) fn allows(&self, digest: &Digest) -> bool {
        self.tag_digest.as_ref().is_none_or(|given| given == digest)
    }

    /// Whether peers are asked for its manifest before the registry.
    pub(super) fn asks_peers(&self) -> bool {
        self.upstream.asks_peers(&Key::Repository(self.repository.clone()))
    }

    pub(super) fn key(&self, tag: &Tag) -> TagKey {
        TagKey {
            visibility: self.visibility(),
            upstream: self.upstream.name().clone(),
            repository: self.repository.clone(),
            tag: tag.clone(),
            class: self.accept.class(),
        }
    }
}
