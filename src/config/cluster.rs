//! `[cluster]`: the forebays that are asked before registries.

use std::{path::PathBuf, time::Duration};

use serde::Deserialize;

use super::{
    document::Document,
    error::{Error, Key},
    units::Period,
};
use crate::{
    cluster::{Authority, Config, DEFAULT_TIMEOUT, MAX_ZONE, Source},
    transport,
};

/// How many entries `peers` may have. A DNS name lists more.
const MAX_PEERS: usize = 200;
/// What `timeout` may be.
const MIN_TIMEOUT: Duration = Duration::from_millis(100);
const MAX_TIMEOUT: Duration = Duration::from_secs(60);

/// The keys of `[cluster]`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct ClusterSection {
    peers: Vec<String>,
    advertise: Option<String>,
    key_file: Option<PathBuf>,
    zone: Option<String>,
    server_name: Option<String>,
    ca: Option<PathBuf>,
    timeout: Option<Period>,
}

impl ClusterSection {
    /// `None`: this forebay is in no cluster.
    /// `has_store`: there is an object store, for whose records of tags a key alone is enough.
    pub(super) fn read(
        self,
        document: &Document<'_>,
        server: &transport::Config,
        has_store: bool,
    ) -> Result<Option<Config>, Error> {
        let section = Key::new("cluster");
        let Self { peers, advertise, key_file, zone, server_name, ca, timeout } = self;
        let of_peers = section.field("peers");
        if peers.is_empty() {
            let is_about_peers =
                advertise.is_some() || zone.is_some() || server_name.is_some() || ca.is_some() || timeout.is_some();
            if let Some(key_file) = key_file.as_ref().filter(|_| has_store && !is_about_peers) {
                return Ok(Some(Config::of_key(document.resolve(&section.field("key_file"), key_file))));
            }
            return match is_about_peers || key_file.is_some() {
                true => Err(document.error(
                    &section,
                    "needs peers: peers = [\"dns:forebay.mirror.svc:5000\"], or a list of all members",
                )),
                false => Ok(None),
            };
        }
        if peers.len() > MAX_PEERS {
            return Err(document.error(&of_peers, format!("must be at most {MAX_PEERS}; a DNS name lists more")));
        }
        let peers: Vec<Source> = document.each(&of_peers, &peers, |key, peer| {
            peer.parse::<Source>().map_err(|error| document.error(key, error.to_string()))
        });
        let Some(key_file) = key_file else {
            return Err(document
                .error(&section, "needs key_file, a file that all members have; make it with: openssl rand -hex 32"));
        };
        let has_dns = peers.iter().any(|peer| matches!(peer, Source::Dns { .. }));
        let advertise = match advertise {
            Some(text) => {
                let parsed = text.parse::<Authority>();
                Some(parsed.map_err(|error| document.error(&section.field("advertise"), error.to_string()))?)
            }
            None => None,
        };
        if let Some(own) = &advertise {
            check_advertise(own, &peers).map_err(|problem| document.error(&section.field("advertise"), problem))?;
        }
        if has_dns && server.tls.is_some() && server_name.is_none() {
            return Err(document.error(
                &section,
                "needs server_name: the peers of a DNS name are addresses, and their certificates have a name",
            ));
        }
        if zone.as_ref().is_some_and(|zone| !is_zone(zone)) {
            let problem = format!("must be 1 to {MAX_ZONE} letters, digits, \".\", \"-\" or \"_\"");
            return Err(document.error(&section.field("zone"), problem));
        }
        if server_name.as_ref().is_some_and(|name| rustls::pki_types::DnsName::try_from(name.as_str()).is_err()) {
            return Err(document.error(&section.field("server_name"), "must be the name in the peers' certificates"));
        }
        let timeout = timeout.map_or(DEFAULT_TIMEOUT, |Period(timeout)| timeout);
        if !(MIN_TIMEOUT..=MAX_TIMEOUT).contains(&timeout) {
            return Err(document.error(&section.field("timeout"), "must be from 100ms to 1m"));
        }
        let path = |field: &str, path: PathBuf| document.resolve(&section.field(field), &path);
        Ok(Some(Config {
            peers,
            advertise,
            key_file: path("key_file", key_file),
            zone: zone.map(Into::into),
            server_name: server_name.map(Into::into),
            ca: ca.map(|file| path("ca", file)),
            timeout,
        }))
    }
}

/// Checks that the member that this forebay says it is can be one of the peers.
fn check_advertise(own: &Authority, peers: &[Source]) -> Result<(), String> {
    let is_it = |peer: &Source| match peer {
        Source::One(peer) => peer.host_and_port() == own.host_and_port(),
        Source::Dns { port, .. } => own.address().is_some_and(|address| address.port() == *port),
    };
    if peers.iter().any(is_it) {
        return Ok(());
    }
    let dns = peers.iter().find_map(|peer| match peer {
        Source::One(_) => None,
        Source::Dns { port, .. } => Some(port),
    });
    Err(match dns {
        Some(port) => format!(
            "{own} is no peer: those of a DNS name are addresses; leave it out, or write this machine's, like \
             \"http://10.0.0.7:{port}\""
        ),
        None => format!("{own} is not in peers: all members have the same list, themselves in it"),
    })
}

fn is_zone(text: &str) -> bool {
    let is_ours = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    !text.is_empty() && text.len() <= MAX_ZONE && text.bytes().all(is_ours)
}
