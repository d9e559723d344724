//! The access log and the metrics: one line for each request, and metrics in the same words.
//!
//! A request is recorded when its response's body ends or is dropped, so that the record has what was really sent.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use bytes::{Buf, Bytes};
use http::{Method, Response, header, request::Parts};
use http_body::{Frame, SizeHint};

use super::body::{Body, BodyError};
use crate::{
    cache::{Outcome, WholeHit},
    error_chain::ErrorChain,
    metrics::{AnsweredRequest, Label as _, Metrics},
    oci::{Operation, Repository},
    request_id::RequestId,
};

/// What the log and the metrics say of one request. Nothing here is a secret: no header and no query of the client is
/// kept.
///
/// It is recorded when it is dropped: with its response's body, or before that when the client leaves.
pub(crate) struct AccessRecord {
    pub id: RequestId,
    peer: Arc<str>,
    method: Method,
    /// A copy: a part of the request's head would keep the whole buffer that the head was read into.
    path: Box<str>,
    /// `None` until the request is routed.
    pub upstream: Option<Arc<str>>,
    pub repository: Option<Repository>,
    pub operation: Operation,
    pub outcome: Outcome,
    pub user: Option<Arc<str>>,
    /// Present while a whole blob is sent out of the cache.
    pub whole_hit: Option<WholeHit>,
    /// Why the request failed, in words that are not for the client.
    pub cause: Option<String>,
    status: u16,
    sent: u64,
    first_byte: Option<Duration>,
    complete: bool,
    started: Instant,
    metrics: Metrics,
}

/// The upstream of a request that names none, or that was refused before it was routed.
const NO_UPSTREAM: &str = "none";
/// The status of a request whose client left before the response, as nginx logs it; no client ever sees it.
const CLIENT_LEFT: u16 = 499;

impl AccessRecord {
    pub(crate) fn new(id: RequestId, peer: Arc<str>, head: &Parts, metrics: Metrics) -> Self {
        Self {
            id,
            peer,
            method: head.method.clone(),
            path: head.uri.path().into(),
            upstream: None,
            repository: None,
            operation: Operation::Unknown,
            outcome: Outcome::Bypass,
            user: None,
            whole_hit: None,
            cause: None,
            status: CLIENT_LEFT,
            sent: 0,
            first_byte: None,
            complete: false,
            started: Instant::now(),
            metrics,
        }
    }
}

impl Drop for AccessRecord {
    /// One line in the log, and the metrics.
    fn drop(&mut self) {
        let duration = self.started.elapsed();
        let first_byte = self.first_byte.unwrap_or(duration);
        let Self { operation, outcome, status, sent, .. } = *self;
        let upstream = self.upstream.as_deref().unwrap_or(NO_UPSTREAM);
        self.metrics.request(upstream, operation, outcome, AnsweredRequest { status, first_byte, duration, sent });
        tracing::info!(
            id = self.id.text().as_str(),
            peer = &*self.peer,
            method = self.method.as_str(),
            path = &*self.path,
            upstream,
            repository = self.repository.as_ref().map(Repository::as_str),
            operation = operation.as_str(),
            outcome = outcome.as_str(),
            status,
            sent,
            first_byte_seconds = first_byte.as_secs_f64(),
            duration_seconds = duration.as_secs_f64(),
            complete = self.complete,
            user = self.user.as_deref(),
            cause = self.cause,
            "request",
        );
    }
}

/// A response body with the record of its request, which ends with it.
pub(crate) struct LoggedBody {
    // Dropped first: the request is logged before the resources of its body are released.
    record: Box<AccessRecord>,
    body: Body,
    /// Content-Length: hyper does not poll such a body again after its last byte.
    announced: Option<u64>,
}

impl LoggedBody {
    pub(crate) fn wrap(response: Response<Body>, mut record: Box<AccessRecord>) -> Response<Self> {
        let length = response.headers().get(header::CONTENT_LENGTH);
        let announced = length.and_then(|length| length.to_str().ok()?.parse().ok());
        record.status = response.status().as_u16();
        record.complete = http_body::Body::is_end_stream(response.body());
        response.map(|body| Self { record, body, announced })
    }
}

impl http_body::Body for LoggedBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => {
                let Self { record, body, announced } = &mut *self;
                let started = record.started;
                record.first_byte.get_or_insert_with(|| started.elapsed());
                record.sent += frame.data_ref().map_or(0, |data| data.remaining() as u64);
                if Some(record.sent) == *announced || http_body::Body::is_end_stream(body) {
                    record.complete = true;
                    // Ended before the last byte is sent, so that the client's next request comes after it.
                    if let Some(hit) = record.whole_hit.take() {
                        hit.ended();
                    }
                }
            }
            Some(Err(error)) => {
                self.record.cause = Some(ErrorChain(error).to_string());
                self.record.outcome = Outcome::Error;
            }
            None => self.record.complete = true,
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
