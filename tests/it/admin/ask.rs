//! Requests to the control socket of the mirror under test, and the events of the answers.

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
};

use forebay_test_support::{mirror::Mirror, until::soon};

/// POSTs to a resource with these header lines and this body: the status and the body of the answer, whose chunks are
/// joined.
pub async fn post_with(mirror: &Mirror, resource: &str, lines: &str, body: &str) -> (u16, String) {
    let mut client = UnixStream::connect(mirror.config().admin.socket.as_deref().unwrap()).await.unwrap();
    // An answer of HTTP/1.0 has no chunks.
    let head = format!("POST /api/v1/{resource} HTTP/1.0\r\nHost: localhost\r\nContent-Length: {}\r\n", body.len());
    client.write_all(format!("{head}{lines}\r\n{body}").as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // A server that refuses a body may end the connection before it has read all of it.
    let _ = soon("the answer", client.read_to_end(&mut answer)).await;
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

/// The events of an answer, each with its name.
pub fn events(body: &str) -> Vec<(String, Value)> {
    let events = body.split_terminator("\n\n").map(|event| {
        let (name, data) = event.strip_prefix("event: ").unwrap().split_once("\ndata: ").unwrap();
        (name.to_owned(), serde_json::from_str(data).unwrap())
    });
    events.collect()
}

/// POSTs without a body to a resource that answers by one event: its data.
pub async fn done(mirror: &Mirror, resource: &str) -> Value {
    let (status, body) = post_with(mirror, resource, "", "").await;
    assert_eq!(status, 200, "{body}");
    let mut events = events(&body);
    assert!(events.len() == 1 && events[0].0 == "done", "{body}");
    events.remove(0).1
}
