//! The `[[upstream]]` sections: what each means, and that no two claim the same requests.

use std::{collections::HashMap, sync::Arc};

use url::{Host, Url};

use crate::{
    oci::HostPattern,
    upstream::{Access, Config, CredentialSource},
};

use super::{
    document::Document,
    error::{Error, Key},
    files, raw,
    registries::{self, DOCKER_HUB},
};

/// Names that mean something else: the path's version, and the label of requests of no upstream.
const RESERVED_NAMES: [&str; 2] = ["v2", "none"];

/// More connections for one blob than this do not make it faster, only others slower.
const MAX_CONNECTIONS: usize = 16;

/// The upstreams of the file, in its order; of a file without any, the well-known registries.
///
/// # Errors
/// The first section that makes no sense, alone or beside the others.
pub(super) fn read(
    document: &Document<'_>,
    mut sections: Vec<raw::Upstream>,
    defaults: &raw::Access,
) -> Result<Vec<Config>, Error> {
    if sections.is_empty() {
        sections = registries::WELL_KNOWN.iter().map(|registry| raw::Upstream::named(registry.name)).collect();
    }
    let some_default = sections.iter().any(|section| section.default == Some(true));
    let mut upstreams = Vec::with_capacity(sections.len());
    for (index, section) in sections.into_iter().enumerate() {
        upstreams.push(Reader { document, key: key(index), defaults }.read(section, some_default)?);
    }
    check_unique(document, &upstreams)?;
    Ok(upstreams)
}

fn key(index: usize) -> Key {
    Key::new("upstream").item(index)
}

/// Reads one section.
struct Reader<'a> {
    document: &'a Document<'a>,
    key: Key,
    /// What holds where the section says nothing.
    defaults: &'a raw::Access,
}

impl Reader<'_> {
    fn read(&self, section: raw::Upstream, some_default: bool) -> Result<Config, Error> {
        let credential = self.credential(&section)?;
        let access = self.access(&section, &credential)?;
        let connections =
            usize::try_from(section.connections).ok().filter(|given| (1..=MAX_CONNECTIONS).contains(given));
        let Some(connections) = connections else {
            return Err(self.error(
                "connections",
                format!("must be 1 to {MAX_CONNECTIONS}: over how many connections one blob may be fetched"),
            ));
        };
        let name = self.name(&self.key.field("name"), &section.name)?;
        let known = registries::find(&name);
        // Realms are trusted with credentials, so a registry's own go only with its own address:
        // under another one, the credentials are another server's.
        let known_realms = known.filter(|_| section.urls.is_none()).map_or(&[][..], |registry| registry.realms);
        let urls = match section.urls {
            Some(urls) => self.urls(&urls)?,
            None => vec![self.url(
                &self.key.field("name"),
                &known.map_or_else(|| format!("https://{name}"), |registry| registry.url.to_owned()),
            )?],
        };
        let clear = urls.iter().filter(|url| url.scheme() == "http").count();
        let has_passwords = credential != CredentialSource::Anonymous || access != Access::Shared;
        if has_passwords && clear > 0 && clear < urls.len() {
            return Err(self.error(
                "urls",
                "must not mix https and http beside credentials: when the https URL fails, the password would go \
                 over the line in clear; make all of them https",
            ));
        }
        let aliases = section.aliases.unwrap_or_else(|| owned(known.map_or(&[], |registry| registry.aliases)));
        let realms = section.realms.unwrap_or_else(|| owned(known_realms));
        Ok(Config {
            urls,
            aliases: self.each("aliases", &aliases, |key, alias| self.name(key, alias))?,
            hosts: self.each("hosts", &section.hosts, |key, host| self.host(key, host))?,
            default: section.default.unwrap_or(!some_default && *name == *DOCKER_HUB),
            library: section.library.unwrap_or(known.is_some_and(|registry| registry.library)),
            realms: self.each("realms", &realms, |key, realm| self.realm(key, realm))?,
            ca: match &section.ca {
                Some(ca) => Some(files::readable(self.document, &self.key.field("ca"), ca)?),
                None => None,
            },
            credential,
            access,
            connections,
            push: section.push,
            name,
        })
    }

    fn error(&self, field: &str, problem: impl Into<String>) -> Error {
        self.document.error(&self.key.field(field), problem)
    }

    /// Each item of a list, with the key of the item for its errors.
    fn each<T>(
        &self,
        field: &str,
        items: &[String],
        read: impl Fn(&Key, &str) -> Result<T, Error>,
    ) -> Result<Vec<T>, Error> {
        let key = self.key.field(field);
        items.iter().enumerate().map(|(index, item)| read(&key.item(index), item)).collect()
    }

    /// A registry's name or alias, in lower case.
    fn name(&self, key: &Key, name: &str) -> Result<Arc<str>, Error> {
        let lower = name.to_ascii_lowercase();
        if RESERVED_NAMES.contains(&lower.as_str()) {
            return Err(self.document.error(key, format!("{name:?} is reserved; choose another name")));
        }
        if !is_authority(&lower) {
            return Err(self.document.error(
                key,
                format!("must be a registry's name as it stands in image names, HOST or HOST:PORT, not {name:?}"),
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
            return Err(self.document.error(
                key,
                format!("must be the HOST or HOST:PORT of a token realm, such as \"auth.docker.io\", not {realm:?}"),
            ));
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
        self.each("urls", urls, |key, url| self.url(key, url))
    }

    fn url(&self, key: &Key, text: &str) -> Result<Url, Error> {
        let refuse = |why: String| Err(self.document.error(key, why));
        let url = match Url::parse(text) {
            Ok(url) => url,
            Err(error) => return refuse(format!("must be a URL such as \"https://registry.example\": {error}")),
        };
        if !matches!(url.scheme(), "http" | "https") {
            return refuse(format!("must begin with https:// or http://, not {}:", url.scheme()));
        }
        // A value with a password in it is not repeated in the message.
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

    fn access(&self, section: &raw::Upstream, credential: &CredentialSource) -> Result<Access, Error> {
        let (ttl, grace) = (section.access_ttl, section.access_grace);
        if section.access == raw::Sharing::Shared {
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
        let (ttl, grace) = (ttl.unwrap_or(self.defaults.access_ttl).0, grace.unwrap_or(self.defaults.access_grace).0);
        if grace < ttl {
            let key = if section.access_grace.is_some() { "access_grace" } else { "access_ttl" };
            return Err(
                self.error(key, "access_grace must be at least access_ttl: it is how long a yes holds in an outage")
            );
        }
        Ok(Access::Client { ttl, grace })
    }

    fn credential(&self, section: &raw::Upstream) -> Result<CredentialSource, Error> {
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
        match (&section.username, &section.password_file) {
            (Some(username), Some(file)) => {
                if username.is_empty() || username.contains(':') {
                    return Err(self.error("username", "must not be empty or have a colon in it (RFC 7617)"));
                }
                let password_file = files::readable(self.document, &self.key.field("password_file"), file)?;
                return Ok(CredentialSource::Password { username: username.clone(), password_file });
            }
            (Some(_), None) => {
                return Err(self.error("username", "needs password_file beside it: the file that holds the password"));
            }
            (None, Some(_)) => return Err(self.error("password_file", "needs username beside it")),
            (None, None) => {}
        }
        if let Some(helper) = helper {
            // It becomes part of a program's name, and must not become a path.
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
                let file = files::readable(self.document, &self.key.field("docker_config"), file)?;
                Ok(CredentialSource::DockerConfig(file))
            }
            None => Ok(CredentialSource::Anonymous),
        }
    }
}

/// Refuses two upstreams that would claim the same requests.
fn check_unique(document: &Document<'_>, upstreams: &[Config]) -> Result<(), Error> {
    let mut names: HashMap<&str, usize> = HashMap::new();
    let mut hosts: HashMap<String, &str> = HashMap::new();
    let mut default: Option<&str> = None;
    for (index, upstream) in upstreams.iter().enumerate() {
        let key = key(index);
        let aliases = upstream.aliases.iter().enumerate();
        let aliases = aliases.map(|(index, alias)| (key.field("aliases").item(index), alias));
        for (key, name) in std::iter::once((key.field("name"), &upstream.name)).chain(aliases) {
            // `name` and `name:443` are the same registry to whoever asks for it.
            let bare = name.strip_suffix(":443").unwrap_or(name);
            if let Some(other) = names.insert(bare, index) {
                let whose = if other == index { "this upstream" } else { &upstreams[other].name };
                return Err(document.error(&key, format!("{name:?} is already a name of {whose}; remove one of them")));
            }
        }
        for (index, host) in upstream.hosts.iter().enumerate() {
            if let Some(other) = hosts.insert(host.to_string(), &upstream.name) {
                let key = key.field("hosts").item(index);
                return Err(document.error(&key, format!("\"{host}\" already belongs to {other}; remove one of them")));
            }
        }
        if upstream.default
            && let Some(other) = default.replace(&upstream.name)
        {
            return Err(document.error(&key.field("default"), format!("{other} is the default already; keep one")));
        }
    }
    Ok(())
}

/// `HOST` or `HOST:PORT` in lower case: nothing that could be a path, a pattern or a URL.
fn is_authority(text: &str) -> bool {
    let end_of_host = if text.starts_with('[') { text.find(']').map(|end| end + 1) } else { text.find(':') };
    let (host, port) = text.split_at(end_of_host.unwrap_or(text.len()));
    let port_is_good = match port.strip_prefix(':') {
        Some(digits) => !digits.starts_with(['+', '0']) && digits.parse::<u16>().is_ok(),
        None => port.is_empty(),
    };
    let labels_are_good = host.starts_with('[')
        || host.split('.').all(|label| {
            let inner = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
            let outer = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric());
            label.bytes().all(inner) && outer(label.bytes().next()) && outer(label.bytes().next_back())
        });
    port_is_good && labels_are_good && host.len() <= 253 && Host::parse(host).is_ok()
}

fn owned(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|&text| text.to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_authority_is_a_host_and_perhaps_a_port() {
        for good in ["docker.io", "localhost", "harbor.lan:8443", "10.0.0.1:5000", "[::1]:5000", "[::1]", "a-b.c_d.e"] {
            assert!(is_authority(good), "{good}");
        }
        for bad in [
            "",
            ":5000",
            "a:",
            "a:x",
            "a:0",
            "a:70000",
            "a:+1",
            "a/b",
            "https://a",
            "*.a",
            "a..b",
            ".a",
            "a.",
            "-a",
            "a-",
            "..",
            "a b",
            "user@a",
            "[::1",
            "[::1]x",
            "[g]",
            "a%2f",
            "::1",
            "a?b",
            "\0",
        ] {
            assert!(!is_authority(bad), "{bad}");
        }
    }
}
