//! An HTTP/1 server on a Unix socket, for programs of this machine.
//!
//! What must hold: the number of clients and the heads of their requests are bounded, and so is every wait for a client. When
//! [`serve`] returns, every task that it spawned has ended.

use std::{convert::Infallible, pin::pin, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    net::{UnixListener, UnixStream},
    sync::Semaphore,
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, warn};

use super::{BoxError, http_protocol::http1_builder, stalled_writes::StalledWrites};

/// How many clients are served at a time; the others wait in the kernel.
pub const MAX_CLIENTS: usize = 32;
/// How long a client may take for the head of a request, and stay idle after it.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a client may send requests; the response to the last one may take longer.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a client may read nothing of a response.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a response may take after the shutdown.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);
/// How long `accept` rests when the process has no descriptor or memory left for a connection.
const BACK_OFF: Duration = Duration::from_millis(100);

/// Responds to requests of programs of this machine. Who may connect is decided by the mode of the socket.
pub trait HandleLocal: Send + Sync + 'static {
    type Body: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static;

    fn handle(&self, request: Request<Incoming>) -> impl Future<Output = Response<Self::Body>> + Send;
}

/// Serves until `shutdown`.
pub async fn serve<H: HandleLocal>(socket: &UnixListener, handler: Arc<H>, shutdown: CancellationToken) {
    let (tasks, places) = (TaskTracker::new(), Arc::new(Semaphore::new(MAX_CLIENTS)));
    let accepting = async {
        let mut failing = false;
        // The semaphore is never closed.
        while let Ok(place) = places.clone().acquire_owned().await {
            match socket.accept().await {
                Ok((client, _)) => {
                    failing = false;
                    let (handler, shutdown) = (handler.clone(), shutdown.clone());
                    tasks.spawn(async move {
                        serve_client(client, handler, shutdown).await;
                        drop(place);
                    });
                }
                Err(error) => {
                    if !std::mem::replace(&mut failing, true) {
                        warn!(%error, "the control socket cannot accept clients; trying again");
                    }
                    tokio::time::sleep(BACK_OFF).await;
                }
            }
        }
    };
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = accepting => {}
    }
    tasks.close();
    tasks.wait().await;
}

async fn serve_client<H: HandleLocal>(client: UnixStream, handler: Arc<H>, shutdown: CancellationToken) {
    let service = service_fn(move |request| {
        let handler = handler.clone();
        async move { Ok::<_, Infallible>(handler.handle(request).await) }
    });
    let client = TokioIo::new(StalledWrites::new(client, STALL_TIMEOUT));
    let mut serving = pin!(http1_builder(HEAD_TIMEOUT, true).serve_connection(client, service));
    let last_request = async {
        let served = timeout(CLIENT_TIMEOUT, serving.as_mut()).await;
        match served {
            Ok(served) => served,
            Err(_) => {
                serving.as_mut().graceful_shutdown();
                serving.as_mut().await
            }
        }
    };
    let served = match shutdown.run_until_cancelled(last_request).await {
        Some(served) => Ok(served),
        None => {
            serving.as_mut().graceful_shutdown();
            timeout(DRAIN_TIMEOUT, serving.as_mut()).await
        }
    };
    if let Ok(Err(error)) = served {
        debug!(%error, "a client of the control socket");
    }
}

#[cfg(test)]
mod tests {
    use futures_util::stream;
    use http_body::Frame;
    use http_body_util::{BodyExt as _, Full, StreamBody, combinators::UnsyncBoxBody};
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        time::Instant,
    };

    use super::*;

    struct Echo;

    impl HandleLocal for Echo {
        type Body = Full<Bytes>;

        async fn handle(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
            Response::new(Full::from(request.uri().path().to_owned()))
        }
    }

    fn spawn(socket: UnixListener, shutdown: &CancellationToken) -> tokio::task::JoinHandle<()> {
        let shutdown = shutdown.clone();
        tokio::spawn(async move { serve(&socket, Arc::new(Echo), shutdown).await })
    }

    async fn answer(path: &std::path::Path, request: &[u8]) -> String {
        let mut client = UnixStream::connect(path).await.unwrap();
        client.write_all(request).await.unwrap();
        let mut answer = String::new();
        // A server that closes early may reset the connection.
        let _ = client.read_to_string(&mut answer).await;
        answer
    }

    #[tokio::test]
    async fn requests_are_answered_and_long_heads_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let (socket, shutdown) = (UnixListener::bind(&path).unwrap(), CancellationToken::new());
        let serving = spawn(socket, &shutdown);
        let good = answer(&path, b"GET /a HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
        assert!(good.starts_with("HTTP/1.1 200") && good.ends_with("/a"), "{good}");
        let long = format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(100_000));
        let refused = answer(&path, long.as_bytes()).await;
        assert!(!refused.starts_with("HTTP/1.1 200"), "{refused}");
        // One that says nothing does not delay the end.
        let _silent = UnixStream::connect(&path).await.unwrap();
        shutdown.cancel();
        serving.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn clients_beyond_the_bound_wait_until_the_silent_ones_are_gone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let (socket, shutdown) = (UnixListener::bind(&path).unwrap(), CancellationToken::new());
        let serving = spawn(socket, &shutdown);
        let mut silent = Vec::new();
        for _ in 0..MAX_CLIENTS {
            silent.push(UnixStream::connect(&path).await.unwrap());
        }
        let began = Instant::now();
        let good = answer(&path, b"GET /b HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
        assert!(began.elapsed() >= HEAD_TIMEOUT, "{:?}", began.elapsed());
        assert!(good.ends_with("/b"), "{good}");
        shutdown.cancel();
        serving.await.unwrap();
    }

    /// Sends a response without an end: one piece a second.
    struct Endless;

    impl HandleLocal for Endless {
        type Body = UnsyncBoxBody<Bytes, Infallible>;

        async fn handle(&self, _: Request<Incoming>) -> Response<Self::Body> {
            let pieces = stream::unfold((), |()| async {
                tokio::time::sleep(Duration::from_secs(1)).await;
                Some((Ok(Frame::data(Bytes::from_static(&[b'x'; 64 * 1024]))), ()))
            });
            Response::new(StreamBody::new(pieces).boxed_unsync())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_long_response_goes_on_while_the_client_reads() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let (socket, shutdown) = (UnixListener::bind(&path).unwrap(), CancellationToken::new());
        let over = shutdown.clone();
        let serving = tokio::spawn(async move { serve(&socket, Arc::new(Endless), over).await });
        let mut client = UnixStream::connect(&path).await.unwrap();
        client.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        let (began, mut buffer) = (Instant::now(), vec![0; 1 << 20]);
        while began.elapsed() < 3 * CLIENT_TIMEOUT {
            assert!(client.read(&mut buffer).await.unwrap() > 0, "{:?}", began.elapsed());
        }
        // It reads no more.
        let stalled = Instant::now();
        tokio::time::sleep(2 * STALL_TIMEOUT).await;
        while client.read(&mut buffer).await.is_ok_and(|len| len > 0) {}
        assert!(stalled.elapsed() < 3 * STALL_TIMEOUT, "{:?}", stalled.elapsed());
        shutdown.cancel();
        serving.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_asks_on_and_on_is_ended() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let (socket, shutdown) = (UnixListener::bind(&path).unwrap(), CancellationToken::new());
        let serving = spawn(socket, &shutdown);
        let mut client = UnixStream::connect(&path).await.unwrap();
        let began = Instant::now();
        let mut buffer = [0; 1024];
        while client.write_all(b"GET /c HTTP/1.1\r\nHost: x\r\n\r\n").await.is_ok()
            && client.read(&mut buffer).await.is_ok_and(|len| len > 0)
        {
            assert!(began.elapsed() <= CLIENT_TIMEOUT);
            tokio::time::sleep(HEAD_TIMEOUT / 2).await;
        }
        assert!(began.elapsed() >= CLIENT_TIMEOUT - HEAD_TIMEOUT, "{:?}", began.elapsed());
        shutdown.cancel();
        serving.await.unwrap();
    }
}
