//! The file as it is written: one struct per section, every key optional but an upstream's name.
//!
//! The structs of the stages are what the rest of the program works with; these only say which
//! keys there are, and what stands in for one that is absent. Unknown keys are refused, so that a
//! misspelt one is not a setting silently lost.

use std::{path::PathBuf, time::Duration};

use serde::Deserialize;

use super::value::{GIB, MIB, Period, Size};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct File {
    pub state_directory: Option<PathBuf>,
    pub server: Server,
    pub admin: Admin,
    pub cache: Cache,
    pub access: Access,
    pub push: Push,
    pub upstream: Vec<Upstream>,
}

#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Server {
    pub listen: Vec<String>,
    pub clear_http: bool,
    pub max_connections: usize,
    pub drain_timeout: Period,
    pub trusted_networks: Vec<String>,
    pub allowed_hosts: Vec<String>,
    pub tls: Option<Tls>,
}

impl Default for Server {
    fn default() -> Self {
        Self {
            listen: vec!["127.0.0.1:5000".to_owned()],
            clear_http: true,
            max_connections: 8192,
            drain_timeout: Period(Duration::from_secs(30)),
            trusted_networks: Vec::new(),
            allowed_hosts: Vec::new(),
            tls: None,
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Tls {
    pub certificate: PathBuf,
    pub key: PathBuf,
    pub client_ca: Option<PathBuf>,
}

#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Admin {
    pub listen: String,
    pub allowed_hosts: Vec<String>,
}

impl Default for Admin {
    fn default() -> Self {
        Self { listen: "127.0.0.1:5001".to_owned(), allowed_hosts: Vec::new() }
    }
}

#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Cache {
    pub directory: Option<PathBuf>,
    pub max_size: Size,
    pub min_free: Size,
    pub manifest_memory: Size,
    pub tag_ttl: Period,
    pub stale_if_error: Period,
    pub negative_ttl: Period,
    pub prefetch: u64,
    pub verify_every: Period,
}

impl Default for Cache {
    fn default() -> Self {
        Self {
            directory: None,
            max_size: Size(50 * GIB),
            min_free: Size(GIB),
            manifest_memory: Size(64 * MIB),
            tag_ttl: Period(Duration::from_secs(60)),
            stale_if_error: Period(30 * DAY),
            negative_ttl: Period(Duration::from_secs(10)),
            prefetch: 3,
            verify_every: Period(7 * DAY),
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Access {
    pub anonymous: Anonymous,
    pub htpasswd: Option<PathBuf>,
    pub push_users: Option<Vec<String>>,
    pub allow_clear_login: bool,
    pub access_ttl: Period,
    pub access_grace: Period,
}

impl Default for Access {
    fn default() -> Self {
        Self {
            anonymous: Anonymous::default(),
            htpasswd: None,
            push_users: None,
            allow_clear_login: false,
            access_ttl: Period(Duration::from_secs(60)),
            access_grace: Period(Duration::from_secs(60 * 60)),
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Push {
    pub key_file: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Anonymous {
    #[default]
    Pull,
    None,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Upstream {
    pub name: String,
    pub urls: Option<Vec<String>>,
    pub aliases: Option<Vec<String>>,
    #[serde(default)]
    pub hosts: Vec<String>,
    pub default: Option<bool>,
    pub library: Option<bool>,
    pub realms: Option<Vec<String>>,
    pub ca: Option<PathBuf>,
    pub username: Option<String>,
    pub password_file: Option<PathBuf>,
    pub credential_helper: Option<String>,
    pub docker_config: Option<PathBuf>,
    #[serde(default)]
    pub access: Sharing,
    pub access_ttl: Option<Period>,
    pub access_grace: Option<Period>,
    #[serde(default)]
    pub push: bool,
    #[serde(default = "connections")]
    pub connections: u64,
}

const fn connections() -> u64 {
    6
}

/// Whose credentials decide what a client may have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Sharing {
    #[default]
    Shared,
    Client,
}

impl Upstream {
    /// A section that says nothing but its name.
    pub(super) fn named(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            urls: None,
            aliases: None,
            hosts: Vec::new(),
            default: None,
            library: None,
            realms: None,
            ca: None,
            username: None,
            password_file: None,
            credential_helper: None,
            docker_config: None,
            access: Sharing::default(),
            access_ttl: None,
            access_grace: None,
            push: false,
            connections: connections(),
        }
    }
}
