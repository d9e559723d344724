//! The grammar of paths below `/v2/`.
//!
//! A repository's name has any number of components, and each may look like a word of the
//! grammar; so a path is read from its end. It is read in two steps, because a mirror's path may
//! have an upstream's name in front, which is no part of the repository: [`Shape`] says where
//! the name is, [`Endpoint`] has it validated.
//!
//! Source: OCI distribution specification v1.1, "Endpoints"; `_catalog` is Docker's.

use super::{Digest, ParseError, Reference, Repository};

/// What a path below `/v2/` means; every part of it is valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// `/v2/` itself: is this a registry, and may I come in.
    Base,
    Manifest {
        name: Repository,
        reference: Reference,
    },
    Blob {
        name: Repository,
        digest: Digest,
    },
    /// A push in progress, or, without a session, the place to begin one.
    Uploads {
        name: Repository,
        session: Option<String>,
    },
    Tags {
        name: Repository,
    },
    Referrers {
        name: Repository,
        digest: Digest,
    },
    Catalog,
}

impl Endpoint {
    /// Reads a path below `/v2/`, without a leading slash, percent-decoded.
    ///
    /// # Errors
    /// `ParseError::Path` when there is no such endpoint; otherwise the error of the part that is invalid.
    pub fn parse(path: &str) -> Result<Self, ParseError> {
        Shape::of(path)?.endpoint()
    }
}

/// Where the name ends in a path, and what is asked of it; nothing is validated yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape<'a> {
    /// Everything in front of the resource. Empty for the base, and for a catalog with nothing in front.
    pub name: &'a str,
    pub resource: Resource<'a>,
}

/// What is asked of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource<'a> {
    Base,
    Manifest(&'a str),
    Blob(&'a str),
    Uploads(Option<&'a str>),
    Tags,
    Referrers(&'a str),
    Catalog,
}

impl<'a> Shape<'a> {
    /// Splits a path below `/v2/`.
    ///
    /// # Errors
    /// `ParseError::Path` when there is no such endpoint.
    pub fn of(path: &'a str) -> Result<Self, ParseError> {
        if path.is_empty() {
            return Ok(Self { name: "", resource: Resource::Base });
        }
        let (above, last) = parent(path);
        let (front, word) = parent(above);
        let (name, resource) = match (word, last) {
            (_, "_catalog") => (above, Resource::Catalog),
            ("tags", "list") => (front, Resource::Tags),
            ("manifests", reference) => (front, Resource::Manifest(reference)),
            ("referrers", digest) => (front, Resource::Referrers(digest)),
            ("blobs", "uploads") => (front, Resource::Uploads(None)),
            ("blobs", digest) => (front, Resource::Blob(digest)),
            ("uploads", session) => match parent(front) {
                (name, "blobs") => (name, Resource::Uploads(Some(session).filter(|it| !it.is_empty()))),
                _ => return Err(ParseError::Path("no such endpoint")),
            },
            _ => return Err(ParseError::Path("no such endpoint")),
        };
        Ok(Self { name, resource })
    }

    /// The endpoint, with every part validated; the name first.
    ///
    /// # Errors
    /// The error of the part that is invalid.
    pub fn endpoint(self) -> Result<Endpoint, ParseError> {
        let name = || self.name.parse::<Repository>();
        Ok(match self.resource {
            Resource::Base => Endpoint::Base,
            Resource::Catalog if self.name.is_empty() => Endpoint::Catalog,
            Resource::Catalog => return Err(ParseError::Path("a catalog belongs to a registry, not to a repository")),
            Resource::Manifest(reference) => Endpoint::Manifest { name: name()?, reference: reference.parse()? },
            Resource::Blob(digest) => Endpoint::Blob { name: name()?, digest: digest.parse()? },
            Resource::Uploads(session) => Endpoint::Uploads { name: name()?, session: session.map(str::to_owned) },
            Resource::Tags => Endpoint::Tags { name: name()? },
            Resource::Referrers(digest) => Endpoint::Referrers { name: name()?, digest: digest.parse()? },
        })
    }
}

/// The path without its last component, and that component.
fn parent(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}
