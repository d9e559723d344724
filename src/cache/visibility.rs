//! Which clients content may be served to.
//!
//! What must hold: content that came from an upstream that authorizes each client by the client's own credentials
//! (`access = "client"`) is never found by a request for any other upstream, whatever digest the request names and
//! whatever the configuration was before. Its keys differ in memory, among the downloads and on disk.

use crate::{
    oci::Digest,
    upstream::{Registry, Upstream},
};

/// The two parts of the cache. A key of one part never names content of the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Visibility {
    /// For every client that `[access]` admits.
    #[default]
    Shared,
    /// From upstreams that authorize each client. forebay checks the client's grant before it looks here.
    PerClient,
}

/// The key of a blob or a manifest in the cache.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ContentKey {
    pub visibility: Visibility,
    pub digest: Digest,
}

impl Visibility {
    pub const ALL: [Self; 2] = [Self::Shared, Self::PerClient];

    pub fn of(upstream: &Upstream) -> Self {
        if upstream.uses_client_credentials() { Self::PerClient } else { Self::Shared }
    }

    /// Whether a record that was written when an upstream had these URLs counts for this registry.
    ///
    /// All URLs of an upstream lead to the same registry, so for shared content one URL that stayed is enough. Where
    /// the upstream authorizes clients, any change of the URLs ends their grants, and with them what the upstream said.
    /// Earlier versions wrote no URLs.
    pub fn is_of(self, recorded: &[u64], registry: &Registry) -> bool {
        let current = registry.url_hashes();
        match self {
            Self::Shared => recorded.is_empty() || recorded.iter().any(|url| current.contains(url)),
            Self::PerClient => *recorded == **current,
        }
    }

    pub fn key(self, digest: &Digest) -> ContentKey {
        ContentKey { visibility: self, digest: digest.clone() }
    }
}
