//! Which upstream, repository and operation a request means.
//!
//! A pure function of the request line, its Host and the connection's TLS name; the same for every client and on every
//! listener. The first of these that names an upstream decides:
//!
//! 1. `?ns=`; 2. the Host header or the SNI name, when an upstream lists it; 3. a component of the path: the last
//!    one in front of `/v2/`, or the first one of the repository; 4. the default upstream.
//!
//! What must hold: a request never reaches an upstream that is not configured; a path is percent-decoded once, and each part of
//! it is then valid or refused. The status of a refusal is chosen by `error`; `auth` decides which clients may pull.

mod allowed_hosts;
mod image_name;
mod operation;
mod path;
mod request_host;
#[cfg(test)]
mod tests;

use std::{borrow::Cow, collections::HashMap};

use http::{Method, Uri};

use self::path::Path;
pub use self::{
    allowed_hosts::AllowedHosts,
    image_name::{ImageRoute, NameError, RouteBy, resolve_image},
    operation::{Destination, MountSource, Operation, Route, Write},
    request_host::{HostError, request_host},
};
use crate::{
    oci::{
        HostPattern, ParseError, Repository, Resource, Shape,
        host::{Authority, looks_like_host},
        query,
    },
    upstream,
};

/// The upstreams `U`, by everything that may name them. Made anew on reload.
#[derive(Clone, Debug)]
pub struct Routes<U> {
    upstreams: Vec<RoutedUpstream<U>>,
    /// Names and aliases in lower case, with and without the port that https implies.
    names: HashMap<String, usize>,
    /// Names without their port, for paths: `mirror/harbor.lan:8443/…` is no reference for docker.
    portless: HashMap<String, Option<usize>>,
    hosts: HashMap<HostPattern, usize>,
    default: Option<usize>,
}

#[derive(Clone, Debug)]
struct RoutedUpstream<U> {
    upstream: U,
    library: bool,
    docker_hub: bool,
}

/// The parts of a request that decide where it goes.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    pub method: &'a Method,
    pub uri: &'a Uri,
    /// The host that the request is for; see [`request_host()`].
    pub host: Option<&'a str>,
    /// The name that the client gave in the TLS handshake.
    pub sni: Option<&'a str>,
    pub tls: bool,
    pub local_port: u16,
}

/// Why a request goes nowhere.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    #[error(transparent)]
    Name(ParseError),
    #[error(transparent)]
    Digest(ParseError),
    #[error(transparent)]
    Tag(ParseError),
    #[error("no upstream is configured for {0:?}")]
    UnknownUpstream(String),
    #[error("no such path")]
    NotFound,
    #[error("the method is not allowed here")]
    MethodNotAllowed,
}

impl From<ParseError> for RouteError {
    fn from(error: ParseError) -> Self {
        match error {
            ParseError::Tag(_) => Self::Tag(error),
            ParseError::Digest(_) => Self::Digest(error),
            ParseError::Path(_) => Self::NotFound,
            ParseError::Repository(_)
            | ParseError::MediaType(_)
            | ParseError::Manifest(_)
            | ParseError::Host(_)
            | ParseError::Range(_) => Self::Name(error),
        }
    }
}

impl<U> Routes<U> {
    /// Each upstream with its configuration, which has been checked: when two upstreams claim the same name, the first
    /// has it.
    pub fn new<'a>(upstreams: impl Iterator<Item = (&'a upstream::Config, U)>) -> Self {
        let mut routes = Self {
            upstreams: Vec::new(),
            names: HashMap::new(),
            portless: HashMap::new(),
            hosts: HashMap::new(),
            default: None,
        };
        let mut implied = Vec::new();
        for (index, (config, upstream)) in upstreams.enumerate() {
            let docker_hub = is_docker_hub(config);
            routes.upstreams.push(RoutedUpstream { upstream, library: config.library, docker_hub });
            if config.default {
                routes.default.get_or_insert(index);
            }
            for pattern in &config.hosts {
                routes.hosts.entry(pattern.lower_case()).or_insert(index);
            }
            let https = config.urls.iter().all(|url| url.scheme() == "https");
            for name in std::iter::once(&config.name).chain(&config.aliases) {
                let name = name.to_ascii_lowercase();
                if https {
                    implied.push((crate::oci::host::other_https_spelling(&name), index));
                }
                if let Some(bare) = without_port(&name) {
                    // Two registries on one host: neither has the name.
                    let owner = routes.portless.entry(bare).or_insert(Some(index));
                    *owner = owner.filter(|owner| *owner == index);
                }
                routes.names.entry(name).or_insert(index);
            }
        }
        // Last: a name that is written in the configuration goes before one that is implied by it.
        for (name, index) in implied {
            if let Some(name) = name {
                routes.names.entry(name).or_insert(index);
            }
        }
        routes
    }

    /// All upstreams, in the order of the configuration.
    pub fn upstreams(&self) -> impl Iterator<Item = &U> {
        self.upstreams.iter().map(|routed| &routed.upstream)
    }

    /// Where a request goes.
    ///
    /// # Errors
    /// The request names something that does not exist, or names it wrongly.
    pub fn resolve(&self, target: Target<'_>) -> Result<Route<&U>, RouteError> {
        let path = path::split(target.uri.path())?;
        let namespace = namespace(target.uri);
        let (index, shape) = self.locate(target, namespace.as_deref(), &path, Shape::of(path.below())?)?;
        let operation = || Operation::new(target.method, shape.endpoint()?);
        let destination = match index.and_then(|index| self.upstreams.get(index)) {
            None if shape.resource != Resource::Base => {
                let first = shape.name.split_once('/').map_or(shape.name, |(first, _)| first);
                return Err(RouteError::UnknownUpstream(first.to_owned()));
            }
            None => {
                operation()?;
                Destination::Base(None)
            }
            Some(found) => match operation()? {
                None => Destination::Base(Some(&found.upstream)),
                Some(mut operation) => {
                    if let Operation::Write { write: Write::Begin(source), .. } = &mut operation {
                        *source = self.mount_source(target, namespace.as_deref(), &path, index);
                    }
                    if let Some(repository) = operation.repository_mut() {
                        self.spell(index, repository)?;
                    }
                    Destination::Upstream(&found.upstream, operation)
                }
            },
        };
        Ok(Route { destination, namespace: namespace.map(Cow::into_owned) })
    }

    /// The upstream that a login is for: the one of `GET /v2/` of the same host, or the one that `ns=` names.
    pub fn login(&self, target: Target<'_>) -> Option<&U> {
        let index = match namespace(target.uri) {
            Some(name) => self.named(&name),
            None => self.by_host(target).or(self.default),
        };
        Some(&self.upstreams.get(index?)?.upstream)
    }

    /// The upstream that has the host or the port of a request for itself.
    pub fn dedicated(&self, target: Target<'_>) -> Option<&U> {
        Some(&self.upstreams.get(self.by_host(target)?)?.upstream)
    }

    /// Which upstream a name in a request belongs to, and the name without the upstream's.
    fn locate<'a>(
        &self,
        target: Target<'_>,
        namespace: Option<&str>,
        path: &Path<'_>,
        mut shape: Shape<'a>,
    ) -> Result<(Option<usize>, Shape<'a>), RouteError> {
        let upstream = match namespace {
            Some(name) => Some(self.named(name).ok_or_else(|| RouteError::UnknownUpstream(name.to_owned()))?),
            None => self.by_host(target).or_else(|| path.prefix().and_then(|prefix| self.named_in_path(prefix))),
        };
        let upstream = match upstream {
            Some(upstream) => {
                self.strip_repeated(&mut shape, upstream);
                Some(upstream)
            }
            None => match self.strip_named(&mut shape) {
                Some(upstream) => Some(upstream),
                None => self.default_for(path.prefix(), &shape)?,
            },
        };
        Ok((upstream, shape))
    }

    /// Spells a repository as its upstream does.
    fn spell(&self, upstream: Option<usize>, name: &mut Repository) -> Result<(), ParseError> {
        let library = upstream.and_then(|index| self.upstreams.get(index)).is_some_and(|found| found.library);
        if library && name.is_single() {
            *name = name.in_library()?;
        }
        Ok(())
    }

    /// The repository of `from=`: the client names it as it names the repository in the path, with the upstream in
    /// front where it has to be.
    fn mount_source(
        &self,
        target: Target<'_>,
        namespace: Option<&str>,
        path: &Path<'_>,
        upstream: Option<usize>,
    ) -> MountSource {
        let Some(from) = query::parameter(target.uri, "from") else { return MountSource::Missing };
        let shape = Shape { name: &from, resource: Resource::Tags };
        let located = self.locate(target, namespace, path, shape).ok().filter(|(found, _)| *found == upstream);
        let repository = located.and_then(|(_, shape)| {
            let mut name = shape.name.parse().ok()?;
            self.spell(upstream, &mut name).ok().map(|()| name)
        });
        repository.map_or(MountSource::Elsewhere, MountSource::Here)
    }

    /// The upstream with this name or alias.
    fn named(&self, name: &str) -> Option<usize> {
        self.names.get(&name.to_ascii_lowercase()).copied()
    }

    /// The upstream that a component of a path names. `?ns=harbor.lan` names the registry on the port of https; in a path,
    /// the name may also stand for the only upstream on that host.
    fn named_in_path(&self, name: &str) -> Option<usize> {
        let named = self.named(name);
        if named.is_some() || self.portless.is_empty() {
            return named;
        }
        self.portless.get(&name.to_ascii_lowercase()).copied().flatten()
    }

    /// The upstream that lists the host: by name before by port, the Host header before the TLS name.
    fn by_host(&self, target: Target<'_>) -> Option<usize> {
        if self.hosts.is_empty() {
            return None;
        }
        let asked = target.host.and_then(Authority::of_request);
        let scheme_port = if target.tls { 443 } else { 80 };
        let ports = match asked.as_ref().map(|asked| asked.port) {
            Some(Some(port)) => [port, port],
            Some(None) => [scheme_port, target.local_port],
            None => [target.local_port; 2],
        };
        let sni = target.sni.and_then(Authority::parse);
        let by_name = [asked, sni].into_iter().flatten().find_map(|Authority { name, .. }| {
            let with_port = ports.into_iter().find_map(|port| self.listed(HostPattern::NamePort(name.clone(), port)));
            with_port.or_else(|| self.listed(HostPattern::Name(name)))
        });
        by_name.or_else(|| {
            ports.into_iter().chain([target.local_port]).find_map(|port| self.listed(HostPattern::AnyPort(port)))
        })
    }

    fn listed(&self, pattern: HostPattern) -> Option<usize> {
        self.hosts.get(&pattern).copied()
    }

    /// Takes the upstream's name off the front of the repository, when more follows it.
    fn strip_named(&self, shape: &mut Shape<'_>) -> Option<usize> {
        let (first, rest) = first_component(shape)?;
        let upstream = self.named_in_path(first)?;
        shape.name = rest;
        Some(upstream)
    }

    /// Takes the upstream's name off where it is said twice: `/v2/ghcr.io/owner/image/…?ns=ghcr.io` is what
    /// containerd asks for when a `hosts.toml` has `/v2/ghcr.io` with `override_path`.
    ///
    /// Only a name that looks like a host: an alias such as `team` may be a project of that upstream as well.
    fn strip_repeated(&self, shape: &mut Shape<'_>, upstream: usize) {
        if let Some((first, rest)) = first_component(shape)
            && looks_like_host(first)
            && self.named_in_path(first) == Some(upstream)
        {
            shape.name = rest;
        }
    }

    /// The default upstream, for a request that names none.
    ///
    /// Where that is Docker Hub, a component that looks like a host and stands where an upstream's name would stand is
    /// a registry: the namespaces of Docker Hub have no dots, and no repository's name has a colon.
    fn default_for(&self, prefix: Option<&str>, shape: &Shape<'_>) -> Result<Option<usize>, RouteError> {
        let docker_hub = self.default.and_then(|index| self.upstreams.get(index)).is_some_and(|found| found.docker_hub);
        let first = shape.name.split_once('/').map_or(shape.name, |(first, _)| first);
        let prefix = prefix.filter(|name| looks_like_host(name));
        // A component that is no valid host fails later, as the name of a repository.
        let first = Some(first).filter(|name| looks_like_host(name) && Authority::parse(name).is_some());
        let mut registries = prefix.into_iter().chain(first);
        let registry = registries.find(|name| docker_hub || name.contains(':'));
        match registry {
            // An upstream's name with no repository below it.
            Some(name) if self.named_in_path(name).is_some() => Err(RouteError::NotFound),
            Some(name) => Err(RouteError::UnknownUpstream(name.to_owned())),
            None => Ok(self.default),
        }
    }
}

/// A registry's name without its port, where that looks like a host: a name without a dot may be a repository's.
fn without_port(name: &str) -> Option<String> {
    let Authority { name, port } = Authority::parse(name)?;
    (port.is_some() && looks_like_host(&name)).then_some(name)
}

/// Whether an upstream is Docker Hub, by what is configured of it: each of its names and URLs counts, since `library` may
/// be off and the name may be any.
fn is_docker_hub(config: &upstream::Config) -> bool {
    let is_hub = |host: &str| {
        let host = host.to_ascii_lowercase();
        let host = host.strip_suffix(":443").unwrap_or(&host).trim_end_matches('.');
        host == "docker.io" || host.ends_with(".docker.io")
    };
    let mut names = std::iter::once(&config.name).chain(&config.aliases);
    config.library || names.any(|name| is_hub(name)) || config.urls.iter().filter_map(|url| url.host_str()).any(is_hub)
}

/// The first component of the name, and what follows it: the rest of the name, or nothing for a catalog.
fn first_component<'a>(shape: &Shape<'a>) -> Option<(&'a str, &'a str)> {
    match shape.resource {
        Resource::Catalog if !shape.name.is_empty() && !shape.name.contains('/') => Some((shape.name, "")),
        _ => shape.name.split_once('/'),
    }
}

/// What a request asks of the upstream of this name, which is not configured; `None`: what no upstream has.
pub(crate) fn operation_at(method: &Method, uri: &Uri, upstream: &str) -> Option<Operation> {
    let path = path::split(uri.path()).ok()?;
    let mut shape = Shape::of(path.below()).ok()?;
    if let Some((first, rest)) = first_component(&shape)
        && first.eq_ignore_ascii_case(upstream)
    {
        shape.name = rest;
    }
    Operation::new(method, shape.endpoint().ok()?).ok().flatten()
}

/// The value of `ns=`, decoded; the first when there are several, none when it is empty.
fn namespace(uri: &Uri) -> Option<Cow<'_, str>> {
    query::parameter(uri, query::NAMESPACE).filter(|name| !name.is_empty())
}
