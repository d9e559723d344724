//! The grammar of paths below `/v2/`.
//!
//! A repository's name has any number of components, and each may look like a keyword of the grammar. So a path is
//! parsed from its end, and in two steps, because a mirror's path may begin with an upstream's name, which is no part
//! of the repository: [`Shape::of`] finds the name, [`Shape::endpoint`] validates the parts.
//!
//! Source: OCI distribution specification v1.1, "Endpoints"; `_catalog` is Docker's.

use super::{Digest, ParseError, Reference, Repository};

/// What a path below `/v2/` means; every part of it is valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// `/v2/` itself: tells whether this is a registry, and whether it requires authentication.
    Base,
    Manifest {
        name: Repository,
        reference: Reference,
    },
    Blob {
        name: Repository,
        digest: Digest,
    },
    /// An upload in progress, or, without a session, the collection to begin one in.
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

/// Where the name ends in a path, and which resource follows; no part is validated yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape<'a> {
    /// All text in front of the resource. Empty for the base, and for a catalog without a name.
    pub name: &'a str,
    pub resource: Resource<'a>,
}

/// The resource after the name.
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
    /// `ParseError::Path` if there is no such endpoint.
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

    /// The endpoint. Validates every part, the name first.
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

/// A path as a reference to this server: with `//` or `/\` at its beginning it would name a host (RFC 3986 section 4.2,
/// and how browsers read it).
pub fn local_path(path: &str) -> String {
    format!("/{}", path.trim_start_matches(['/', '\\']))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(path: &str) -> Result<Endpoint, ParseError> {
        Shape::of(path)?.endpoint()
    }

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn endpoints() {
        let digest: Digest = DIGEST.parse().unwrap();
        let name = |name: &str| name.parse::<Repository>().unwrap();
        let tagged = |it: &str, tag: &str| Endpoint::Manifest { name: name(it), reference: tag.parse().unwrap() };
        for (path, endpoint) in [
            (String::new(), Endpoint::Base),
            ("_catalog".into(), Endpoint::Catalog),
            ("nginx/manifests/latest".into(), tagged("nginx", "latest")),
            ("a/b/c/d/manifests/1.0".into(), tagged("a/b/c/d", "1.0")),
            (
                format!("a/manifests/{DIGEST}"),
                Endpoint::Manifest { name: name("a"), reference: Reference::Digest(digest.clone()) },
            ),
            (format!("a/b/blobs/{DIGEST}"), Endpoint::Blob { name: name("a/b"), digest: digest.clone() }),
            (format!("a/b/referrers/{DIGEST}"), Endpoint::Referrers { name: name("a/b"), digest: digest.clone() }),
            ("a/tags/list".into(), Endpoint::Tags { name: name("a") }),
            ("a/blobs/uploads".into(), Endpoint::Uploads { name: name("a"), session: None }),
            ("a/blobs/uploads/".into(), Endpoint::Uploads { name: name("a"), session: None }),
            ("a/blobs/uploads/x-1".into(), Endpoint::Uploads { name: name("a"), session: Some("x-1".into()) }),
            // Repositories whose names are keywords of the grammar.
            ("manifests/manifests/manifests".into(), tagged("manifests", "manifests")),
            ("a/blobs/manifests/latest".into(), tagged("a/blobs", "latest")),
            ("a/manifests/tags/list".into(), Endpoint::Tags { name: name("a/manifests") }),
            ("tags/list/tags/list".into(), Endpoint::Tags { name: name("tags/list") }),
            ("a/blobs/uploads/manifests/list".into(), tagged("a/blobs/uploads", "list")),
            (format!("a/uploads/blobs/{DIGEST}"), Endpoint::Blob { name: name("a/uploads"), digest }),
        ] {
            assert_eq!(parse(&path), Ok(endpoint), "{path:?}");
        }
    }

    #[test]
    fn each_error_names_the_part_that_is_wrong() {
        for path in ["x", "a/b", "a/tags", "a/tags/lists", "a/manifest/latest", "a/uploads/x", "a/_catalog", "/"] {
            assert!(matches!(parse(path), Err(ParseError::Path(_))), "{path:?}");
        }
        for path in [
            "tags/list",
            "manifests/latest",
            "A/manifests/latest",
            "a//manifests/latest",
            "../manifests/x",
            "blobs/uploads/",
        ] {
            assert!(matches!(parse(path), Err(ParseError::Repository(_))), "{path:?}");
        }
        for path in ["a/blobs/latest", "a/blobs/", "a/blobs/md5:00", "a/referrers/latest", "a/manifests/sha256:00"] {
            assert!(matches!(parse(path), Err(ParseError::Digest(_))), "{path:?}");
        }
        for path in ["a/manifests/", "a/manifests/-", "a/manifests/.."] {
            assert!(matches!(parse(path), Err(ParseError::Tag(_))), "{path:?}");
        }
    }

    proptest! {
        #[test]
        fn every_repository_has_its_endpoints(name in "([a-b]|tags|list|blobs|manifests|uploads|referrers)(/([a-b]|tags|list|blobs|manifests|uploads|referrers)){0,4}") {
            let repository: Repository = name.parse().unwrap();
            let tagged = Endpoint::Manifest { name: repository.clone(), reference: "list".parse().unwrap() };
            prop_assert_eq!(parse(&format!("{name}/manifests/list")).unwrap(), tagged);
            prop_assert_eq!(parse(&format!("{name}/tags/list")).unwrap(), Endpoint::Tags { name: repository.clone() });
            let blob = Endpoint::Blob { name: repository.clone(), digest: DIGEST.parse().unwrap() };
            prop_assert_eq!(parse(&format!("{name}/blobs/{DIGEST}")).unwrap(), blob);
            let uploads = Endpoint::Uploads { name: repository, session: None };
            prop_assert_eq!(parse(&format!("{name}/blobs/uploads/")).unwrap(), uploads);
        }

        #[test]
        fn any_text_is_parsed_without_a_panic(path in ".{0,40}") {
            let _ = parse(&path);
        }
    }
}
