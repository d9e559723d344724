//! The access log, the metrics and the history: one line for each request, metrics in the same words, and an entry.
//!
//! A request is recorded when its response's body ends or is dropped, so that the record has what was really sent.

use std::{
    mem,
    net::IpAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, Instant, SystemTime},
};

use bytes::{Buf, Bytes};
use http::{HeaderValue, Method, Response, header, request::Parts};
use http_body::{Frame, SizeHint};

use super::{
    body::{Body, BodyError},
    pulls::{Pull, PullKey, Pulls, Step},
};
use crate::{
    cache::{Outcome, WholeHit},
    error_chain::ErrorChain,
    history::{FinishedRequest, History, ResponseHead, Running, RunningRequest},
    metrics::{AnsweredRequest, Label as _, Metrics, megabytes_per_second},
    oci::{Operation, Reference, Repository},
    rate::HoldClock,
    request_id::{RequestId, RequestIdText},
    request_trace::{RequestTrace, Spent},
    rule::RuleName,
};

/// Where requests are recorded.
pub(super) struct RequestLog {
    metrics: Metrics,
    history: History,
    pulls: Pulls,
}

impl RequestLog {
    pub(super) fn new(metrics: Metrics, history: History) -> Self {
        Self { metrics, history, pulls: Pulls::new() }
    }

    pub(super) fn history(&self) -> &History {
        &self.history
    }
}

/// What the log, the metrics and the history say of one request. Nothing here is a secret: of the client's headers only the
/// User-Agent is kept, and of its query only `ns`.
///
/// It is recorded when it is dropped: with its response's body, or before that when the client leaves.
pub(crate) struct AccessRecord {
    pub id: RequestId,
    peer: Arc<str>,
    method: Method,
    /// The path, and behind it the User-Agent. A copy: a part of the request's head would keep the whole buffer that the
    /// head was read into.
    path_and_agent: Box<str>,
    path_len: usize,
    /// The value of `ns=`.
    pub namespace: Option<String>,
    /// `None` until the request is routed.
    pub upstream: Option<Arc<str>>,
    /// The upstream that the request names and that is not configured.
    pub unconfigured: Option<Box<str>>,
    /// The upstream authorizes each client: the request is not for everybody's eyes.
    pub is_of_client: bool,
    pub repository: Option<Repository>,
    /// The tag or digest that the client named.
    pub reference: Option<Reference>,
    pub operation: Operation,
    /// The client pulls an image by it: it is a `GET` of a tag, or of a digest that the client was not just given.
    pub is_pull: bool,
    pub outcome: Outcome,
    pub user: Option<Arc<str>>,
    /// Present while a whole blob is sent out of the cache.
    pub whole_hit: Option<WholeHit>,
    /// Why the request failed, in one word of a closed set.
    pub failure: Option<&'static str>,
    /// Why the upstream could not answer, in one word of a closed set.
    pub upstream_cause: Option<&'static str>,
    /// Runs while a rate holds the response back.
    pub held: Option<Arc<HoldClock>>,
    /// How many bytes the client is sent to the object store for.
    pub redirected: Option<u64>,
    /// The rule that refused the request, or made a tag mean another digest than the upstream says.
    pub rule: Option<Arc<RuleName>>,
    /// Why the request failed, in words that are not for the client.
    pub cause: Option<String>,
    /// A peer sent it, for a client of its own.
    pub by_peer: bool,
    /// The client sent an Authorization header.
    has_credentials: bool,
    pull: Option<Pull>,
    /// What the request spends at its upstream, from when it may need it.
    trace: RequestTrace,
    /// Present once operators can see the request among those in flight.
    running: Option<Running>,
    status: u16,
    sent: u64,
    first_byte: Option<Duration>,
    complete: bool,
    started: Instant,
    log: Arc<RequestLog>,
}

/// The longest part of a User-Agent that is logged, in bytes: BuildKit's are 60, those of dockerd 200.
const MAX_AGENT: usize = 256;
/// The longest part of `ns=` that is logged, in bytes.
const MAX_NAMESPACE: usize = 128;
/// The failure of a request whose client left before the end of the response.
const CLIENT_LEFT_EARLY: &str = "client_left";
/// The failure of a request whose body could not go on.
const BODY_BROKE: &str = "body_broke";
/// The failure of a push that the upstream refused.
const UPSTREAM_STATUS: &str = "upstream_status";

/// The upstream of a request that names none, or that was refused before it was routed.
const NO_UPSTREAM: &str = "none";
/// The status of a request whose client left before the response, as nginx logs it; no client ever sees it.
const CLIENT_LEFT: u16 = 499;

impl AccessRecord {
    pub(super) fn new(id: RequestId, peer: Arc<str>, head: &Parts, log: Arc<RequestLog>) -> Self {
        let path = head.uri.path();
        let agent = head.headers.get(header::USER_AGENT).map_or(&[][..], HeaderValue::as_bytes);
        Self {
            id,
            peer,
            method: head.method.clone(),
            path_and_agent: [path, &String::from_utf8_lossy(&agent[..agent.len().min(MAX_AGENT)])].concat().into(),
            path_len: path.len(),
            namespace: None,
            upstream: None,
            unconfigured: None,
            is_of_client: false,
            repository: None,
            reference: None,
            operation: Operation::Unknown,
            is_pull: false,
            outcome: Outcome::Bypass,
            user: None,
            whole_hit: None,
            failure: None,
            upstream_cause: None,
            held: None,
            redirected: None,
            rule: None,
            cause: None,
            by_peer: false,
            has_credentials: head.headers.contains_key(header::AUTHORIZATION),
            pull: None,
            trace: RequestTrace::default(),
            running: None,
            status: CLIENT_LEFT,
            sent: 0,
            first_byte: None,
            complete: false,
            started: Instant::now(),
            log,
        }
    }

    /// The trace of the request, which begins now if it has not begun yet.
    pub(super) fn trace(&mut self) -> RequestTrace {
        if self.trace.id().is_none() {
            self.trace = RequestTrace::of(self.id);
        }
        self.trace.clone()
    }

    /// The request belongs to a pull of this repository by the client at this address.
    pub(super) fn join_pull(&mut self, peer: IpAddr, user: Option<&str>, repository: &Repository, step: Step) {
        let upstream = self.upstream.as_deref().unwrap_or(NO_UPSTREAM);
        let key = PullKey { peer, user, upstream, repository: repository.as_str() };
        self.pull = Some(self.log.pulls.join(key, step, self.id.number, self.started));
    }

    /// Lets operators see the request among those in flight. The shortest ones never get there.
    pub(super) fn begin(&mut self) {
        if self.running.is_some() {
            return;
        }
        let mut request = RunningRequest::new(self.id, self.peer.clone(), self.method.clone(), self.started);
        request.pull = self.pull.map(|pull| pull.first);
        request.is_of_client = self.is_of_client;
        request.user_agent = self.path_and_agent.get(self.path_len..).filter(|agent| !agent.is_empty()).map(Box::from);
        request.user = self.user.clone();
        request.upstream = self.upstream.clone();
        request.repository = self.repository.clone();
        request.reference = self.reference.clone();
        request.operation = self.operation;
        self.running = Some(self.log.history.begin(request));
    }

    /// Why the request failed, where no error has told.
    fn failure_of_response(&self) -> Option<&'static str> {
        match self.status {
            CLIENT_LEFT => Some(CLIENT_LEFT_EARLY),
            400.. => Some(UPSTREAM_STATUS),
            _ => (!self.complete).then_some(CLIENT_LEFT_EARLY),
        }
    }
}

impl Drop for AccessRecord {
    /// One line in the log, the metrics, and an entry in the history.
    fn drop(&mut self) {
        let duration = self.started.elapsed();
        let first_byte = self.first_byte.unwrap_or(duration);
        let Self { operation, outcome, status, sent, .. } = *self;
        let upstream = self.upstream.as_deref().unwrap_or(NO_UPSTREAM);
        let held = self.held.as_ref().map(|clock| clock.held()).filter(|held| !held.is_zero());
        self.log.metrics.request(upstream, operation, outcome, AnsweredRequest { status, first_byte, duration, sent });
        if let Some(pull) = self.pull {
            self.log.pulls.note_end(pull, self.started + duration);
        }
        let spent = self.trace.spent(self.started + duration);
        let pull = self.pull.map(|pull| RequestId { number: pull.first, ..self.id }.text());
        self.failure = self.failure.or_else(|| self.failure_of_response());
        let (path, agent) = self.path_and_agent.split_at(self.path_len);
        tracing::info!(
            id = self.id.text().as_str(),
            pull = pull.as_ref().map(RequestIdText::as_str),
            peer = &*self.peer,
            by_peer = self.by_peer.then_some(true),
            user_agent = Some(agent).filter(|agent| !agent.is_empty()),
            method = self.method.as_str(),
            path,
            ns = self.namespace.as_deref().map(|namespace| start_of(namespace, MAX_NAMESPACE)),
            upstream,
            repository = self.repository.as_ref().map(Repository::as_str),
            operation = operation.as_str(),
            outcome = outcome.as_str(),
            status,
            sent,
            redirected_bytes = self.redirected,
            first_byte_seconds = first_byte.as_secs_f64(),
            duration_seconds = duration.as_secs_f64(),
            upstream_seconds = spent.waited.map(|waited| waited.as_secs_f64()),
            upstream_bytes = spent.received,
            rate_limited_seconds = held.map(|held| held.as_secs_f64()),
            complete = self.complete,
            user = self.user.as_deref(),
            failure = self.failure,
            upstream_cause = self.upstream_cause,
            rule = self.rule.as_deref().map(tracing::field::display),
            cause = self.cause,
            "request",
        );
        if spent.waited.is_some() {
            self.tell_client(duration, spent);
        }
        // A browser that shows the page asks every few seconds, and would displace what operators look for. A peer's request
        // is told by that peer, and saves nothing a second time.
        if operation != Operation::Page && !self.by_peer {
            let finished = self.take(first_byte, duration, spent);
            self.log.history.add(finished);
        }
    }
}

impl AccessRecord {
    /// The entry of the history. The texts move there.
    fn take(&mut self, first_byte: Duration, duration: Duration, spent: Spent) -> FinishedRequest {
        FinishedRequest {
            id: self.id,
            pull: self.pull.map(|pull| pull.first),
            is_pull: self.is_pull,
            is_of_client: self.is_of_client,
            has_credentials: self.has_credentials,
            peer: self.peer.clone(),
            method: mem::take(&mut self.method),
            path_and_agent: mem::take(&mut self.path_and_agent),
            path_len: self.path_len,
            namespace: self.namespace.take(),
            upstream: self.upstream.take(),
            unconfigured: self.unconfigured.take(),
            repository: self.repository.take(),
            reference: self.reference.take(),
            operation: self.operation,
            outcome: self.outcome,
            status: self.status,
            sent: self.sent,
            redirected: self.redirected,
            is_complete: self.complete,
            started: self.started,
            first_byte,
            duration,
            ended_at: SystemTime::now(),
            waited: spent.waited,
            received: spent.received,
            user: self.user.take(),
            failure: self.failure,
            upstream_cause: self.upstream_cause,
            rule: self.rule.take(),
            cause: self.cause.take(),
        }
    }

    /// How quickly the client took the response, by the time that was no wait for the upstream: so a slow client can be
    /// told from a slow upstream.
    fn tell_client(&self, duration: Duration, Spent { waited, .. }: Spent) {
        let rest = duration.saturating_sub(waited.unwrap_or_default());
        let _entered = self.trace.span().entered();
        tracing::debug!(
            sent = self.sent,
            client_seconds = rest.as_secs_f64(),
            megabytes_per_second = megabytes_per_second(self.sent, rest),
            "the client took the response",
        );
    }
}

/// The start of a text, of at most `most` bytes.
fn start_of(text: &str, most: usize) -> &str {
    text.get(..text.floor_char_boundary(most)).unwrap_or_default()
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
        if let Some(running) = &record.running {
            running.responds(ResponseHead { status: record.status, outcome: record.outcome, length: announced });
        }
        record.complete = http_body::Body::is_end_stream(response.body());
        response.map(|body| Self { record, body, announced })
    }
}

impl http_body::Body for LoggedBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = {
            let _entered = self.record.trace.span().entered();
            ready!(Pin::new(&mut self.body).poll_frame(cx))
        };
        match &frame {
            Some(Ok(frame)) => {
                let Self { record, body, announced } = &mut *self;
                let started = record.started;
                record.first_byte.get_or_insert_with(|| started.elapsed());
                record.sent += frame.data_ref().map_or(0, |data| data.remaining() as u64);
                if let Some(running) = &record.running {
                    running.has_sent(record.sent);
                }
                if Some(record.sent) == *announced || http_body::Body::is_end_stream(body) {
                    record.complete = true;
                    // Ended before the last byte is sent, so that the client's next request comes after it.
                    if let Some(hit) = record.whole_hit.take() {
                        hit.ended();
                    }
                }
            }
            Some(Err(error)) => {
                self.record.failure = Some(BODY_BROKE);
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
