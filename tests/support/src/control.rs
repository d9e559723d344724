//! Asks a mirror by its control socket, as the commands do.

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
};

use crate::{mirror::Mirror, until::soon};

/// The status and the body of the answer to a request for `/api/v1/{path}`, with a document or without a body.
pub async fn ask(mirror: &Mirror, method: &str, path: &str, document: Option<Value>) -> (u16, String) {
    let socket = mirror.config().admin.socket.as_deref().unwrap();
    let mut client = UnixStream::connect(socket).await.unwrap();
    let body = document.map(|document| document.to_string()).unwrap_or_default();
    // The body of an answer to HTTP/1.0 has no chunks.
    let head = format!(
        "{method} /api/v1/{path} HTTP/1.0\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    client.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
    let mut answer = String::new();
    soon("the answer", client.read_to_string(&mut answer)).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

/// The document of a successful answer.
pub async fn get(mirror: &Mirror, path: &str) -> Value {
    let (status, body) = ask(mirror, "GET", path, None).await;
    assert_eq!(status, 200, "{path}: {body}");
    serde_json::from_str(&body).unwrap()
}

/// The document of the answer to a change, and its status.
pub async fn post(mirror: &Mirror, path: &str, document: Value) -> (u16, Value) {
    let (status, body) = ask(mirror, "POST", path, Some(document)).await;
    (status, serde_json::from_str(&body).unwrap())
}

/// The events of an answer: their names and their data.
pub fn events(body: &str) -> Vec<(String, Value)> {
    let event = |text: &str| {
        let mut lines = text.lines();
        let name = lines.next()?.strip_prefix("event: ")?.to_owned();
        Some((name, serde_json::from_str(lines.next()?.strip_prefix("data: ")?).unwrap()))
    };
    body.split("\n\n").filter_map(event).collect()
}
