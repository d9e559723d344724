//! HTTP/2 over TLS 1.3: hyper's client, one request at a time on each connection, with windows that never stop the
//! server.

use std::{
    io,
    net::TcpStream,
    sync::{Arc, Barrier},
    thread,
    time::{Duration, Instant},
};

use http::{Request, StatusCode, header::CONTENT_LENGTH};
use http_body_util::{BodyExt, Empty};
use hyper::{
    body::{Bytes, Incoming},
    client::conn::http2::{Builder, SendRequest},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{ClientConfig, pki_types::ServerName};
use sha2::{Digest as _, Sha256};
use tokio_rustls::TlsConnector;

use super::{Streamed, Target, framing::wrong};

/// The window of a stream and of its connection: several times what one round trip on loopback needs.
const WINDOW: u32 = 8 << 20;
/// The longest frame that the server may send. The server chooses what it sends (nginx: 8 KiB by default).
const FRAME: u32 = 64 << 10;

/// As [`clear::stream`](super::clear::stream), one thread and one small runtime for each connection.
pub fn stream(target: &Target, config: &Arc<ClientConfig>, connections: usize, time: Duration) -> io::Result<Streamed> {
    let ready = Arc::new(Barrier::new(connections + 1));
    let workers: Vec<_> = (0..connections)
        .map(|_| {
            let (target, config, ready) = (target.clone(), Arc::clone(config), Arc::clone(&ready));
            thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                let opened = runtime.block_on(async {
                    let mut sender = connect(&target, config).await?;
                    let body = ask(&mut sender, &target).await?;
                    io::Result::Ok((sender, body))
                });
                ready.wait();
                let (mut sender, mut body) = opened?;
                let start = Instant::now();
                let mut received = 0;
                runtime.block_on(async {
                    let mut of_this = 0;
                    while start.elapsed() < time {
                        match next(&mut body).await? {
                            Some(bytes) => of_this += bytes.len() as u64,
                            None if of_this == target.length => {
                                body = ask(&mut sender, &target).await?;
                                received += std::mem::take(&mut of_this);
                            }
                            None => return Err(wrong("the body is not as long as the blob")),
                        }
                    }
                    received += of_this;
                    io::Result::Ok(())
                })?;
                Ok((vec![received], start.elapsed()))
            })
        })
        .collect();
    ready.wait();
    Streamed::collect(target, workers)
}

/// Downloads the blob once and compares its digest.
pub fn verify(target: &Target, config: &Arc<ClientConfig>, digest: &str) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let got = runtime.block_on(async {
        let mut sender = connect(target, Arc::clone(config)).await?;
        let mut body = ask(&mut sender, target).await?;
        let mut hasher = Sha256::new();
        while let Some(bytes) = next(&mut body).await? {
            hasher.update(bytes);
        }
        io::Result::Ok(format!("sha256:{}", hex::encode(hasher.finalize())))
    })?;
    if got == digest { Ok(()) } else { Err(wrong(&format!("the body is {got}, not {digest}"))) }
}

async fn connect(target: &Target, config: Arc<ClientConfig>) -> io::Result<SendRequest<Empty<Bytes>>> {
    let socket = TcpStream::connect(target.address)?;
    socket.set_nonblocking(true)?;
    socket.set_nodelay(true)?;
    let name = ServerName::IpAddress(target.address.ip().into());
    let tls = TlsConnector::from(config).connect(name, tokio::net::TcpStream::from_std(socket)?).await?;
    if tls.get_ref().1.alpn_protocol() != Some(b"h2") {
        return Err(wrong("the server does not speak HTTP/2"));
    }
    let (sender, connection) = Builder::new(TokioExecutor::new())
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .max_frame_size(FRAME)
        .handshake(TokioIo::new(tls))
        .await
        .map_err(io::Error::other)?;
    tokio::spawn(connection);
    Ok(sender)
}

async fn ask(sender: &mut SendRequest<Empty<Bytes>>, target: &Target) -> io::Result<Incoming> {
    let uri = format!("https://{}{}", target.address, target.path);
    let request = Request::get(uri).body(Empty::new()).map_err(io::Error::other)?;
    let response = sender.send_request(request).await.map_err(io::Error::other)?;
    let announced = response.headers().get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if response.status() != StatusCode::OK || announced != Some(target.length) {
        return Err(wrong(&format!("{} with Content-Length {announced:?}", response.status())));
    }
    Ok(response.into_body())
}

async fn next(body: &mut Incoming) -> io::Result<Option<Bytes>> {
    match body.frame().await {
        None => Ok(None),
        Some(frame) => Ok(Some(frame.map_err(io::Error::other)?.into_data().unwrap_or_default())),
    }
}
