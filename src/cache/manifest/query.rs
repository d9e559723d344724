//! What is wanted of a tag or digest, and the question that makes of its upstream.

use crate::{
    cache::{Visibility, storage::tag_record::TagKey},
    oci::{Accept, AcceptClass, Digest, Reference, Repository, Tag},
    upstream::{Principal, Registry, Upstream},
};

/// Who asks for what: the upstream's repository, and what the client can read.
#[derive(Clone)]
pub struct ManifestRequest {
    pub upstream: Upstream,
    pub repository: Repository,
    pub accept: Accept,
    /// The digest that the upstream told this client for the tag: what is cached under another one is not for this client.
    pub tag_digest: Option<Digest>,
}

impl ManifestRequest {
    pub(super) fn visibility(&self) -> Visibility {
        Visibility::of(&self.upstream)
    }

    /// Whether content of this digest is what the upstream told this client, if it told any.
    pub(super) fn is_tag_digest(&self, digest: &Digest) -> bool {
        self.tag_digest.as_ref().is_none_or(|known| known == digest)
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

/// What an upstream is asked; equal ones are asked once.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct ManifestQuery {
    /// By its URLs too: what one registry said is no answer of another under its name.
    pub registry: Registry,
    /// As whom, where that makes a difference: what one asker is told is no answer for another.
    pub asker: Option<Principal>,
    pub repository: Repository,
    pub reference: Reference,
    pub class: AcceptClass,
    /// HEAD: the content is not needed.
    pub head: bool,
    /// It is asked for requests that must not wait for what others ask.
    pub circle: bool,
    /// How many changes had been made through us when it was asked: what was asked before a change is no answer after.
    pub writes: u64,
}

impl ManifestQuery {
    /// Under which a 404 is remembered: every one is a GET's in the end.
    pub(super) fn of_missing(&self) -> Self {
        Self { head: false, circle: false, ..self.clone() }
    }

    /// The same, whatever was changed before it was asked.
    pub(super) fn of_any_time(&self) -> Self {
        Self { writes: 0, ..self.clone() }
    }

    /// Whether content of this digest can be the answer.
    pub(super) fn is_met_by(&self, digest: &Digest) -> bool {
        match &self.reference {
            Reference::Digest(asked) => asked == digest,
            Reference::Tag(_) => true,
        }
    }
}
