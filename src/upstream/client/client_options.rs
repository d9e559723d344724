//! What the HTTP clients of one upstream have in common: limits, headers, TLS, and which addresses they dial.

use std::time::Duration;

use http::HeaderMap;
use rustls::ClientConfig;

use super::address_filter::AddressFilter;

/// How long a connection without a request is kept.
pub(super) const MAX_IDLE: Duration = Duration::from_secs(30);
/// Load balancers forget idle connections silently; probes keep them alive, or find them dead.
pub(super) const KEEPALIVE: Duration = Duration::from_secs(20);
/// How long a probe of an HTTP/2 connection may go unanswered.
pub(super) const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// The most headers of a response. hyper allows 400 KB of them over HTTP/1; load balancers and CDNs add dozens.
pub(super) const MAX_HEADERS: usize = 256;
/// The longest head of a response over HTTP/2, in bytes; HTTP/2 counts 32 more for each header, and clients allow 64
/// KiB without them.
pub(super) const MAX_HEAD: u32 = 128 * 1024;

pub(super) const USER_AGENT: &str = concat!("forebay/", env!("CARGO_PKG_VERSION"));

/// What all clients of an upstream have in common.
pub(super) struct ClientOptions {
    pub headers: HeaderMap,
    pub tls: ClientConfig,
    pub filter: AddressFilter,
    /// How long a connection, TLS included, may take to come up.
    pub connect_timeout: Duration,
}

impl ClientOptions {
    /// The TLS configuration of a client that speaks these protocols.
    pub(super) fn tls(&self, protocols: &[&str]) -> ClientConfig {
        let mut tls = self.tls.clone();
        tls.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        tls
    }
}
