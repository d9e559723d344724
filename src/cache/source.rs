//! The upstream, repository and digest from which a blob can be fetched.

use super::visibility::{ContentKey, Visibility};
use crate::{
    oci::{Digest, Repository},
    upstream::Upstream,
};

/// A blob as one upstream names it.
#[derive(Clone)]
pub(crate) struct Source {
    pub upstream: Upstream,
    pub repository: Repository,
    pub digest: Digest,
}

impl Source {
    /// The key of the blob in the cache.
    pub(crate) fn id(&self) -> ContentKey {
        Visibility::of(&self.upstream).key(&self.digest)
    }

    /// Whether both belong to the same registry, regardless of repository and principal.
    pub(crate) fn is_of_same_registry(&self, other: &Self) -> bool {
        self.upstream.registry() == other.upstream.registry()
    }

    /// Whether both name the same repository's blob at the same upstream for the same principal: the upstream's
    /// response to one is also valid for the other.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.is_of_same_registry(other)
            && self.upstream.principal() == other.upstream.principal()
            && self.repository == other.repository
            && self.digest == other.digest
    }
}
