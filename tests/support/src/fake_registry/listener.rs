//! A port that can be closed and opened again.

use std::{net::SocketAddr, sync::Arc};

use hyper::{Request, body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::Mutex,
    task::{JoinHandle, JoinSet},
};
use tokio_rustls::TlsAcceptor;
use url::Url;

use super::{Shared, record::Server, serve::serve};

pub(super) struct Listener {
    server: Server,
    address: SocketAddr,
    shared: Arc<Shared>,
    tls: Option<TlsAcceptor>,
    /// Absent while it is closed.
    running: Mutex<Option<JoinHandle<()>>>,
}

impl Listener {
    pub(super) async fn start(server: Server, shared: Arc<Shared>, tls: Option<Arc<rustls::ServerConfig>>) -> Self {
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = tcp.local_addr().unwrap();
        let tls = tls.map(TlsAcceptor::from);
        let running = tokio::spawn(accept(tcp, server, shared.clone(), tls.clone()));
        Self { server, address, shared, tls, running: Mutex::new(Some(running)) }
    }

    pub(super) fn url(&self) -> Url {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        Url::parse(&format!("{scheme}://{}", self.address)).unwrap()
    }

    pub(super) async fn stop(&self) {
        if let Some(running) = self.running.lock().await.take() {
            running.abort();
            // Once it has ended, the port is closed and every connection is cut.
            let _ = running.await;
        }
    }

    pub(super) async fn resume(&self) {
        let mut running = self.running.lock().await;
        assert!(running.is_none(), "it is listening");
        let tcp = TcpListener::bind(self.address).await.unwrap();
        *running = Some(tokio::spawn(accept(tcp, self.server, self.shared.clone(), self.tls.clone())));
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Some(running) = self.running.get_mut() {
            running.abort();
        }
    }
}

async fn accept(tcp: TcpListener, server: Server, shared: Arc<Shared>, tls: Option<TlsAcceptor>) {
    // Aborting this task drops the set, which aborts the connections.
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Some(_) = connections.join_next() => {}
            accepted = tcp.accept() => {
                let Ok((stream, _)) = accepted else { continue };
                connections.spawn(connection(stream, server, shared.clone(), tls.clone()));
            }
        }
    }
}

async fn connection(stream: TcpStream, server: Server, shared: Arc<Shared>, tls: Option<TlsAcceptor>) {
    let _ = stream.set_nodelay(true);
    let Some(tls) = tls else {
        return talk(stream, false, server, shared).await;
    };
    // A client that does not trust us ends here.
    let Ok(stream) = tls.accept(stream).await else { return };
    let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    talk(stream, http2, server, shared).await;
}

async fn talk(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    http2: bool,
    server: Server,
    shared: Arc<Shared>,
) {
    let service = service_fn(move |request: Request<Incoming>| serve(request, server, shared.clone()));
    let io = TokioIo::new(stream);
    // Connections are broken on purpose: an error is no news.
    if http2 {
        let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        // Go's servers take a mebibyte.
        builder.max_header_list_size(1 << 20);
        let _ = builder.serve_connection(io, service).await;
    } else {
        let _ = hyper::server::conn::http1::Builder::new().serve_connection(io, service).await;
    }
}
