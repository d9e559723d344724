//! Where a blob comes from, should it have to be fetched.

use super::pool::{ContentId, Pool};
use crate::{
    oci::{Digest, Repository},
    upstream::Upstream,
};

/// A blob as one upstream names it.
#[derive(Clone)]
pub struct Source {
    pub upstream: Upstream,
    pub repository: Repository,
    pub digest: Digest,
}

impl Source {
    /// Its name in the cache.
    pub fn id(&self) -> ContentId {
        Pool::of(&self.upstream).id(&self.digest)
    }

    /// Whether both ask the same upstream, as the same asker, for the same repository's blob: what it answers one, it
    /// answers the other.
    pub fn is_same(&self, other: &Self) -> bool {
        self.upstream.name() == other.upstream.name()
            && self.upstream.asker() == other.upstream.asker()
            && self.repository == other.repository
            && self.digest == other.digest
    }
}
