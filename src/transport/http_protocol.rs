//! Serves HTTP/1 and HTTP/2 by hyper, within bounds of time and memory.

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

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use hyper::{
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::{
    Connection, Handle, Timeouts,
    context::{Client, ServeContext},
    h2::{Activity, StallTimed, StreamExecutor},
    reset_flag::ResetFlag,
    write_buffer::WriteBuffer,
};

/// The head of a request, both HTTP versions. A registry's longest legitimate heads are a token of some KiB, and a `Range` of
/// 1024 ranges (podman's most) of a blob of up to 100 GB: 25 KiB.
const HEAD_BYTES: u32 = 28 * 1024;
/// HTTP/1: hyper polls the body for more while a connection has no more bytes than this to write.
const HTTP1_BUFFER: usize = 32 * 1024;
/// HTTP/2: concurrent requests of one client. RFC 9113 section 6.5.2 recommends no fewer; each stream may hold [`SEND_BUFFER`]
/// bytes of memory.
pub(super) const MAX_STREAMS: u32 = 100;
/// HTTP/2: bytes of request bodies that a client may send before they are read, per stream and per connection. A push sends at
/// most a stream's window per round trip; a push whose upstream stalls must not fill the connection's window.
const STREAM_WINDOW: u32 = 128 * 1024;
const CONNECTION_WINDOW: u32 = 256 * 1024;
/// HTTP/2: bytes of a response that may wait for the client's window, per stream.
const SEND_BUFFER: usize = 64 * 1024;

/// The settings of HTTP/1.
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

pub(super) async fn http1<H, I>(
    io: I,
    mut connection: Connection,
    client: Client<H>,
    context: &ServeContext,
    reset: &ResetFlag,
    keys_exhausted: &CancellationToken,
) where
    H: Handle,
    I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let peer = connection.peer;
    if !io.is_write_vectored() || !context.keeps_buffers {
        // hyper would copy the placeholders, and the copies could not be told from other bytes.
        connection.send_queue = None;
    }
    let connection = Arc::new(connection);
    let keep_alive = client.refusal.is_none();
    let begun = CancellationToken::new();
    let first = AtomicBool::new(true);
    let mut enough = pin!(poll_when_woken(async {
        tokio::select! {
            () = context.drained(&begun) => {}
            () = keys_exhausted.cancelled() => {}
        }
    }));
    let service = service_fn(|request| {
        // To cancel it again takes a lock each time.
        if first.swap(false, Ordering::Relaxed) {
            begun.cancel();
        }
        // On the heap: what it needs until the response begins, some 9 KiB, is free while the body is sent.
        let response = Box::pin(client.respond(request, connection.clone()));
        async { Ok::<_, Infallible>(response.await) }
    });
    let builder = http1_builder(context.timeouts.head, keep_alive);
    let mut serving = pin!(builder.serve_connection(TokioIo::new(io), service));
    let result = tokio::select! {
        result = serving.as_mut() => result,
        () = &mut enough => {
            serving.as_mut().graceful_shutdown();
            serving.as_mut().await
        }
    };
    note_end(result, peer, reset, context);
}

fn http2_builder(streams: StreamExecutor, max_streams: u32, timeouts: &Timeouts) -> http2::Builder<StreamExecutor> {
    let mut builder = http2::Builder::new(streams);
    builder
        .timer(TokioTimer::new())
        .keep_alive_interval(timeouts.ping_interval)
        .keep_alive_timeout(timeouts.ping_timeout)
        .max_concurrent_streams(max_streams)
        .max_header_list_size(HEAD_BYTES)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER);
    builder
}

pub(super) async fn http2<H, I>(
    io: I,
    connection: Connection,
    client: Client<H>,
    context: &ServeContext,
    reset: &ResetFlag,
) where
    H: Handle,
    I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let peer = connection.peer;
    let connection = Arc::new(connection);
    let client = Arc::new(client);
    let timeouts = &context.timeouts;
    let activity = Activity::new();
    let over = CancellationToken::new();
    let streams = StreamExecutor {
        tasks: context.tasks.clone(),
        ended: over.clone(),
        recipient: connection.recipient.clone(),
        stall: timeouts.stall,
        metrics: context.metrics.clone(),
        activity: activity.clone(),
    };
    // The end of this connection ends its streams.
    let _over = over.drop_guard();
    let (begun, refused) = (CancellationToken::new(), CancellationToken::new());
    let service = service_fn(|request| {
        begun.cancel();
        let (client, connection, refused) = (client.clone(), connection.clone(), refused.clone());
        async move {
            // On the heap, as for HTTP/1.
            let response = Box::pin(client.respond(request, connection)).await;
            if client.refusal.is_some() {
                refused.cancel();
            }
            Ok::<_, Infallible>(response.map(StallTimed::new))
        }
    });
    let builder = http2_builder(streams, context.max_streams, timeouts);
    let mut serving = pin!(builder.serve_connection(TokioIo::new(WriteBuffer::new(io)), service));
    tokio::select! {
        result = serving.as_mut() => return note_end(result, peer, reset, context),
        () = context.drained(&begun) => {}
        () = activity.quiet(timeouts.idle) => {}
        () = refused.cancelled() => {}
    }
    // GOAWAY is a request: the client finishes its streams and leaves. One that does not leave is cut off.
    serving.as_mut().graceful_shutdown();
    activity.touch();
    tokio::select! {
        result = serving.as_mut() => note_end(result, peer, reset, context),
        () = activity.quiet(timeouts.stall) => debug!(%peer, "a client did not go away"),
    }
}

/// Polls a future only when it woke this task. To poll a token's cancellation takes a lock that all connections share, and a
/// connection's task is woken for each request.
pub(super) async fn poll_when_woken(future: impl Future<Output = ()>) {
    FuturesUnordered::from_iter([future]).next().await;
}

/// Notes how hyper ended, while it still holds the socket.
fn note_end(result: hyper::Result<()>, peer: SocketAddr, reset: &ResetFlag, context: &ServeContext) {
    let Err(error) = result else { return };
    if reset.is_stalled() {
        return context.note_stall("read", peer);
    }
    if error.is_user() {
        // A response body failed half-way. Without a Content-Length a close would look like its end.
        reset.set();
    }
    debug!(%peer, error = &error as &dyn std::error::Error, "a connection ended");
}
