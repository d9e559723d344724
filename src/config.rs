//! The configuration as a whole: the TOML file, the flags over it, and every check that can be
//! made before a socket is bound.
//!
//! What must hold: a [`Config`] that exists makes sense. Every key has a default (an upstream's
//! name apart); unknown keys are refused; paths are relative to the file; files that are named can
//! be read; no two upstreams claim the same request. An [`Error`] names file, line and key.
//!
//! The sections belong to the stages: `server::Config` is what the server needs, and how it got
//! there is told here. Reading order: `raw` (which keys there are), this file (what the sections
//! mean), `upstreams`, `registries`; beneath them `document` (which key is on which line),
//! `files`, `value`.

mod document;
mod error;
mod files;
mod raw;
mod registries;
mod upstreams;
mod value;

use std::{
    collections::HashSet,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use crate::{
    admin, auth, cache,
    oci::HostPattern,
    peer::{Network, NetworkError},
    push, transport, upstream,
};
use document::Document;

pub use error::{Error, Key, Position};

/// A client asks for three layers at a time, or a few more.
const MAX_PREFETCH: usize = 16;

/// Everything forebay was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Where keys are kept; only what needs it needs one.
    pub state_directory: Option<PathBuf>,
    pub server: transport::Config,
    pub admin: admin::Config,
    pub cache: cache::Config,
    pub access: auth::Config,
    pub push: push::Config,
    pub upstreams: Vec<upstream::Config>,
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

/// A size as the configuration spells it, in bytes: `50 GiB`, `300 MB`, `1048576`.
///
/// # Errors
/// A sentence that says what was expected.
pub fn parse_size(text: &str) -> Result<u64, String> {
    text.parse().map(|value::Size(bytes)| bytes)
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

fn compose(document: &Document<'_>, overrides: Overrides) -> Result<Config, Error> {
    let file: raw::File = document.parse()?;
    let server = server(document, file.server, overrides.listen)?;
    let admin = admin(document, file.admin, overrides.admin, &server)?;
    let cache = cache(document, file.cache, overrides.cache_dir, overrides.max_size)?;
    let by_client = file.upstream.iter().any(|upstream| upstream.access == raw::Sharing::Client);
    let access = access(document, &file.access, &server, by_client)?;
    let push = push(document, &file.push)?;
    let upstreams = upstreams::read(document, file.upstream, &file.access)?;
    let makes_key = push.key_file.is_none() && upstreams.iter().any(|upstream| upstream.push);
    let state_directory = state_directory(document, file.state_directory, &cache.directory, makes_key)?;
    Ok(Config { state_directory, server, admin, cache, access, push, upstreams })
}

fn state_directory(
    document: &Document<'_>,
    raw: Option<PathBuf>,
    cache: &Path,
    needed: bool,
) -> Result<Option<PathBuf>, Error> {
    let key = Key::new("state_directory");
    let is_given = raw.is_some();
    let directory = match raw {
        Some(path) if path.as_os_str().is_empty() => return Err(document.error(&key, "must not be empty")),
        Some(path) => Some(document.resolve(&path)),
        None => files::default_directory(files::Purpose::State),
    };
    match directory {
        // The default one is not needed by a mirror that keeps no keys.
        Some(directory) if directory.starts_with(cache) && !is_given && !needed => Ok(None),
        Some(directory) if directory.starts_with(cache) => {
            Err(document
                .error(&key, format!("must not be in the cache directory, {}: keys are no cache", cache.display())))
        }
        None if needed => Err(document.error(
            &key,
            "must be given, or push.key_file: this user has no home directory, and pushes need a key that is kept",
        )),
        directory => Ok(directory),
    }
}

fn server(document: &Document<'_>, raw: raw::Server, flags: Vec<SocketAddr>) -> Result<transport::Config, Error> {
    let section = Key::new("server");
    let key = if flags.is_empty() { section.field("listen") } else { Key::new("--listen") };
    let listen = if flags.is_empty() {
        let items = raw.listen.iter().enumerate();
        items.map(|(index, text)| address(document, &key.item(index), text)).collect::<Result<Vec<_>, _>>()?
    } else {
        flags
    };
    if listen.is_empty() {
        return Err(document.error(&key, "must have at least one address, such as \"127.0.0.1:5000\""));
    }
    let mut seen = HashSet::new();
    if let Some(twice) = listen.iter().find(|address| address.port() != 0 && !seen.insert(**address)) {
        return Err(document.error(&key, format!("{twice} is in the list twice; remove one of them")));
    }
    let tls = match raw.tls {
        Some(tls) => Some(self::tls(document, &section.field("tls"), &tls)?),
        None => None,
    };
    if !raw.clear_http && tls.is_none() {
        return Err(document.error(
            &section.field("clear_http"),
            "nothing would be served: without clear HTTP there must be a [server.tls] with certificate and key",
        ));
    }
    if raw.max_connections == 0 {
        return Err(document.error(&section.field("max_connections"), "must be at least 1"));
    }
    Ok(transport::Config {
        listen,
        clear_http: raw.clear_http,
        max_connections: raw.max_connections,
        drain_timeout: raw.drain_timeout.0,
        trusted_networks: networks(document, &section.field("trusted_networks"), &raw.trusted_networks)?,
        allowed_hosts: allowed_hosts(document, &section.field("allowed_hosts"), &raw.allowed_hosts)?,
        tls,
        timeouts: transport::Timeouts::default(),
    })
}

fn networks(document: &Document<'_>, key: &Key, texts: &[String]) -> Result<Vec<Network>, Error> {
    let items = texts.iter().enumerate();
    items
        .map(|(index, text)| {
            text.parse().map_err(|error: NetworkError| document.error(&key.item(index), error.to_string()))
        })
        .collect()
}

fn allowed_hosts(document: &Document<'_>, key: &Key, texts: &[String]) -> Result<Vec<HostPattern>, Error> {
    let forms = "must be a name by which clients come in, such as \"mirror.lan\"; any port is meant";
    let read = |(index, text): (usize, &String)| match text.parse() {
        Ok(HostPattern::AnyPort(_)) => Err(document.error(&key.item(index), format!("{forms}, but not any name"))),
        Ok(pattern) => Ok(pattern),
        Err(error) => Err(document.error(&key.item(index), format!("{forms}: {error}"))),
    };
    texts.iter().enumerate().map(read).collect()
}

fn tls(document: &Document<'_>, section: &Key, raw: &raw::Tls) -> Result<transport::TlsConfig, Error> {
    let readable = |name: &str, path: &Path| files::readable(document, &section.field(name), path);
    Ok(transport::TlsConfig {
        certificate: readable("certificate", &raw.certificate)?,
        key: readable("key", &raw.key)?,
        client_ca: match &raw.client_ca {
            Some(client_ca) => Some(readable("client_ca", client_ca)?),
            None => None,
        },
    })
}

fn admin(
    document: &Document<'_>,
    raw: raw::Admin,
    flag: Option<SocketAddr>,
    server: &transport::Config,
) -> Result<admin::Config, Error> {
    let key = if flag.is_some() { Key::new("--admin") } else { Key::new("admin").field("listen") };
    let listen = match flag {
        Some(listen) => listen,
        None => address(document, &key, &raw.listen)?,
    };
    if listen.port() != 0 && server.listen.contains(&listen) {
        return Err(document.error(
            &key,
            format!("{listen} is where the registry listens; the admin listener needs an address of its own"),
        ));
    }
    let allowed_hosts = allowed_hosts(document, &Key::new("admin").field("allowed_hosts"), &raw.allowed_hosts)?;
    Ok(admin::Config { listen, allowed_hosts })
}

fn cache(
    document: &Document<'_>,
    raw: raw::Cache,
    directory: Option<PathBuf>,
    max_size: Option<u64>,
) -> Result<cache::Config, Error> {
    let section = Key::new("cache");
    let directory = match (directory, raw.directory) {
        (Some(flag), _) => flag,
        (None, Some(path)) if path.as_os_str().is_empty() => {
            return Err(document.error(&section.field("directory"), "must not be empty"));
        }
        (None, Some(path)) => document.resolve(&path),
        (None, None) => files::default_directory(files::Purpose::Cache).ok_or_else(|| {
            document
                .error(&section.field("directory"), "must be given (or --cache-dir): this user has no home directory")
        })?,
    };
    let key = if max_size.is_some() { Key::new("--max-size") } else { section.field("max_size") };
    let max_size = max_size.unwrap_or(raw.max_size.0);
    if max_size == 0 {
        return Err(document.error(&key, "must be more than 0: nothing could be kept"));
    }
    let key = section.field("min_free");
    // Only what somebody wrote is nonsense; the default just leaves a small disk without a cache.
    if document.contains(&key)
        && let Some(total) = files::file_system_size(&directory)
        && raw.min_free.0 >= total
    {
        return Err(document
            .error(&key, format!("must be less than the file system of {} has: {total} bytes", directory.display())));
    }
    let prefetch = usize::try_from(raw.prefetch).ok().filter(|given| *given <= MAX_PREFETCH);
    let Some(prefetch) = prefetch else {
        return Err(document.error(
            &section.field("prefetch"),
            format!("must be 0 to {MAX_PREFETCH}: how many layers of one image are fetched before they are asked for"),
        ));
    };
    Ok(cache::Config {
        directory,
        max_size,
        min_free: raw.min_free.0,
        manifest_memory: raw.manifest_memory.0,
        tag_ttl: raw.tag_ttl.0,
        stale_if_error: raw.stale_if_error.0,
        negative_ttl: raw.negative_ttl.0,
        prefetch,
        verify_every: raw.verify_every.0,
        reader_window: transport::recipient::RATE_WINDOW,
        max_through: cache::blob::uncached_limit::MAX_THROUGH,
    })
}

fn access(
    document: &Document<'_>,
    raw: &raw::Access,
    server: &transport::Config,
    by_client: bool,
) -> Result<auth::Config, Error> {
    let section = Key::new("access");
    let htpasswd = match &raw.htpasswd {
        Some(path) => Some(files::readable(document, &section.field("htpasswd"), path)?),
        None => None,
    };
    let anonymous = match raw.anonymous {
        raw::Anonymous::Pull => auth::Anonymous::Pull,
        raw::Anonymous::None => auth::Anonymous::None,
    };
    let certificates = server.tls.as_ref().is_some_and(|tls| tls.client_ca.is_some());
    if anonymous == auth::Anonymous::None && htpasswd.is_none() && !certificates && !by_client {
        return Err(document.error(
            &section.field("anonymous"),
            "nobody could pull: with \"none\" there must be access.htpasswd, server.tls.client_ca or an upstream with \
             access = \"client\"",
        ));
    }
    let push_users = match &raw.push_users {
        Some(named) => {
            Some(push_users(document, &section.field("push_users"), named, htpasswd.is_some(), certificates)?)
        }
        None => None,
    };
    Ok(auth::Config { anonymous, htpasswd, push_users, allow_clear_login: raw.allow_clear_login })
}

fn push_users(
    document: &Document<'_>,
    key: &Key,
    named: &[String],
    has_users: bool,
    has_certificates: bool,
) -> Result<auth::PushUsers, Error> {
    let mut push_users = auth::PushUsers::default();
    for (index, name) in named.iter().enumerate() {
        let wrong = |problem: &str| document.error(&key.item(index), problem);
        let is_new = match &**name {
            auth::ANY_CERTIFICATE if !has_certificates => {
                return Err(wrong("no client can show a certificate: server.tls.client_ca is not set"));
            }
            auth::ANY_CERTIFICATE => !std::mem::replace(&mut push_users.certificates, true),
            "" => return Err(wrong("must not be empty")),
            name if name.contains(':') || name.chars().any(char::is_control) => {
                return Err(wrong(
                    "must be a user of access.htpasswd, or \"certificate:*\" for all client certificates",
                ));
            }
            _ if !has_users => return Err(wrong("there is no such user: access.htpasswd is not set")),
            name => push_users.users.insert(name.into()),
        };
        if !is_new {
            return Err(wrong("is named twice"));
        }
    }
    Ok(push_users)
}

fn push(document: &Document<'_>, raw: &raw::Push) -> Result<push::Config, Error> {
    let key = Key::new("push").field("key_file");
    let key_file = raw.key_file.as_ref().map(|path| files::readable(document, &key, path)).transpose()?;
    Ok(push::Config { key_file })
}

fn address(document: &Document<'_>, key: &Key, text: &str) -> Result<SocketAddr, Error> {
    text.parse().map_err(|_| {
        let forms = "must be ADDRESS:PORT, such as \"127.0.0.1:5000\", or \"[::]:5000\" for all of the machine's";
        document.error(key, format!("{forms}, not {text:?}"))
    })
}
