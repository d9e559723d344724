//! One `[[upstream]]` section: its keys, and what they mean.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use serde::Deserialize;
use url::Url;

use super::{
    access::ClientGrants,
    authority::is_authority,
    byte_rate::ByteRate,
    document::Document,
    error::{Error, Key},
    paths,
    rule::RuleSection,
    units::Period,
    well_known::{self, DOCKER_HUB},
};
use crate::{
    oci::HostPattern,
    upstream::{Access, Config, CredentialSource, UpstreamTimeouts},
};

/// Reserved names: the version in the path, and the label of requests without an upstream.
const RESERVED_NAMES: [&str; 2] = ["v2", "none"];

/// More connections for one blob do not speed it up, and slow down other downloads.
const MAX_CONNECTIONS: usize = 16;

/// The keys of `[[upstream]]`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct UpstreamSection {
    name: Option<String>,
    urls: Option<Vec<String>>,
    aliases: Option<Vec<String>>,
    hosts: Vec<String>,
    default: Option<bool>,
    library: Option<bool>,
    realms: Option<Vec<String>>,
    ca: Option<PathBuf>,
    username: Option<String>,
    password_file: Option<PathBuf>,
    credential_helper: Option<String>,
    docker_config: Option<PathBuf>,
    access: Sharing,
    access_ttl: Option<Period>,
    access_grace: Option<Period>,
    push: bool,
    store: Option<bool>,
    redirect: bool,
    connections: Option<u64>,
    connect_timeout: Option<Period>,
    response_timeout: Option<Period>,
    idle_timeout: Option<Period>,
    max_rate_in: Option<ByteRate>,
    max_rate_out: Option<ByteRate>,
    rule: Vec<RuleSection>,
}

/// Whose credentials decide what a client may pull.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Sharing {
    #[default]
    Shared,
    Client,
}

impl UpstreamSection {
    /// A section with no key but its name.
    pub(super) fn named(name: &str) -> Self {
        Self { name: Some(name.to_owned()), ..Self::default() }
    }

    /// The rules of the section, which are read after all upstreams.
    pub(super) fn take_rules(&mut self) -> Vec<RuleSection> {
        std::mem::take(&mut self.rule)
    }

    /// Whether the section declares the default upstream.
    pub(super) fn is_default(&self) -> bool {
        self.default == Some(true)
    }

    /// Whether the upstream authorizes clients by their own credentials.
    pub(super) fn uses_client_credentials(&self) -> bool {
        self.access == Sharing::Client
    }
}

/// Reads one section.
pub(super) struct Reader<'a> {
    pub document: &'a Document<'a>,
    pub key: Key,
    pub defaults: ClientGrants,
}

impl Reader<'_> {
    /// `has_default`: a section of the file declares itself the default. What is wrong with one key hides nothing that is
    /// wrong with another. `None`: the section has no usable name.
    pub(super) fn read(&self, section: UpstreamSection, has_default: bool) -> Option<Config> {
        let document = self.document;
        let credential = document.keep(self.credential(&section)).unwrap_or(CredentialSource::Anonymous);
        let access = document.keep(self.access(&section, &credential)).unwrap_or(Access::Shared);
        let connections = document.keep(self.connections(section.connections)).flatten();
        let ca =
            section.ca.as_deref().and_then(|ca| document.keep(paths::readable(document, &self.key.field("ca"), ca)));
        let urls = section.urls.as_deref().map(|urls| document.keep(self.urls(urls)).unwrap_or_default());
        let hosts = self.each("hosts", &section.hosts, |key, host| self.host(key, host));
        let Some(name) = &section.name else {
            if !self.is_refused("name") {
                document.refuse(&self.key, "needs the name of the registry: name = \"docker.io\"");
            }
            return None;
        };
        let name = document.keep(self.name(&self.key.field("name"), name))?;
        let known = well_known::find(&name);
        // Realms see credentials, so a registry's known realms apply only at its own address: at another address, the
        // credentials are for another server.
        let known_realms = known.filter(|_| urls.is_none()).map_or(&[][..], |registry| registry.realms);
        let urls = match urls {
            Some(urls) => urls,
            None => {
                let url = known.map_or_else(|| format!("https://{name}"), |registry| registry.url.to_owned());
                vec![document.keep(self.url(&self.key.field("name"), &url))?]
            }
        };
        let timeouts = self.timeouts(&section);
        let has_passwords = credential != CredentialSource::Anonymous || access != Access::Shared;
        document.keep(self.check_schemes(&urls, has_passwords));
        let aliases = section.aliases.unwrap_or_else(|| owned(known.map_or(&[], |registry| registry.aliases)));
        let realms = section.realms.unwrap_or_else(|| owned(known_realms));
        let defaults = Config::new(name, urls);
        Some(Config {
            aliases: self.each("aliases", &aliases, |key, alias| self.name(key, alias)),
            hosts,
            default: section.default.unwrap_or(!has_default && *defaults.name == *DOCKER_HUB),
            library: section.library.unwrap_or(known.is_some_and(|registry| registry.library)),
            realms: self.each("realms", &realms, |key, realm| self.realm(key, realm)),
            ca,
            credential,
            access,
            connections: connections.unwrap_or(defaults.connections),
            push: section.push,
            // Private content is in no store unless the operator writes so.
            store: section.store.unwrap_or(access == Access::Shared),
            redirect: section.redirect,
            timeouts,
            max_rate_in: section.max_rate_in.map(|ByteRate(rate)| rate),
            max_rate_out: section.max_rate_out.map(|ByteRate(rate)| rate),
            ..defaults
        })
    }

    fn connections(&self, connections: Option<u64>) -> Result<Option<usize>, Error> {
        let Some(connections) = connections else { return Ok(None) };
        match usize::try_from(connections) {
            Ok(connections) if (1..=MAX_CONNECTIONS).contains(&connections) => Ok(Some(connections)),
            Ok(_) | Err(_) => Err(self.error(
                "connections",
                format!("must be 1 to {MAX_CONNECTIONS}: over how many connections one blob may be fetched"),
            )),
        }
    }

    fn timeouts(&self, section: &UpstreamSection) -> UpstreamTimeouts {
        let UpstreamTimeouts { connect, response, idle } = UpstreamTimeouts::default();
        let read = |field: &str, period: Option<Period>, default: Duration| {
            let period = period.map_or(default, |Period(period)| period);
            if period.is_zero() {
                let problem = "must be more than 0: every wait for an upstream has to end; write \"30s\", say";
                self.document.refuse(&self.key.field(field), problem);
            }
            period
        };
        UpstreamTimeouts {
            connect: read("connect_timeout", section.connect_timeout, connect),
            response: read("response_timeout", section.response_timeout, response),
            idle: read("idle_timeout", section.idle_timeout, idle),
        }
    }

    fn check_schemes(&self, urls: &[Url], has_passwords: bool) -> Result<(), Error> {
        let clear = urls.iter().filter(|url| url.scheme() == "http").count();
        if has_passwords && clear > 0 && clear < urls.len() {
            return Err(self.error(
                "urls",
                "must not mix https and http beside credentials: when the https URL fails, the password would go \
                 over the line in clear; make all of them https",
            ));
        }
        Ok(())
    }

    fn is_refused(&self, field: &str) -> bool {
        self.document.is_refused(&self.key.field(field))
    }

    fn error(&self, field: &str, problem: impl Into<String>) -> Error {
        self.document.error(&self.key.field(field), problem)
    }

    /// Each item of a list that is not refused.
    fn each<T>(&self, field: &str, items: &[String], read: impl Fn(&Key, &str) -> Result<T, Error>) -> Vec<T> {
        self.document.each(&self.key.field(field), items, read)
    }

    /// A registry's name or alias, in lower case.
    fn name(&self, key: &Key, name: &str) -> Result<Arc<str>, Error> {
        let lower = name.to_ascii_lowercase();
        if RESERVED_NAMES.contains(&lower.as_str()) {
            return Err(self.document.error(key, format!("{name:?} is reserved; choose another name")));
        }
        if !is_authority(&lower) {
            let forms = "must be a registry's name as it stands in image names, HOST or HOST:PORT";
            let bare = lower.split_once("://").map(|(_, rest)| rest.trim_end_matches('/'));
            return Err(self.document.error(
                key,
                match bare.filter(|bare| is_authority(bare)) {
                    Some(bare) => format!("{forms}: write {bare:?}"),
                    None => format!("{forms}{}", not(name)),
                },
            ));
        }
        Ok(lower.into())
    }

    fn host(&self, key: &Key, host: &str) -> Result<HostPattern, Error> {
        host.parse().map_err(|error| {
            let forms = "must be a name, a name with a port (hub.lan:5000), or a port of any name (*:5002)";
            self.document.error(key, format!("{forms}: {error}"))
        })
    }

    fn realm(&self, key: &Key, realm: &str) -> Result<String, Error> {
        let lower = realm.to_ascii_lowercase();
        if !is_authority(&lower) {
            let forms = "must be the HOST or HOST:PORT of a token realm, such as \"auth.docker.io\"";
            return Err(self.document.error(key, format!("{forms}{}", not(realm))));
        }
        Ok(lower)
    }

    fn urls(&self, urls: &[String]) -> Result<Vec<Url>, Error> {
        if urls.is_empty() {
            return Err(self.error(
                "urls",
                "must have at least one URL; leave the key out to ask the registry of this name by https",
            ));
        }
        Ok(self.each("urls", urls, |key, url| self.url(key, url)))
    }

    fn url(&self, key: &Key, text: &str) -> Result<Url, Error> {
        let refuse = |why: String| Err(self.document.error(key, why));
        let url = match Url::parse(text) {
            Ok(url) if matches!(url.scheme(), "http" | "https") => url,
            // A name with a port looks like a scheme to a parser.
            Ok(_) | Err(_) if lacks_scheme(text) => {
                return refuse(format!("write \"https://{text}\": a URL begins with https:// or http://"));
            }
            Ok(url) => return refuse(format!("must begin with https:// or http://, not {}:", url.scheme())),
            Err(url::ParseError::InvalidPort) => return refuse("must have a port of at most 65535".to_owned()),
            // The message does not repeat what may have a password in it.
            Err(_) => return refuse("must be a URL such as \"https://registry.example\"".to_owned()),
        };
        // The message does not repeat a value with a password in it.
        if !url.username().is_empty() || url.password().is_some() {
            return refuse("must not have credentials in it; use username and password_file".to_owned());
        }
        if url.query().is_some() || url.fragment().is_some() {
            return refuse("must not have a query or a fragment; write only the scheme, host and port".to_owned());
        }
        if url.path().split('/').any(|part| part == "v2") {
            return refuse("must not have /v2 in it; forebay adds it".to_owned());
        }
        Ok(url)
    }

    fn access(&self, section: &UpstreamSection, credential: &CredentialSource) -> Result<Access, Error> {
        let (ttl, grace) = (section.access_ttl, section.access_grace);
        // "client" may have been meant.
        if self.is_refused("access") {
            return Ok(Access::Shared);
        }
        if section.access == Sharing::Shared {
            let given = [("access_ttl", ttl.is_some()), ("access_grace", grace.is_some())];
            return match given.iter().find(|(_, is_given)| *is_given) {
                Some((key, _)) => Err(self.error(key, "needs access = \"client\" beside it")),
                None => Ok(Access::Shared),
            };
        }
        if *credential != CredentialSource::Anonymous {
            return Err(self.error(
                "access",
                "with \"client\" only the client's own credentials are used; remove those of this upstream, or write \"shared\"",
            ));
        }
        let (ttl, grace) = (
            ttl.map_or(self.defaults.ttl, |Period(ttl)| ttl),
            grace.map_or(self.defaults.grace, |Period(grace)| grace),
        );
        if grace < ttl {
            let key = if section.access_grace.is_some() { "access_grace" } else { "access_ttl" };
            return Err(self.error(
                key,
                "access_grace must be at least access_ttl: it is how long a permission holds in an outage",
            ));
        }
        Ok(Access::Client { ttl, grace })
    }

    fn credential(&self, section: &UpstreamSection) -> Result<CredentialSource, Error> {
        let helper = section.credential_helper.as_deref();
        let sources = [
            ("username", section.username.is_some() || section.password_file.is_some()),
            ("credential_helper", helper.is_some()),
            ("docker_config", section.docker_config.is_some()),
        ];
        let mut given = sources.iter().filter(|(_, is_given)| *is_given).map(|(name, _)| *name);
        if let (Some(first), Some(second)) = (given.next(), given.next()) {
            return Err(self.error(
                second,
                format!(
                    "credentials already come from {first}; keep one of username, credential_helper and docker_config"
                ),
            ));
        }
        if let Some(password) = self.password(section.username.as_deref(), section.password_file.as_deref())? {
            return Ok(password);
        }
        if let Some(helper) = helper {
            // It becomes a part of a program's name, and must not become a path.
            let good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
            if helper.is_empty() || !helper.bytes().all(good) {
                return Err(self.error(
                    "credential_helper",
                    "must be what follows docker-credential- in the program's name, such as \"ecr-login\"",
                ));
            }
            return Ok(CredentialSource::Helper(helper.to_owned()));
        }
        match &section.docker_config {
            Some(file) => {
                let file = paths::readable(self.document, &self.key.field("docker_config"), file)?;
                Ok(CredentialSource::DockerConfig(file))
            }
            None => Ok(CredentialSource::Anonymous),
        }
    }

    fn password(&self, username: Option<&str>, file: Option<&Path>) -> Result<Option<CredentialSource>, Error> {
        match (username, file) {
            (Some(username), Some(file)) => {
                if username.is_empty() || username.contains(':') {
                    let problem = "must not be empty or have a colon in it (RFC 7617)";
                    self.document.refuse(&self.key.field("username"), problem);
                }
                let password_file = paths::readable(self.document, &self.key.field("password_file"), file)?;
                Ok(Some(CredentialSource::Password { username: username.to_owned(), password_file }))
            }
            // The other one is there, and was refused.
            (Some(_), None) if self.is_refused("password_file") => Ok(None),
            (None, Some(_)) if self.is_refused("username") => Ok(None),
            (Some(_), None) => Err(self.error(
                "username",
                "needs password_file beside it: the file that holds the password, such as password_file = \"hub.password\"",
            )),
            (None, Some(_)) => Err(self.error("password_file", "needs username beside it: username = \"…\"")),
            (None, None) => Ok(None),
        }
    }
}

/// Whether a text would be a URL with `https://` in front of it.
fn lacks_scheme(text: &str) -> bool {
    let host = text.split('/').next().unwrap_or_default().to_ascii_lowercase();
    is_authority(&host) && !text.contains(['@', '?', '#'])
}

/// What was written in place of a host; nothing if it may have a password in it.
fn not(written: &str) -> String {
    if written.contains('@') { String::new() } else { format!(", not {written:?}") }
}

fn owned(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|&text| text.to_owned()).collect()
}
