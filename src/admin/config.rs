//! `[admin]`: where the operator's listener is.

use std::net::{Ipv4Addr, SocketAddr};

use crate::oci::HostPattern;

/// The `[admin]` section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    pub listen: SocketAddr,
    /// What it answers to on a loopback address, beside localhost, addresses and the hosts of upstreams.
    pub allowed_hosts: Vec<HostPattern>,
}

impl Default for Config {
    fn default() -> Self {
        Self { listen: (Ipv4Addr::LOCALHOST, 5001).into(), allowed_hosts: Vec::new() }
    }
}
