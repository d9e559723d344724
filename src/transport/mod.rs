//! Bytes in, bytes out: the only code that serves HTTP.
//!
//! This file owns the sockets: it binds them, accepts, keeps the number of connections bounded, and drains. What
//! happens on one connection is `connection`'s; which first byte means what is `stream`'s; certificates are
//! `tls`'s. What a request means is the [`Handle`]r's, and nothing here knows about registries.
//!
//! What must hold:
//! - every wait for a client ends: see [`Timeouts`];
//! - over `max_connections`, or its peer's share of them, a client is told so, and telling is bounded too;
//! - no error of `accept` ends the loop, and where the process has no descriptor left there is a spare one for a refusal;
//! - when [`Listener::run`] returns, every task it spawned has ended.

mod browser;
pub mod config;
mod connection;
pub(crate) mod h2;
pub(crate) mod recipient;
pub(crate) mod request_body;
mod send_rate;
mod socket;
mod spare_descriptors;
mod timeouts;
mod tls;
mod write_buffer;
pub(crate) mod zero_copy;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::FutureExt as _;
use http::{Request, Response};
use hyper::body::Incoming;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, warn};

use self::spare_descriptors::Reserve;
pub use self::{
    browser::isolate,
    config::{Config, TlsConfig},
    recipient::Recipient,
    timeouts::Timeouts,
    tls::{PreparedTls, ReloadableTls, TlsError},
    zero_copy::queue::SendQueue,
};
use crate::{
    metrics::Metrics,
    peer::{Permit, Refused, Shares, TrustedNetworks},
    small_file::is_lack_of_descriptors,
};

/// What a body may fail with.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// How many clients may wait in the kernel for us to accept them.
const BACKLOG: u32 = 1024;
/// How many clients over the limit are told so at the same time, where there are descriptors for it; beyond it they are
/// just disconnected.
const MAX_COURTESIES: u64 = 64;
/// Descriptors that each server keeps for when the process has no other: clients are told 503 by them, operators served.
const MAX_RESERVE: usize = 8;
/// How long `accept` rests when the process has no descriptor or memory left for a connection.
const BACK_OFF: Duration = Duration::from_millis(100);

/// Answers requests.
pub trait Handle: Send + Sync + 'static {
    type Body: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static;

    /// The future is dropped when the client leaves. A body that fails breaks the connection (HTTP/1: reset;
    /// HTTP/2: stream reset), so that a failure never looks like an end.
    fn handle(
        &self,
        request: Request<Incoming>,
        connection: Arc<Connection>,
    ) -> impl Future<Output = Response<Self::Body>> + Send;
}

/// What is known about a client before its first request.
#[derive(Clone, Debug)]
pub struct Connection {
    pub peer: SocketAddr,
    pub local: SocketAddr,
    pub tls: bool,
    /// Whether the listener is bound to a loopback address: only programs of this machine come in, browsers among them.
    pub loopback: bool,
    /// The name the client asked for in its TLS hello.
    pub sni: Option<String>,
    /// Whether the client showed a certificate signed by `client_ca`.
    pub client_certificate: bool,
    /// Where bodies put parts of files that the kernel is to send; HTTP/1 has one, unless rustls
    /// encrypts it.
    pub send_queue: Option<SendQueue>,
    /// What ends it, and how fast it takes what it is sent. Of HTTP/2, each stream has its own.
    pub recipient: Recipient,
}

/// Why the server cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    #[error("cannot listen on {address}")]
    Bind { address: SocketAddr, source: io::Error },
    #[error("cannot use the inherited socket")]
    Inherited { source: io::Error },
    #[error("there is no address to listen on")]
    Nowhere,
}

/// Sockets on which one set of limits and one handler serve HTTP.
pub struct Listener {
    sockets: Vec<TcpListener>,
    clear_http: bool,
    max_connections: usize,
    trusted: TrustedNetworks,
    drain_timeout: Duration,
    timeouts: Timeouts,
    tls: Option<ReloadableTls>,
    metrics: Option<Metrics>,
    /// Whether clients are served by a spare descriptor, rather than told that there is none.
    served_by_reserve: bool,
}

/// What all connections of one listener share.
struct ListenerInner {
    clear_http: bool,
    /// Parts of files may be sent by the kernel.
    scheme_holds: bool,
    timeouts: Timeouts,
    tls: Option<ReloadableTls>,
    metrics: Option<Metrics>,
    /// Who may be served, and who may be told that they may not.
    places: Shares,
    courtesies: Shares,
    reserve: Reserve,
    served_by_reserve: bool,
    tasks: TaskTracker,
    /// Finish what is running, begin nothing.
    drain: CancellationToken,
    /// End now.
    abort: CancellationToken,
}

impl Listener {
    /// Listens on the addresses of `config`, or on the sockets that were `inherited` when there are any. Must be
    /// called within a runtime.
    ///
    /// # Errors
    /// When an address is taken, forbidden or not ours.
    pub fn bind(
        config: &Config,
        inherited: Vec<std::net::TcpListener>,
        tls: Option<ReloadableTls>,
        metrics: Metrics,
    ) -> Result<Listener, ListenError> {
        let sockets: Vec<_> = if inherited.is_empty() {
            config.listen.iter().map(|address| listen(*address)).collect::<Result<_, _>>()?
        } else {
            inherited.into_iter().map(adopt).collect::<Result<_, _>>()?
        };
        if sockets.is_empty() {
            return Err(ListenError::Nowhere);
        }
        Ok(Listener {
            sockets,
            clear_http: config.clear_http,
            max_connections: config.max_connections,
            trusted: TrustedNetworks::new(config.trusted_networks.clone()),
            drain_timeout: config.drain_timeout,
            timeouts: config.timeouts,
            tls,
            metrics: Some(metrics),
            served_by_reserve: false,
        })
    }

    /// Serves clear HTTP on a socket that is there already; its connections are not counted in the metrics, and served
    /// also where the process has no descriptor left but the spare ones.
    pub fn clear(socket: TcpListener, max_connections: usize, drain_timeout: Duration) -> Listener {
        Listener {
            sockets: vec![socket],
            clear_http: true,
            max_connections,
            trusted: TrustedNetworks::default(),
            drain_timeout,
            timeouts: Timeouts::default(),
            tls: None,
            metrics: None,
            served_by_reserve: true,
        }
    }

    /// Waits as long as `timeouts` say, instead of the defaults.
    #[must_use]
    pub fn with_timeouts(mut self, timeouts: Timeouts) -> Listener {
        self.timeouts = timeouts;
        self
    }

    /// Exempts these networks from shares, whatever the configuration said at the start.
    #[must_use]
    pub fn trusting(mut self, trusted: TrustedNetworks) -> Listener {
        self.trusted = trusted;
        self
    }

    /// Where clients can connect, in the order of the configuration.
    pub fn local_addrs(&self) -> Vec<SocketAddr> {
        self.sockets.iter().filter_map(|socket| socket.local_addr().ok()).collect()
    }

    /// Serves until `shutdown`, then lets running responses finish for up to `drain_timeout`, then ends them.
    pub async fn run<H: Handle>(self, handler: Arc<H>, shutdown: CancellationToken) {
        let scheme_holds = zero_copy::hyper_contract::holds(&connection::http1_builder(self.timeouts.head, true)).await;
        if !scheme_holds {
            warn!(
                "cached blobs are copied, and not sent by the kernel: this hyper does not hand on buffers as they are"
            );
        }
        let shared = Arc::new(ListenerInner {
            clear_http: self.clear_http,
            scheme_holds,
            timeouts: self.timeouts,
            tls: self.tls,
            metrics: self.metrics,
            places: Shares::new(u64::try_from(self.max_connections).unwrap_or(u64::MAX), self.trusted.clone()),
            courtesies: Shares::new(spare_descriptors::eighth_of_descriptors().min(MAX_COURTESIES), self.trusted),
            reserve: Reserve::new(MAX_RESERVE),
            served_by_reserve: self.served_by_reserve,
            tasks: TaskTracker::new(),
            drain: shutdown.clone(),
            abort: CancellationToken::new(),
        });
        // Whoever drops this future instead of cancelling it ends the connections as well.
        let abort = shared.abort.clone().drop_guard();
        for socket in self.sockets {
            shared.tasks.spawn(accept(socket, handler.clone(), shared.clone()));
        }
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = sweep() => {}
        }
        shared.tasks.close();
        if tokio::time::timeout(self.drain_timeout, shared.tasks.wait()).await.is_err() {
            warn!(connections = shared.tasks.len(), "drain_timeout is over: ending what still runs");
        }
        drop(abort);
        shared.tasks.wait().await;
    }
}

/// Gives back, for as long as it is polled, the memory and the descriptors that no client needs any more.
async fn sweep() {
    let mut turns = tokio::time::interval(zero_copy::buffer_pool::SWEEP_INTERVAL);
    loop {
        turns.tick().await;
        zero_copy::buffers::sweep();
        zero_copy::splice::sweep();
    }
}

/// Accepts clients from one socket until the drain begins; then the socket is closed.
async fn accept<H: Handle>(socket: TcpListener, handler: Arc<H>, shared: Arc<ListenerInner>) {
    let loopback = socket.local_addr().is_ok_and(|address| address.ip().to_canonical().is_loopback());
    let accepting = async {
        let mut failing = false;
        loop {
            match socket.accept().await {
                Ok((tcp, peer)) => {
                    failing = false;
                    admit(tcp, (peer, loopback), &handler, &shared, shared.places.take(peer.ip(), 1));
                    continue;
                }
                // The client was gone before we looked: nothing is wrong with us, and the next one may be there.
                Err(error) if is_about_one_client(&error) => {
                    debug!(%error, "a client left early");
                    continue;
                }
                Err(error) => {
                    if !failing {
                        warn!(%error, "cannot accept connections; trying again");
                    }
                    failing = true;
                    if is_lack_of_descriptors(&error)
                        && shared.reserve.release()
                        && let Some(Ok((tcp, peer))) = socket.accept().now_or_never()
                    {
                        let place = match shared.served_by_reserve {
                            true => shared.places.take(peer.ip(), 1),
                            false => Err(Refused::Full),
                        };
                        // Where one cannot even be told, the others wait in the kernel until some are done.
                        if admit(tcp, (peer, loopback), &handler, &shared, place) {
                            continue;
                        }
                    }
                }
            }
            tokio::time::sleep(BACK_OFF).await;
            shared.reserve.refill();
        }
    };
    tokio::select! {
        () = shared.abort.cancelled() => {}
        () = shared.drain.cancelled() => {}
        () = accepting => {}
    }
}

/// Serves a client that has a place, or tells it that it has none, or just closes: then the answer is `false`.
fn admit<H: Handle>(
    tcp: TcpStream,
    (peer, loopback): (SocketAddr, bool),
    handler: &Arc<H>,
    shared: &Arc<ListenerInner>,
    place: Result<Permit, Refused>,
) -> bool {
    let (role, place) = match place {
        Ok(place) => (connection::Role::Serve(handler.clone()), place),
        Err(why) => {
            if let Some(metrics) = &shared.metrics {
                metrics.connection_refused();
            }
            match shared.courtesies.take(peer.ip(), 1) {
                Ok(place) => (connection::Role::Refuse(why), place),
                Err(_) => {
                    drop(tcp);
                    shared.reserve.refill();
                    return false;
                }
            }
        }
    };
    let shared = shared.clone();
    shared.clone().tasks.spawn(async move {
        connection::serve(tcp, (peer, loopback), role, &shared).await;
        drop(place);
        shared.reserve.refill();
    });
    true
}

/// Whether `accept` failed because of one client, not because of us. See accept(2), "Error handling".
fn is_about_one_client(error: &io::Error) -> bool {
    use io::ErrorKind as K;
    matches!(
        error.kind(),
        K::ConnectionAborted | K::ConnectionReset | K::ConnectionRefused | K::Interrupted | K::PermissionDenied
    )
}

fn listen(address: SocketAddr) -> Result<TcpListener, ListenError> {
    let bind = || {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        // A restart must not wait for the last connections' TIME_WAIT.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    bind().map_err(|source| ListenError::Bind { address, source })
}

fn adopt(socket: std::net::TcpListener) -> Result<TcpListener, ListenError> {
    let adopt = || {
        socket.set_nonblocking(true)?;
        TcpListener::from_std(socket)
    };
    adopt().map_err(|source| ListenError::Inherited { source })
}
