//! The names of objects, below the prefix of the store (pure).
//!
//! What must hold: what clients got by their own credentials has names of its own ([`Pool::Clients`]), so that an
//! operator can give it other rights, and a forebay that may have shared content alone finds nothing else.

use std::fmt;

use crate::oci::Digest;

/// Whose content an object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Pool {
    /// Every client's that `[access]` admits.
    Shared,
    /// That of upstreams with `access = "client"`.
    Clients,
}

impl Pool {
    pub(crate) const ALL: [Self; 2] = [Self::Shared, Self::Clients];

    /// What the names of its objects begin with.
    pub(crate) fn prefix(self) -> &'static str {
        match self {
            Self::Shared => "",
            Self::Clients => "clients/",
        }
    }
}

/// The name of an object below the store's prefix.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct ObjectName(String);

impl ObjectName {
    pub(crate) fn blob(pool: Pool, digest: &Digest) -> Self {
        Self::of_digest(pool, "blobs", digest)
    }

    pub(crate) fn manifest(pool: Pool, digest: &Digest) -> Self {
        Self::of_digest(pool, "manifests", digest)
    }

    /// A name whose parts are known to be valid: no part is empty, `.` or `..`.
    pub(crate) fn new(name: impl Into<String>) -> Self {
        Self(name.into())
    }

    /// `blobs/sha256/ab/<hex>`: by the first two digits, so that a listing can go by parts.
    fn of_digest(pool: Pool, kind: &str, digest: &Digest) -> Self {
        let (algorithm, hex) = (digest.algorithm().as_str(), digest.hex());
        let part = hex.get(..2).unwrap_or_default();
        Self(format!("{}{kind}/{algorithm}/{part}/{hex}", pool.prefix()))
    }

    /// The pool and digest of the name of a blob; `None` for others.
    pub(crate) fn as_blob(&self) -> Option<(Pool, Digest)> {
        self.as_digest("blobs/")
    }

    /// The pool and digest of the name of a manifest; `None` for others.
    pub(crate) fn as_manifest(&self) -> Option<(Pool, Digest)> {
        self.as_digest("manifests/")
    }

    fn as_digest(&self, kind: &str) -> Option<(Pool, Digest)> {
        let (pool, rest) = match self.0.strip_prefix(Pool::Clients.prefix()) {
            Some(rest) => (Pool::Clients, rest),
            None => (Pool::Shared, &*self.0),
        };
        let mut parts = rest.strip_prefix(kind)?.split('/');
        let (algorithm, part, hex) = (parts.next()?, parts.next()?, parts.next()?);
        let digest: Digest = format!("{algorithm}:{hex}").parse().ok()?;
        (parts.next().is_none() && hex.get(..2) == Some(part)).then_some((pool, digest))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Algorithm;

    #[test]
    fn names_of_blobs_and_manifests_can_be_read_back() {
        let digest = Digest::of(Algorithm::Sha256, b"x");
        for pool in Pool::ALL {
            assert_eq!(ObjectName::blob(pool, &digest).as_blob(), Some((pool, digest.clone())));
            assert_eq!(ObjectName::manifest(pool, &digest).as_manifest(), Some((pool, digest.clone())));
            assert_eq!(ObjectName::blob(pool, &digest).as_manifest(), None);
        }
        let hex = digest.hex();
        assert_eq!(ObjectName::blob(Pool::Shared, &digest).as_str(), format!("blobs/sha256/{}/{hex}", &hex[..2]));
        assert!(ObjectName::blob(Pool::Clients, &digest).as_str().starts_with("clients/blobs/sha256/"));
    }

    #[test]
    fn other_names_are_no_blobs() {
        let digest = Digest::of(Algorithm::Sha256, b"x");
        let hex = digest.hex();
        let part = &hex[..2];
        for name in [
            format!("blobs/sha256/00/{hex}"),
            format!("blobs/sha256/{part}/{hex}/x"),
            format!("blobs/sha256/{hex}"),
            format!("blobs/sha256/{part}/{}", &hex[1..]),
            format!("x/blobs/sha256/{part}/{hex}"),
            String::new(),
        ] {
            assert_eq!(ObjectName::new(&*name).as_blob(), None, "{name}");
        }
    }
}
