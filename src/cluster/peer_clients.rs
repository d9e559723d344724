//! How peers are reached: the connections to one of them, over HTTP/2.
//!
//! What must hold: a peer gets a further connection only while those that it has are busy; what of its responses is on the
//! way has a bound.

use std::{
    fmt,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use reqwest::{Client, ClientBuilder, Url, redirect::Policy};

use super::authority::Authority;

const USER_AGENT: &str = concat!("forebay/", env!("CARGO_PKG_VERSION"));
/// How often a peer is asked by PING whether it lives, while it has requests.
const PING_INTERVAL: Duration = Duration::from_millis(500);
/// How many connections go to one peer. The streams of one connection share a task, and a core, at each end, and are at
/// most 100 at a time.
const CONNECTIONS: usize = 4;
/// How many responses a connection carries before the next one is used: enough that a peer with little to send has one
/// handshake, and few enough that large blobs get a core each.
const BUSY: usize = 4;
/// How long an idle connection is kept.
const MAX_IDLE: Duration = Duration::from_secs(30);
/// How many bytes of one response may be on their way. At 1 ms and 500 MB/s half a megabyte is.
const STREAM_WINDOW: u32 = 512 * 1024;
/// The same of all responses of a connection: 15 responses whose readers stand still do not stop the 16th.
const CONNECTION_WINDOW: u32 = 16 * STREAM_WINDOW;
/// The longest head of a response in bytes, as of a registry.
const MAX_HEAD: u32 = 128 * 1024;

/// How peers are reached.
#[derive(Clone)]
pub(super) struct PeerClients {
    pub tls: rustls::ClientConfig,
    pub server_name: Option<Arc<str>>,
    /// Where this forebay is.
    pub zone: Option<Arc<str>>,
    /// How long a peer may take to answer a PING; to accept a connection, a quarter of that.
    pub timeout: Duration,
}

/// A peer has no client: its name is not one of a host.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct NoClient(Box<str>);

impl NoClient {
    fn of(error: &dyn fmt::Display) -> Self {
        Self(error.to_string().into())
    }
}

/// The connections to one peer.
pub(super) struct Connections {
    /// The URL of the peer; with `server_name` in place of an address.
    pub base: Url,
    /// One for each connection, and how many responses it carries.
    clients: Box<[(Client, Arc<AtomicUsize>)]>,
}

/// A connection while it carries a response. To be kept with that.
#[derive(Clone, Debug)]
pub(crate) struct Carried(#[expect(dead_code, reason = "its end counts")] Arc<Counted>);

#[derive(Debug)]
struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl PeerClients {
    /// # Errors
    /// The name of the peer, or `server_name`, is not one of a host.
    pub(super) fn connections(&self, authority: &Authority) -> Result<Connections, NoClient> {
        let mut base = Url::parse(&authority.to_string()).map_err(|error| NoClient::of(&error))?;
        // Where certificates have a name, this stands for the address.
        let named = self.server_name.as_deref().filter(|_| authority.is_tls()).zip(authority.address());
        if let Some((server_name, _)) = named {
            base.set_host(Some(server_name)).map_err(|error| NoClient::of(&error))?;
        }
        let client = |_| {
            let builder = self.builder();
            let builder = match named {
                Some((server_name, address)) => builder.resolve(server_name, SocketAddr::new(address.ip(), 0)),
                None => builder,
            };
            let client = builder.build().map_err(|error| NoClient::of(&error))?;
            Ok((client, Arc::default()))
        };
        Ok(Connections { base, clients: (0..CONNECTIONS).map(client).collect::<Result<_, _>>()? })
    }

    fn builder(&self) -> ClientBuilder {
        Client::builder()
            .user_agent(USER_AGENT)
            .no_proxy()
            .redirect(Policy::none())
            .referer(false)
            .retry(reqwest::retry::never())
            .no_gzip()
            .no_brotli()
            .no_zstd()
            .no_deflate()
            .connect_timeout(self.timeout / 4)
            .pool_idle_timeout(MAX_IDLE)
            .tcp_nodelay(true)
            .http2_prior_knowledge()
            .http2_keep_alive_interval(PING_INTERVAL)
            .http2_keep_alive_timeout(self.timeout)
            .http2_initial_stream_window_size(STREAM_WINDOW)
            .http2_initial_connection_window_size(CONNECTION_WINDOW)
            .http2_max_header_list_size(MAX_HEAD)
            .tls_backend_preconfigured(self.tls.clone())
    }
}

impl Connections {
    /// The client for one more request, and what is to be kept until its response is read.
    pub(super) fn next(&self) -> (&Client, Carried) {
        let carried: [usize; CONNECTIONS] = std::array::from_fn(|index| {
            self.clients.get(index).map_or(usize::MAX, |one| one.1.load(Ordering::Relaxed))
        });
        let (client, count) = &self.clients[choose(&carried) % self.clients.len()];
        count.fetch_add(1, Ordering::Relaxed);
        (client, Carried(Arc::new(Counted(count.clone()))))
    }
}

/// The first connection with room; if all are busy, the one that carries least.
fn choose(carried: &[usize; CONNECTIONS]) -> usize {
    let with_room = carried.iter().position(|carried| *carried < BUSY);
    let least = || carried.iter().enumerate().min_by_key(|(_, carried)| **carried).map(|(index, _)| index);
    with_room.or_else(least).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_further_connection_is_used_while_others_are_busy() {
        for (carried, expected) in [
            ([0, 0, 0, 0], 0),
            ([3, 0, 0, 0], 0),
            ([4, 0, 0, 0], 1),
            ([4, 4, 0, 0], 2),
            ([3, 4, 4, 4], 0),
            ([4, 4, 4, 4], 0),
            ([7, 6, 5, 6], 2),
        ] {
            assert_eq!(choose(&carried), expected, "{carried:?}");
        }
    }

    #[tokio::test]
    async fn a_response_that_was_read_makes_room() {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let tls = tls.with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth();
        let clients = PeerClients { tls, server_name: None, zone: None, timeout: Duration::from_secs(1) };
        let connections = clients.connections(&"http://127.0.0.1:5000".parse().unwrap()).unwrap();
        let counts = || connections.clients.iter().map(|one| one.1.load(Ordering::Relaxed)).collect::<Vec<_>>();
        let mut carried: Vec<Carried> = (0..6).map(|_| connections.next().1).collect();
        assert_eq!(counts(), [4, 2, 0, 0]);
        // As the extensions of a response are.
        let copy = carried[0].clone();
        carried.remove(0);
        assert_eq!(counts(), [4, 2, 0, 0]);
        drop(copy);
        assert_eq!(counts(), [3, 2, 0, 0]);
        drop(carried);
        assert_eq!(counts(), [0, 0, 0, 0]);
    }
}
