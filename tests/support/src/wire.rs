//! One request exactly as it is written here, and everything that comes back.
//!
//! An HTTP library would tidy a path up before it is sent, and hide what a HEAD has too much.

use std::net::SocketAddr;

use http::{HeaderMap, HeaderName, HeaderValue};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::{mirror::Answer, until::bounded};

/// Sends `METHOD target` with these headers, and reads until the server closes the connection: the body is all
/// that follows the head.
pub async fn exchange(address: SocketAddr, line: &str, headers: &[(&str, &str)]) -> Answer {
    send(address, &head(address, line, headers)).await
}

/// The same with a body and its length.
pub async fn exchange_with_body(address: SocketAddr, line: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
    let length = body.len().to_string();
    let headers = [headers, &[("content-length", &*length)]].concat();
    send_with_body(address, &head(address, line, &headers), body).await
}

/// The same for a request that is written out; it should end the connection.
pub async fn send(address: SocketAddr, request: &str) -> Answer {
    send_with_body(address, request, b"").await
}

fn head(address: SocketAddr, line: &str, headers: &[(&str, &str)]) -> String {
    let mut head = format!("{line} HTTP/1.1\r\n");
    if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
        head += &format!("host: {address}\r\n");
    }
    headers.iter().for_each(|(name, value)| head += &format!("{name}: {value}\r\n"));
    head + "connection: close\r\n\r\n"
}

async fn send_with_body(address: SocketAddr, head: &str, body: &[u8]) -> Answer {
    bounded(async {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        // A server that refuses a body may close the connection before it has read all, and reset it after its response.
        let _ = stream.write_all(body).await;
        let mut bytes = Vec::new();
        let _ = stream.read_to_end(&mut bytes).await;
        parse(&bytes)
    })
    .await
}

fn parse(bytes: &[u8]) -> Answer {
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").expect("a whole head");
    let head = std::str::from_utf8(&bytes[..end]).unwrap();
    let mut lines = head.lines();
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let header = |line: &str| {
        let (name, value) = line.split_once(':').unwrap();
        (name.parse::<HeaderName>().unwrap(), HeaderValue::from_str(value.trim()).unwrap())
    };
    let headers: HeaderMap = lines.map(header).collect();
    Answer { status, headers, body: bytes[end + 4..].to_vec().into() }
}
