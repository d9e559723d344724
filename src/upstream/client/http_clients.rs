//! The HTTP clients of one upstream, and their limits.
//!
//! What must hold: none follows a redirect, sends a Referer, keeps a cookie or decodes a body by itself.

use std::time::Duration;

use http::HeaderMap;
use reqwest::{Client, redirect::Policy};
use rustls::ClientConfig;

use super::{address_filter::AddressFilter, connection_reuse::NoteNewConnections};

/// How long a connection, TLS included, may take to come up.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection without a request is kept.
const MAX_IDLE: Duration = Duration::from_secs(30);
/// Load balancers forget idle connections silently; probes keep them alive, or find them dead.
const KEEPALIVE: Duration = Duration::from_secs(20);
/// How long a probe of an HTTP/2 connection may go unanswered.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// The most headers of a response. hyper allows 400 KB of them over HTTP/1; load balancers and CDNs add dozens.
const MAX_HEADERS: usize = 256;
/// The longest head of a response over HTTP/2, in bytes; HTTP/2 counts 32 more for each header, and clients allow 64
/// KiB without them.
const MAX_HEAD: u32 = 128 * 1024;

const USER_AGENT: &str = concat!("forebay/", env!("CARGO_PKG_VERSION"));

/// The HTTP clients of one upstream; each has connections of its own.
pub(super) struct Clients {
    pub general: Client,
    /// For bodies of blobs. Over HTTP/2, slow ones would take the streams of other requests.
    pub blobs: Client,
    /// For uploads, for the same reason.
    pub uploads: Client,
    /// For requests that each need a connection of their own, which HTTP/2 would not give them.
    pub dedicated: Client,
    /// Keeps no idle connection: each request opens one.
    pub fresh: Client,
}

/// What all clients of an upstream have in common.
pub(super) struct ClientOptions {
    pub headers: HeaderMap,
    pub tls: ClientConfig,
    pub filter: AddressFilter,
}

impl ClientOptions {
    pub(super) fn build(&self) -> reqwest::Result<Clients> {
        let any = ["h2", "http/1.1"];
        Ok(Clients {
            general: self.client(&any, usize::MAX)?,
            blobs: self.client(&any, usize::MAX)?,
            uploads: self.client(&any, usize::MAX)?,
            dedicated: self.client(&["http/1.1"], usize::MAX)?,
            fresh: self.client(&any, 0)?,
        })
    }

    /// A client that speaks these protocols and keeps at most `max_idle` idle connections to a host.
    fn client(&self, protocols: &[&str], max_idle: usize) -> reqwest::Result<Client> {
        let mut tls = self.tls.clone();
        tls.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        Client::builder()
            .user_agent(USER_AGENT)
            .default_headers(self.headers.clone())
            .redirect(Policy::none())
            .referer(false)
            // `ResendingClient` decides what is sent again: reqwest would repeat a push.
            .retry(reqwest::retry::never())
            .no_gzip()
            .no_brotli()
            .no_zstd()
            .no_deflate()
            .connect_timeout(CONNECT_TIMEOUT)
            .pool_idle_timeout(MAX_IDLE)
            .pool_max_idle_per_host(max_idle)
            .connector_layer(NoteNewConnections)
            .http1_max_headers(MAX_HEADERS)
            .http2_max_header_list_size(MAX_HEAD)
            .tcp_keepalive(KEEPALIVE)
            .http2_keep_alive_interval(KEEPALIVE)
            .http2_keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .dns_resolver(self.filter.clone())
            .tls_backend_preconfigured(tls)
            .build()
    }
}
