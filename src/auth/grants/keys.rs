//! The keys under which grants, contents and requests are remembered.

use crate::{
    oci::{AcceptClass, Digest, Reference, Repository},
    upstream::{Principal, Registry, Upstream},
};

/// A client and a repository; a login, if there is no repository; one manifest of the repository, if there is one.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct GrantKey {
    pub registry: Registry,
    pub principal: Principal,
    pub repository: Option<Repository>,
    pub manifest: Option<Digest>,
}

/// A digest in a repository, as a manifest or as a blob.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct ContentLocation {
    pub registry: Registry,
    pub repository: Repository,
    pub digest: Digest,
    pub is_blob: bool,
}

/// A request to the upstream in the name of one client. Concurrent equal requests are sent once.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct GrantQuery {
    pub grant: GrantKey,
    pub resource: Option<(Reference, Option<AcceptClass>)>,
    /// The client's request came through mirrors, which may wait for it.
    pub may_cycle: bool,
}

impl GrantKey {
    pub(super) fn of(upstream: &Upstream, principal: Principal, repository: Option<&Repository>) -> Self {
        Self { registry: upstream.registry().clone(), principal, repository: repository.cloned(), manifest: None }
    }

    pub(super) fn of_manifest(&self, digest: &Digest) -> Self {
        Self { manifest: Some(digest.clone()), ..self.clone() }
    }
}

impl ContentLocation {
    pub(super) fn of_manifest(upstream: &Upstream, repository: &Repository, digest: &Digest) -> Self {
        let (registry, repository, digest) = (upstream.registry().clone(), repository.clone(), digest.clone());
        Self { registry, repository, digest, is_blob: false }
    }

    pub(super) fn of_blob(upstream: &Upstream, repository: &Repository, digest: &Digest) -> Self {
        Self { is_blob: true, ..Self::of_manifest(upstream, repository, digest) }
    }
}

impl GrantQuery {
    /// The key under which a refusal is remembered.
    pub(super) fn refusal_key(&self) -> Self {
        Self { may_cycle: false, ..self.clone() }
    }
}
