//! The section `[[upstream]]`: one registry behind forebay.

use std::{path::PathBuf, sync::Arc, time::Duration};

use url::Url;

use crate::{oci::HostPattern, rate::BytesPerSecond};

/// One `[[upstream]]` section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The registry's name, as it stands before the repository in an image's name.
    pub name: Arc<str>,
    /// A failover list, tried in order. Never empty; http or https, no query, no userinfo.
    pub urls: Vec<Url>,
    pub aliases: Vec<Arc<str>>,
    /// Requests for these hosts belong to this upstream.
    pub hosts: Vec<HostPattern>,
    /// Requests that name no upstream belong to this one.
    pub default: bool,
    /// `alpine` means `library/alpine` here.
    pub library: bool,
    /// Hosts (or `host:port`) of token realms, beside the upstream's own, that may see its credentials.
    pub realms: Vec<String>,
    /// PEM file of a private CA, or of the server's own certificate, trusted beside the system's.
    pub ca: Option<PathBuf>,
    pub credential: CredentialSource,
    /// Whose credentials decide what a client may access.
    pub access: Access,
    /// Over how many connections one blob may be downloaded; 1 or more.
    pub connections: usize,
    pub timeouts: UpstreamTimeouts,
    /// Whether pushes, mounts and deletes are forwarded to the first of `urls`.
    pub push: bool,
    /// Whether its content is read from the object store, and written to it.
    pub store: bool,
    /// Whether clients are sent to the object store for its blobs.
    pub redirect: bool,
    /// How fast it may send to forebay.
    pub max_rate_in: Option<BytesPerSecond>,
    /// How fast forebay may send its content to clients.
    pub max_rate_out: Option<BytesPerSecond>,
}

impl Config {
    /// An upstream of this name at these URLs, with the defaults of all other keys.
    pub fn new(name: impl Into<Arc<str>>, urls: Vec<Url>) -> Self {
        Self {
            name: name.into(),
            urls,
            aliases: Vec::new(),
            hosts: Vec::new(),
            default: false,
            library: false,
            realms: Vec::new(),
            ca: None,
            credential: CredentialSource::Anonymous,
            access: Access::Shared,
            connections: 6,
            timeouts: UpstreamTimeouts::default(),
            push: false,
            store: true,
            redirect: false,
            max_rate_in: None,
            max_rate_out: None,
        }
    }

    /// An upstream for unit tests, which downloads over one connection.
    #[cfg(test)]
    pub(crate) fn at(name: &str, urls: &[&str]) -> Self {
        let urls = urls.iter().map(|url| url.parse().unwrap()).collect();
        Self { connections: 1, ..Self::new(name, urls) }
    }
}

/// How long forebay waits for an upstream at each step. None is zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UpstreamTimeouts {
    /// For a connection to come up: the lookup of the name, TCP and TLS.
    pub connect: Duration,
    /// From a request that reads to the head of its response. Some registries first fetch the content themselves.
    pub response: Duration,
    /// Between two pieces of a body.
    pub idle: Duration,
}

impl Default for UpstreamTimeouts {
    fn default() -> Self {
        Self { connect: Duration::from_secs(10), response: Duration::from_secs(30), idle: Duration::from_secs(30) }
    }
}

/// Whose credentials decide what a client may access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// forebay's own, for every client that `[access]` admits.
    Shared,
    /// The client's own.
    Client {
        /// How long a grant of the upstream is valid.
        ttl: Duration,
        /// How long it is valid while the upstream cannot be reached; at least `ttl`.
        grace: Duration,
    },
}

/// Where this upstream's credentials come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CredentialSource {
    Anonymous,
    /// The password is the file's content without its line end; it is read again when needed.
    Password {
        username: String,
        password_file: PathBuf,
    },
    /// `docker-credential-<name> get`, run with the upstream's name on standard input.
    Helper(String),
    /// A `config.json` as `docker login` writes it.
    DockerConfig(PathBuf),
}
