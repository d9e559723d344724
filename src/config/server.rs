//! `[server]` and `[server.tls]`: where clients connect.

use std::{net::SocketAddr, path::PathBuf};

use serde::Deserialize;

use super::{
    address::{covers, parse_address},
    document::Document,
    error::{Error, Key},
    paths,
    units::Period,
};
use crate::{
    oci::HostPattern,
    peer::NetworkError,
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
    drain_delay: Option<Period>,
    trusted_networks: Vec<String>,
    allowed_hosts: Vec<String>,
    page: Option<bool>,
    tls: Option<Tls>,
}

/// The keys of `[server.tls]`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Tls {
    certificate: Option<PathBuf>,
    key: Option<PathBuf>,
    client_ca: Option<PathBuf>,
}

impl ServerSection {
    pub(super) fn read(self, document: &Document<'_>, flags: Vec<SocketAddr>) -> Config {
        let defaults = Config::default();
        let section = Key::new("server");
        let networks_key = section.field("trusted_networks");
        let listen = document.keep(listeners(document, &section.field("listen"), self.listen, flags)).flatten();
        let has_tls = self.tls.is_some() || document.is_refused(&section.field("tls"));
        let tls = self.tls.and_then(|tls| document.keep(tls.read(document, &section.field("tls"))));
        let config = Config {
            listen: listen.unwrap_or(defaults.listen),
            clear_http: self.clear_http.unwrap_or(defaults.clear_http),
            max_connections: self.max_connections.unwrap_or(defaults.max_connections),
            drain_timeout: self.drain_timeout.map_or(defaults.drain_timeout, |Period(period)| period),
            drain_delay: self.drain_delay.map_or(defaults.drain_delay, |Period(period)| period),
            trusted_networks: document.each(&networks_key, &self.trusted_networks, |key, text| {
                text.parse().map_err(|error: NetworkError| document.error(key, error.to_string()))
            }),
            allowed_hosts: allowed_hosts(document, &section.field("allowed_hosts"), &self.allowed_hosts),
            page: self.page.unwrap_or(defaults.page),
            tls,
            timeouts: defaults.timeouts,
        };
        if !config.clear_http && !has_tls {
            document.refuse(
                &section.field("clear_http"),
                "nothing would be served: without clear HTTP there must be a [server.tls] with certificate and key",
            );
        }
        if config.max_connections == 0 {
            document.refuse(&section.field("max_connections"), "must be at least 1");
        }
        config
    }
}

impl Tls {
    fn read(self, document: &Document<'_>, section: &Key) -> Result<TlsConfig, Error> {
        let readable = |name: &str, path: PathBuf| paths::readable(document, &section.field(name), &path);
        let required = |name: &str, example: &str, path: Option<PathBuf>| match path {
            Some(path) => readable(name, path),
            None if document.is_refused(&section.field(name)) => Ok(PathBuf::new()),
            None => Err(document.error(section, format!("needs a {name} in a file: {name} = {example:?}"))),
        };
        let certificate = document.keep(required("certificate", "tls.crt", self.certificate));
        let key = document.keep(required("key", "tls.key", self.key));
        let client_ca = self.client_ca.map(|path| readable("client_ca", path)).transpose()?;
        Ok(TlsConfig { certificate: certificate.unwrap_or_default(), key: key.unwrap_or_default(), client_ca })
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
            let listen = document.each(key, &texts, |key, text| address(document, key, text));
            if listen.len() < texts.len() {
                return Ok(None);
            }
            (key.clone(), listen)
        }
    };
    if listen.is_empty() {
        return Err(document.error(&key, "must have at least one address, such as \"127.0.0.1:5000\""));
    }
    for (index, address) in listen.iter().enumerate() {
        let Some(other) =
            listen.iter().take(index).find(|other| covers(**other, *address) || covers(*address, **other))
        else {
            continue;
        };
        return Err(document.error(
            &key,
            match other == address {
                true => format!("{address} is in the list twice; remove one of them"),
                false => format!("{address} and {other} are the same port of the same machine; remove one of them"),
            },
        ));
    }
    Ok(Some(listen))
}

pub(super) fn allowed_hosts(document: &Document<'_>, key: &Key, texts: &[String]) -> Vec<HostPattern> {
    let forms = "must be a name by which clients come in, such as \"mirror.lan\"; any port is meant";
    document.each(key, texts, |key, text| match text.parse() {
        Ok(HostPattern::AnyPort(_)) => Err(document.error(key, format!("{forms}, but not any name"))),
        Ok(pattern) => Ok(pattern),
        Err(error) => Err(document.error(key, format!("{forms}: {error}"))),
    })
}

pub(super) fn address(document: &Document<'_>, key: &Key, text: &str) -> Result<SocketAddr, Error> {
    parse_address(text).map_err(|problem| document.error(key, problem))
}
