//! Reads the rest of a request body when the response is ready.
//!
//! What must hold: on HTTP/1 a connection is still open when its client sends the next request on it, or the response said
//! `Connection: close`. hyper closes a connection after the response if the request body was not read to its end, but by then
//! the response has said that it stays open. So a short rest of the body is read here, as other servers do; before a longer one
//! the close is announced.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use parking_lot::{Mutex, MutexGuard};

use bytes::Bytes;
use http::{HeaderMap, Version, header};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;

/// How much is read to keep a connection, in bytes, and for how long: more costs more than a new connection.
const MAX_UNREAD: u64 = 256 * 1024;
const READ_TIMEOUT: Duration = Duration::from_secs(1);

/// The body of a request. If it is dropped before its end, [`UnreadBody`] gets the rest.
pub(crate) struct RequestBody {
    body: Option<Incoming>,
    back: Option<Arc<Mutex<ReturnSlot>>>,
}

#[derive(Default)]
struct ReturnSlot {
    /// Present if it was dropped before its end.
    body: Option<Incoming>,
    /// The client waits for a `100 Continue` that was not sent.
    held_back: bool,
    ended: bool,
}

/// The rest of a request body, once its handler has dropped it.
pub(crate) struct UnreadBody(Arc<Mutex<ReturnSlot>>);

/// Gives the body to a handler. `None`: no rest can keep the connection from being used again.
pub(crate) fn lend(body: Incoming, version: Version, headers: &HeaderMap) -> (RequestBody, Option<UnreadBody>) {
    if body.is_end_stream() || version > Version::HTTP_11 {
        return (RequestBody { body: Some(body), back: None }, None);
    }
    let held_back = headers.contains_key(header::EXPECT);
    let back = Arc::new(Mutex::new(ReturnSlot { held_back, ..ReturnSlot::default() }));
    (RequestBody { body: Some(body), back: Some(Arc::clone(&back)) }, Some(UnreadBody(back)))
}

impl UnreadBody {
    /// Reads the rest, if it is short and arrives soon. `false`: the connection cannot be used again.
    pub(crate) async fn read(self) -> bool {
        let mut body = {
            let mut back = lock(&self.0);
            match back.body.take() {
                _ if back.ended => return true,
                Some(body) if !back.held_back && body.size_hint().lower() <= MAX_UNREAD => body,
                _ => return false,
            }
        };
        let reading = async {
            let mut left = MAX_UNREAD;
            while let Some(frame) = body.frame().await {
                let len = frame.ok()?.data_ref().map_or(0, Bytes::len);
                left = left.checked_sub(len as u64)?;
            }
            Some(())
        };
        matches!(tokio::time::timeout(READ_TIMEOUT, reading).await, Ok(Some(())))
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        let polled = Pin::new(&mut *body).poll_frame(cx);
        let ended = matches!(polled, Poll::Ready(None)) || body.is_end_stream();
        if let Some(back) = &self.back {
            let mut back = lock(back);
            back.held_back = false;
            back.ended |= ended;
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map(Body::size_hint).unwrap_or_default()
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        if let Some(back) = &self.back {
            lock(back).body = self.body.take();
        }
    }
}

/// Held for an assignment, never across a wait.
fn lock(back: &Mutex<ReturnSlot>) -> MutexGuard<'_, ReturnSlot> {
    back.lock()
}
