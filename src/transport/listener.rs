//! Accepts connections: binds sockets, bounds the number of connections, and drains.
//!
//! What must hold:
//! - every wait for a client ends: see [`Timeouts`];
//! - over `max_connections`, or over its peer's share of them, a client gets a refusal, and the number of refusals is bounded;
//! - no error of `accept` ends the loop, and if the process has no descriptor left, a spare one is used for a refusal;
//! - when [`Listener::run`] returns, every task it spawned has ended.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use futures_util::FutureExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, warn};

use super::{
    Config, Handle, Refusal, Timeouts,
    bind::bind,
    client_log::ClientLog,
    connection,
    context::{Client, ServeContext},
    http_protocol,
    spare_descriptors::{self, Reserve},
    tls::ReloadableTls,
    zero_copy,
};
use crate::{
    metrics::Metrics,
    peer::{Permit, Refused, Shares, TrustedNetworks},
    small_file::is_lack_of_descriptors,
};

/// How many clients get a refusal at the same time, if there are descriptors for it; beyond it connections are only closed.
const MAX_COURTESIES: u64 = 64;
/// How many descriptors each listener keeps for when the process has no other: to refuse clients, or to serve operators.
const MAX_RESERVE: usize = 8;
/// How long `accept` rests when the process has no descriptor or memory left for a connection.
const BACK_OFF: Duration = Duration::from_millis(100);

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
    /// Bounds the clients that are served.
    places: Shares,
    trusted: TrustedNetworks,
    drain_timeout: Duration,
    timeouts: Timeouts,
    max_streams: u32,
    tls: Option<ReloadableTls>,
    metrics: Option<Metrics>,
    /// Whether a spare descriptor serves a client, instead of refusing it.
    served_by_reserve: bool,
}

/// What all connections of one listener share, and what bounds their number.
struct ListenerInner {
    context: ServeContext,
    /// Bounds the clients that are served, and those that are refused.
    places: Shares,
    courtesies: Shares,
    reserve: Reserve,
    served_by_reserve: bool,
}

/// The number of clients that a listener serves at a time. A cheap handle.
#[derive(Clone, Debug)]
pub struct ConnectionLimit(Shares);

impl ConnectionLimit {
    /// Changes the number. Connections above a lower one stay; new ones are refused until enough have ended.
    pub fn set(&self, max_connections: usize) {
        self.0.set_total(count(max_connections));
    }
}

fn count(connections: usize) -> u64 {
    u64::try_from(connections).unwrap_or(u64::MAX)
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
            config.listen.iter().map(|address| listen(*address, &config.listen)).collect::<Result<_, _>>()?
        } else {
            inherited.into_iter().map(adopt).collect::<Result<_, _>>()?
        };
        if sockets.is_empty() {
            return Err(ListenError::Nowhere);
        }
        let trusted = TrustedNetworks::new(config.trusted_networks.clone());
        Ok(Listener {
            sockets,
            clear_http: config.clear_http,
            places: Shares::new(count(config.max_connections), trusted.clone()),
            trusted,
            drain_timeout: config.drain_timeout,
            timeouts: config.timeouts,
            max_streams: http_protocol::MAX_STREAMS,
            tls,
            metrics: Some(metrics),
            served_by_reserve: false,
        })
    }

    /// Serves clear HTTP on a socket that is bound already. Its connections are not counted in the metrics, and are served
    /// even if the process has only the spare descriptors left.
    pub fn clear(socket: TcpListener, max_connections: usize, drain_timeout: Duration) -> Listener {
        Listener {
            sockets: vec![socket],
            clear_http: true,
            places: Shares::new(count(max_connections), TrustedNetworks::default()),
            trusted: TrustedNetworks::default(),
            drain_timeout,
            timeouts: Timeouts::default(),
            max_streams: http_protocol::MAX_STREAMS,
            tls: None,
            metrics: None,
            served_by_reserve: true,
        }
    }

    /// Replaces the default timeouts.
    #[must_use]
    pub fn with_timeouts(mut self, timeouts: Timeouts) -> Listener {
        self.timeouts = timeouts;
        self
    }

    /// Serves no more concurrent requests of one client than this over HTTP/2.
    #[must_use]
    pub fn with_streams(mut self, max_streams: u32) -> Listener {
        self.max_streams = max_streams;
        self
    }

    /// Exempts these networks from shares, instead of those of the configuration.
    #[must_use]
    pub fn trusting(mut self, trusted: TrustedNetworks) -> Listener {
        self.places = Shares::new(self.places.total(), trusted.clone());
        self.trusted = trusted;
        self
    }

    /// How many clients are served at a time, to change it while the listener runs.
    pub fn connection_limit(&self) -> ConnectionLimit {
        ConnectionLimit(self.places.clone())
    }

    /// Where clients can connect, in the order of the configuration.
    pub fn local_addrs(&self) -> Vec<SocketAddr> {
        self.sockets.iter().filter_map(|socket| socket.local_addr().ok()).collect()
    }

    /// Serves until `shutdown`, then lets running responses finish for up to `drain_timeout`, then ends them.
    pub async fn run<H: Handle>(self, handler: Arc<H>, shutdown: CancellationToken) {
        let keeps_buffers =
            zero_copy::hyper_contract::holds(&http_protocol::http1_builder(self.timeouts.head, true)).await;
        if !keeps_buffers {
            warn!(
                "cached blobs are copied, and not sent by the kernel: this hyper does not hand on buffers as they are"
            );
        }
        let log = Arc::new(ClientLog::new(self.metrics.clone()));
        let shared = Arc::new(ListenerInner {
            context: ServeContext {
                clear_http: self.clear_http,
                keeps_buffers,
                tls: self.tls,
                metrics: self.metrics,
                log,
                timeouts: self.timeouts,
                max_streams: self.max_streams,
                tasks: TaskTracker::new(),
                drain: shutdown.clone(),
                abort: CancellationToken::new(),
            },
            places: self.places,
            courtesies: Shares::new(spare_descriptors::eighth_of_descriptors().min(MAX_COURTESIES), self.trusted),
            reserve: Reserve::new(MAX_RESERVE),
            served_by_reserve: self.served_by_reserve,
        });
        // To drop this future, instead of cancelling `shutdown`, ends the connections as well.
        let abort = shared.context.abort.clone().drop_guard();
        let tasks = shared.context.tasks.clone();
        for socket in self.sockets {
            tasks.spawn(accept(socket, handler.clone(), shared.clone()));
        }
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = sweep() => {}
        }
        tasks.close();
        if tokio::time::timeout(self.drain_timeout, tasks.wait()).await.is_err() {
            warn!(connections = tasks.len(), "drain_timeout is over: ending what still runs");
        }
        drop(abort);
        tasks.wait().await;
    }
}

/// Frees the memory and the descriptors that no client needs any more, for as long as it is polled.
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
                // The client had left already; the next one may be there.
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
                        // If not even a refusal is possible, the other clients wait in the kernel until connections end.
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
        () = shared.context.abort.cancelled() => {}
        () = shared.context.drain.cancelled() => {}
        () = accepting => {}
    }
}

/// Serves a client that has a place. One that has none is refused; if too many are being refused, its connection is only
/// closed, and the result is `false`.
fn admit<H: Handle>(
    tcp: TcpStream,
    (peer, loopback): (SocketAddr, bool),
    handler: &Arc<H>,
    shared: &Arc<ListenerInner>,
    place: Result<Permit, Refused>,
) -> bool {
    let (refusal, place) = match place {
        Ok(place) => (None, place),
        Err(refused) => {
            if let Some(metrics) = &shared.context.metrics {
                metrics.connection_refused();
            }
            let refusal = match refused {
                Refused::Full => Refusal::Full,
                Refused::Share => Refusal::Share,
            };
            match shared.courtesies.take(peer.ip(), 1) {
                Ok(place) => (Some(refusal), place),
                Err(_) => {
                    drop(tcp);
                    shared.reserve.refill();
                    return false;
                }
            }
        }
    };
    let client = Client { handler: handler.clone(), refusal, log: shared.context.log.clone() };
    let served = shared.clone();
    shared.context.tasks.spawn(async move {
        connection::serve(tcp, (peer, loopback), client, &served.context).await;
        drop(place);
        served.reserve.refill();
    });
    true
}

/// Whether `accept` failed because of one client. See accept(2), "Error handling".
fn is_about_one_client(error: &io::Error) -> bool {
    use io::ErrorKind as K;
    matches!(
        error.kind(),
        K::ConnectionAborted | K::ConnectionReset | K::ConnectionRefused | K::Interrupted | K::PermissionDenied
    )
}

fn listen(address: SocketAddr, beside: &[SocketAddr]) -> Result<TcpListener, ListenError> {
    let socket = bind(address, beside).and_then(TcpListener::from_std);
    socket.map_err(|source| ListenError::Bind { address, source })
}

fn adopt(socket: std::net::TcpListener) -> Result<TcpListener, ListenError> {
    let adopt = || {
        socket.set_nonblocking(true)?;
        TcpListener::from_std(socket)
    };
    adopt().map_err(|source| ListenError::Inherited { source })
}
