//! The pipeline: check for a loop, route, authenticate, check the rules, authorize, dispatch, respond, log.
//!
//! [`Service::run`] shows the order of the steps. Each step and each endpoint has a file: `via`, [`crate::route`],
//! `authenticate`, `rules`, `authorize`; `base`, `manifest`, `blob`, `list`, `upload`; `response`, `access_log`. A browser
//! gets the `page` before the request is routed.

use std::{borrow::Cow, sync::Arc};

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, header};
use hyper::body::Incoming;
use tracing::{Instrument as _, Span};

use super::{
    access_log::{AccessRecord, LoggedBody, RequestLog},
    body::Body,
    client_rates::ClientRates,
    exchange::Exchange,
    pace::Pace,
    page::set_policy,
    redirects::Redirects,
    refusal_log::RefusalLog,
    response,
    response_memory::ResponseMemory,
    via::{self, Instance},
};
use crate::{
    auth::{AccessControl, PasswordAttempts},
    cache::{Outcome, Scrub, Source},
    cluster::{Cluster, RefusedProof},
    error::{Asked, Cached, Error, ErrorKind},
    history::{History, Readers},
    metrics::{Label, Metrics},
    oci::{self, host::looks_like_host, query},
    push::{Caches, Seal},
    route::{AllowedHosts, Destination, Operation, RouteError, Routes, operation_at, request_host},
    setup::Offer,
    transport::{Connection, Handle, Recipient, Refusal, ReloadableTls, h2, request_body},
    upstream::{PrincipalKey, Upstream},
};

/// The upstreams and how requests find them; replaced as one on reload.
pub(crate) struct Table {
    pub routes: Routes<Upstream>,
    /// An upstream authorizes each client.
    pub has_private: bool,
    /// The hosts that a listener on a loopback address answers to.
    pub hosts: AllowedHosts,
    /// Present when an upstream takes pushes.
    pub seal: Option<Seal>,
    /// What the page tells clients.
    pub offer: Offer,
    /// Whether browsers get the page.
    pub page: bool,
}

/// How clients are authenticated.
pub(crate) struct Authentication {
    pub access: Arc<ArcSwap<AccessControl>>,
    /// Passwords that are being verified.
    pub attempts: PasswordAttempts,
    /// Makes principals of the credentials that are passed on to upstreams.
    pub principals: PrincipalKey,
}

/// What responses are made from.
pub(crate) struct Contents {
    pub caches: Caches,
    /// Learns which blobs clients get whole out of the cache.
    pub scrub: Scrub,
    /// The memory of responses until they are sent.
    pub memory: ResponseMemory,
    /// How fast they are sent.
    pub client_rates: ClientRates,
    /// Present if TLS is served.
    pub tls: Option<ReloadableTls>,
    /// The cluster that this forebay belongs to.
    pub cluster: Option<Cluster>,
    /// Present if clients may be sent to the object store.
    pub redirects: Option<Redirects>,
}

/// Answers every request of the registry's listeners.
pub(crate) struct Service {
    pub table: ArcSwap<Table>,
    pub auth: Authentication,
    pub caches: Caches,
    pub instance: Instance,
    pub(super) scrub: Scrub,
    pub(super) memory: ResponseMemory,
    pub(super) refusals: RefusalLog,
    pub client_rates: ClientRates,
    /// Present if TLS is served.
    pub(super) tls: Option<ReloadableTls>,
    /// The cluster that this forebay belongs to.
    pub(super) cluster: Option<Cluster>,
    /// Present if clients may be sent to the object store.
    pub(super) redirects: Option<Redirects>,
    /// The visitors of the page that look through the history.
    pub(super) readers: Readers,
    pub(super) metrics: Metrics,
    log: Arc<RequestLog>,
}

/// The result of routing a request.
enum Routed {
    To(Destination<Upstream>),
    /// No upstream, but the client's credentials may be for this one.
    Nowhere(RouteError, Option<Upstream>),
}

impl Handle for Service {
    type Body = LoggedBody;

    async fn handle(&self, request: Request<Incoming>, connection: Arc<Connection>) -> Response<LoggedBody> {
        let (head, body) = request.into_parts();
        let (body, unread) = request_body::lend(body, head.version, &head.headers);
        let record = AccessRecord::new(self.instance.next_id(), connection.peer_text.clone(), &head, self.log.clone());
        // On the heap: the record stays with the response's body.
        let mut exchange = Exchange::new(&head, body, &connection, Box::new(record));
        let result = self.run(&mut exchange).await.map_err(|error| self.for_client(&exchange, error));
        // The unread part of the body goes to `unread`.
        drop(exchange.body.take());
        let Exchange { mut record, namespace, cached, pace, by_peer, .. } = exchange;
        // forebay does not read the body of a push that no upstream takes, or any bytes behind a request without a
        // valid host.
        let is_unwanted =
            matches!(&result, Err(Error { kind: ErrorKind::Unsupported | ErrorKind::InvalidHost(_), .. }));
        let is_own_error = result.as_ref().is_err_and(|error| !error.kind.is_of_upstream());
        let response = result.unwrap_or_else(|error| {
            record.failure = Some(error.kind.word());
            record.upstream_cause = error.failure_cause().map(Label::as_str);
            record.cause = error.cause();
            if error.kind.is_failure() {
                record.outcome = Outcome::Error;
            }
            let id = record.id.text();
            response::error(&error, Asked { upstream: record.upstream.as_deref(), id: id.as_str(), cached })
        });
        let response = response::without_body(&head.method, response);
        let mut response = self.with_memory(response, &mut record, &connection).await;
        if response.status().is_server_error() {
            record.outcome = Outcome::Error;
        }
        if let Some(pace) = pace.filter(|_| response.status().is_success()) {
            response = response::paced(response, pace);
        }
        response::common(response.headers_mut(), record.id.header(), self.instance.via(), namespace.as_deref());
        if by_peer {
            self.confirm_peer(&head.headers, &mut response, is_own_error);
        }
        set_policy(&mut response);
        record.namespace = match record.failure {
            // The request may not have been routed.
            Some(_) => query::parameter(&head.uri, query::NAMESPACE).map(Cow::into_owned),
            None => namespace,
        };
        if let Some(unread) = unread
            && (is_unwanted || !Box::pin(unread.read()).await)
        {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        LoggedBody::wrap(response, record)
    }

    fn refuse(&self, refusal: Refusal) -> Response<Bytes> {
        super::refused_connection::refusal(refusal)
    }
}

impl Service {
    pub(crate) fn new(
        table: Table,
        auth: Authentication,
        contents: Contents,
        instance: Instance,
        metrics: Metrics,
        history: History,
    ) -> Self {
        let Contents { caches, scrub, memory, client_rates, tls, cluster, redirects } = contents;
        let refusals = RefusalLog::new(metrics.clone());
        let log = Arc::new(RequestLog::new(metrics.clone(), history));
        let table = ArcSwap::from_pointee(table);
        let readers = Readers::default();
        Self {
            table,
            auth,
            caches,
            instance,
            scrub,
            memory,
            client_rates,
            refusals,
            tls,
            cluster,
            redirects,
            readers,
            metrics,
            log,
        }
    }

    /// The latest requests of all clients.
    pub(super) fn history(&self) -> &History {
        self.log.history()
    }

    /// Runs the steps of a request, except the form of the response and the log.
    async fn run(&self, exchange: &mut Exchange<'_>) -> Result<Response<Body>, Error> {
        let claim = self.claim_of_peer(exchange);
        exchange.by_peer = matches!(claim, Some(Ok(()) | Err(RefusedProof::Full)));
        exchange.record.by_peer = exchange.by_peer;
        if claim == Some(Err(RefusedProof::Full)) {
            return Err(ErrorKind::Busy.into());
        }
        self.check_head(exchange)?;
        if let Some(resource) = self.page_resource(exchange) {
            exchange.record.is_of_client = false;
            return Box::pin(self.page(exchange, resource)).await;
        }
        let mut routed = self.route(exchange);
        if let Routed::To(Destination::Upstream(upstream, _)) = &mut routed {
            match claim {
                Some(Ok(())) => *upstream = upstream.for_peer(),
                // It may be a peer's all the same, which waits for the response.
                Some(Err(_)) => *upstream = upstream.without_peers(),
                None => {}
            }
        }
        // Before an error of the route: a client that may not pull must not learn which upstreams exist.
        exchange.identity = self.authenticate(exchange, routed.upstream_mut()).await?;
        exchange.note_user();
        if let Routed::To(Destination::Upstream(_, operation)) = &routed
            && !exchange.by_peer
        {
            exchange.join_pull(operation);
        }
        let of_client = routed.upstream_mut().filter(|upstream| upstream.uses_client_credentials());
        let span = match of_client {
            Some(upstream) => {
                exchange.record.begin();
                upstream.set_trace(exchange.record.trace());
                upstream.trace().span()
            }
            None => Span::none(),
        };
        match routed {
            Routed::Nowhere(error, upstream) => {
                if let Some(upstream) = &upstream {
                    Box::pin(self.log_in(exchange, upstream)).instrument(span).await?;
                }
                if let RouteError::UnknownUpstream(name) = &error {
                    note_unconfigured(exchange, name);
                    self.refusals.unconfigured(exchange.connection.peer, name);
                }
                Err(route_error(exchange, error))
            }
            Routed::To(Destination::Base(upstream)) => Box::pin(self.base(exchange, upstream)).instrument(span).await,
            Routed::To(Destination::Upstream(upstream, mut operation)) => {
                self.check_rules(exchange, &upstream, &mut operation)?;
                match upstream.uses_client_credentials() {
                    true => Box::pin(self.authorize_and_dispatch(exchange, upstream, operation)).instrument(span).await,
                    false => self.dispatch(exchange, upstream, operation).await,
                }
            }
        }
    }

    /// Checks the host and the `Via` of a request.
    fn check_head(&self, exchange: &mut Exchange<'_>) -> Result<(), Error> {
        let head = exchange.head;
        let table = self.table.load();
        // A request that is not routed may name what such an upstream tells only to clients with a grant.
        exchange.record.is_of_client = table.has_private;
        exchange.host = request_host(head.version, &head.uri, &head.headers).map_err(ErrorKind::InvalidHost)?;
        // Before any challenge, and before any response that tells which upstreams exist.
        if exchange.connection.loopback && !table.hosts.allow(exchange.host) {
            return Err(ErrorKind::ForeignHost(exchange.host.unwrap_or_default().to_owned()).into());
        }
        Ok(self.instance.refuse_loop(&head.headers)?)
    }

    /// Routes a request whose head was checked.
    fn route(&self, exchange: &mut Exchange<'_>) -> Routed {
        let head = exchange.head;
        let table = self.table.load();
        let with_via = |upstream: &Upstream| upstream.with_via(via::joined(&head.headers));
        let routed = match table.routes.resolve(exchange.target()) {
            Ok(route) => {
                let record = &mut exchange.record;
                record.upstream = route.upstream().map(|upstream| upstream.name().clone());
                record.is_of_client = route.upstream().is_some_and(|upstream| upstream.uses_client_credentials());
                record.operation = route.label();
                record.repository = route.repository().cloned();
                record.reference = route.reference();
                if matches!(record.operation, oci::Operation::Base | oci::Operation::Push) {
                    exchange.cached = Cached::NoMatter;
                }
                let route = route.map(with_via);
                exchange.namespace = route.namespace;
                Routed::To(route.destination)
            }
            Err(error) => {
                let login = table.routes.login(exchange.target());
                let login = login.filter(|upstream| upstream.uses_client_credentials());
                Routed::Nowhere(error, login.map(with_via))
            }
        };
        exchange.by_mirror = routed.upstream().is_some_and(|upstream| upstream.via_mirrors().is_some());
        routed
    }

    /// The pace of the response, whose record learns how long it is held back.
    pub(super) fn pace(&self, exchange: &mut Exchange<'_>, upstream: &Upstream) -> Pace {
        let address = exchange.peer();
        let held = exchange.record.held.get_or_insert_default();
        Pace::new(upstream, &self.client_rates, address, held, &self.metrics)
    }

    /// Responds by the endpoint of the operation.
    pub(super) async fn dispatch(
        &self,
        exchange: &mut Exchange<'_>,
        mut upstream: Upstream,
        operation: Operation,
    ) -> Result<Response<Body>, Error> {
        if upstream.rates().outbound.is_set() || self.client_rates.is_set() {
            exchange.pace = Some(self.pace(exchange, &upstream));
        }
        // The most frequent request, for a manifest in memory, is answered without waiting.
        if let Operation::Manifest { repository, reference } = &operation
            && let Some(response) = self.manifest_in_memory(exchange, &upstream, repository, reference)
        {
            return Ok(response);
        }
        exchange.record.begin();
        upstream.set_trace(exchange.record.trace());
        let span = if Span::current().is_none() { upstream.trace().span() } else { Span::none() };
        // On the heap, so that the future of every request is no larger than that of such a hit.
        match operation {
            Operation::Manifest { repository, reference } => {
                Box::pin(self.manifest(exchange, upstream, repository, &reference)).instrument(span).await
            }
            Operation::Blob { repository, digest } => {
                Box::pin(self.blob(exchange, &Source { upstream, repository, digest })).instrument(span).await
            }
            Operation::List(list) => Box::pin(self.list(exchange, upstream, list)).instrument(span).await,
            Operation::Write { repository, write } => {
                Box::pin(self.push(exchange, &upstream, &repository, &write)).instrument(span).await
            }
        }
    }

    /// The error in the form for this client.
    fn for_client(&self, exchange: &Exchange<'_>, error: Error) -> Error {
        match error.kind {
            ErrorKind::Unauthenticated if !self.accepts_passwords(exchange) => error.told_as(ErrorKind::ClearLogin),
            // The mirror in front would take a 404 for a 404 of the registry.
            ErrorKind::ManifestUnknown | ErrorKind::BlobUnknown | ErrorKind::NameUnknown
                if exchange.by_mirror && error.is_foreign() =>
            {
                error.told_as(ErrorKind::UpstreamUnavailable { retry_after: None })
            }
            // The mirror in front would take a 403 for the registry's, and serve nothing stale.
            ErrorKind::OurCredentials if exchange.by_mirror => {
                error.told_as(ErrorKind::UpstreamUnavailable { retry_after: None })
            }
            _ => error,
        }
    }

    /// Takes memory for a response, or responds that there is none.
    async fn with_memory(
        &self,
        response: Response<Body>,
        record: &mut AccessRecord,
        connection: &Connection,
    ) -> Response<Body> {
        let (head, body) = response.into_parts();
        match body {
            Body::Whole(Some(bytes)) if ResponseMemory::counts(&bytes) => {
                match Box::pin(self.memory.hold(connection.peer.ip(), &recipient(connection), bytes)).await {
                    Ok(bytes) => Response::from_parts(head, Body::Whole(Some(bytes))),
                    Err(refused) => {
                        let error = ErrorKind::Overloaded(refused);
                        record.failure = Some(error.word());
                        response::error(&error.into(), Asked::default())
                    }
                }
            }
            body => Response::from_parts(head, body),
        }
    }
}

impl Routed {
    fn upstream(&self) -> Option<&Upstream> {
        match self {
            Self::To(Destination::Upstream(upstream, _)) => Some(upstream),
            Self::To(Destination::Base(upstream)) | Self::Nowhere(_, upstream) => upstream.as_ref(),
        }
    }

    fn upstream_mut(&mut self) -> Option<&mut Upstream> {
        match self {
            Self::To(Destination::Upstream(upstream, _)) => Some(upstream),
            Self::To(Destination::Base(upstream)) | Self::Nowhere(_, upstream) => upstream.as_mut(),
        }
    }
}

/// The recipient of the response: an HTTP/2 stream, or the connection.
pub(super) fn recipient(connection: &Connection) -> Recipient {
    h2::recipient().unwrap_or_else(|| connection.recipient.clone())
}

/// Notes what a client wants of an upstream that is not configured: an operator may want to add it.
fn note_unconfigured(exchange: &mut Exchange<'_>, name: &str) {
    let head = exchange.head;
    // Without a default upstream, the first component of a repository may be no name of a registry.
    if looks_like_host(name) || query::parameter(&head.uri, query::NAMESPACE).is_some() {
        let record = &mut exchange.record;
        record.unconfigured = Some(name.into());
        if let Some(operation) = operation_at(&head.method, &head.uri, name) {
            record.operation = operation.label();
            record.repository = operation.repository().cloned();
            record.reference = operation.reference();
        }
    }
}

/// For a client that reads, an invalid tag is an unknown manifest; for a client that writes, the error says what is
/// wrong with the tag.
fn route_error(exchange: &Exchange<'_>, error: RouteError) -> Error {
    match error {
        RouteError::Tag(_) if exchange.is_head() || exchange.head.method == Method::GET => {
            ErrorKind::ManifestUnknown.into()
        }
        error => error.into(),
    }
}
