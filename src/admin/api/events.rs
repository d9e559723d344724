//! Server-sent events: what an answer tells bit by bit.
//!
//! Source: HTML Living Standard, section 9.2, "Server-sent events".

use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream};
use http::{HeaderValue, Response, StatusCode, header};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use serde_json::Value;
use tokio::time::timeout;

use super::response::{ApiBody, text};
use crate::transport::BoxError;

const EVENTS_TYPE: HeaderValue = HeaderValue::from_static("text/event-stream");

/// How long a stream is silent before the client gets a comment: so forebay notices a client that has gone, and a client a
/// forebay that has stopped.
const MAX_SILENCE: Duration = Duration::from_secs(15);
const COMMENT: Bytes = Bytes::from_static(b":\n\n");

/// One event.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Event {
    pub name: &'static str,
    pub data: Value,
}

impl Event {
    /// The event as it is sent. JSON has no line breaks outside of strings, and inside they are escaped.
    pub(super) fn encode(&self) -> Bytes {
        encode(self.name, &self.data.to_string())
    }
}

/// An event of this name, with data that is JSON.
pub(super) fn encode(name: &str, json: &str) -> Bytes {
    format!("event: {name}\ndata: {json}\n\n").into()
}

/// A response that sends events as they happen, and ends with them.
pub(crate) fn events(events: impl Stream<Item = Event> + Send + 'static) -> Response<ApiBody> {
    lasting_events(events.map(|event| event.encode()))
}

/// The same for encoded events, one or several at a time.
pub(super) fn lasting_events(events: impl Stream<Item = Bytes> + Send + 'static) -> Response<ApiBody> {
    respond(stream::unfold(Box::pin(events), |mut events| async move {
        let told = match timeout(MAX_SILENCE, events.next()).await {
            Ok(events) => events?,
            Err(_) => COMMENT,
        };
        Some((told, events))
    }))
}

fn respond(parts: impl Stream<Item = Bytes> + Send + 'static) -> Response<ApiBody> {
    let frames = parts.map(|part| Ok::<_, BoxError>(Frame::data(part)));
    let mut response = text(StatusCode::OK, Bytes::new()).map(|_| StreamBody::new(frames).boxed_unsync());
    response.headers_mut().insert(header::CONTENT_TYPE, EVENTS_TYPE);
    response
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[tokio::test]
    async fn an_event_is_two_lines_and_an_empty_one() {
        let told = [json!({ "text": "a\nb" }), json!(null)].map(|data| Event { name: "done", data });
        let response = events(stream::iter(told));
        assert_eq!(response.headers()[header::CONTENT_TYPE], "text/event-stream");
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body, "event: done\ndata: {\"text\":\"a\\nb\"}\n\nevent: done\ndata: null\n\n");
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_stream_has_comments() {
        let event = Event { name: "request", data: json!(1) };
        let late = stream::once(async move {
            tokio::time::sleep(MAX_SILENCE * 5 / 2).await;
            event
        });
        let body = events(late).into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body, ":\n\n:\n\nevent: request\ndata: 1\n\n");
    }
}
