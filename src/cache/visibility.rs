//! Which contents may be given for one another.
//!
//! What must hold: content that came by way of an upstream whose clients' own credentials decide (`access = "client"`)
//! is never found by a request for any other upstream, whatever digest it names and whatever the configuration was
//! before. So it has names of its own: in memory, in flight and on disk.

use crate::{
    oci::Digest,
    upstream::{Registry, Upstream},
};

/// Contents that share their names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Visibility {
    /// What anybody may have whom `[access]` lets in.
    #[default]
    Open,
    /// What upstreams gave that decide by the client's own credentials. Who may have it is asked before.
    Clients,
}

/// A content's name in the cache.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ContentKey {
    pub pool: Visibility,
    pub digest: Digest,
}

impl Visibility {
    pub const ALL: [Self; 2] = [Self::Open, Self::Clients];

    pub fn of(upstream: &Upstream) -> Self {
        if upstream.decides_by_client() { Self::Clients } else { Self::Open }
    }

    /// Whether what an upstream said when it had these URLs is the word of this registry. All URLs of an upstream lead to the same
    /// registry, so one that stayed is enough, for clients that are all the same to it; where their credentials decide, clients'
    /// rights end with any change of the URLs, and so does what was said. Without URLs it is of an earlier version.
    pub fn is_of(self, then: &[u64], registry: &Registry) -> bool {
        let now = registry.url_hashes();
        match self {
            Self::Open => then.is_empty() || then.iter().any(|url| now.contains(url)),
            Self::Clients => *then == **now,
        }
    }

    /// The name of content in this pool.
    pub fn id(self, digest: &Digest) -> ContentKey {
        ContentKey { pool: self, digest: digest.clone() }
    }
}
