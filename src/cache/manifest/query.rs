//! A request for a manifest to an upstream.

use crate::{
    oci::{AcceptClass, Digest, Reference, Repository},
    upstream::{Principal, Registry},
};

/// A request to an upstream. Equal ones are sent once.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct ManifestQuery {
    /// With its URLs: under the same name, other URLs may lead to another registry.
    pub registry: Registry,
    /// The client, if the upstream authorizes each client: its response is for this client alone.
    pub principal: Option<Principal>,
    pub repository: Repository,
    pub reference: Reference,
    pub class: AcceptClass,
    /// `HEAD`: the content is not needed.
    pub head: bool,
    /// The client's request came through mirrors, which may wait for it.
    pub may_cycle: bool,
    /// It is sent to a peer: what serves a peer must not wait for it.
    pub asks_peers: bool,
    /// The response is the registry's own, not one of the object store.
    pub is_for_proof: bool,
    /// How many changes forebay had made to the repository when the request was made. A request from before a change
    /// must not be joined after it.
    pub writes: u64,
}

impl ManifestQuery {
    /// The key under which a 404 is remembered. A `HEAD` that finds nothing is always followed by a `GET`.
    pub(super) fn not_found_key(&self) -> Self {
        Self { head: false, may_cycle: false, asks_peers: false, is_for_proof: false, ..self.clone() }
    }

    /// The same request, before or after any change.
    pub(super) fn at_any_time(&self) -> Self {
        Self { writes: 0, ..self.clone() }
    }

    /// Whether a manifest of this digest can be the response.
    pub(super) fn allows(&self, digest: &Digest) -> bool {
        match &self.reference {
            Reference::Digest(requested) => requested == digest,
            Reference::Tag(_) => true,
        }
    }
}
