//! Server-sent events: what an answer tells bit by bit.
//!
//! Source: HTML Living Standard, section 9.2, "Server-sent events".

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use http::{HeaderValue, Response, StatusCode, header};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use serde_json::Value;

use super::response::{ApiBody, text};
use crate::transport::BoxError;

const EVENTS_TYPE: HeaderValue = HeaderValue::from_static("text/event-stream");

/// One event.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Event {
    pub name: &'static str,
    pub data: Value,
}

impl Event {
    /// The event as it is sent. JSON has no line breaks outside of strings, and inside they are escaped.
    fn encode(&self) -> Bytes {
        format!("event: {}\ndata: {}\n\n", self.name, self.data).into()
    }
}

/// A response that sends events as they happen, and ends with them.
pub(crate) fn events(events: impl Stream<Item = Event> + Send + 'static) -> Response<ApiBody> {
    let frames = events.map(|event| Ok::<_, BoxError>(Frame::data(event.encode())));
    let mut response = text(StatusCode::OK, Bytes::new()).map(|_| StreamBody::new(frames).boxed_unsync());
    response.headers_mut().insert(header::CONTENT_TYPE, EVENTS_TYPE);
    response
}

#[cfg(test)]
mod tests {
    use futures_util::stream;
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
}
