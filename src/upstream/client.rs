//! The HTTP client of one upstream, with a limit in time for each step.
//!
//! What must hold: every wait ends; an address that the operator did not choose passes the
//! [`AddressFilter`]. Proxies come from the usual variables (`HTTPS_PROXY`, `NO_PROXY`, …).

pub(crate) mod address_filter;
pub(crate) mod blob_client;
pub(crate) mod body;
pub(crate) mod ca_certificate;
pub(crate) mod ca_file;
pub(crate) mod circuit_breaker;
pub(crate) mod client_options;
pub(crate) mod connection_reuse;
pub(crate) mod der;
pub(crate) mod follow_redirects;
pub(crate) mod host_outcome;
pub(crate) mod http_client;
pub(crate) mod http_clients;
pub(crate) mod http_request;
pub(crate) mod late_response;
pub(crate) mod new_connections;
pub(crate) mod outbound_request;
pub(crate) mod peer_certificate;
pub(crate) mod probe;
pub mod proxy;
pub(crate) mod redirect;
pub(crate) mod trust;

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures_util::future::BoxFuture;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use reqwest::{Response, Url};
use tokio::time::Instant;

use self::{
    address_filter::AddressFilter,
    body::IdleTimeout,
    ca_file::CaFlaws,
    circuit_breaker::{CircuitBreakers, Host, Ticket},
    client_options::ClientOptions,
    connection_reuse::ResendingClient,
    http_client::HttpClient,
    http_clients::Clients,
    http_request::{HttpRequest, TransportError},
    late_response::{LateResponses, PendingResponses, Sending, late_request::LateRequest},
    outbound_request::{OutboundRequest, RequestMode},
    probe::{Probe, Prober},
};
use super::{
    Access, Config, Context, UpstreamTimeouts,
    error::{Error, ErrorKind},
    head,
    health::HealthLog,
    pause::Pause,
    rates::UpstreamRates,
    redacted_url::RedactedUrl,
    setup_error::SetupError,
    throttle::{Throttle, ThrottleKey},
    upload_body::{Progress, UploadBody},
};
use crate::{metrics::Metrics, oci::Operation};

/// How long a request waits for the response to an equal request that timed out earlier, before it is sent beside that
/// one.
const LATE_RESPONSE_WAIT: Duration = Duration::from_secs(3);

/// Sends requests to one upstream, and counts them.
pub(super) struct Sender {
    upstream: Arc<str>,
    clients: Clients,
    breakers: Arc<CircuitBreakers>,
    throttle: Throttle,
    late: LateResponses,
    ca_flaws: CaFlaws,
    filter: AddressFilter,
    pub(super) timeouts: UpstreamTimeouts,
    rates: Arc<UpstreamRates>,
    health: Arc<HealthLog>,
    pause: Pause,
    prober: Prober,
    metrics: Metrics,
}

impl Sender {
    pub(super) fn new(config: &Config, context: &Context) -> Result<Self, SetupError> {
        let filter = AddressFilter::new(&config.urls, &config.realms);
        let upstream = config.name.clone();
        let certificates = ca_file::certificates(&config.name, config.ca.as_deref())?;
        let ca_flaws = ca_file::flaws(config, &certificates);
        for flaw in &ca_flaws.texts {
            tracing::warn!(%upstream, "{flaw}");
        }
        let tls = trust::configuration(&upstream, certificates);
        let tls = tls.map_err(|source| SetupError::Tls { upstream: upstream.clone(), source })?;
        let headers = HeaderMap::from_iter([
            (header::VIA, HeaderValue::from_str(&context.via).map_err(|_| SetupError::Via)?),
            // Content is stored and hashed as it is, never in an encoding.
            (header::ACCEPT_ENCODING, HeaderValue::from_static("identity")),
        ]);
        let timeouts = config.timeouts;
        let options = ClientOptions { headers, tls, filter: filter.clone(), connect_timeout: timeouts.connect };
        let clients =
            Clients::new(&options).map_err(|source| SetupError::Client { upstream: upstream.clone(), source })?;
        let metrics = context.metrics.clone();
        let breakers = CircuitBreakers::new(upstream.clone(), metrics.clone());
        let throttle = Throttle::default();
        let late = LateResponses::new(match config.access {
            Access::Shared => None,
            Access::Client { ttl, .. } => Some(ttl),
        });
        let (rates, health) = (context.rates.of(&config.name), context.health.of(&config.name));
        let (pause, prober) = (context.pauses.of(&config.name), Prober::new(&options));
        Ok(Self {
            upstream,
            clients,
            breakers,
            throttle,
            late,
            ca_flaws,
            filter,
            timeouts,
            rates,
            health,
            pause,
            prober,
            metrics,
        })
    }

    /// What is wrong with the certificates of `ca`.
    pub(super) fn ca_flaws(&self) -> &CaFlaws {
        &self.ca_flaws
    }

    /// Connects to the host of a URL as a request would, and sends none.
    pub(super) async fn probe(&self, url: &Url) -> (Probe, Result<(), Error>) {
        if let Err(refused) = self.pause.admit(&self.upstream) {
            return (Probe::default(), Err(refused));
        }
        match self.check_address(url).await {
            Ok(()) => self.prober.probe(url).await,
            Err(refused) => (Probe::default(), Err(refused)),
        }
    }

    /// Sends a request that changes nothing, and waits for the head of the response.
    pub(super) async fn send(&self, request: OutboundRequest<'_>) -> Result<Response, Error> {
        self.pause.admit(&self.upstream)?;
        let begun = Instant::now();
        let late_request = self.late.identify(&request);
        self.check_address(&request.url).await?;
        let (operation, principal) = (request.operation, request.principal);
        let has_credentials = operation == Operation::Token || request.headers.contains_key(header::AUTHORIZATION);
        let throttle_key = ThrottleKey::of(&request);
        let pending = late_request.as_ref().map(|late_request| self.late.take(late_request)).unwrap_or_default();
        let result = match late_request {
            Some(late_request) if !pending.is_empty() => {
                self.send_beside(request, &throttle_key, late_request, pending).await
            }
            _ => self.send_alone(request, &throttle_key, late_request).await,
        };
        if let Ok(response) = &result {
            if (response.status() == StatusCode::TOO_MANY_REQUESTS
                || response.status() == StatusCode::SERVICE_UNAVAILABLE && head::is_rate_limit(response.headers()))
                && let Some(after) = head::retry_after(response.headers(), SystemTime::now())
            {
                self.throttle.note(throttle_key, after);
            }
            if has_credentials && late_response::is_refusal(response.status()) {
                self.late.refused(principal, late_request.as_ref());
            }
        }
        self.counted(operation, begun, result)
    }

    /// Sends a request of which no equal one is under way. After a timeout it goes on as a late request.
    async fn send_alone(
        &self,
        request: OutboundRequest<'_>,
        throttle_key: &ThrottleKey,
        late_request: Option<LateRequest>,
    ) -> Result<Response, Error> {
        let (url, has_body) = (request.url.clone(), request.may_have_long_body());
        let (ticket, mut sending) = self.begin(request, throttle_key).await?;
        let limit = self.timeouts.response;
        match tokio::time::timeout(limit, &mut sending).await {
            Ok(result) => result,
            Err(_) => {
                ticket.inspect(|ticket| ticket.timed_out());
                if let Some(late_request) = late_request {
                    self.late.keep(late_request, sending, has_body);
                }
                Err(Error::timed_out("requesting", &url, limit))
            }
        }
    }

    /// Sends a request of which equal ones are under way: they may hang. The first response counts.
    async fn send_beside(
        &self,
        request: OutboundRequest<'_>,
        throttle_key: &ThrottleKey,
        late_request: LateRequest,
        mut pending: PendingResponses,
    ) -> Result<Response, Error> {
        let url = request.url.clone();
        let limit = self.timeouts.response;
        let deadline = Instant::now() + limit;
        let too_late = || Error::timed_out("requesting", &url, limit);
        if let Ok(Some(response)) = tokio::time::timeout(LATE_RESPONSE_WAIT, pending.first()).await {
            return Ok(response);
        }
        if pending.is_full() {
            match tokio::time::timeout_at(deadline, pending.first()).await {
                Ok(Some(response)) => return Ok(response),
                Ok(None) => {}
                Err(_) => return self.late.put_back(&late_request, pending).ok_or_else(too_late),
            }
        }
        pending.make_room();
        let has_body = request.may_have_long_body();
        let begun = tokio::select! {
            biased;
            Some(response) = pending.first() => return Ok(response),
            begun = self.begin(request, throttle_key) => begun,
        };
        let (ticket, mut sending) = match begun {
            Ok(begun) => begun,
            Err(error) if pending.is_empty() => return Err(error),
            // The pending request may still be answered.
            Err(error) => (None, Box::pin(std::future::ready(Err(error))) as Sending),
        };
        let mut failed = None;
        let first = first_response(&mut pending, &mut sending, &mut failed);
        let first = tokio::time::timeout_at(deadline, first).await;
        if let Ok(Some(response)) = first {
            if !late_response::serves_the_next(response.status()) {
                self.late.put_back(&late_request, pending);
            }
            return Ok(response);
        }
        if let Some(response) = self.late.put_back(&late_request, pending) {
            return Ok(response);
        }
        Err(failed.unwrap_or_else(|| {
            ticket.inspect(|ticket| ticket.timed_out());
            self.late.keep(late_request, sending, has_body);
            too_late()
        }))
    }

    /// Sends a request once the rate limit and the circuit breaker of its host admit it.
    async fn begin(
        &self,
        request: OutboundRequest<'_>,
        throttle_key: &ThrottleKey,
    ) -> Result<(Option<Arc<Ticket>>, Sending), Error> {
        let is_blob_body = request.is_blob_body();
        let OutboundRequest { mode, operation, method, url, headers, body, .. } = request;
        let turn = self.throttle.turn(throttle_key).await.map_err(|left| Error::limited(&url, left))?;
        let host = Host::of(&url, is_blob_body);
        let ticket = match (mode, operation) {
            // A request beside another one says nothing about the host.
            (RequestMode::Dedicated, _) => None,
            (RequestMode::Push, _) | (_, Operation::Base | Operation::Token) => Some(self.breakers.always(host)),
            (RequestMode::Normal, _) => Some(self.breakers.admit(host).await.map_err(Error::circuit_open)?),
        };
        // A stream whose bytes the rate holds back would fill the window of its HTTP/2 connection, and nothing would come
        // for the other streams.
        let has_rate = is_blob_body && self.rates.inbound.is_set();
        let connection = if has_rate { RequestMode::Dedicated } else { mode };
        let (client, fresh) = self.clients.of(connection, is_blob_body);
        let (resending, settled) = (self.resending(client, fresh), ticket.clone());
        let sending = Box::pin(async move {
            let request = HttpRequest { method, url, headers, body };
            let sent = resending.send(&request).await;
            // The request holds its turn until the response, whether or not a client still waits for it.
            drop(turn);
            let result = sent.map_err(|error| Error::from_transport("requesting", &request.url, error));
            if let Some(ticket) = settled {
                ticket.settle(host_outcome::of(&result));
            }
            result
        });
        Ok((ticket, sending))
    }

    fn resending(&self, client: &HttpClient, fresh: &HttpClient) -> ResendingClient {
        ResendingClient { upstream: self.upstream.clone(), client: client.clone(), fresh: fresh.clone() }
    }

    /// Sends a request of a push, and waits for the head of the response: as long as its body moves, and then as long
    /// as registries take to store it.
    pub(super) async fn send_push(
        &self,
        method: Method,
        url: &Url,
        headers: HeaderMap,
        content: Option<UploadBody>,
    ) -> Result<Response, Error> {
        self.pause.admit(&self.upstream)?;
        let begun = Instant::now();
        self.check_address(url).await?;
        let _change = (!method.is_safe()).then(|| self.late.change());
        let request = HttpRequest { method, url: url.clone(), headers, body: None };
        let Clients { general, uploads, fresh, .. } = &self.clients;
        let resending = self.resending(general, fresh);
        let (mut sending, progress): (BoxFuture<'_, Result<_, TransportError>>, _) = match content {
            Some(UploadBody { body, progress, .. }) => {
                let HttpRequest { method, url, headers, .. } = request;
                let sending = uploads.request(method, url).headers(headers).body(body).send();
                (Box::pin(async { Ok(sending.await?) }), progress)
            }
            None if request.method.is_safe() => {
                (Box::pin(async move { resending.send(&request).await }), Progress::ended())
            }
            None => (Box::pin(async move { general.send(&request).await }), Progress::ended()),
        };
        let result = loop {
            let (deadline, limit) = progress.deadline();
            tokio::select! {
                biased;
                result = &mut sending => break result.map_err(|error| {
                    let error = Error::from_transport("sending to", url, error);
                    if !progress.is_broken() {
                        return error;
                    }
                    Error::new(ErrorKind::Rejected { status: 400 }, "the content broke off").caused_by(error)
                }),
                () = tokio::time::sleep_until(deadline) => {}
            }
            if progress.deadline().0 <= deadline {
                break Err(Error::timed_out("sending to", url, limit));
            }
        };
        self.breakers.always(Host::of(url, false)).settle(host_outcome::of(&result));
        self.counted(Operation::Push, begun, result)
    }

    /// Refuses an address that the operator did not choose.
    async fn check_address(&self, url: &Url) -> Result<(), Error> {
        let refused = |why| Error::new(ErrorKind::Protocol, format!("requesting {}", RedactedUrl(url))).caused_by(why);
        Box::pin(self.filter.check(url)).await.map_err(refused)
    }

    fn counted(
        &self,
        operation: Operation,
        begun: Instant,
        mut result: Result<Response, Error>,
    ) -> Result<Response, Error> {
        if result.as_ref().is_err_and(|error| error.kind == ErrorKind::Exhausted) {
            return result;
        }
        if let Ok(response) = &mut result {
            response.extensions_mut().insert(IdleTimeout(self.timeouts.idle));
        }
        let status = result.as_ref().ok().map(|response| response.status().as_u16());
        self.metrics.upstream_request(&self.upstream, operation, status);
        let took = begun.elapsed();
        self.metrics.upstream_request_took(&self.upstream, operation, took);
        if result.is_ok() {
            self.health.note_latency(took);
        }
        tracing::debug!(
            upstream = %self.upstream,
            operation = operation.as_str(),
            host = result.as_ref().ok().and_then(|response| response.url().host_str()),
            status,
            error = result.as_ref().err().map(tracing::field::display),
            seconds = took.as_secs_f64(),
            "response head",
        );
        result
    }
}

/// The first response of the pending requests and the new one; `None` when all have failed. The error of the new one
/// goes to `failed`.
async fn first_response(
    pending: &mut PendingResponses,
    sending: &mut Sending,
    failed: &mut Option<Error>,
) -> Option<Response> {
    loop {
        tokio::select! {
            biased;
            Some(response) = pending.first() => return Some(response),
            result = &mut *sending, if failed.is_none() => match result {
                Ok(response) => return Some(response),
                Err(error) => *failed = Some(error),
            },
            else => return None,
        }
    }
}
