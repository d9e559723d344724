//! The way into the internet: a proxy that answers clear requests itself, and ends the TLS of its tunnels.

use std::{convert::Infallible, sync::Arc};

use http::{Method, Request, Response};
use http_body_util::Full;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;
use url::Url;

use super::Shared;

/// Serves who dials the proxy, until it is aborted.
pub(super) async fn accept(tcp: TcpListener, shared: Arc<Shared>) {
    let mut connections = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            Some(_) = connections.join_next() => {}
            Ok((stream, _)) = tcp.accept() => { connections.spawn(connection(TokioIo::new(stream), shared.clone())); }
        }
    }
}

/// What speaks to the proxy itself: clear requests, and those for a tunnel.
async fn connection(io: TokioIo<tokio::net::TcpStream>, shared: Arc<Shared>) {
    let service = service_fn(|mut request: Request<Incoming>| {
        let shared = shared.clone();
        async move {
            if request.method() == Method::CONNECT {
                let authority = request.uri().to_string();
                let upgrade = hyper::upgrade::on(&mut request);
                tokio::spawn(async move {
                    let Ok(upgraded) = upgrade.await else { return };
                    tunnel(TokioIo::new(upgraded), &authority, shared).await;
                });
                return Ok::<_, Infallible>(Response::new(Full::default()));
            }
            let origin = Url::parse(&request.uri().to_string()).map(|url| url.origin().ascii_serialization());
            Ok(shared.serve(origin.unwrap_or_default(), request).await)
        }
    });
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(io, service).with_upgrades().await;
}

async fn tunnel(io: TokioIo<hyper::upgrade::Upgraded>, authority: &str, shared: Arc<Shared>) {
    // A client that does not trust us ends here.
    let Ok(stream) = shared.tls.accept(io).await else { return };
    let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let origin = format!("https://{}", authority.strip_suffix(":443").unwrap_or(authority));
    let service = service_fn(move |request: Request<Incoming>| {
        let (shared, origin) = (shared.clone(), origin.clone());
        async move { Ok::<_, Infallible>(shared.serve(origin, request).await) }
    });
    let io = TokioIo::new(stream);
    if http2 {
        let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new()).serve_connection(io, service).await;
    } else {
        let _ = hyper::server::conn::http1::Builder::new().serve_connection(io, service).await;
    }
}
