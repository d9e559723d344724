//! One request, as the metrics and the log see it: the same words in both.
//!
//! It is recorded when its body ends or is dropped, so that what was sent is what is told.

use std::{
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use bytes::{Buf, Bytes};
use http::{Method, StatusCode};
use http_body::{Frame, SizeHint};

use super::body::{Body, BodyError};
use crate::{
    chain::Chain,
    metrics::{Metrics, Operation, Outcome},
};

/// What is known of a request. Nothing here is a secret: no header and no query of the client is kept.
#[derive(Debug)]
pub struct Facts {
    pub id: String,
    pub peer: SocketAddr,
    pub method: Method,
    pub path: String,
    pub upstream: Arc<str>,
    pub repository: Option<String>,
    pub operation: Operation,
    pub outcome: Outcome,
    pub user: Option<Arc<str>>,
    /// Why it failed, as the client is not told.
    pub cause: Option<String>,
    started: Instant,
}

impl Facts {
    pub fn new(id: String, peer: SocketAddr, method: Method, path: String) -> Self {
        Self {
            id,
            peer,
            method,
            path,
            upstream: "none".into(),
            repository: None,
            operation: Operation::Unknown,
            outcome: Outcome::Bypass,
            user: None,
            cause: None,
            started: Instant::now(),
        }
    }
}

/// What a client that left before it had an answer counts as; no client ever sees it. nginx's word for it.
const CLIENT_LEFT: u16 = 499;

/// Records a request, too, when its client leaves before there is an answer.
pub struct Unanswered<'a> {
    pub facts: &'a mut Facts,
    metrics: &'a Metrics,
    answered: bool,
}

impl<'a> Unanswered<'a> {
    pub fn new(facts: &'a mut Facts, metrics: &'a Metrics) -> Self {
        Self { facts, metrics, answered: false }
    }

    /// There is an answer: its body records the rest.
    pub fn answered(mut self) {
        self.answered = true;
    }
}

impl Drop for Unanswered<'_> {
    fn drop(&mut self) {
        if !self.answered {
            self.facts.record(self.metrics, CLIENT_LEFT, None, 0, false);
        }
    }
}

/// A body that records its request when it is over.
pub struct Observed {
    body: Body,
    facts: Facts,
    status: StatusCode,
    metrics: Metrics,
    sent: u64,
    /// Content-Length: a body that has one is not asked again after its last byte.
    announced: Option<u64>,
    first_byte: Option<Duration>,
    complete: bool,
}

impl Observed {
    pub fn new(body: Body, status: StatusCode, announced: Option<u64>, facts: Facts, metrics: Metrics) -> Self {
        let complete = http_body::Body::is_end_stream(&body);
        Self { body, facts, status, metrics, sent: 0, announced, first_byte: None, complete }
    }
}

impl http_body::Body for Observed {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => {
                if self.first_byte.is_none() {
                    self.first_byte = Some(self.facts.started.elapsed());
                }
                self.sent += frame.data_ref().map_or(0, |data| data.remaining() as u64);
                if Some(self.sent) == self.announced || http_body::Body::is_end_stream(&self.body) {
                    self.complete = true;
                }
            }
            Some(Err(error)) => self.facts.cause = Some(Chain(error).to_string()),
            None => self.complete = true,
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

impl Drop for Observed {
    fn drop(&mut self) {
        self.facts.record(&self.metrics, self.status.as_u16(), self.first_byte, self.sent, self.complete);
    }
}

impl Facts {
    /// One line in the log, and the metrics.
    fn record(&self, metrics: &Metrics, status: u16, first_byte: Option<Duration>, sent: u64, complete: bool) {
        let duration = self.started.elapsed();
        let first_byte = first_byte.unwrap_or(duration);
        let (operation, outcome) = (self.operation, self.outcome);
        metrics.request(&self.upstream, operation, outcome, status, first_byte, duration, sent);
        tracing::info!(
            id = self.id,
            peer = %self.peer,
            method = %self.method,
            path = self.path,
            upstream = %self.upstream,
            repository = self.repository,
            operation = operation.as_str(),
            outcome = outcome.as_str(),
            status,
            sent,
            first_byte_seconds = first_byte.as_secs_f64(),
            duration_seconds = duration.as_secs_f64(),
            complete,
            user = self.user.as_deref(),
            cause = self.cause,
            "request",
        );
    }
}
