//! A client that pushes as `docker push` does: it begins an upload, sends the content in one request without a length,
//! and names the digest in the end.

use std::{
    io::{self, Read as _, Write},
    net::{SocketAddr, TcpStream},
};

use super::framing::wrong;
use forebay_test_support::real::image::Blob;

/// How much of the content is in one chunk.
const CHUNK: usize = 64 * 1024;

/// Pushes the blob to the repository at this address.
pub fn push(address: SocketAddr, repository: &str, blob: &Blob) -> io::Result<()> {
    let begun = send(address, &format!("POST /v2/{repository}/blobs/uploads/"), "Content-Length: 0", &[], "202")?;
    let sent = send(address, &format!("PATCH {begun}"), "Transfer-Encoding: chunked", &blob.bytes, "202")?;
    let separator = if sent.contains('?') { '&' } else { '?' };
    let put = format!("PUT {sent}{separator}digest={}", blob.digest);
    send(address, &put, "Content-Length: 0", &[], "201").map(drop)
}

/// Sends one request; returns the path and query of its `Location`.
fn send(address: SocketAddr, request: &str, length: &str, content: &[u8], status: &str) -> io::Result<String> {
    let mut socket = TcpStream::connect(address)?;
    socket.set_nodelay(true)?;
    write!(socket, "{request} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n{length}\r\n\r\n")?;
    for chunk in content.chunks(CHUNK) {
        write!(socket, "{:x}\r\n", chunk.len())?;
        socket.write_all(chunk)?;
        socket.write_all(b"\r\n")?;
    }
    if !content.is_empty() {
        socket.write_all(b"0\r\n\r\n")?;
    }
    let mut response = String::new();
    socket.read_to_string(&mut response)?;
    if response.split(' ').nth(1) != Some(status) {
        return Err(wrong(&format!("{request}: {response}")));
    }
    let location = response.lines().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case("location").then(|| value.trim().to_owned())
    });
    let location = location.ok_or_else(|| wrong("no Location"))?;
    // docker-registry names its host, too.
    match location.strip_prefix("http://").and_then(|rest| rest.find('/').map(|path| rest[path..].to_owned())) {
        Some(path) => Ok(path),
        None => Ok(location),
    }
}
