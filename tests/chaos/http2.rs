//! A request over clear HTTP/2, by hyper's client.

use std::io;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::http::{Got, PATIENCE};

/// `Err`: there was no connection.
pub async fn get(port: u16, path: &str) -> io::Result<Got> {
    let stream = TcpStream::connect(("127.0.0.1", port)).await?;
    let mut got = Got::default();
    let _broken = converse(stream, port, path, &mut got).await;
    Ok(got)
}

async fn converse(stream: TcpStream, port: u16, path: &str, got: &mut Got) -> Option<()> {
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.ok()?;
    let connection = tokio::spawn(connection);
    let request = http::Request::get(format!("http://127.0.0.1:{port}{path}"))
        .header("accept", "application/vnd.oci.image.manifest.v1+json")
        .body(Empty::<Bytes>::new())
        .ok()?;
    let mut start = Instant::now();
    let answer = timeout(PATIENCE, sender.send_request(request)).await.ok()?.ok()?;
    got.stall = start.elapsed();
    got.status = answer.status().as_u16();
    got.head = format!("HTTP/2 {}\r\n", got.status);
    for (name, value) in answer.headers() {
        got.head.push_str(&format!("{name}: {}\r\n", String::from_utf8_lossy(value.as_bytes())));
    }
    let mut body = answer.into_body();
    loop {
        start = Instant::now();
        let frame = timeout(PATIENCE, body.frame()).await.ok()?;
        got.stall = got.stall.max(start.elapsed()).max(Duration::ZERO);
        match frame {
            Some(frame) => got.body.extend_from_slice(frame.ok()?.data_ref()?),
            None => break,
        }
    }
    // hyper compares with Content-Length; what ends without an error is whole.
    got.complete = true;
    drop(sender);
    connection.abort();
    Some(())
}
