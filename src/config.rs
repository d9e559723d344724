//! The configuration as a whole: the TOML file, the environment over it, the flags over both, and every check that can be
//! made before a socket is bound.
//!
//! What must hold: a [`Config`] that exists makes sense. Every key has a default (an upstream's name apart); unknown keys are
//! refused; paths are relative to the file; files that are named can be read; no two upstreams claim the same request. An
//! [`Error`] names all mistakes, each with file, line and key, or with its variable or flag.
//!
//! Each section is one file: its keys, what they mean, and their checks. Its result is the configuration of a stage, such as
//! [`transport::Config`], and that has the defaults. A new key is a field of its section's struct. Beside the sections:
//! `file` and `variables` (what is read), `node` (values with their places), `syntax` (text that is no TOML), `typed`,
//! `wanted` and `unknown_key` (values to sections), `schema` (which keys exist), `document` (keys to places), `origins`,
//! `error`, `control_settings` (for the commands that ask the running forebay), and small tools: `address`, `authority`, `paths`, `printable`, `suggest`, `units`, `well_known` (registries that
//! need no URL).
//! See docs/decisions/0023-one-tree-for-configuration.md.

mod access;
mod address;
mod admin;
mod authority;
mod byte_rate;
mod cache;
mod cluster;
mod control_settings;
mod document;
mod download;
mod error;
mod file;
mod node;
mod origins;
mod paths;
mod printable;
mod push;
mod rule;
mod rules;
mod schema;
mod server;
pub mod show;
mod state_directory;
mod store;
mod suggest;
mod syntax;
mod typed;
mod units;
mod unknown_key;
mod upstream;
mod upstreams;
mod variables;
mod wanted;
mod warm;
mod well_known;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::Deserialize;

use crate::{
    auth,
    rule::{RuleName, Rules},
    transport,
};
use document::Document;
use node::Node;
use schema::Schema;

pub use self::{
    access::UserSettings,
    address::parse_address,
    control_settings::{ControlSettings, load_control_settings},
    error::{Error, Key, Mistake, Place, Position},
    file::default_file,
    origins::Origins,
    variables::Variables,
};

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
    pub rules: Rules,
    /// The cluster that this forebay belongs to.
    pub cluster: Option<crate::cluster::Config>,
    /// The object store behind this forebay.
    pub store: Option<crate::store::Config>,
    /// Images that are kept warm.
    pub warm: Vec<crate::warm::Config>,
}

/// What the command line says; it wins over variables and the file.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// Empty: as the file says.
    pub listen: Vec<SocketAddr>,
    pub admin: Option<SocketAddr>,
    pub cache_dir: Option<PathBuf>,
    /// In bytes.
    pub max_size: Option<u64>,
}

/// A configuration, and how it came about.
#[derive(Clone, Debug)]
pub struct Loaded {
    pub config: Config,
    /// The file that was read; `None`: there is none.
    pub file: Option<PathBuf>,
    pub origins: Origins,
    /// What has no effect, such as variables of unknown names.
    pub warnings: Vec<Mistake>,
}

impl From<Config> for Loaded {
    /// A configuration that was read from nowhere.
    fn from(config: Config) -> Self {
        Self { config, file: None, origins: Origins::new(Node::empty(Place::Default)), warnings: Vec::new() }
    }
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
    rule: Vec<rule::RuleSection>,
    cluster: cluster::ClusterSection,
    store: store::StoreSection,
    warm: Vec<warm::WarmSection>,
}

/// A size as the configuration spells it, in bytes: `50 GiB`, `300 MB`, `1048576`.
///
/// # Errors
/// A sentence that says what was expected.
pub fn parse_size(text: &str) -> Result<u64, String> {
    text.parse().map(|units::Size(bytes)| bytes)
}

/// The full paths of all keys that a configuration may have, without indices: `server.listen`, `upstream.urls`.
pub fn keys() -> Vec<String> {
    Schema::of::<File>().keys().map(str::to_owned).collect()
}

/// Reads the file at `path`, or the default file if there is one, then the variables, then the flags.
///
/// # Errors
/// The file cannot be read, or the configuration has mistakes: all that were found.
pub fn load(path: Option<&Path>, variables: &Variables, flags: Overrides) -> Result<Loaded, Error> {
    match &found(path)? {
        Some((path, text)) => compose(Some(path), text, variables, flags),
        None => compose(None, "", variables, flags),
    }
}

/// Reads where the users are, from the same file and variables, without the checks of what the values mean: the file of
/// the users may be missing, since `forebay user add` creates it.
///
/// # Errors
/// The file cannot be read, is no TOML, or has keys or types that are wrong.
pub fn load_user_settings(path: Option<&Path>, variables: &Variables) -> Result<UserSettings, Error> {
    let found = found(path)?;
    let (path, text) = found.as_ref().map_or((None, ""), |(path, text)| (Some(&**path), text));
    let schema = Schema::of::<File>();
    let document = Document::new(path, text, variables, &schema, &well_known::names());
    let settings = document.read::<File>(&schema)?.access.user_settings(&document);
    document.finish().map(|_| settings)
}

/// The text of the file at `path`, or of the default file, which need not be there.
fn found(path: Option<&Path>) -> Result<Option<(PathBuf, String)>, Error> {
    match path {
        Some(path) => Ok(Some((path.to_owned(), file::read(path)?))),
        None => {
            let path = default_file();
            Ok(file::read_if_there(&path)?.map(|text| (path, text)))
        }
    }
}

impl Config {
    /// Reads the file at `path`, without the environment; without a path, everything has its default.
    ///
    /// # Errors
    /// The file cannot be read, or [`Config::parse`] refuses it.
    pub fn load(path: Option<&Path>, overrides: Overrides) -> Result<Self, Error> {
        let Some(path) = path else {
            return compose(None, "", &Variables::default(), overrides).map(|loaded| loaded.config);
        };
        Self::parse(&file::read(path)?, path, overrides)
    }

    /// The rules that never take effect, each with the reason.
    pub fn rule_warnings(&self) -> Vec<(Arc<RuleName>, String)> {
        let upstreams: Vec<_> = self.upstreams.iter().map(|upstream| upstream.name.clone()).collect();
        self.rules.warnings(&upstreams)
    }

    /// Reads a configuration whose text stands in `file`: paths are relative to its directory.
    ///
    /// # Errors
    /// All that is wrong, each with its line and key.
    pub fn parse(text: &str, file: &Path, overrides: Overrides) -> Result<Self, Error> {
        compose(Some(file), text, &Variables::default(), overrides).map(|loaded| loaded.config)
    }
}

/// The configuration of a text, of variables and of flags, without reading either from anywhere.
///
/// # Errors
/// All that is wrong.
pub fn compose(path: Option<&Path>, text: &str, variables: &Variables, flags: Overrides) -> Result<Loaded, Error> {
    let schema = Schema::of::<File>();
    let document = Document::new(path, text, variables, &schema, &well_known::names());
    let sections: File = document.read(&schema)?;
    let set_by_flags = set_by(&flags);
    let config = checked(&document, sections, flags);
    let (mut origins, warnings) = document.finish()?;
    for (key, flag) in set_by_flags {
        origins.set_flag(key, flag);
    }
    Ok(Loaded { config, file: path.map(Path::to_owned), origins, warnings })
}

/// What the sections mean. A part with mistakes, which the document notes, has its default.
fn checked(document: &Document<'_>, mut sections: File, flags: Overrides) -> Config {
    let server = sections.server.read(document, flags.listen);
    let admin = sections.admin.read(document, flags.admin, &server);
    let cache = sections.cache.read(document, flags.cache_dir, flags.max_size);
    let cache = crate::cache::Config { complete: sections.download.complete(), ..cache };
    let client_grants = sections.access.client_grants();
    let by_client = sections.upstream.iter().any(upstream::UpstreamSection::uses_client_credentials);
    let access = sections.access.read(document, &server, by_client);
    let push = document.keep(sections.push.read(document)).unwrap_or_default();
    let has_store = sections.store.is_set();
    let cluster = document.keep(sections.cluster.read(document, &server, has_store)).flatten();
    let store = document.keep(sections.store.read(document)).flatten();
    let of_upstreams = sections.upstream.iter_mut().map(upstream::UpstreamSection::take_rules).collect();
    let upstreams = upstreams::read(document, sections.upstream, client_grants, has_store);
    let rules = rules::read(document, of_upstreams, sections.rule, &upstreams);
    let warm = warm::read(document, sections.warm, &upstreams);
    let needs_key = push.key_file.is_none() && upstreams.iter().any(|upstream| upstream.push);
    let need = match needs_key {
        true => Some(state_directory::Need::PushKey),
        false => rules.hold_tags().then_some(state_directory::Need::FirstSeen),
    };
    let state = state_directory::read(document, sections.state_directory, &cache.directory, need);
    Config {
        state_directory: document.keep(state).flatten(),
        server,
        admin,
        cache,
        access,
        push,
        upstreams,
        rules,
        cluster,
        store,
        warm,
    }
}

/// The keys that flags set, with the flags.
fn set_by(flags: &Overrides) -> Vec<(&'static str, &'static str)> {
    let set = [
        (!flags.listen.is_empty(), ("server.listen", "--listen")),
        (flags.admin.is_some(), ("admin.listen", "--admin")),
        (flags.cache_dir.is_some(), ("cache.directory", "--cache-dir")),
        (flags.max_size.is_some(), ("cache.max_size", "--max-size")),
    ];
    set.into_iter().filter_map(|(is_set, key)| is_set.then_some(key)).collect()
}
