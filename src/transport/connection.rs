//! One connection, from its first byte to its last.
//!
//! TLS or clear, HTTP/1 or HTTP/2 is found out here (TLS: by ALPN; clear: by the first bytes), then hyper speaks it,
//! within bounds of time and memory. A client that has no place is served the same way by somebody whose every
//! answer is 503, so that it can read it whatever it speaks.

use std::{
    convert::Infallible,
    net::SocketAddr,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{Either, Full};
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use super::{
    Connection, Handle, ListenerInner,
    h2::{Activity, StallTimed, StreamExecutor},
    socket::{Broken, Opening, Stream},
    tls::kernel::{self, Handed},
    write_buffer::WriteBuffer,
};
use crate::{peer::Refused, transport::isolate};

/// The head of a request, both HTTP versions. A registry's longest legitimate heads are a token of some KiB, and a `Range` of
/// 1024 ranges (podman's most) of a blob of up to 100 GB: 25 KiB.
const HEAD_BYTES: u32 = 28 * 1024;
/// HTTP/1: with no more bytes than this to write for a connection, hyper asks the body for the next.
const HTTP1_BUFFER: usize = 32 * 1024;
/// HTTP/2: requests one client may have running. RFC 9113 section 6.5.2 recommends no fewer; each stream may hold
/// [`SEND_BUFFER`] bytes of memory.
const MAX_STREAMS: u32 = 100;
/// HTTP/2: bytes of request bodies that a client may send before we read them, per stream and per connection. A push is
/// as fast as a stream's for each round trip; one whose upstream stands still must not take all of the connection's.
const STREAM_WINDOW: u32 = 128 * 1024;
const CONNECTION_WINDOW: u32 = 256 * 1024;
/// HTTP/2: bytes of a response that may wait for the client's window, per stream.
const SEND_BUFFER: usize = 64 * 1024;

/// To a client that speaks HTTP where only TLS is served.
const TLS_ONLY: &str = "HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\n\
                        X-Content-Type-Options: nosniff\r\n\
                        Content-Security-Policy: default-src 'none'; sandbox\r\n\
                        Connection: close\r\n\r\n\
                        {\"errors\":[{\"code\":\"UNSUPPORTED\",\
                        \"message\":\"this port speaks TLS only: use https://\",\"detail\":null}]}\n";
/// To a client that speaks TLS where none is served. It is clear text on purpose: Go's clients (dockerd, containerd)
/// know it by its first bytes, and go on with http:// where they are allowed to.
const CLEAR_ONLY: &str = "HTTP/1.0 400 Bad Request\r\nContent-Type: application/json\r\n\
                          X-Content-Type-Options: nosniff\r\n\
                          Content-Security-Policy: default-src 'none'; sandbox\r\n\
                          Connection: close\r\n\r\n\
                          {\"errors\":[{\"code\":\"UNSUPPORTED\",\
                          \"message\":\"this port speaks clear HTTP only: use http://\",\"detail\":null}]}\n";

/// Who answers.
pub(super) enum Role<H> {
    Serve(Arc<H>),
    /// There are too many connections, or this peer has: 503, and goodbye.
    Refuse(Refused),
}

/// Serves one client until it leaves, idles too long, or the server ends. `loopback`: see [`Connection`].
pub(super) async fn serve<H: Handle>(
    tcp: TcpStream,
    (peer, loopback): (SocketAddr, bool),
    role: Role<H>,
    shared: &ListenerInner,
) {
    let stream = Stream::new(tcp, shared.timeouts.stall);
    let broken = stream.broken();
    let (counted, limit) = match &role {
        Role::Serve(_) => (shared.metrics.as_ref().map(crate::metrics::Metrics::connection), None),
        Role::Refuse(_) => (None, Some(shared.timeouts.courtesy)),
    };
    let recipient = stream.recipient();
    let mut aborted = pin!(rarely(async {
        tokio::select! {
            () = shared.abort.cancelled() => {}
            () = recipient.end.cancelled() => debug!(%peer, "a slow client is in others' way: its connection is reset"),
        }
    }));
    let mut talking = pin!(async {
        match limit {
            None => talk(stream, (peer, loopback), role, shared).await,
            Some(limit) => timeout(limit, talk(stream, (peer, loopback), role, shared)).await.unwrap_or_default(),
        }
    });
    tokio::select! {
        biased;
        // Before the socket is closed: what was being sent must not look like a whole.
        () = &mut aborted => broken.set(),
        () = &mut talking => {}
    }
    drop(counted);
}

/// What a clear HTTP/1 connection has no use for goes on the heap: a task is as large as the largest of its futures.
async fn talk<H: Handle>(
    mut stream: Stream,
    (peer, loopback): (SocketAddr, bool),
    role: Role<H>,
    shared: &ListenerInner,
) {
    let Ok(local) = stream.local_addr() else { return };
    let recipient = stream.recipient();
    let mut connection = Connection {
        peer,
        local,
        tls: false,
        loopback,
        sni: None,
        client_certificate: false,
        send_queue: None,
        recipient,
    };
    let opening = tokio::select! {
        biased;
        opening = timeout(shared.timeouts.first_byte, stream.opening()) => opening,
        () = shared.out_of_grace() => return,
    };
    let (broken, worn) = (stream.broken(), stream.worn());
    match (opening, &shared.tls) {
        (Err(_), _) => stalled(shared, "first_byte", peer),
        (Ok(Err(error)), _) => debug!(%peer, %error, "a client left before its first request"),
        (Ok(Ok(Opening::Closed)), _) => {}
        (Ok(Ok(Opening::Tls)), None) => {
            stream.send_away(CLEAR_ONLY, shared.timeouts.courtesy).await;
            sent_away(peer, StatusCode::BAD_REQUEST, "it speaks TLS, and none is served");
        }
        (Ok(Ok(Opening::Tls)), Some(tls)) => {
            if kernel::is_offered() {
                stream.watch_records();
            }
            let handshake = Box::pin(TlsAcceptor::from(tls.acceptor_config()).accept(stream));
            let stream = tokio::select! {
                () = shared.out_of_grace() => return,
                handshake = timeout(shared.timeouts.handshake, handshake) => match handshake {
                    Err(_) => return stalled(shared, "handshake", peer),
                    Ok(Err(error)) => return debug!(%peer, %error, "a TLS handshake failed"),
                    Ok(Ok(stream)) => stream,
                }
            };
            let session = stream.get_ref().1;
            connection.tls = true;
            connection.sni = session.server_name().map(str::to_owned);
            connection.client_certificate = session.peer_certificates().is_some_and(|chain| !chain.is_empty());
            if session.alpn_protocol() == Some(b"h2") {
                return Box::pin(http2(stream, connection, role, shared, &broken)).await;
            }
            match kernel::hand_over(stream) {
                Ok(Handed::Kernel(mut stream)) => {
                    connection.send_queue = Some(stream.open_lane(shared.metrics.clone()));
                    http1(stream, connection, role, shared, &broken, &worn).await;
                }
                Ok(Handed::Rustls(stream)) => {
                    Box::pin(http1(*stream, connection, role, shared, &broken, &worn)).await;
                }
                Err(error) => debug!(%peer, %error, "the kernel cannot go on with a TLS connection"),
            }
        }
        (Ok(Ok(_)), Some(_)) if !shared.clear_http => {
            stream.send_away(TLS_ONLY, shared.timeouts.courtesy).await;
            sent_away(peer, StatusCode::BAD_REQUEST, "it speaks clear HTTP, and only TLS is served");
        }
        (Ok(Ok(Opening::Http1)), _) => {
            connection.send_queue = Some(stream.open_lane(shared.metrics.clone()));
            http1(stream, connection, role, shared, &broken, &worn).await;
        }
        (Ok(Ok(Opening::Http2)), _) => Box::pin(http2(stream, connection, role, shared, &broken)).await,
    }
}

/// How hyper is to speak HTTP/1.
pub(super) fn http1_builder(head: Duration, keep_alive: bool) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(head)
        .max_header_size(HEAD_BYTES as usize)
        .max_buf_size(HTTP1_BUFFER)
        .keep_alive(keep_alive);
    builder
}

async fn http1<H, I>(
    io: I,
    mut connection: Connection,
    role: Role<H>,
    shared: &ListenerInner,
    broken: &Broken,
    worn: &CancellationToken,
) where
    H: Handle,
    I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let peer = connection.peer;
    if !io.is_write_vectored() || !shared.scheme_holds {
        // hyper would copy the buffers that stand for parts of files, and nobody could tell them any more.
        connection.send_queue = None;
    }
    let connection = Arc::new(connection);
    let keep_alive = matches!(role, Role::Serve(_));
    let begun = CancellationToken::new();
    let first = AtomicBool::new(true);
    let mut enough = pin!(rarely(async {
        tokio::select! {
            () = shared.drained(&begun) => {}
            () = worn.cancelled() => {}
        }
    }));
    let service = service_fn(|request| {
        // To say it again takes a lock each time.
        if first.swap(false, Ordering::Relaxed) {
            begun.cancel();
        }
        let answer = answer(&role, request, connection.clone());
        async { Ok::<_, Infallible>(answer.await) }
    });
    let builder = http1_builder(shared.timeouts.head, keep_alive);
    let mut serving = pin!(builder.serve_connection(TokioIo::new(io), service));
    let result = tokio::select! {
        result = serving.as_mut() => result,
        () = &mut enough => {
            serving.as_mut().graceful_shutdown();
            serving.as_mut().await
        }
    };
    ended(result, peer, broken, shared);
}

async fn http2<H, I>(io: I, connection: Connection, role: Role<H>, shared: &ListenerInner, broken: &Broken)
where
    H: Handle,
    I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let peer = connection.peer;
    let connection = Arc::new(connection);
    let role = Arc::new(role);
    let timeouts = &shared.timeouts;
    let activity = Activity::new();
    let over = CancellationToken::new();
    let streams = StreamExecutor {
        tasks: shared.tasks.clone(),
        ended: over.clone(),
        recipient: connection.recipient.clone(),
        stall: timeouts.stall,
        metrics: shared.metrics.clone(),
        activity: activity.clone(),
    };
    // Whatever ends this connection ends its streams.
    let _over = over.drop_guard();
    let (begun, refused) = (CancellationToken::new(), CancellationToken::new());
    let service = service_fn(|request| {
        begun.cancel();
        let (role, connection, refused) = (role.clone(), connection.clone(), refused.clone());
        async move {
            let response = answer(&role, request, connection).await;
            if matches!(*role, Role::Refuse(_)) {
                refused.cancel();
            }
            Ok::<_, Infallible>(response.map(StallTimed::new))
        }
    });
    let mut serving = pin!(
        http2::Builder::new(streams)
            .timer(TokioTimer::new())
            .keep_alive_interval(timeouts.ping_interval)
            .keep_alive_timeout(timeouts.ping_timeout)
            .max_concurrent_streams(MAX_STREAMS)
            .max_header_list_size(HEAD_BYTES)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_send_buf_size(SEND_BUFFER)
            .serve_connection(TokioIo::new(WriteBuffer::new(io)), service)
    );
    tokio::select! {
        result = serving.as_mut() => return ended(result, peer, broken, shared),
        () = shared.drained(&begun) => {}
        () = activity.quiet(timeouts.idle) => {}
        () = refused.cancelled() => {}
    }
    // GOAWAY is a request: the client finishes what runs and leaves. One that does not leave is left.
    serving.as_mut().graceful_shutdown();
    activity.touch();
    tokio::select! {
        result = serving.as_mut() => ended(result, peer, broken, shared),
        () = activity.quiet(timeouts.stall) => debug!(%peer, "a client did not go away"),
    }
}

impl ListenerInner {
    /// The drain began, and whoever had just connected has had a moment for a first request: a client does not try
    /// again on its own when a connection that it has just opened is closed on it.
    async fn out_of_grace(&self) {
        self.drain.cancelled().await;
        tokio::time::sleep(self.timeouts.grace).await;
    }

    /// The same, for a connection on which a first request has `begun` or is still awaited.
    async fn drained(&self, begun: &CancellationToken) {
        tokio::select! {
            () = self.out_of_grace() => {}
            () = async { tokio::join!(self.drain.cancelled(), begun.cancelled()); } => {}
        }
    }
}

/// The same future, looked at only when it woke this task: to look at a token's cancellation takes its lock, which all
/// connections share, and a connection's task is woken for each request.
async fn rarely(future: impl Future<Output = ()>) {
    FuturesUnordered::from_iter([future]).next().await;
}

/// The handler's answer, or the one for those who have no place.
async fn answer<H: Handle>(
    role: &Role<H>,
    request: Request<Incoming>,
    connection: Arc<Connection>,
) -> Response<Either<H::Body, Full<Bytes>>> {
    match role {
        Role::Serve(handler) => handler.handle(request, connection).await.map(Either::Left),
        Role::Refuse(why) => {
            let response = refusal(*why);
            let why = match why {
                Refused::Full => "there are too many connections",
                Refused::Share => "its address holds the largest share of the connections",
            };
            sent_away(connection.peer, response.status(), why);
            response.map(Either::Right)
        }
    }
}

/// Distribution spec, "Error Codes"; `UNAVAILABLE` is what clients of other registries know for this.
fn refusal(why: Refused) -> Response<Full<Bytes>> {
    const FULL: &str = "{\"errors\":[{\"code\":\"UNAVAILABLE\",\"message\":\"too many connections, try again soon\",\"detail\":null}]}\n";
    const SHARE: &str = "{\"errors\":[{\"code\":\"UNAVAILABLE\",\"message\":\"too many connections from your address: close \
                         some, try again soon, or ask the operator for server.trusted_networks\",\"detail\":null}]}\n";
    let body = match why {
        Refused::Full => FULL,
        Refused::Share => SHARE,
    };
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::RETRY_AFTER, HeaderValue::from_static("2"));
    headers.insert("docker-distribution-api-version", HeaderValue::from_static("registry/2.0"));
    isolate(headers);
    response
}

/// These answers are no handler's, so its log does not have them.
fn sent_away(peer: SocketAddr, status: StatusCode, why: &'static str) {
    info!(%peer, status = status.as_u16(), why, "a client was sent away");
}

fn stalled(shared: &ListenerInner, what: &'static str, peer: SocketAddr) {
    debug!(%peer, what, "a client kept us waiting for too long");
    if let Some(metrics) = &shared.metrics {
        metrics.stall(what);
    }
}

/// Looks at how hyper ended, while it still holds the socket.
fn ended(result: hyper::Result<()>, peer: SocketAddr, broken: &Broken, shared: &ListenerInner) {
    let Err(error) = result else { return };
    if broken.is_stalled() {
        return stalled(shared, "read", peer);
    }
    if error.is_user() {
        // A response body failed half-way. A close alone would look like an end where the length was not announced.
        broken.set();
    }
    debug!(%peer, error = &error as &dyn std::error::Error, "a connection ended");
}
