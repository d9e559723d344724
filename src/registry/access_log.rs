//! One request, as the metrics and the log see it: the same words in both.
//!
//! It is recorded when its body ends or is dropped, so that what was sent is what is told.

use std::{
    fmt,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use bytes::{Buf, Bytes};
use http::{HeaderValue, Method, StatusCode};
use http_body::{Frame, SizeHint};

use super::body::{Body, BodyError};
use crate::{
    cache::{Outcome, WholeHit},
    error_chain::ErrorChain,
    metrics::{Label as _, Metrics},
    oci::{Operation, Repository},
};

/// Names a request to its client and in the log: which forebay, and its how many-th.
#[derive(Clone, Copy, Debug)]
pub struct RequestId {
    pub instance: u32,
    pub number: u64,
}

impl RequestId {
    pub fn header(self) -> HeaderValue {
        // Eight digits, a dash, and at most sixteen more: written here, so that only the value itself is allocated.
        let mut text = [0; 25];
        let mut rest = &mut text[..];
        let written = std::io::Write::write_fmt(&mut rest, format_args!("{self}"));
        let left = rest.len();
        let len = text.len() - left;
        match written {
            Ok(()) => HeaderValue::from_bytes(&text[..len]).unwrap_or(HeaderValue::from_static("")),
            Err(_) => HeaderValue::from_static(""),
        }
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}-{:x}", self.instance, self.number)
    }
}

/// What is known of a request. Nothing here is a secret: no header and no query of the client is kept.
#[derive(Debug)]
pub struct AccessRecord {
    pub id: RequestId,
    pub peer: SocketAddr,
    pub method: Method,
    /// A copy: a part of the request's head would keep all of the buffer that it was read into.
    pub path: Box<str>,
    /// `None` until it is known which.
    pub upstream: Option<Arc<str>>,
    pub repository: Option<Repository>,
    pub operation: Operation,
    pub outcome: Outcome,
    pub user: Option<Arc<str>>,
    /// Where a whole blob is sent out of the cache.
    pub whole_hit: Option<WholeHit>,
    /// Why it failed, as the client is not told.
    pub cause: Option<String>,
    /// It came by a forebay.
    pub by_mirror: bool,
    started: Instant,
}

impl AccessRecord {
    pub fn new(id: RequestId, peer: SocketAddr, method: Method, path: &str) -> Self {
        Self {
            id,
            peer,
            method,
            path: path.into(),
            upstream: None,
            repository: None,
            operation: Operation::Unknown,
            outcome: Outcome::Bypass,
            user: None,
            whole_hit: None,
            cause: None,
            by_mirror: false,
            started: Instant::now(),
        }
    }
}

/// The upstream of a request that was refused before it was known.
const NO_UPSTREAM: &str = "none";
/// What a client that left before it had an answer counts as; no client ever sees it. nginx's word for it.
const CLIENT_LEFT: u16 = 499;

/// Records a request, too, when its client leaves before there is an answer.
pub(crate) struct AbortGuard<'a> {
    pub facts: &'a mut AccessRecord,
    metrics: &'a Metrics,
    answered: bool,
}

impl<'a> AbortGuard<'a> {
    pub(crate) fn new(facts: &'a mut AccessRecord, metrics: &'a Metrics) -> Self {
        Self { facts, metrics, answered: false }
    }

    /// There is an answer: its body records the rest.
    pub(crate) fn answered(mut self) {
        self.answered = true;
    }
}

impl Drop for AbortGuard<'_> {
    fn drop(&mut self) {
        if !self.answered {
            self.facts.record(self.metrics, CLIENT_LEFT, None, 0, false);
        }
    }
}

/// A body that records its request when it is over.
pub struct LoggedBody {
    body: Body,
    facts: Box<AccessRecord>,
    status: StatusCode,
    metrics: Metrics,
    sent: u64,
    /// Content-Length: a body that has one is not asked again after its last byte.
    announced: Option<u64>,
    first_byte: Option<Duration>,
    complete: bool,
}

impl LoggedBody {
    pub fn new(
        body: Body,
        status: StatusCode,
        announced: Option<u64>,
        facts: Box<AccessRecord>,
        metrics: Metrics,
    ) -> Self {
        let complete = http_body::Body::is_end_stream(&body);
        Self { body, facts, status, metrics, sent: 0, announced, first_byte: None, complete }
    }
}

impl http_body::Body for LoggedBody {
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
                    // Before the last byte is out, so that its client cannot come again sooner.
                    if let Some(hit) = self.facts.whole_hit.take() {
                        hit.ended();
                    }
                }
            }
            Some(Err(error)) => self.facts.cause = Some(ErrorChain(error).to_string()),
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

impl Drop for LoggedBody {
    fn drop(&mut self) {
        self.facts.record(&self.metrics, self.status.as_u16(), self.first_byte, self.sent, self.complete);
    }
}

impl AccessRecord {
    /// One line in the log, and the metrics.
    fn record(&self, metrics: &Metrics, status: u16, first_byte: Option<Duration>, sent: u64, complete: bool) {
        let duration = self.started.elapsed();
        let first_byte = first_byte.unwrap_or(duration);
        let (operation, outcome) = (self.operation, self.outcome);
        let upstream = self.upstream.as_deref().unwrap_or(NO_UPSTREAM);
        metrics.request(upstream, operation, outcome, status, first_byte, duration, sent);
        tracing::info!(
            id = %self.id,
            peer = %self.peer,
            method = %self.method,
            path = &*self.path,
            upstream,
            repository = self.repository.as_ref().map(Repository::as_str),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_the_same_in_the_header_and_in_the_log() {
        for (instance, number, text) in
            [(0, 0, "00000000-0"), (0xbeef, 255, "0000beef-ff"), (u32::MAX, u64::MAX, "ffffffff-ffffffffffffffff")]
        {
            let id = RequestId { instance, number };
            assert_eq!(id.to_string(), text);
            assert_eq!(id.header(), text);
        }
    }
}
