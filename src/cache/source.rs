//! The upstream, repository and digest from which a blob can be fetched.

use super::visibility::{ContentKey, Visibility};
use crate::{
    oci::{Algorithm, Digest, Repository},
    upstream::{Registry, Upstream},
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

    /// Of the registry alone.
    pub(crate) fn without_peers(&self) -> Self {
        Self { upstream: self.upstream.without_peers(), ..self.clone() }
    }

    /// Whether both belong to the same registry, regardless of repository and principal.
    pub(crate) fn is_of_same_registry(&self, other: &Self) -> bool {
        self.upstream.registry() == other.upstream.registry()
    }

    /// Whose clients may be given bytes of the blob before they are verified.
    pub(crate) fn origin(&self) -> Origin {
        let is_per_client = Visibility::of(&self.upstream) == Visibility::PerClient;
        Origin {
            registry: self.upstream.registry().clone(),
            repository: is_per_client.then(|| self.repository.clone()),
        }
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

/// Where bytes come from that are not verified yet: only clients of the same origin may be given them.
///
/// With `access = "client"` that includes the repository. Otherwise a client could be given wrong bytes that someone
/// else pushed to a repository that the client may not read.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Origin {
    registry: Registry,
    repository: Option<Repository>,
}

impl Origin {
    #[cfg(test)]
    pub(crate) fn of_registry(registry: &Registry) -> Self {
        Self { registry: registry.clone(), repository: None }
    }

    #[cfg(test)]
    pub(crate) fn in_repository(self, repository: &str) -> Self {
        Self { repository: repository.parse().ok(), ..self }
    }

    /// Its form on disk: 16 hexadecimal digits.
    pub fn fingerprint(&self) -> [u8; 16] {
        let registry = self.registry.fingerprint();
        let text = match &self.repository {
            None => registry,
            Some(repository) => {
                Digest::of(Algorithm::Sha256, format!("{registry}\n{repository}").as_bytes()).hex().to_owned()
            }
        };
        text.as_bytes().first_chunk().copied().unwrap_or_default()
    }
}
