//! `[server]`: where forebay listens, and how long it waits.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use super::Timeouts;
use crate::{oci::HostPattern, peer::Network};

/// The `[server]` section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// One port for everything: TLS and clear HTTP are told apart by the first byte.
    pub listen: Vec<SocketAddr>,
    /// `false`: TLS only.
    pub clear_http: bool,
    pub max_connections: usize,
    /// How long running responses may go on after SIGTERM.
    pub drain_timeout: Duration,
    /// How long after SIGTERM clients are still accepted, while `/readyz` says that they should go elsewhere.
    pub drain_delay: Duration,
    /// Peers in these networks are not held to shares: many clients are behind one address there.
    pub trusted_networks: Vec<Network>,
    /// What listeners on loopback addresses answer to, beside localhost, addresses and the hosts of upstreams.
    pub allowed_hosts: Vec<HostPattern>,
    /// Whether browsers get a page at `/`, and clients their snippets below `/setup/`.
    pub page: bool,
    pub tls: Option<TlsConfig>,
    /// How long clients are waited for. No keys: tests shorten them.
    pub timeouts: Timeouts,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: vec![(Ipv4Addr::LOCALHOST, 5000).into()],
            clear_http: true,
            max_connections: 8192,
            drain_timeout: Duration::from_secs(30),
            drain_delay: Duration::ZERO,
            trusted_networks: Vec::new(),
            allowed_hosts: Vec::new(),
            page: true,
            tls: None,
            timeouts: Timeouts::default(),
        }
    }
}

/// The `[server.tls]` section. The files are read again when they change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsConfig {
    /// PEM, leaf first.
    pub certificate: PathBuf,
    /// PEM: PKCS#8, PKCS#1 or SEC1.
    pub key: PathBuf,
    /// Present: clients may show a certificate signed by it.
    pub client_ca: Option<PathBuf>,
}
