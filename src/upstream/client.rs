//! The HTTP client of one upstream, and every limit in time that asking it has.
//!
//! What must hold: nothing follows a redirect, sends a Referer, keeps a cookie or decodes a body
//! behind our back; every wait ends; an address that the operator did not choose passes the
//! [`AddressFilter`]. Proxies come from the usual variables (`HTTPS_PROXY`, `NO_PROXY`, …).

pub(crate) mod address_filter;
pub(crate) mod ca_certificate;
pub(crate) mod circuit_breaker;
pub(crate) mod connection_reuse;
pub(crate) mod late_response;
pub mod proxy;
pub(crate) mod redirect;
pub(crate) mod redirect_walk;
pub(crate) mod trust;

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::{Bytes, BytesMut};
use futures_util::future::BoxFuture;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version, header};
use reqwest::{Client, RequestBuilder, Response, Url, redirect::Policy};
use rustls::{
    ClientConfig,
    pki_types::{CertificateDer, pem::PemObject},
};
use tokio::time::Instant;

use self::{
    address_filter::AddressFilter,
    circuit_breaker::{CircuitBreakers, Host, Resting, Ticket},
    connection_reuse::NoteNew,
    late_response::{LateRequest, LateResponses, Sending, Taken},
};
use super::{
    Access, Config, Context, Principal,
    auth::token::TokenKey,
    error::{Error, ErrorKind, SetupError, Shown, retry_after},
    response,
    throttle::{Counted, Throttle},
    upload_body::{Progress, UploadBody},
};
use crate::{metrics::Metrics, oci::Operation, small_file};

/// How long a connection, TLS included, may take to come up.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long an upstream may take from the request to the head of its answer; some registries
/// fetch what was asked for from their own upstream first.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// How long the same request that was given up earlier is waited for before the upstream is asked once more, beside it.
const BESIDE_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a body may pause between two pieces.
pub(super) const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a body that is held in memory may take as a whole: idle timeouts alone would let a
/// drip-fed manifest take a year.
pub(super) const WHOLE_BODY_TIMEOUT: Duration = Duration::from_secs(120);
/// A balancer forgets idle connections silently; probing keeps them alive, or finds them dead.
const KEEPALIVE: Duration = Duration::from_secs(20);
/// How long a probe of an HTTP/2 connection may go unanswered.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// The `Range` of a GET in place of a HEAD.
pub(super) const FIRST_BYTE: &str = "bytes=0-0";

/// How many headers an answer may have, and how long its head may be over HTTP/2, in bytes, of which HTTP/2 counts 32 more for each
/// header: clients take 64 KiB without them. hyper takes 400 KB over HTTP/1. Balancers and CDNs add dozens.
const MAX_HEADERS: usize = 256;
const MAX_HEAD: u32 = 128 * 1024;

/// The longest file of a private CA's certificates, in bytes; a system's bundle has 200 KB.
const MAX_CA: u64 = 4 * 1024 * 1024;

const USER_AGENT: &str = concat!("forebay/", env!("CARGO_PKG_VERSION"));

/// The most that is read of a body that nobody wants, so that its connection can be used again.
const MAX_DISCARDED: usize = 16 * 1024;
/// How long a connection without a request is kept for the next one.
const MAX_IDLE: Duration = Duration::from_secs(30);
/// How long an unwanted body is waited for; a new connection costs less than a longer wait.
const DISCARD_TIMEOUT: Duration = Duration::from_secs(1);

/// How a request goes on its way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Manner {
    #[default]
    Usual,
    /// Over a connection that no other request is on.
    Apart,
    /// As part of a push: also to a host that has not answered lately.
    Push,
}

/// A request that changes nothing.
pub(super) struct Question<'a> {
    pub manner: Manner,
    /// In whose name; `None`: forebay's own.
    pub principal: Option<Principal>,
    /// What tells its token from others, if it shows one.
    pub token: Option<&'a TokenKey>,
    pub operation: Operation,
    pub method: Method,
    pub url: &'a Url,
    /// Where the way began that led to the URL, and how many redirects ago.
    pub start: &'a Url,
    pub hop: usize,
    pub headers: HeaderMap,
    pub body: Option<String>,
}

/// Sends requests on behalf of one upstream, and counts them.
pub(super) struct Sender {
    upstream: Arc<str>,
    clients: Clients,
    breakers: Arc<CircuitBreakers>,
    /// Hosts whose names are not for clients.
    limits: Throttle,
    late: LateResponses,
    ca_flaws: CaFlaws,
    filter: AddressFilter,
    metrics: Metrics,
}

/// Each has connections of its own.
struct Clients {
    usual: Client,
    /// Of blobs. Over HTTP/2, slow ones would keep the others from having a stream.
    blobs: Client,
    /// Of what is pushed, for the same reason.
    uploads: Client,
    /// Of requests that are each to have a connection of their own, which HTTP/2 would not give them.
    apart: Client,
    /// Keeps no connection.
    fresh: Client,
}

/// What is wrong with the certificates of `ca`.
#[derive(Clone, Debug, Default)]
pub struct CaFlaws {
    /// One for each that cannot be used.
    pub texts: Vec<String>,
    /// Whether that is so of all of them.
    pub all: bool,
}

/// What the clients of an upstream are made of.
struct ClientOptions {
    headers: HeaderMap,
    tls: ClientConfig,
    filter: AddressFilter,
}

impl ClientOptions {
    fn clients(&self) -> reqwest::Result<Clients> {
        let any = ["h2", "http/1.1"];
        Ok(Clients {
            usual: self.client(&any, usize::MAX)?,
            blobs: self.client(&any, usize::MAX)?,
            uploads: self.client(&any, usize::MAX)?,
            apart: self.client(&["http/1.1"], usize::MAX)?,
            fresh: self.client(&any, 0)?,
        })
    }

    /// One that speaks these protocols and keeps so many idle connections for each host.
    fn client(&self, protocols: &[&str], kept: usize) -> reqwest::Result<Client> {
        let mut tls = self.tls.clone();
        tls.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        Client::builder()
            .user_agent(USER_AGENT)
            .default_headers(self.headers.clone())
            .redirect(Policy::none())
            .referer(false)
            // What comes once more, and whether, is decided in `Twice`: else a change would come twice.
            .retry(reqwest::retry::never())
            .no_gzip()
            .no_brotli()
            .no_zstd()
            .no_deflate()
            .connect_timeout(CONNECT_TIMEOUT)
            .pool_idle_timeout(MAX_IDLE)
            .pool_max_idle_per_host(kept)
            .connector_layer(NoteNew)
            .http1_max_headers(MAX_HEADERS)
            .http2_max_header_list_size(MAX_HEAD)
            .tcp_keepalive(KEEPALIVE)
            .http2_keep_alive_interval(KEEPALIVE)
            .http2_keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .dns_resolver(self.filter.clone())
            .tls_backend_preconfigured(tls)
            .build()
    }
}

impl Sender {
    pub(super) fn new(config: &Config, context: &Context) -> Result<Self, SetupError> {
        let filter = AddressFilter::new(&config.urls, &config.realms);
        let upstream = config.name.clone();
        let certificates = certificates(config)?;
        let ca_flaws = flaws(config, &certificates);
        for flaw in &ca_flaws.texts {
            tracing::warn!(%upstream, "{flaw}");
        }
        let tls = trust::configuration(&upstream, certificates);
        let tls = tls.map_err(|source| SetupError::Tls { upstream: upstream.clone(), source })?;
        let headers = HeaderMap::from_iter([
            (header::VIA, HeaderValue::from_str(&context.via).map_err(|_| SetupError::Via)?),
            // What is stored and hashed are the bytes themselves, never an encoding of them.
            (header::ACCEPT_ENCODING, HeaderValue::from_static("identity")),
        ]);
        let kit = ClientOptions { headers, tls, filter: filter.clone() };
        let clients = kit.clients().map_err(|source| SetupError::Client { upstream: upstream.clone(), source })?;
        let metrics = context.metrics.clone();
        let breakers = CircuitBreakers::new(upstream.clone(), metrics.clone());
        let limits = Throttle::default();
        let late = LateResponses::new(match config.access {
            Access::Shared => None,
            Access::Client { ttl, .. } => Some(ttl),
        });
        Ok(Self { upstream, clients, breakers, limits, late, ca_flaws, filter, metrics })
    }

    /// What is wrong with the certificates of `ca`.
    pub(super) fn ca_flaws(&self) -> &CaFlaws {
        &self.ca_flaws
    }

    /// Sends one request that changes nothing, in forebay's own name, and waits for the head of the answer.
    pub(super) async fn send(
        &self,
        operation: Operation,
        method: Method,
        url: &Url,
        headers: HeaderMap,
        body: Option<String>,
    ) -> Result<Response, Error> {
        let (manner, principal, token, hop) = (Manner::Usual, None, None, 0);
        self.ask(Question { manner, principal, token, operation, method, url, start: url, hop, headers, body }).await
    }

    /// Sends it, and waits for the head of the answer.
    pub(super) async fn ask(&self, question: Question<'_>) -> Result<Response, Error> {
        let asked = self.late.asked(&question);
        let url = question.url;
        self.check(url).await?;
        let (operation, principal) = (question.operation, question.principal);
        let is_refusable = operation == Operation::Token || question.headers.contains_key(header::AUTHORIZATION);
        let host =
            format!("{}:{}", url.host_str().unwrap_or_default(), url.port_or_known_default().unwrap_or_default());
        let counted = Counted { host, principal, operation, is_head: question.method == Method::HEAD };
        let taken = asked.as_ref().map(|asked| self.late.take(asked)).unwrap_or_default();
        let answer = match asked {
            Some(asked) if !taken.is_empty() => self.ask_again(question, &counted, asked, taken).await,
            _ => {
                let has_body = may_be_long(&question.method, &question.headers);
                let (ticket, mut sending) = self.begin(question, &counted).await?;
                match tokio::time::timeout(HEAD_TIMEOUT, &mut sending).await {
                    Ok(answer) => answer,
                    Err(_) => {
                        ticket.inspect(|ticket| ticket.timed_out());
                        if let Some(asked) = asked {
                            self.late.keep(asked, sending, has_body);
                        }
                        Err(Error::timed_out("asking", url, HEAD_TIMEOUT))
                    }
                }
            }
        };
        if let Ok(response) = &answer {
            if (response.status() == StatusCode::TOO_MANY_REQUESTS
                || response.status() == StatusCode::SERVICE_UNAVAILABLE && response::is_limit(response.headers()))
                && let Some(after) = retry_after(response.headers(), SystemTime::now())
            {
                self.limits.note(counted, after);
            }
            if is_refusable && late_response::is_refusal(response.status()) {
                self.late.refused(principal, asked.as_ref());
            }
        }
        self.counted(operation, answer)
    }

    /// The same for a request that is under way already: one that hangs is no reason to ask no other. The first answer counts.
    async fn ask_again(
        &self,
        question: Question<'_>,
        counted: &Counted,
        asked: LateRequest,
        mut taken: Taken,
    ) -> Result<Response, Error> {
        let url = question.url;
        let deadline = Instant::now() + HEAD_TIMEOUT;
        let too_late = || Error::timed_out("asking", url, HEAD_TIMEOUT);
        if let Ok(Some(answer)) = tokio::time::timeout(BESIDE_TIMEOUT, taken.answer()).await {
            return Ok(answer);
        }
        if taken.is_full() {
            match tokio::time::timeout_at(deadline, taken.answer()).await {
                Ok(Some(answer)) => return Ok(answer),
                Ok(None) => {}
                Err(_) => return self.late.put_back(&asked, taken).ok_or_else(too_late),
            }
        }
        taken.make_room();
        let has_body = may_be_long(&question.method, &question.headers);
        let begun = tokio::select! {
            biased;
            Some(answer) = taken.answer() => return Ok(answer),
            begun = self.begin(question, counted) => begun,
        };
        let (ticket, mut sending) = match begun {
            Ok(begun) => begun,
            Err(error) if taken.is_empty() => return Err(error),
            // The one under way may be answered all the same.
            Err(error) => (None, Box::pin(std::future::ready(Err(error))) as Sending),
        };
        let mut failed = None;
        let first = async {
            loop {
                tokio::select! {
                    biased;
                    Some(answer) = taken.answer() => return Some(answer),
                    answer = &mut sending, if failed.is_none() => match answer {
                        Ok(answer) => return Some(answer),
                        Err(error) => failed = Some(error),
                    },
                    else => return None,
                }
            }
        };
        let first = tokio::time::timeout_at(deadline, first).await;
        if let Ok(Some(answer)) = first {
            if !late_response::serves_the_next(answer.status()) {
                self.late.put_back(&asked, taken);
            }
            return Ok(answer);
        }
        if let Some(answer) = self.late.put_back(&asked, taken) {
            return Ok(answer);
        }
        Err(failed.unwrap_or_else(|| {
            ticket.inspect(|ticket| ticket.timed_out());
            self.late.keep(asked, sending, has_body);
            too_late()
        }))
    }

    /// Sends it as soon as its host may be asked.
    async fn begin(&self, question: Question<'_>, counted: &Counted) -> Result<(Option<Arc<Ticket>>, Sending), Error> {
        let is_long = is_long(&question);
        let Question { manner, operation, method, url, headers, body, .. } = question;
        let turn = self.limits.turn(counted).await.map_err(|left| Error::limited(url, left))?;
        let host = Host::of(url, is_long);
        let ticket = match (manner, operation) {
            // A request beside another one says nothing of the host.
            (Manner::Apart, _) => None,
            (Manner::Push, _) | (_, Operation::Base | Operation::Token) => Some(self.breakers.always(host)),
            (Manner::Usual, _) => Some(self.breakers.admit(host).await.map_err(|why| self.resting(url, why))?),
        };
        let client = match manner {
            Manner::Apart => &self.clients.apart,
            Manner::Usual | Manner::Push if is_long => &self.clients.blobs,
            Manner::Usual | Manner::Push => &self.clients.usual,
        };
        let (url, twice, settled) = (url.clone(), self.twice(client), ticket.clone());
        let sending = Box::pin(async move {
            let request = |client: &Client| {
                let request = client.request(method.clone(), url.clone()).headers(headers.clone());
                match &body {
                    Some(body) => request.body(body.clone()),
                    None => request,
                }
            };
            let sent = twice.send(request).await;
            // It has its turn for as long as it goes on, whether or not a client waits for it.
            drop(turn);
            let answer = sent.map_err(|error| Error::from_transport("asking", &url, error));
            if let Some(ticket) = settled {
                ticket.settle(&answer);
            }
            answer
        });
        Ok((ticket, sending))
    }

    fn resting(&self, url: &Url, why: Resting) -> Error {
        Error::resting(why, !is_host_of(&self.upstream, url.host_str().unwrap_or_default()))
    }

    fn twice(&self, client: &Client) -> Twice {
        Twice { upstream: self.upstream.clone(), client: client.clone(), fresh: self.clients.fresh.clone() }
    }

    /// Sends a request that changes something, and waits for the head of the answer: as long as its content moves, and
    /// then as long as registries take to store it.
    pub(super) async fn send_content(
        &self,
        operation: Operation,
        method: Method,
        url: &Url,
        headers: HeaderMap,
        content: Option<UploadBody>,
    ) -> Result<Response, Error> {
        self.check(url).await?;
        let _change = (!method.is_safe()).then(|| self.late.change());
        let client = if content.is_some() { &self.clients.uploads } else { &self.clients.usual };
        let request = |client: &Client| client.request(method.clone(), url.clone()).headers(headers.clone());
        let (mut sending, progress): (BoxFuture<'_, _>, _) = match content {
            Some(UploadBody { body, progress, .. }) => (Box::pin(request(client).body(body).send()), progress),
            None if method.is_safe() => (Box::pin(self.twice(client).send(request)), Progress::ended()),
            None => (Box::pin(request(client).send()), Progress::ended()),
        };
        let answer = loop {
            let (deadline, limit) = progress.deadline();
            tokio::select! {
                biased;
                answer = &mut sending => break answer.map_err(|error| {
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
        self.breakers.always(Host::of(url, false)).settle(&answer);
        self.counted(operation, answer)
    }

    /// Refuses an address that the operator did not choose.
    async fn check(&self, url: &Url) -> Result<(), Error> {
        let refused = |why| Error::new(ErrorKind::Protocol, format!("asking {}", Shown(url))).caused_by(why);
        Box::pin(self.filter.check(url)).await.map_err(refused)
    }

    fn counted(&self, operation: Operation, answer: Result<Response, Error>) -> Result<Response, Error> {
        if answer.as_ref().is_err_and(|error| error.kind == ErrorKind::Exhausted) {
            return answer;
        }
        let status = answer.as_ref().ok().map(|response| response.status().as_u16());
        self.metrics.upstream_request(&self.upstream, operation, status);
        answer
    }
}

/// The clients of a request that may come twice.
struct Twice {
    upstream: Arc<str>,
    client: Client,
    /// Keeps no connection.
    fresh: Client,
}

impl Twice {
    /// Once more, on a new connection, where the one that was kept proves dead, or the upstream has not looked at the request. That
    /// says nothing about the upstream, and is counted nowhere.
    async fn send(self, request: impl Fn(&Client) -> RequestBuilder) -> reqwest::Result<Response> {
        let (answer, kept) = connection_reuse::noted(request(&self.client).send()).await;
        let is_void = match &answer {
            // It has closed the connection as idle (RFC 9110 section 15.5.9).
            Ok(response) => kept && response.status() == StatusCode::REQUEST_TIMEOUT,
            Err(error) => (kept && connection_reuse::is_dead(error)) || connection_reuse::is_unprocessed(error),
        };
        if !is_void {
            return answer;
        }
        let error = answer.err().map(reqwest::Error::without_url);
        let error = error.as_ref().map(tracing::field::display);
        tracing::debug!(upstream = %self.upstream, error, "a request is sent once more, on a new connection");
        request(&self.fresh).send().await
    }
}

/// Whether an upstream is named after this host: of no other one do clients know.
fn is_host_of(upstream: &str, host: &str) -> bool {
    upstream.get(..host.len()).is_some_and(|name| name.eq_ignore_ascii_case(host))
        && matches!(upstream.as_bytes().get(host.len()), None | Some(b':'))
}

fn is_long(question: &Question<'_>) -> bool {
    question.operation == Operation::Blob && may_be_long(&question.method, &question.headers)
}

/// Whether the answer of a blob may be long: a HEAD has none, nor has the GET of one byte in its place.
fn may_be_long(method: &Method, headers: &HeaderMap) -> bool {
    *method == Method::GET && headers.get(header::RANGE).is_none_or(|range| range != FIRST_BYTE)
}

/// Reads a short body that nobody wants, since a connection with an unread body is closed.
pub(super) async fn discard(mut response: Response) {
    let read = async {
        let mut seen = 0;
        while let Ok(Some(piece)) = response.chunk().await {
            seen += piece.len();
            if seen > MAX_DISCARDED {
                break;
            }
        }
    };
    // Too slow is as good as too long: the connection is closed.
    let _ = tokio::time::timeout(DISCARD_TIMEOUT, read).await;
}

/// The next piece of a body, or `None` at its clean end. Cancelling loses nothing.
pub(super) async fn next_piece(response: &mut Response, url: &Url) -> Result<Option<Bytes>, Error> {
    match tokio::time::timeout(IDLE_TIMEOUT, response.chunk()).await {
        Ok(piece) => piece.map_err(|error| Error::from_transport("reading", url, error)),
        Err(_) => Err(Error::timed_out("reading", url, IDLE_TIMEOUT)),
    }
}

/// The same. Where the content is `known` by its digest, a body without a length may end with its connection, also where the
/// upstream leaves TLS without its goodbye (`close_notify`): else that may be a cut.
///
/// Source: RFC 9112 section 9.8.
pub(super) async fn next_or_end(response: &mut Response, url: &Url, known: bool) -> Result<Option<Bytes>, Error> {
    let ends_with_connection = known
        && response.version() <= Version::HTTP_11
        && !response.headers().contains_key(header::CONTENT_LENGTH)
        && !response.headers().contains_key(header::TRANSFER_ENCODING);
    match next_piece(response, url).await {
        Err(error) if ends_with_connection && error.is_unannounced_end() => Ok(None),
        piece => piece,
    }
}

/// The whole body, if it is at most `limit` bytes. A body cut short is an error.
pub(super) async fn whole_body(response: Response, url: &Url, limit: usize) -> Result<Bytes, Error> {
    whole_content(response, url, limit, false).await
}

/// The same of what is perhaps `known` by its digest: see [`next_or_end`].
pub(super) async fn whole_content(
    mut response: Response,
    url: &Url,
    limit: usize,
    known: bool,
) -> Result<Bytes, Error> {
    let too_large =
        || Error::new(ErrorKind::TooLarge, format!("the answer of {} is larger than {limit} bytes", Shown(url)));
    let announced = number(response.headers(), &header::CONTENT_LENGTH);
    if announced.is_some_and(|announced| announced > limit as u64) {
        return Err(too_large());
    }
    let read = async {
        let mut body = BytesMut::new();
        while let Some(piece) = next_or_end(&mut response, url, known).await? {
            if body.len() + piece.len() > limit {
                return Err(too_large());
            }
            body.extend_from_slice(&piece);
        }
        // It may be kept, and grew by doubling.
        Ok(Vec::from(body).into_boxed_slice().into())
    };
    match tokio::time::timeout(WHOLE_BODY_TIMEOUT, read).await {
        Ok(body) => body,
        Err(_) => Err(Error::timed_out("reading", url, WHOLE_BODY_TIMEOUT)),
    }
}

/// A header that is one number, such as Content-Length.
pub(super) fn number(headers: &HeaderMap, name: &HeaderName) -> Option<u64> {
    headers.get(name)?.to_str().ok()?.trim().parse().ok()
}

/// The certificates of `ca`; none where that is not given.
fn certificates(config: &Config) -> Result<Vec<CertificateDer<'static>>, SetupError> {
    let Some(path) = &config.ca else {
        return Ok(vec![]);
    };
    let upstream = config.name.clone();
    let pem = small_file::read(path, MAX_CA).map_err(|source| SetupError::ReadCa {
        upstream: upstream.clone(),
        path: path.clone(),
        source,
    })?;
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<_, _>>()
        .map_err(|source| SetupError::ParseCa { upstream: upstream.clone(), path: path.clone(), source })?;
    if certificates.is_empty() {
        return Err(SetupError::EmptyCa { upstream, path: path.clone() });
    }
    Ok(certificates)
}

fn flaws(config: &Config, certificates: &[CertificateDer<'_>]) -> CaFlaws {
    let Some(path) = &config.ca else { return CaFlaws::default() };
    let hosts: Vec<&str> = config.urls.iter().filter_map(Url::host_str).collect();
    let texts: Vec<String> = (1..)
        .zip(certificates)
        .filter_map(|(number, certificate)| {
            let flaw = ca_certificate::flaw(certificate, &hosts)?;
            Some(format!("certificate {number} of {} cannot be used: {flaw}", path.display()))
        })
        .collect();
    let all = !texts.is_empty() && texts.len() == certificates.len();
    CaFlaws { texts, all }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_know_an_upstream_by_its_name() {
        for (upstream, host, is_known) in [
            ("ghcr.io", "ghcr.io", true),
            ("harbor.lan:8443", "Harbor.LAN", true),
            ("docker.io", "registry-1.docker.io", false),
            ("ghcr.io", "ghcr", false),
            ("a.io", "minio.internal", false),
            ("a.io", "", false),
        ] {
            assert_eq!(is_host_of(upstream, host), is_known, "{upstream} {host}");
        }
    }
}
