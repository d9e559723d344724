//! The HTTP clients of one upstream.
//!
//! What must hold: none follows a redirect, sends a Referer, keeps a cookie or decodes a body by itself.

use reqwest::{Client, redirect::Policy};

use super::{
    blob_client::BlobClient,
    client_options::{
        CONNECT_TIMEOUT, ClientOptions, KEEPALIVE, KEEPALIVE_TIMEOUT, MAX_HEAD, MAX_HEADERS, MAX_IDLE, USER_AGENT,
    },
    http_client::HttpClient,
    new_connections::NoteNewConnections,
};

/// The HTTP clients of one upstream; each has connections of its own.
pub(super) struct Clients {
    pub general: HttpClient,
    /// For bodies of blobs. Over HTTP/2, slow ones would take the streams of other requests.
    pub blobs: HttpClient,
    /// For uploads, for the same reason.
    pub uploads: Client,
    /// For requests that each need a connection of their own, which HTTP/2 would not give them.
    pub dedicated: HttpClient,
    /// Keeps no idle connection: each request opens one.
    pub fresh: HttpClient,
}

impl Clients {
    pub(super) fn new(options: &ClientOptions) -> reqwest::Result<Self> {
        let any = ["h2", "http/1.1"];
        Ok(Self {
            general: reqwest_client(options, &any, usize::MAX)?.into(),
            blobs: HttpClient {
                general: reqwest_client(options, &any, usize::MAX)?,
                blobs: Some(BlobClient::new(options, options.tls(&any))),
            },
            uploads: reqwest_client(options, &any, usize::MAX)?,
            dedicated: reqwest_client(options, &["http/1.1"], usize::MAX)?.into(),
            fresh: reqwest_client(options, &any, 0)?.into(),
        })
    }
}

/// A client that speaks these protocols and keeps at most `max_idle` idle connections to a host.
fn reqwest_client(options: &ClientOptions, protocols: &[&str], max_idle: usize) -> reqwest::Result<Client> {
    Client::builder()
        .user_agent(USER_AGENT)
        .default_headers(options.headers.clone())
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
        .dns_resolver(options.filter.clone())
        .tls_backend_preconfigured(options.tls(protocols))
        .build()
}
