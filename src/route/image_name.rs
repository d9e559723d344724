//! The name of an image as for docker, and the request by which a client would pull it (pure).

use http::{Method, Uri};

use super::{Destination, Operation, Route, RouteError, Routes, Target};
use crate::oci::{Reference, Repository, host::looks_like_host};

/// A longer name is refused, in bytes: a repository has 255, a tag 128, a digest 135.
const MAX_NAME: usize = 1024;

/// Where a pull of an image goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageRoute<U> {
    pub upstream: U,
    pub repository: Repository,
    pub reference: Reference,
    pub by: RouteBy,
}

/// What of the name decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteBy {
    /// Its first component is the upstream's name, or one of its aliases.
    Name,
    /// It names no upstream.
    Default,
}

impl RouteBy {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::Default => "default",
        }
    }
}

/// Why a name leads nowhere.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error("{0:?} is no name of an image; write it as for docker pull, such as ghcr.io/owner/image:tag")]
    Invalid(String),
    #[error(transparent)]
    Route(#[from] RouteError),
}

/// Finds the upstream and the reference of a name: `node`, `ghcr.io/o/i:tag`, `…@sha256:…`.
///
/// # Errors
/// The name is invalid, or names a registry that is no upstream.
pub fn resolve_image<U: Clone>(routes: &Routes<U>, image: &str) -> Result<ImageRoute<U>, NameError> {
    let invalid = || NameError::Invalid(image.chars().take(MAX_NAME).collect());
    // Nothing that has a meaning in a URL beside the separators of names.
    let may_be_in_name = |byte: u8| byte.is_ascii_alphanumeric() || b"._-/:@+[]".contains(&byte);
    if image.len() > MAX_NAME || !image.bytes().all(may_be_in_name) {
        return Err(invalid());
    }
    let (name, reference) = split(image);
    let (registry, path) = match name.split_once('/') {
        Some((first, rest)) if looks_like_host(first) => (Some(first), rest),
        _ => (None, name),
    };
    // What docker sends for a registry that it mirrors, and for one that it pulls from by its name in the path.
    let query = registry.map(|registry| format!("?ns={registry}")).unwrap_or_default();
    let uri: Uri = format!("/v2/{path}/manifests/{reference}{query}").parse().map_err(|_| invalid())?;
    let target = Target { method: &Method::HEAD, uri: &uri, host: None, sni: None, tls: false, local_port: 0 };
    match routes.resolve(target)? {
        Route {
            destination: Destination::Upstream(upstream, Operation::Manifest { repository, reference }), ..
        } => {
            let is_whole = path == repository.as_str() || repository.as_str().strip_prefix("library/") == Some(path);
            let by = if registry.is_none() && is_whole { RouteBy::Default } else { RouteBy::Name };
            Ok(ImageRoute { upstream: upstream.clone(), repository, reference, by })
        }
        _ => Err(invalid()),
    }
}

/// The name, and the digest or the tag. A digest counts more than a tag beside it.
fn split(image: &str) -> (&str, &str) {
    let (name, digest) = match image.split_once('@') {
        Some((name, digest)) => (name, Some(digest)),
        None => (image, None),
    };
    let (name, tag) = match name.rsplit_once(':') {
        // Else it is a port.
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        _ => (name, None),
    };
    (name, digest.or(tag).unwrap_or("latest"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::upstream::Config;

    fn routes() -> Routes<&'static str> {
        let hub = Config { default: true, library: true, ..Config::at("docker.io", &["https://a.test"]) };
        let aliases = vec!["gh.lan".into(), "team".into()];
        let ghcr = Config { aliases, ..Config::at("ghcr.io", &["https://b.test"]) };
        let harbor = Config::at("harbor.lan:8443", &["https://harbor.lan:8443"]);
        Routes::new([(&hub, "docker.io"), (&ghcr, "ghcr.io"), (&harbor, "harbor.lan:8443")].into_iter())
    }

    #[test]
    fn a_name_leads_where_a_pull_of_it_goes() {
        let digest = format!("sha256:{}", "a".repeat(64));
        for (image, upstream, repository, reference, by) in [
            ("node", "docker.io", "library/node", "latest", RouteBy::Default),
            ("node:22", "docker.io", "library/node", "22", RouteBy::Default),
            ("org/app", "docker.io", "org/app", "latest", RouteBy::Default),
            ("docker.io/node", "docker.io", "library/node", "latest", RouteBy::Name),
            ("ghcr.io/o/i:tag", "ghcr.io", "o/i", "tag", RouteBy::Name),
            ("GHCR.io/o/i:tag", "ghcr.io", "o/i", "tag", RouteBy::Name),
            ("gh.lan/o/i", "ghcr.io", "o/i", "latest", RouteBy::Name),
            ("team/i", "ghcr.io", "i", "latest", RouteBy::Name),
            ("harbor.lan:8443/a/b/c:1", "harbor.lan:8443", "a/b/c", "1", RouteBy::Name),
            (&format!("ghcr.io/o/i@{digest}"), "ghcr.io", "o/i", &digest, RouteBy::Name),
            (&format!("ghcr.io/o/i:tag@{digest}"), "ghcr.io", "o/i", &digest, RouteBy::Name),
        ] {
            let found = resolve_image(&routes(), image).unwrap();
            let told = (found.upstream, found.repository.as_str(), found.reference.to_string(), found.by);
            assert_eq!(told, (upstream, repository, reference.to_owned(), by), "{image}");
        }
    }

    #[test]
    fn a_name_that_leads_nowhere_is_refused() {
        let unknown = NameError::Route(RouteError::UnknownUpstream("nvcr.io".to_owned()));
        assert_eq!(resolve_image(&routes(), "nvcr.io/a/b"), Err(unknown));
        let long = "a".repeat(MAX_NAME + 1);
        for image in [
            "",
            ":",
            "@",
            "UPPER",
            "a:",
            "a@",
            "a@sha256:0",
            "a b",
            "a/../b",
            "/a",
            "a/",
            "docker.io",
            "a?n=1:1",
            "a#b",
            &long,
            "a%2fb",
            "ghcr.io/a&ns=x:1",
            "ghcr.io&x=y/a",
        ] {
            assert!(resolve_image(&routes(), image).is_err(), "{image}");
        }
    }

    proptest! {
        #[test]
        fn any_name_is_judged_without_a_panic(image in ".{0,80}") {
            let _ = resolve_image(&routes(), &image);
        }

        #[test]
        fn no_name_reaches_other_operations(image in "[a-z:/@?#%=&._-]{0,40}") {
            if let Ok(found) = resolve_image(&routes(), &image) {
                prop_assert!(!image.contains(['?', '#', '%']), "{} {}", image, found.repository);
            }
        }
    }
}
