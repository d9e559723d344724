//! The pipeline: loop check, route, access, serve, response; one line in the log for each request.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use arc_swap::ArcSwap;
use http::{HeaderMap, HeaderValue, Method, Request, Response, Uri, header};
use hyper::body::Incoming;

use super::{
    Connection, Handle,
    body::Body,
    conditions::{has_already, wanted_range},
    observe::{Facts, Observed, RequestId, Unanswered},
    response,
};
use crate::{
    access::{AccessControl, Identity},
    cache::{BlobCache, ManifestCache, Source, Wanted},
    chain::Chain,
    error::Error,
    metrics::{Metrics, Operation as Label},
    oci::{Accept, Digest, Reference, Repository},
    route::{Operation, Route, Routes, Target},
    upstream::Upstream,
};

/// The upstreams and how requests find them; replaced as one on reload.
pub struct Table {
    pub routes: Routes,
    pub upstreams: HashMap<Arc<str>, Upstream>,
}

/// Answers every request of the registry's listeners.
pub struct Handler {
    pub table: ArcSwap<Table>,
    pub access: ArcSwap<AccessControl>,
    pub manifests: ManifestCache,
    pub blobs: BlobCache,
    pub metrics: Metrics,
    /// What this instance calls itself in `Via`: the received-by part is its own, so that a mirror behind a
    /// mirror is no loop.
    pub pseudonym: Arc<str>,
    /// The same in the id of each request.
    pub instance: u32,
    pub via: HeaderValue,
    pub requests: AtomicU64,
}

impl Handle for Handler {
    type Body = Observed;

    async fn handle(&self, request: Request<Incoming>, connection: Arc<Connection>) -> Response<Observed> {
        let (head, _body) = request.into_parts();
        // On the heap: it goes through many hands until its body is over.
        let mut facts = Box::new(Facts::new(self.next_id(), connection.peer, head.method.clone(), head.uri.clone()));
        let mut namespace = None;
        let asked = Asked { method: &head.method, uri: &head.uri, headers: &head.headers, connection: &connection };
        let waiting = Unanswered::new(&mut facts, &self.metrics);
        let answered = self.answer(asked, waiting.facts, &mut namespace).await;
        waiting.answered();
        let response = answered.unwrap_or_else(|error| response::error(&error));
        let mut response = response::without_body(&head.method, response);
        response::common(response.headers_mut(), facts.id.header(), &self.via, namespace.as_deref());
        let status = response.status();
        let length = response.headers().get(header::CONTENT_LENGTH);
        let announced = length.and_then(|length| length.to_str().ok()?.parse().ok());
        response.map(|body| Observed::new(body, status, announced, facts, self.metrics.clone()))
    }
}

/// A request without its body, which is never read: this mirror only serves pulls.
#[derive(Clone, Copy)]
struct Asked<'a> {
    method: &'a Method,
    uri: &'a Uri,
    headers: &'a HeaderMap,
    connection: &'a Connection,
}

impl Asked<'_> {
    fn is_head(&self) -> bool {
        *self.method == Method::HEAD
    }
}

impl Handler {
    async fn answer(
        &self,
        asked: Asked<'_>,
        facts: &mut Facts,
        namespace: &mut Option<String>,
    ) -> Result<Response<Body>, Error> {
        self.refuse_loop(asked.headers)?;
        let (routed, upstream) = {
            let table = self.table.load();
            let routed = table.routes.resolve(asked.target());
            let upstream = routed.as_ref().ok().and_then(|route| table.upstreams.get(&route.upstream));
            let upstream = upstream.map(|upstream| upstream.on_behalf_of(ways_of(asked.headers)));
            (routed, upstream)
        };
        if let Ok(route) = &routed {
            facts.upstream = Some(route.upstream.clone());
            facts.operation = route.operation.label();
            facts.repository.clone_from(&route.repository);
            namespace.clone_from(&route.namespace);
        }
        // Before a bad route is told: who may not pull does not learn which upstreams there are.
        let authorization = asked.headers.get(header::AUTHORIZATION);
        let certificate = asked.connection.client_certificate;
        let identity = match authorization {
            None => self.access.load().check_without(certificate)?,
            Some(authorization) => {
                let access = self.access.load_full();
                Box::pin(async move { access.check(Some(authorization), certificate).await }).await?
            }
        };
        if let Identity::User(name) = identity {
            facts.user = Some(name);
        }
        let route = routed?;
        if let Some(response) = self.manifest_at_hand(asked, &route, upstream.as_ref(), facts) {
            return Ok(response);
        }
        // On the heap, so that the future of every request is no larger than that of a hit.
        Box::pin(self.serve(asked, route, upstream, facts)).await
    }

    /// The usual request, for a manifest in memory, is answered without waiting for anything.
    fn manifest_at_hand(
        &self,
        asked: Asked<'_>,
        route: &Route,
        upstream: Option<&Upstream>,
        facts: &mut Facts,
    ) -> Option<Response<Body>> {
        let Operation::Manifest(reference) = &route.operation else { return None };
        let accept = Accept::from_headers(asked.headers);
        let served = self.manifests.at_hand(upstream?.name(), route.repository.as_ref()?, reference, &accept)?;
        facts.outcome = served.outcome;
        Some(unless_known(asked, &served.content.digest, facts).unwrap_or_else(|| response::manifest(&served)))
    }

    async fn serve(
        &self,
        asked: Asked<'_>,
        route: Route,
        upstream: Option<Upstream>,
        facts: &mut Facts,
    ) -> Result<Response<Body>, Error> {
        let label = route.operation.label();
        match (route.operation, upstream, route.repository) {
            (Operation::Base, ..) => Ok(response::base()),
            (Operation::Write, ..) => Err(Error::Unsupported),
            (Operation::Manifest(reference), Some(upstream), Some(repository)) => {
                let accept = Accept::from_headers(asked.headers);
                let wanted = Wanted { upstream, repository, accept };
                self.manifest(asked, &wanted, &reference, facts).await
            }
            (Operation::Blob(digest), Some(upstream), Some(repository)) => {
                self.blob(asked, &Source { upstream, repository, digest }, facts).await
            }
            (Operation::Tags, Some(upstream), Some(repository)) => {
                let path = format!("{repository}/tags/list");
                self.forward(asked, &upstream, label, Some(&repository), path, route.namespace, facts).await
            }
            (Operation::Referrers(digest), Some(upstream), Some(repository)) => {
                let path = format!("{repository}/referrers/{digest}");
                self.forward(asked, &upstream, label, Some(&repository), path, route.namespace, facts).await
            }
            (Operation::Catalog, Some(upstream), _) => {
                self.forward(asked, &upstream, label, None, "_catalog".to_owned(), route.namespace, facts).await
            }
            // The table's routes lead to its own upstreams, and all but the base have a repository.
            (_, None, _) | (_, _, None) => Err(Error::UnknownRoute(route.upstream.to_string())),
        }
    }

    async fn manifest(
        &self,
        asked: Asked<'_>,
        wanted: &Wanted,
        reference: &Reference,
        facts: &mut Facts,
    ) -> Result<Response<Body>, Error> {
        if asked.is_head() {
            let head = self.manifests.head(wanted, reference).await.map_err(|error| facts.failed(error))?;
            facts.outcome = head.outcome;
            return Ok(unless_known(asked, &head.digest, facts).unwrap_or_else(|| response::manifest_head(&head)));
        }
        let served = self.manifests.get(wanted, reference).await.map_err(|error| facts.failed(error))?;
        facts.outcome = served.outcome;
        Ok(unless_known(asked, &served.content.digest, facts).unwrap_or_else(|| response::manifest(&served)))
    }

    async fn blob(&self, asked: Asked<'_>, source: &Source, facts: &mut Facts) -> Result<Response<Body>, Error> {
        if asked.is_head() || has_already(asked.headers, &source.digest) {
            // That the client has it does not say that the upstream does: the size is asked for all the same.
            let size = self.blobs.size(source).await.map_err(|error| facts.failed(error))?;
            facts.outcome = size.outcome;
            return Ok(unless_known(asked, &source.digest, facts)
                .unwrap_or_else(|| response::blob_head(&source.digest, &size)));
        }
        let range = wanted_range(asked.headers, &source.digest);
        let opened = self.blobs.open(source, range).await.map_err(|error| facts.failed(error))?;
        facts.outcome = opened.outcome;
        Ok(response::blob(&source.digest, opened, asked.connection.lane.as_ref()))
    }

    #[expect(clippy::too_many_arguments, reason = "each says what is forwarded; a struct would only rename them")]
    async fn forward(
        &self,
        asked: Asked<'_>,
        upstream: &Upstream,
        label: Label,
        repository: Option<&Repository>,
        mut path: String,
        namespace: Option<String>,
        facts: &mut Facts,
    ) -> Result<Response<Body>, Error> {
        if let Some(query) = query_without_namespace(asked.uri) {
            path.push('?');
            path.push_str(&query);
        }
        let accept = Accept::from_headers(asked.headers);
        match upstream.forward(asked.method.clone(), label, repository, &path, &accept).await {
            Ok(answer) => Ok(response::forwarded(answer, asked.uri.path(), namespace.as_deref())),
            Err(error) => {
                facts.cause = Some(Chain(&error).to_string());
                Err(Error::from_upstream(label, &error))
            }
        }
    }

    /// A request that was sent by this very instance has gone in a circle.
    fn refuse_loop(&self, headers: &HeaderMap) -> Result<(), Error> {
        let ours = |value: &HeaderValue| {
            value.to_str().is_ok_and(|list| {
                list.split(',').any(|hop| hop.split_ascii_whitespace().nth(1) == Some(&*self.pseudonym))
            })
        };
        if headers.get_all(header::VIA).iter().any(ours) { Err(Error::Loop) } else { Ok(()) }
    }

    fn next_id(&self) -> RequestId {
        RequestId { instance: self.instance, number: self.requests.fetch_add(1, Ordering::Relaxed) }
    }
}

impl Asked<'_> {
    fn target(&self) -> Target<'_> {
        Target {
            method: self.method,
            uri: self.uri,
            host: self.headers.get(header::HOST).and_then(|host| host.to_str().ok()),
            sni: self.connection.sni.as_deref(),
            tls: self.connection.tls,
            local_port: self.connection.local.port(),
        }
    }
}

impl Facts {
    fn failed<E: std::error::Error + 'static>(&mut self, error: E) -> Error
    where
        Error: From<E>,
    {
        self.cause = Some(Chain(&error).to_string());
        error.into()
    }
}

/// Everyone a request came through before us, in one line. Source: RFC 9110 sections 5.2 and 7.6.3.
fn ways_of(headers: &HeaderMap) -> Option<HeaderValue> {
    let hops: Vec<&[u8]> = headers.get_all(header::VIA).iter().map(HeaderValue::as_bytes).collect();
    if hops.is_empty() { None } else { HeaderValue::from_bytes(&hops.join(&b", "[..])).ok() }
}

/// 304, when the client has this content.
fn unless_known(asked: Asked<'_>, digest: &Digest, facts: &Facts) -> Option<Response<Body>> {
    has_already(asked.headers, digest).then(|| response::not_modified(digest, facts.outcome))
}

/// The query as the upstream gets it: `ns=` is between the client and us.
fn query_without_namespace(uri: &Uri) -> Option<String> {
    let pairs = url::form_urlencoded::parse(uri.query()?.as_bytes()).filter(|(key, _)| key != "ns");
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    query.extend_pairs(pairs);
    Some(query.finish()).filter(|query| !query.is_empty())
}
