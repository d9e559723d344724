//! The configuration as a whole: the TOML file, the flags over it, and every check that can be made before a socket is bound.
//!
//! What must hold: a [`Config`] that exists makes sense. Every key has a default (an upstream's name apart); unknown keys are
//! refused; paths are relative to the file; files that are named can be read; no two upstreams claim the same request. An
//! [`Error`] names file, line and key.
//!
//! Each section is one file: its keys, what they mean, and their checks. Its result is the configuration of a stage, such as
//! [`transport::Config`], and that has the defaults. Beside the sections: `document` (which key is on which line), `error`,
//! `paths`, `units`, `well_known` (registries that need no URL).

mod access;
mod admin;
mod authority;
mod cache;
mod document;
mod download;
mod error;
mod paths;
mod push;
mod server;
mod state_directory;
mod units;
mod upstream;
mod upstreams;
mod well_known;

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use serde::Deserialize;

use crate::{auth, transport};
use document::Document;

pub use error::{Error, Key, Position};

/// Everything that forebay is configured with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Where keys are kept; `None`: nothing needs one.
    pub state_directory: Option<PathBuf>,
    pub server: transport::Config,
    pub admin: crate::admin::Config,
    pub cache: crate::cache::Config,
    pub access: auth::Config,
    pub push: crate::push::Config,
    pub upstreams: Vec<crate::upstream::Config>,
}

/// What the command line says; it wins over the file.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// Empty: as the file says.
    pub listen: Vec<SocketAddr>,
    pub admin: Option<SocketAddr>,
    pub cache_dir: Option<PathBuf>,
    /// In bytes.
    pub max_size: Option<u64>,
}

/// The sections of the file, as it is written. Unknown keys are refused, so that a misspelt one is not ignored.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct File {
    state_directory: Option<PathBuf>,
    server: server::ServerSection,
    admin: admin::AdminSection,
    cache: cache::CacheSection,
    download: download::DownloadSection,
    access: access::AccessSection,
    push: push::PushSection,
    upstream: Vec<upstream::UpstreamSection>,
}

/// A size as the configuration spells it, in bytes: `50 GiB`, `300 MB`, `1048576`.
///
/// # Errors
/// A sentence that says what was expected.
pub fn parse_size(text: &str) -> Result<u64, String> {
    text.parse().map(|units::Size(bytes)| bytes)
}

impl Config {
    /// Reads the file at `path`; without one, everything has its default.
    ///
    /// # Errors
    /// The file cannot be read, or [`Config::parse`] refuses it.
    pub fn load(path: Option<&Path>, overrides: Overrides) -> Result<Self, Error> {
        let Some(path) = path else {
            return compose(&Document::new(None, ""), overrides);
        };
        let text = fs::read_to_string(path).map_err(|error| Error {
            file: Some(path.to_owned()),
            position: None,
            key: None,
            problem: format!("cannot read the configuration file: {error}"),
        })?;
        Self::parse(&text, path, overrides)
    }

    /// Reads a configuration whose text stands in `file`: paths are relative to its directory.
    ///
    /// # Errors
    /// The first thing that is wrong, with its line and key.
    pub fn parse(text: &str, file: &Path, overrides: Overrides) -> Result<Self, Error> {
        compose(&Document::new(Some(file), text), overrides)
    }
}

fn compose(document: &Document<'_>, flags: Overrides) -> Result<Config, Error> {
    let file: File = document.parse()?;
    let server = file.server.read(document, flags.listen)?;
    let admin = file.admin.read(document, flags.admin, &server)?;
    let cache = file.cache.read(document, flags.cache_dir, flags.max_size)?;
    let cache = crate::cache::Config { complete: file.download.complete(document)?, ..cache };
    let client_grants = file.access.client_grants();
    let by_client = file.upstream.iter().any(upstream::UpstreamSection::uses_client_credentials);
    let access = file.access.read(document, &server, by_client)?;
    let push = file.push.read(document)?;
    let upstreams = upstreams::read(document, file.upstream, client_grants)?;
    let needs_key = push.key_file.is_none() && upstreams.iter().any(|upstream| upstream.push);
    let state_directory = state_directory::read(document, file.state_directory, &cache.directory, needs_key)?;
    Ok(Config { state_directory, server, admin, cache, access, push, upstreams })
}
