//! The text that `serve` prints: where clients connect, where the cache is, and lines to paste.
//!
//! What must hold: what looks like something to paste works as it stands. So no address is a wildcard, `https` stands only
//! before a host that the certificate names, Docker is told of clear HTTP where it asks for that, and a client that could not
//! log in is offered nothing that needs a login.

use std::{
    fmt::{self, Write as _},
    net::{IpAddr, SocketAddr},
};

use bytesize::ByteSize;
use forebay::{auth::Anonymous, config::Config, machine::Machine, transport::CertificateFacts, upstream};

/// The registry that Docker means by a name without one.
const DOCKER_HUB: &str = "docker.io";

/// What is known once forebay listens.
pub(super) struct Bound<'a> {
    /// The addresses that forebay has bound.
    pub listening: &'a [SocketAddr],
    pub admin: SocketAddr,
    pub machine: Machine,
    /// Present if TLS is served.
    pub certificate: Option<&'a CertificateFacts>,
}

/// A URL without a path.
#[derive(Debug, PartialEq, Eq)]
struct Origin {
    scheme: &'static str,
    /// A name or an address, with the port.
    host: String,
    is_loopback: bool,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme, self.host)
    }
}

impl Origin {
    /// Whether Docker refuses to pull from here by name unless its configuration names the host.
    fn is_insecure(&self) -> bool {
        self.scheme == "http" && !self.is_loopback
    }
}

/// The few lines that a new user needs.
pub(super) fn text(config: &Config, bound: &Bound<'_>) -> String {
    let mut text = format!("forebay {}\n", env!("CARGO_PKG_VERSION"));
    let mut line = |name: &str, value: &str| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "  {name:<10}{value}");
    };
    let mut origins: Vec<Origin> = Vec::new();
    for address in bound.listening {
        let origin = origin(config.server.clear_http, *address, bound);
        if !origins.contains(&origin) {
            line("registry", &origin.to_string());
            origins.push(origin);
        }
    }
    line("admin", &format!("http://{}/metrics", bound.machine.reach(bound.admin)));
    let names: Vec<&str> = config.upstreams.iter().map(|upstream| &*upstream.name).collect();
    line("upstreams", &names.join(", "));
    let size = ByteSize(config.cache.max_size);
    line("cache", &format!("{}, at most {size}", config.cache.directory.display()));
    origins.retain(|origin| !origin.host.contains('*'));
    // Other machines can use it, and this one, too.
    let Some(origin) = origins.iter().find(|origin| !origin.is_loopback).or(origins.first()) else { return text };
    paste(&mut text, config, origin);
    text
}

/// Appends what to write for Docker.
fn paste(text: &mut String, config: &Config, origin: &Origin) {
    let host = &origin.host;
    let other = config.upstreams.iter().find_map(|upstream| other_name(config, origin, upstream));
    let mut keys = Vec::new();
    if config.upstreams.iter().any(|upstream| is_docker_mirror(config, upstream)) {
        keys.push(format!("\"registry-mirrors\": [\"{origin}\"]"));
    }
    if origin.is_insecure() && other.is_some() {
        keys.push(format!("\"insecure-registries\": [\"{host}\"]"));
    }
    if !keys.is_empty() {
        *text += "\nFor Docker, put this in /etc/docker/daemon.json and restart the daemon:\n";
        *text += &format!("  {{ {} }}\n", keys.join(", "));
    }
    if let Some(name) = other {
        *text += "\nFor another registry, put its name in front:\n";
        if config.access.anonymous == Anonymous::None {
            *text += &format!("  docker login {host}\n");
        }
        *text += &format!("  docker pull {host}/{name}/REPOSITORY:TAG\n");
    }
}

/// Where clients reach a listener.
fn origin(clear_http: bool, listener: SocketAddr, bound: &Bound<'_>) -> Origin {
    let reached = bound.machine.reach(listener);
    let is_loopback = reached.ip().is_loopback();
    let at = |scheme, host: String| Origin { scheme, host, is_loopback };
    let Some(certificate) = bound.certificate else { return at("http", reached.to_string()) };
    let named = |name: &str| format!("{name}:{}", reached.port());
    if certificate.covers(&reached.ip().to_string()) {
        return at("https", reached.to_string());
    }
    let is_here =
        |name: &&String| !name.contains('*') && name.parse::<IpAddr>().is_err() && is_loopback == is_local(name);
    match certificate.names.iter().find(is_here) {
        Some(name) => at("https", named(name)),
        None if clear_http => at("http", reached.to_string()),
        None => at("https", certificate.names.first().map_or_else(|| reached.to_string(), |name| named(name))),
    }
}

/// Source: RFC 6761 section 6.3.
fn is_local(name: &str) -> bool {
    name == "localhost" || name.ends_with(".localhost")
}

/// Whether Docker can use forebay as a mirror of Docker Hub by this upstream: it does so without a login.
fn is_docker_mirror(config: &Config, upstream: &upstream::Config) -> bool {
    let needs_user = upstream.credential != upstream::CredentialSource::Anonymous || config.access.push_users.is_some();
    // `GET /v2/` challenges, and Docker has no credentials for a mirror.
    let challenges = upstream.push && needs_user && config.access.htpasswd.is_some();
    upstream.default
        && *upstream.name == *DOCKER_HUB
        && upstream.access == upstream::Access::Shared
        && config.access.anonymous == Anonymous::Pull
        && !challenges
}

/// The name by which an upstream stands in front of a repository, if clients can pull from it so.
fn other_name<'a>(config: &Config, origin: &Origin, upstream: &'a upstream::Config) -> Option<&'a str> {
    let takes_passwords = origin.scheme == "https" || origin.is_loopback || config.access.allow_clear_login;
    let may_pull = config.access.anonymous == Anonymous::Pull || config.access.htpasswd.is_some() && takes_passwords;
    if upstream.default || upstream.access != upstream::Access::Shared || !may_pull {
        return None;
    }
    // A port within a reference is a syntax error.
    let mut names = std::iter::once(&upstream.name).chain(&upstream.aliases);
    names.find(|name| !name.contains(':')).map(|name| &**name)
}

#[cfg(test)]
mod tests;
