//! `[admin]`: where the operator's listener is.

use std::net::SocketAddr;

/// The `[admin]` section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    pub listen: SocketAddr,
}
