//! Where a blob comes from, should it have to be fetched.

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
    /// Its name in the cache.
    pub(crate) fn id(&self) -> ContentKey {
        Visibility::of(&self.upstream).key(&self.digest)
    }

    /// Whether both ask the same registry, whichever repository and as whom.
    pub(crate) fn is_of_same_registry(&self, other: &Self) -> bool {
        self.upstream.registry() == other.upstream.registry()
    }

    /// Whether both ask the same upstream, as the same asker, for the same repository's blob: what it answers one, it
    /// answers the other.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.is_of_same_registry(other)
            && self.upstream.principal() == other.upstream.principal()
            && self.repository == other.repository
            && self.digest == other.digest
    }
}
