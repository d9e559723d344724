//! `[server]` and `[server.tls]`: where clients connect.

use std::{
    collections::HashSet,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use serde::Deserialize;

use super::{
    document::Document,
    error::{Error, Key},
    paths,
    units::Period,
};
use crate::{
    oci::HostPattern,
    peer::{Network, NetworkError},
    transport::{Config, TlsConfig},
};

/// The keys of `[server]`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct ServerSection {
    listen: Option<Vec<String>>,
    clear_http: Option<bool>,
    max_connections: Option<usize>,
    drain_timeout: Option<Period>,
    trusted_networks: Vec<String>,
    allowed_hosts: Vec<String>,
    tls: Option<Tls>,
}

/// The keys of `[server.tls]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Tls {
    certificate: PathBuf,
    key: PathBuf,
    client_ca: Option<PathBuf>,
}

impl ServerSection {
    pub(super) fn read(self, document: &Document<'_>, flags: Vec<SocketAddr>) -> Result<Config, Error> {
        let defaults = Config::default();
        let section = Key::new("server");
        let listen = listeners(document, &section.field("listen"), self.listen, flags)?;
        let tls = self.tls.map(|tls| tls.read(document, &section.field("tls"))).transpose()?;
        let config = Config {
            listen: listen.unwrap_or(defaults.listen),
            clear_http: self.clear_http.unwrap_or(defaults.clear_http),
            max_connections: self.max_connections.unwrap_or(defaults.max_connections),
            drain_timeout: self.drain_timeout.map_or(defaults.drain_timeout, |Period(period)| period),
            trusted_networks: networks(document, &section.field("trusted_networks"), &self.trusted_networks)?,
            allowed_hosts: allowed_hosts(document, &section.field("allowed_hosts"), &self.allowed_hosts)?,
            tls,
            timeouts: defaults.timeouts,
        };
        if !config.clear_http && config.tls.is_none() {
            return Err(document.error(
                &section.field("clear_http"),
                "nothing would be served: without clear HTTP there must be a [server.tls] with certificate and key",
            ));
        }
        if config.max_connections == 0 {
            return Err(document.error(&section.field("max_connections"), "must be at least 1"));
        }
        Ok(config)
    }
}

impl Tls {
    fn read(&self, document: &Document<'_>, section: &Key) -> Result<TlsConfig, Error> {
        let readable = |name: &str, path: &Path| paths::readable(document, &section.field(name), path);
        Ok(TlsConfig {
            certificate: readable("certificate", &self.certificate)?,
            key: readable("key", &self.key)?,
            client_ca: self.client_ca.as_deref().map(|path| readable("client_ca", path)).transpose()?,
        })
    }
}

/// The addresses of the flags, or else of the file; `None`: neither has any.
fn listeners(
    document: &Document<'_>,
    key: &Key,
    texts: Option<Vec<String>>,
    flags: Vec<SocketAddr>,
) -> Result<Option<Vec<SocketAddr>>, Error> {
    let (key, listen) = match (flags.is_empty(), texts) {
        (false, _) => (Key::new("--listen"), flags),
        (true, None) => return Ok(None),
        (true, Some(texts)) => {
            let items = texts.iter().enumerate();
            let listen = items.map(|(index, text)| address(document, &key.item(index), text));
            (key.clone(), listen.collect::<Result<Vec<_>, _>>()?)
        }
    };
    if listen.is_empty() {
        return Err(document.error(&key, "must have at least one address, such as \"127.0.0.1:5000\""));
    }
    let mut seen = HashSet::new();
    if let Some(twice) = listen.iter().find(|address| address.port() != 0 && !seen.insert(**address)) {
        return Err(document.error(&key, format!("{twice} is in the list twice; remove one of them")));
    }
    Ok(Some(listen))
}

fn networks(document: &Document<'_>, key: &Key, texts: &[String]) -> Result<Vec<Network>, Error> {
    let items = texts.iter().enumerate();
    items
        .map(|(index, text)| {
            text.parse().map_err(|error: NetworkError| document.error(&key.item(index), error.to_string()))
        })
        .collect()
}

pub(super) fn allowed_hosts(document: &Document<'_>, key: &Key, texts: &[String]) -> Result<Vec<HostPattern>, Error> {
    let forms = "must be a name by which clients come in, such as \"mirror.lan\"; any port is meant";
    let read = |(index, text): (usize, &String)| match text.parse() {
        Ok(HostPattern::AnyPort(_)) => Err(document.error(&key.item(index), format!("{forms}, but not any name"))),
        Ok(pattern) => Ok(pattern),
        Err(error) => Err(document.error(&key.item(index), format!("{forms}: {error}"))),
    };
    texts.iter().enumerate().map(read).collect()
}

pub(super) fn address(document: &Document<'_>, key: &Key, text: &str) -> Result<SocketAddr, Error> {
    text.parse().map_err(|_| {
        let forms = "must be ADDRESS:PORT, such as \"127.0.0.1:5000\", or \"[::]:5000\" for all of the machine's";
        document.error(key, format!("{forms}, not {text:?}"))
    })
}
