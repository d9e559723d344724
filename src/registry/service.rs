//! The pipeline: loop check, route, access, serve, response; one line in the log for each request.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::SystemTime,
};

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, Uri, header};
use hyper::body::{Body as _, Incoming};

use super::{
    access_log::{AbortGuard, AccessRecord, LoggedBody, RequestId},
    body::Body,
    conditional::{adjoining, has_already, wanted_ranges},
    response,
};
use crate::{
    auth::{AccessControl, Grants, Identity, PasswordAttempts, Resource},
    cache::{
        BlobCache, Client, Holding, List, Lists, ManifestCache, ManifestError, ManifestRequest, Outcome, Scrub,
        SlowReaders, Source,
        blob::BlobSize,
        manifest::{ManifestHead, ServedManifest},
    },
    error::{Error, ErrorKind},
    metrics::Metrics,
    oci::{Accept, Digest, Operation as Label, Ranges, Reference, Repository, is_referrers_tag},
    push::{self, Caches, Deleted, Deletion, Deletions, Push, Seal},
    registry::AnswerMemory,
    route::{AllowedHosts, Operation, Route, RouteError, Routes, Target, asked_host},
    transport::{
        Connection, Handle, Recipient, Refusal, h2,
        request_body::{self, RequestBody},
    },
    upstream::{self, BlobHead, ContentNotes, PrincipalKey, UploadBody, Upstream},
};

/// The upstreams and how requests find them; replaced as one on reload.
pub struct Table {
    pub routes: Routes,
    /// What a listener on a loopback address answers to.
    pub hosts: AllowedHosts,
    pub upstreams: HashMap<Arc<str>, Upstream>,
    /// Present when one of them takes pushes.
    pub seal: Option<Seal>,
}

/// Answers every request of the registry's listeners.
pub struct Handler {
    pub table: ArcSwap<Table>,
    pub access: Arc<ArcSwap<AccessControl>>,
    /// What upstreams said of their clients.
    pub proofs: Grants,
    /// Passwords that are tried.
    pub tries: PasswordAttempts,
    pub asker_key: PrincipalKey,
    pub manifests: ManifestCache,
    pub lists: Lists,
    pub blobs: BlobCache,
    pub scrub: Scrub,
    /// What was deleted through us.
    pub gone: Deletions,
    pub metrics: Metrics,
    /// What this instance calls itself in `Via`: the received-by part is its own, so that a mirror behind a
    /// mirror is no loop.
    pub pseudonym: Arc<str>,
    /// The same in the id of each request.
    pub instance: u32,
    pub via: HeaderValue,
    /// What answers hold until they are sent.
    pub held: AnswerMemory,
    /// Who reads what is cached.
    pub readers: SlowReaders,
    pub requests: AtomicU64,
}

impl Handle for Handler {
    type Body = LoggedBody;

    async fn handle(&self, request: Request<Incoming>, connection: Arc<Connection>) -> Response<LoggedBody> {
        let (head, body) = request.into_parts();
        let (body, rest) = request_body::lend(body, head.version, &head.headers);
        // On the heap: it goes through many hands until its body is over.
        let mut facts =
            Box::new(AccessRecord::new(self.next_id(), connection.peer, head.method.clone(), head.uri.path()));
        let mut namespace = None;
        let host = asked_host(head.version, &head.uri, &head.headers);
        let waiting = AbortGuard::new(&mut facts, &self.metrics);
        let answered = match host {
            Ok(host) => {
                let (method, uri, headers) = (&head.method, &head.uri, &head.headers);
                let asked = Asked { method, uri, host, headers, told: None, former: None, connection: &connection };
                self.answer(asked, body, waiting.facts, &mut namespace).await
            }
            Err(error) => Err(ErrorKind::InvalidHost(error).into()),
        };
        waiting.answered();
        // Where nothing may be pushed, nothing of it is read either.
        let is_unwanted = matches!(&answered, Err(Error { kind: ErrorKind::Unsupported, .. }));
        let response = answered.unwrap_or_else(|error| {
            facts.cause = error.cause();
            response::error(&error)
        });
        let response = response::without_body(&head.method, response);
        let mut response = self.held(response, &connection).await;
        response::common(response.headers_mut(), facts.id.header(), &self.via, namespace.as_deref());
        if let Some(rest) = rest
            && (is_unwanted || !Box::pin(rest.read()).await)
        {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        let status = response.status();
        let length = response.headers().get(header::CONTENT_LENGTH);
        let announced = length.and_then(|length| length.to_str().ok()?.parse().ok());
        response.map(|body| LoggedBody::new(body, status, announced, facts, self.metrics.clone()))
    }

    fn refuse(&self, refusal: Refusal) -> Response<Bytes> {
        super::refusal::refusal(refusal)
    }
}

/// A request without its body, which is not looked at before it is to be passed on.
#[derive(Clone, Copy)]
pub(super) struct Asked<'a> {
    pub method: &'a Method,
    pub uri: &'a Uri,
    /// That the request is for, checked.
    pub host: Option<&'a str>,
    pub headers: &'a HeaderMap,
    /// The digest that the upstream told this client for the tag of the request.
    pub told: Option<&'a Digest>,
    /// The one that is cached for it, where that is another one.
    pub former: Option<&'a Digest>,
    pub connection: &'a Connection,
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
        body: RequestBody,
        facts: &mut AccessRecord,
        namespace: &mut Option<String>,
    ) -> Result<Response<Body>, Error> {
        let answered = self.admit_and_answer(asked, body, facts, namespace).await;
        answered.map_err(|error| match error.kind {
            ErrorKind::Unauthenticated if !self.takes_passwords(asked) => error.told_as(ErrorKind::ClearLogin),
            // A mirror would take it for the registry's word.
            ErrorKind::ManifestUnknown | ErrorKind::BlobUnknown | ErrorKind::NameUnknown
                if facts.by_mirror && error.is_foreign() =>
            {
                error.told_as(ErrorKind::UpstreamUnavailable { retry_after: None })
            }
            _ => error,
        })
    }

    async fn admit_and_answer(
        &self,
        asked: Asked<'_>,
        body: RequestBody,
        facts: &mut AccessRecord,
        namespace: &mut Option<String>,
    ) -> Result<Response<Body>, Error> {
        let (routed, mut upstream) = {
            let table = self.table.load();
            // Before anything is told, a challenge or which upstreams there are.
            if asked.connection.loopback && !table.hosts.allow(asked.host) {
                return Err(ErrorKind::ForeignHost(asked.host.unwrap_or_default().to_owned()).into());
            }
            self.refuse_loop(asked.headers)?;
            let routed = table.routes.resolve(asked.target());
            let upstream = match &routed {
                Ok(route) => table.upstreams.get(&route.upstream),
                // It leads nowhere, but what its client shows may be for an upstream all the same.
                Err(_) => {
                    let login = table.routes.login(asked.target()).and_then(|login| table.upstreams.get(login));
                    login.filter(|upstream| upstream.uses_client_credentials())
                }
            };
            let upstream = upstream.map(|upstream| upstream.with_via(ways_of(asked.headers)));
            (routed, upstream)
        };
        facts.by_mirror = upstream.as_ref().is_some_and(|upstream| upstream.via_mirrors().is_some());
        if let Ok(route) = &routed {
            facts.upstream = Some(route.upstream.clone());
            facts.operation = route.operation.label();
            facts.repository.clone_from(&route.repository);
            namespace.clone_from(&route.namespace);
        }
        // Before a bad route is told: who may not pull does not learn which upstreams there are.
        let authorization = asked.headers.get(header::AUTHORIZATION);
        let certificate = asked.connection.client_certificate;
        // Credentials that neither an upstream nor a file of ours judges are ignored, also where they come in clear.
        let is_judged =
            upstream.as_ref().is_some_and(Upstream::uses_client_credentials) || self.access.load().has_users();
        let identity = match authorization {
            None => self.access.load().check_without(certificate)?,
            Some(_) if is_judged && !self.takes_passwords(asked) => return Err(ErrorKind::ClearLogin.into()),
            Some(authorization) => match upstream.as_mut().filter(|upstream| upstream.uses_client_credentials()) {
                Some(upstream) => self.on_behalf_of_client(asked, upstream, authorization)?,
                None => {
                    let access = self.access.load_full();
                    let (tries, peer) = (&self.tries, asked.connection.peer.ip());
                    Box::pin(async move { access.check(tries, peer, Some(authorization), certificate).await }).await?
                }
            },
        };
        if let Identity::User(name) = &identity {
            facts.user = Some(name.clone());
        }
        let route = match routed {
            Ok(route) => route,
            Err(error) => {
                if let Some(upstream) = &upstream {
                    Box::pin(self.try_client(asked, upstream, &identity, facts)).await?;
                }
                return Err(told(asked, error));
            }
        };
        match upstream {
            Some(upstream) if upstream.uses_client_credentials() => {
                Box::pin(self.serve_by_client(asked, body, route, upstream, identity, facts)).await
            }
            upstream => self.serve_shared(asked, body, route, upstream, &identity, facts).await,
        }
    }

    pub(super) fn takes_passwords(&self, asked: Asked<'_>) -> bool {
        self.access.load().takes_passwords(asked.connection.tls, asked.connection.peer.ip())
    }

    pub(super) async fn serve_shared(
        &self,
        asked: Asked<'_>,
        body: RequestBody,
        route: Route,
        upstream: Option<Upstream>,
        identity: &Identity,
        facts: &mut AccessRecord,
    ) -> Result<Response<Body>, Error> {
        if let Some(response) = self.manifest_at_hand(asked, &route, upstream.as_ref(), facts) {
            return Ok(response);
        }
        // On the heap, so that the future of every request is no larger than that of a hit.
        if matches!(route.operation, Operation::Write(_)) {
            return Box::pin(self.push(asked, body, route, upstream, identity)).await;
        }
        Box::pin(self.serve(asked, route, upstream, identity, facts)).await
    }

    /// Passes a change on, when the upstream takes any and this client may make it.
    async fn push(
        &self,
        asked: Asked<'_>,
        body: RequestBody,
        route: Route,
        upstream: Option<Upstream>,
        identity: &Identity,
    ) -> Result<Response<Body>, Error> {
        let seal = self.table.load().seal.clone();
        let (Operation::Write(write), Some(repository), Some(upstream), Some(seal)) =
            (route.operation, route.repository, upstream.filter(Upstream::allows_push), seal)
        else {
            return Err(ErrorKind::Unsupported.into());
        };
        self.push_terms(&upstream).permit(identity)?;
        // To begin to read it would tell the client to send it.
        let has_content = !body.is_end_stream() && matches!(*asked.method, Method::POST | Method::PUT | Method::PATCH);
        let content = has_content.then(|| UploadBody::new(body));
        let push = Push {
            write: &write,
            method: asked.method,
            uri: asked.uri,
            headers: asked.headers,
            repository: &repository,
            namespace: route.namespace.as_deref(),
        };
        let caches = Caches {
            manifests: &self.manifests,
            lists: &self.lists,
            gone: &self.gone,
            proofs: &self.proofs,
            blobs: &self.blobs,
        };
        let written = push::pass(push, content, &upstream, &seal, caches).await?;
        Ok(response::written(written))
    }

    /// What decides who may make changes at an upstream.
    pub(super) fn push_terms(&self, upstream: &Upstream) -> push::Terms {
        let access = self.access.load();
        push::Terms {
            has_credentials: upstream.has_credentials(),
            has_users: access.has_users(),
            // An upstream that decides by its clients knows other users.
            push_users: access.push_users().filter(|_| !upstream.uses_client_credentials()),
        }
    }

    /// Clients learn here whether to say who they are. Where a push needs it, they are asked; not elsewhere, since some
    /// would send what they have for another registry.
    fn base(&self, upstream: Option<&Upstream>, identity: &Identity) -> Result<Response<Body>, Error> {
        let wants_user =
            upstream.is_some_and(|upstream| upstream.allows_push() && self.push_terms(upstream).need_user());
        if wants_user && *identity == Identity::Anonymous && self.access.load().has_users() {
            return Err(ErrorKind::Unauthenticated.into());
        }
        Ok(response::base())
    }

    /// The usual request, for a manifest in memory, is answered without waiting for anything.
    fn manifest_at_hand(
        &self,
        asked: Asked<'_>,
        route: &Route,
        upstream: Option<&Upstream>,
        facts: &mut AccessRecord,
    ) -> Option<Response<Body>> {
        let Operation::Manifest(reference) = &route.operation else { return None };
        let upstream = upstream?;
        let repository = route.repository.as_ref()?;
        if wants_proof(asked, upstream, reference) || self.deletion(upstream, repository, reference).is_some() {
            return None;
        }
        let accept = Accept::from_headers(asked.headers);
        let served = self.manifests.get_in_memory(upstream, repository, reference, &accept, asked.told)?;
        if !asked.is_head() {
            self.manifests.note_read(upstream, repository, &served.content, asked.connection.peer.ip());
        }
        facts.outcome = served.outcome;
        let digest = &served.content.digest;
        let mut response =
            unless_known(asked, digest, facts, served.confirmed).unwrap_or_else(|| response::manifest(&served));
        response::remark(response.headers_mut(), None, self.manifests.warnings(upstream, repository, digest));
        Some(response)
    }

    async fn serve(
        &self,
        asked: Asked<'_>,
        route: Route,
        upstream: Option<Upstream>,
        identity: &Identity,
        facts: &mut AccessRecord,
    ) -> Result<Response<Body>, Error> {
        let namespace = route.namespace.as_deref();
        match (route.operation, upstream, route.repository) {
            (Operation::Base, upstream, _) => self.base(upstream.as_ref(), identity),
            (Operation::Write(_), ..) => Err(ErrorKind::Unsupported.into()),
            (Operation::Manifest(reference), Some(upstream), Some(repository)) => {
                let accept = Accept::from_headers(asked.headers);
                let wanted = ManifestRequest { upstream, repository, accept, tag_digest: asked.told.cloned() };
                self.manifest(asked, &wanted, &reference, facts).await
            }
            (Operation::Blob(digest), Some(upstream), Some(repository)) => {
                self.blob(asked, &Source { upstream, repository, digest }, facts).await
            }
            (Operation::Tags, Some(upstream), Some(repository)) => {
                self.list(asked, upstream, List::Tags(repository), namespace, facts).await
            }
            (Operation::Referrers(digest), Some(upstream), Some(repository)) => {
                self.list(asked, upstream, List::Referrers { repository, digest }, namespace, facts).await
            }
            (Operation::Catalog, Some(upstream), _) => {
                self.list(asked, upstream, List::Catalog, namespace, facts).await
            }
            // The table's routes lead to its own upstreams, and all but the base have a repository.
            (_, None, _) | (_, _, None) => Err(ErrorKind::UnknownRoute(route.upstream.to_string()).into()),
        }
    }

    async fn manifest(
        &self,
        asked: Asked<'_>,
        wanted: &ManifestRequest,
        reference: &Reference,
        facts: &mut AccessRecord,
    ) -> Result<Response<Body>, Error> {
        let deleted = self.deletion(&wanted.upstream, &wanted.repository, reference);
        let told = match deleted.is_some() || wants_proof(asked, &wanted.upstream, reference) {
            true => self.has_manifest(asked, wanted, reference, deleted).await?,
            false => None,
        };
        // What a client may put back with one entry more is what the upstream has now, or nothing.
        let current;
        let wanted = match &told {
            Some(head) if !asked.is_head() => {
                current = ManifestRequest { tag_digest: Some(head.digest.clone()), ..wanted.clone() };
                &current
            }
            Some(_) | None => wanted,
        };
        let former = asked.former.filter(|_| !wants_proof(asked, &wanted.upstream, reference));
        let asked = Asked { former, ..asked };
        let spared = match asked.former.is_some() && told.is_none() && self.manifests.prefers_cached(wanted, reference)
        {
            true => Box::pin(self.former(asked, wanted, reference)).await,
            false => None,
        };
        if asked.is_head() {
            let head = match (told, spared) {
                (Some(head), _) => head,
                (None, Some(former)) => former.into(),
                (None, None) => {
                    let head = self.manifests.head(wanted, reference).await;
                    self.or_former(asked, wanted, reference, head).await?
                }
            };
            facts.outcome = head.outcome;
            let response = unless_known(asked, &head.digest, facts, head.confirmed)
                .unwrap_or_else(|| response::manifest_head(&head));
            return Ok(self.with_warnings(wanted, &head.digest, response));
        }
        let served = match spared {
            Some(former) => former,
            None => {
                let served = self.manifests.get(wanted, reference).await;
                self.or_former(asked, wanted, reference, served).await?
            }
        };
        let client = asked.connection.peer.ip();
        self.manifests.note_read(&wanted.upstream, &wanted.repository, &served.content, client);
        facts.outcome = served.outcome;
        let digest = &served.content.digest;
        let response =
            unless_known(asked, digest, facts, served.confirmed).unwrap_or_else(|| response::manifest(&served));
        Ok(self.with_warnings(wanted, digest, response))
    }

    /// What was got; in an outage the tag's former manifest, where there is one for this client.
    async fn or_former<T: From<ServedManifest>>(
        &self,
        asked: Asked<'_>,
        wanted: &ManifestRequest,
        reference: &Reference,
        got: Result<T, ManifestError>,
    ) -> Result<T, Error> {
        let error = match got {
            Ok(got) => return Ok(got),
            Err(error) => error,
        };
        if asked.former.is_some()
            && error.is_outage()
            && let Some(former) = Box::pin(self.former(asked, wanted, reference)).await
        {
            return Ok(former.into());
        }
        Err(error.into())
    }

    /// The manifest that is cached for a tag, where the tag moved to one that the upstream does not send: if this client may have
    /// the former one, too, by what the upstream said of that, or says now.
    async fn former(
        &self,
        asked: Asked<'_>,
        wanted: &ManifestRequest,
        reference: &Reference,
    ) -> Option<ServedManifest> {
        let (Some(digest), Reference::Tag(tag)) = (asked.former, reference) else { return None };
        let ManifestRequest { upstream, repository, accept, .. } = wanted;
        if !self.proofs.holds_in_outage(upstream, repository, digest) {
            let subject = Resource::Manifest {
                reference: Reference::Digest(digest.clone()),
                accept: accept.clone(),
                cached: None,
            };
            self.proofs.authorize(upstream, repository, &subject, asked.connection.peer.ip()).await.ok()?;
        }
        self.manifests.previous(&ManifestRequest { tag_digest: Some(digest.clone()), ..wanted.clone() }, tag).await
    }

    fn with_warnings(&self, wanted: &ManifestRequest, digest: &Digest, mut response: Response<Body>) -> Response<Body> {
        let warnings = self.manifests.warnings(&wanted.upstream, &wanted.repository, digest);
        response::remark(response.headers_mut(), None, warnings);
        response
    }

    async fn blob(&self, asked: Asked<'_>, source: &Source, facts: &mut AccessRecord) -> Result<Response<Body>, Error> {
        if let Some(head) = self.is_still_there(asked, source).await?
            && asked.is_head()
        {
            // What is here was verified, its length too.
            let total = self.blobs.cached_len(source).await.or(head.len);
            let size = BlobSize { total, outcome: Outcome::Miss };
            facts.outcome = size.outcome;
            return Ok(self.blob_head(asked, source, &size, facts).await);
        }
        if asked.is_head() || has_already(asked.headers, &source.digest) {
            // That the client has it does not say that the upstream does: the size is asked for all the same.
            let size = self.blobs.size(source).await?;
            facts.outcome = size.outcome;
            return Ok(self.blob_head(asked, source, &size, facts).await);
        }
        let recipient = recipient(asked.connection);
        let client = Client { address: asked.connection.peer.ip(), recipient: &recipient };
        let opened = match wanted_ranges(asked.headers, &source.digest) {
            None => self.blobs.open(source, None, client).await,
            Some(Ranges::One(range)) => self.blobs.open(source, Some(range), client).await,
            Some(Ranges::Several(ranges)) => {
                let adjoining = adjoining(asked.headers);
                Box::pin(self.blobs.open_several(source, &ranges, adjoining, client)).await
            }
        };
        let opened = opened?;
        facts.outcome = opened.outcome;
        if opened.outcome == Outcome::Hit && opened.is_whole() {
            facts.whole_hit = self.scrub.whole_hit(client.address.into(), &source.id());
        }
        let begin = || self.readers.begin(client.address.into(), &recipient, Holding::Blob(source.id()));
        let reading = opened.reader.hold().is_some().then(begin);
        let response = response::blob(&source.digest, opened, asked.connection.send_queue.as_ref(), reading);
        Ok(self.with_remark(source, response).await)
    }

    async fn blob_head(
        &self,
        asked: Asked<'_>,
        source: &Source,
        size: &BlobSize,
        facts: &AccessRecord,
    ) -> Response<Body> {
        match unless_known(asked, &source.digest, facts, None) {
            Some(response) => response,
            None => self.with_remark(source, response::blob_head(&source.digest, size)).await,
        }
    }

    /// What is a manifest has its type, also where it is asked for as a blob.
    async fn with_remark(&self, source: &Source, mut response: Response<Body>) -> Response<Body> {
        let ContentNotes { media_type, warnings } = self.blobs.remark(source);
        let kind = self.manifests.media_type(source).await.or(media_type);
        // An answer of several parts is of none of their types.
        let kind = kind.filter(|_| response.extensions().get::<response::SizeOfWhole>().is_none());
        response::remark(response.headers_mut(), kind.as_ref(), warnings);
        response
    }

    /// What the upstream says of a blob under this repository, where it has to be asked although the blob may be cached:
    /// once it was deleted through us; and for a client that pushes, which leaves out what it is told is there.
    async fn is_still_there(&self, asked: Asked<'_>, source: &Source) -> Result<Option<BlobHead>, Error> {
        let Source { upstream, repository, digest } = source;
        let deleted = self.gone.find(Deleted::Blob, upstream.name(), repository, digest);
        let about_to_push = asked.is_head() && upstream.allows_push();
        if deleted.is_none() && !about_to_push {
            return Ok(None);
        }
        let asking = if about_to_push { upstream.for_push() } else { upstream.clone() };
        match asking.head_blob(repository, digest).await {
            Ok(head) => {
                self.blobs.note_remark(source, &head.notes);
                if let Some(deletion) = deleted {
                    self.gone.refute(deletion, Deleted::Blob, upstream.name(), repository, digest).await;
                }
                Ok(Some(head))
            }
            // Nothing can be pushed then, either.
            Err(error) if error.kind.is_outage() && deleted.is_none() => Ok(None),
            Err(error) => Err(Error::of_upstream(Label::Blob, error)),
        }
    }

    /// Whether this was deleted through us: that it is cached, by way of another repository, says nothing then.
    fn deletion(&self, upstream: &Upstream, repository: &Repository, reference: &Reference) -> Option<Deletion> {
        let Reference::Digest(digest) = reference else { return None };
        self.gone.find(Deleted::Manifest, upstream.name(), repository, digest)
    }

    /// The same for a manifest; what the upstream says of a tag, where that is all that a client needs to know.
    async fn has_manifest(
        &self,
        asked: Asked<'_>,
        wanted: &ManifestRequest,
        reference: &Reference,
        deleted: Option<Deletion>,
    ) -> Result<Option<ManifestHead>, Error> {
        let asking = ManifestRequest { upstream: wanted.upstream.for_push(), ..wanted.clone() };
        match self.manifests.head_from_upstream(&asking, reference).await {
            Ok(head) => {
                if let (Some(deletion), Reference::Digest(digest)) = (deleted, reference) {
                    let (upstream, repository) = (wanted.upstream.name(), &wanted.repository);
                    self.gone.refute(deletion, Deleted::Manifest, upstream, repository, digest).await;
                }
                Ok(head)
            }
            // What a client reads of such a tag it may put back a moment later: it must not be what was there before.
            // Nor must it be nothing, because something in front of the upstream says 404.
            Err(error) if matches!(error.kind, upstream::ErrorKind::Foreign { .. }) && !asked.is_head() => {
                Err(Error::new(ErrorKind::UpstreamUnavailable { retry_after: None }, error))
            }
            Err(error) if error.kind.is_outage() && error.is_answer() && !asked.is_head() => {
                Err(Error::of_upstream(Label::Manifest, error))
            }
            Err(error) if error.kind.is_outage() && deleted.is_none() => Ok(None),
            Err(error) => Err(Error::of_upstream(Label::Manifest, error)),
        }
    }

    /// Counts what an answer holds in memory, or says that there is no room for it.
    async fn held(&self, response: Response<Body>, connection: &Connection) -> Response<Body> {
        let (head, body) = response.into_parts();
        match body {
            Body::Whole(Some(bytes)) if AnswerMemory::counts(&bytes) => {
                match Box::pin(self.held.hold(connection.peer.ip(), &recipient(connection), bytes)).await {
                    Ok(bytes) => Response::from_parts(head, Body::Whole(Some(bytes))),
                    Err(refused) => response::error(&ErrorKind::Overloaded(refused).into()),
                }
            }
            body => Response::from_parts(head, body),
        }
    }

    /// A request that was sent by this very instance has gone in a circle.
    fn refuse_loop(&self, headers: &HeaderMap) -> Result<(), Error> {
        let ours = |value: &HeaderValue| {
            value.to_str().is_ok_and(|list| {
                list.split(',').any(|hop| hop.split_ascii_whitespace().nth(1) == Some(&*self.pseudonym))
            })
        };
        if headers.get_all(header::VIA).iter().any(ours) { Err(ErrorKind::Loop.into()) } else { Ok(()) }
    }

    fn next_id(&self) -> RequestId {
        RequestId { instance: self.instance, number: self.requests.fetch_add(1, Ordering::Relaxed) }
    }
}

impl Asked<'_> {
    pub(super) fn target(&self) -> Target<'_> {
        Target {
            method: self.method,
            uri: self.uri,
            host: self.host,
            sni: self.connection.sni.as_deref(),
            tls: self.connection.tls,
            local_port: self.connection.local.port(),
        }
    }
}

/// What takes the answer to the request at hand.
fn recipient(connection: &Connection) -> Recipient {
    h2::recipient().unwrap_or_else(|| connection.recipient.clone())
}

/// Everyone a request came through before us, in one line. Source: RFC 9110 sections 5.2 and 7.6.3.
fn ways_of(headers: &HeaderMap) -> Option<HeaderValue> {
    let hops: Vec<&[u8]> = headers.get_all(header::VIA).iter().map(HeaderValue::as_bytes).collect();
    if hops.is_empty() { None } else { HeaderValue::from_bytes(&hops.join(&b", "[..])).ok() }
}

/// What is no tag is none that is there, for who asks for it; who would make it is told why not.
fn told(asked: Asked<'_>, error: RouteError) -> Error {
    match error {
        RouteError::Tag(_) if asked.is_head() || *asked.method == Method::GET => ErrorKind::ManifestUnknown.into(),
        error => error.into(),
    }
}

/// 304, when the client has this content.
fn unless_known(
    asked: Asked<'_>,
    digest: &Digest,
    facts: &AccessRecord,
    confirmed: Option<SystemTime>,
) -> Option<Response<Body>> {
    has_already(asked.headers, digest).then(|| response::not_modified(digest, facts.outcome, confirmed))
}

/// Whether the upstream is asked before anything is told of a manifest. A client that is about to push asks by HEAD whether
/// it can leave this out: a manifest by its digest may be cached by way of another repository, and a tag may have been
/// moved by another client. What it reads under a referrers tag, it puts back with one entry more.
fn wants_proof(asked: Asked<'_>, upstream: &Upstream, reference: &Reference) -> bool {
    let is_kept_by_clients = || matches!(reference, Reference::Tag(tag) if is_referrers_tag(tag));
    upstream.allows_push() && (asked.is_head() || is_kept_by_clients())
}
