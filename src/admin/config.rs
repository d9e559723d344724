//! `[admin]`: where the operator's listener is.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
};

use crate::oci::HostPattern;

/// The `[admin]` section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    pub listen: SocketAddr,
    /// What it answers to on a loopback address, beside localhost, addresses and the hosts of upstreams.
    pub allowed_hosts: Vec<HostPattern>,
    /// Where the control socket is; `None`: see [`places`](super::control_socket::places).
    pub socket: Option<PathBuf>,
    /// The group that may use the control socket; `None`: only forebay's user.
    pub socket_group: Option<String>,
    /// The file with the token that clients of the admin listener show to use the control API; `None`: there is none.
    pub token_file: Option<PathBuf>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: (Ipv4Addr::LOCALHOST, 5001).into(),
            allowed_hosts: Vec::new(),
            socket: None,
            socket_group: None,
            token_file: None,
        }
    }
}
