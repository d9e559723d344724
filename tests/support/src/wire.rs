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
    let mut request = format!("{line} HTTP/1.1\r\n");
    if !headers.iter().any(|(name, _)| *name == "host") {
        request += &format!("host: {address}\r\n");
    }
    headers.iter().for_each(|(name, value)| request += &format!("{name}: {value}\r\n"));
    request += "connection: close\r\n\r\n";
    send(address, &request).await
}

/// The same for a request that is written out; it should end the connection.
pub async fn send(address: SocketAddr, request: &str) -> Answer {
    bounded(async {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut bytes = Vec::new();
        // A server that refuses a body it was promised may reset the connection after its answer.
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
