//! `GET` and `HEAD /v2/<name>/manifests/<reference>`.
//!
//! What must hold: a cached manifest does not prove that its repository still has it, if it was deleted through forebay
//! or if clients push there. In these cases forebay asks the upstream first.

use http::Response;

use super::{body::Body, exchange::Exchange, response, service::Service};
use crate::{
    auth::Resource,
    cache::{
        ManifestError, ManifestRequest,
        manifest::{ManifestHead, ServedManifest},
    },
    error::{Cached, Error, ErrorKind},
    oci::{Digest, Operation, Reference, Repository, is_referrers_tag},
    push::{Deleted, Deletion},
    upstream::{self, Upstream},
};

impl Service {
    /// The response for a manifest in memory, without waiting.
    pub(super) fn manifest_in_memory(
        &self,
        exchange: &mut Exchange<'_>,
        upstream: &Upstream,
        repository: &Repository,
        reference: &Reference,
    ) -> Option<Response<Body>> {
        let rules = self.caches.manifests.rules_of(upstream, repository, reference);
        if (rules.hold.is_some() && !exchange.by_peer)
            || (!rules.is_immutable && asks_upstream_first(exchange, upstream, reference))
            || self.manifest_deletion(upstream, repository, reference).is_some()
        {
            return None;
        }
        let (accept, tag_digest) = (exchange.accept(), exchange.grant.tag_digest.as_ref());
        let manifests = &self.caches.manifests;
        let served = manifests.get_in_memory(upstream, repository, reference, &accept, tag_digest, &rules)?;
        match exchange.is_head() {
            true => self.note_head(exchange, upstream, repository, reference, &served.content.digest),
            false => self.note_get(exchange, upstream, repository, reference, &served),
        }
        exchange.record.outcome = served.outcome;
        let digest = &served.content.digest;
        let not_modified = exchange.not_modified(digest, served.confirmed);
        let response = not_modified.unwrap_or_else(|| response::manifest(&served));
        Some(self.with_warnings(response, upstream, repository, digest))
    }

    pub(super) async fn manifest(
        &self,
        exchange: &mut Exchange<'_>,
        upstream: Upstream,
        repository: Repository,
        reference: &Reference,
    ) -> Result<Response<Body>, Error> {
        let tag_digest = exchange.grant.tag_digest.clone();
        let mut request = ManifestRequest { upstream, repository, accept: exchange.accept(), tag_digest };
        // The peer applies the rules for its client, and counts the time from when it first saw what the tag names.
        if let Reference::Tag(tag) = reference
            && !exchange.by_peer
        {
            let rules = self.caches.manifests.rules_of(&request.upstream, &request.repository, reference);
            if (rules.hold.is_some() || rules.is_immutable)
                && let Some(response) = Box::pin(self.held_manifest(exchange, &request, tag, &rules)).await
            {
                return response;
            }
        }
        let deletion = self.manifest_deletion(&request.upstream, &request.repository, reference);
        let mut current = None;
        if asks_upstream_first(exchange, &request.upstream, reference) {
            // The client may push what it reads, so a previous manifest must not be the response.
            exchange.previous = None;
            current = self.current_manifest(exchange, &request, reference, deletion).await?;
        } else if deletion.is_some() {
            current = self.current_manifest(exchange, &request, reference, deletion).await?;
        }
        if let Some(head) = &current
            && !exchange.is_head()
        {
            // The client may push this manifest with one entry more: only what the upstream has now may be the base of
            // it.
            request.tag_digest = Some(head.digest.clone());
        }
        let is_cached_preferred = exchange.previous.is_some()
            && current.is_none()
            && self.caches.manifests.prefers_cached(&request, reference);
        let previous = match is_cached_preferred {
            true => Box::pin(self.previous(exchange, &request, reference)).await,
            false => None,
        };
        match exchange.is_head() {
            true => {
                let known = current.or_else(|| previous.map(Into::into));
                self.manifest_head(exchange, &request, reference, known).await
            }
            false => self.manifest_content(exchange, &request, reference, previous).await,
        }
    }

    pub(super) async fn manifest_head(
        &self,
        exchange: &mut Exchange<'_>,
        request: &ManifestRequest,
        reference: &Reference,
        known: Option<ManifestHead>,
    ) -> Result<Response<Body>, Error> {
        let head = match known {
            Some(head) => head,
            None => {
                let head = self.caches.manifests.head(request, reference).await;
                self.or_previous(exchange, request, reference, head).await?
            }
        };
        self.note_head(exchange, &request.upstream, &request.repository, reference, &head.digest);
        exchange.record.outcome = head.outcome;
        let not_modified = exchange.not_modified(&head.digest, head.confirmed);
        let response = not_modified.unwrap_or_else(|| response::manifest_head(&head));
        Ok(self.with_warnings(response, &request.upstream, &request.repository, &head.digest))
    }

    pub(super) async fn manifest_content(
        &self,
        exchange: &mut Exchange<'_>,
        request: &ManifestRequest,
        reference: &Reference,
        previous: Option<ServedManifest>,
    ) -> Result<Response<Body>, Error> {
        let ManifestRequest { upstream, repository, .. } = request;
        let served = match previous {
            Some(previous) => previous,
            None => {
                let served = self.caches.manifests.get(request, reference).await;
                self.or_previous(exchange, request, reference, served).await?
            }
        };
        self.note_get(exchange, upstream, repository, reference, &served);
        exchange.record.outcome = served.outcome;
        let digest = &served.content.digest;
        let not_modified = exchange.not_modified(digest, served.confirmed);
        let response = not_modified.unwrap_or_else(|| response::manifest(&served));
        Ok(self.with_warnings(response, upstream, repository, digest))
    }

    /// Records that the client gets a manifest, and whether that is a pull.
    fn note_get(
        &self,
        exchange: &mut Exchange<'_>,
        upstream: &Upstream,
        repository: &Repository,
        reference: &Reference,
        ServedManifest { content, outcome, .. }: &ServedManifest,
    ) {
        let (manifests, client) = (&self.caches.manifests, exchange.peer());
        let tag = exchange.held_tag.as_ref();
        let named = (upstream, repository, tag.unwrap_or(reference));
        let is_pull = manifests.note_read(named, (content, *outcome), client);
        if let Some(tag) = tag {
            manifests.note_held((upstream, repository, tag), &content.digest, client);
        }
        exchange.record.is_pull = is_pull && !exchange.by_peer;
    }

    fn note_head(
        &self,
        exchange: &Exchange<'_>,
        upstream: &Upstream,
        repository: &Repository,
        reference: &Reference,
        digest: &Digest,
    ) {
        let (manifests, client) = (&self.caches.manifests, exchange.peer());
        let tag = exchange.held_tag.as_ref();
        manifests.note_head((upstream, repository, tag.unwrap_or(reference)), digest, client);
        if let Some(tag) = tag {
            manifests.note_held((upstream, repository, tag), digest, client);
        }
    }

    /// The result of a lookup; in an outage the previous manifest of the tag, where this client may have it.
    async fn or_previous<T: From<ServedManifest>>(
        &self,
        exchange: &mut Exchange<'_>,
        request: &ManifestRequest,
        reference: &Reference,
        result: Result<T, ManifestError>,
    ) -> Result<T, Error> {
        match result {
            Err(error) if error.is_outage() => {
                if exchange.previous.is_some()
                    && let Some(previous) = Box::pin(self.previous(exchange, request, reference)).await
                {
                    return Ok(previous.into());
                }
                if Box::pin(self.caches.manifests.is_too_old(request, reference)).await {
                    exchange.cached = Cached::TooOld;
                }
                Err(error.into())
            }
            result => Ok(result?),
        }
    }

    /// The cached manifest of a tag that moved to one the upstream does not send, if the upstream granted it to this
    /// client or grants it now.
    async fn previous(
        &self,
        exchange: &Exchange<'_>,
        request: &ManifestRequest,
        reference: &Reference,
    ) -> Option<ServedManifest> {
        let (Some(digest), Reference::Tag(tag)) = (&exchange.previous, reference) else { return None };
        let ManifestRequest { upstream, repository, accept, .. } = request;
        if !self.caches.grants.holds_in_outage(upstream, repository, digest) {
            let (reference, accept) = (Reference::Digest(digest.clone()), accept.clone());
            let resource = Resource::Manifest { reference, accept, cached: None };
            self.caches.grants.authorize(upstream, repository, &resource, exchange.peer()).await.ok()?;
        }
        let request = ManifestRequest { tag_digest: Some(digest.clone()), ..request.clone() };
        self.caches.manifests.previous(&request, tag).await
    }

    fn with_warnings(
        &self,
        mut response: Response<Body>,
        upstream: &Upstream,
        repository: &Repository,
        digest: &Digest,
    ) -> Response<Body> {
        let warnings = self.caches.manifests.warnings(upstream, repository, digest);
        response::add_notes(response.headers_mut(), None, warnings);
        response
    }

    /// The deletion of a manifest through forebay. The manifest may still be cached for another repository.
    pub(super) fn manifest_deletion(
        &self,
        upstream: &Upstream,
        repository: &Repository,
        reference: &Reference,
    ) -> Option<Deletion> {
        let Reference::Digest(digest) = reference else { return None };
        self.caches.deletions.find(Deleted::Manifest, upstream.name(), repository, digest)
    }

    /// The upstream's current response for a manifest. `None` in an outage in which the cache may answer.
    pub(super) async fn current_manifest(
        &self,
        exchange: &Exchange<'_>,
        request: &ManifestRequest,
        reference: &Reference,
        deletion: Option<Deletion>,
    ) -> Result<Option<ManifestHead>, Error> {
        let upstream = request.upstream.for_push();
        let asked = ManifestRequest { upstream, ..request.clone() };
        let asking = self.caches.manifests.head_from_upstream(&asked, reference);
        let result = asked.upstream.trace().wait(asking).await;
        let error = match result {
            Ok(head) => {
                if let (Some(deletion), Reference::Digest(digest)) = (deletion, reference) {
                    let (upstream, repository) = (request.upstream.name(), &request.repository);
                    let deletions = &self.caches.deletions;
                    deletions.refute(deletion, Deleted::Manifest, upstream, repository, digest).await;
                }
                return Ok(head);
            }
            Err(error) => error,
        };
        // A client may push the manifest of such a tag a moment after it reads it. It must get neither an earlier
        // manifest nor a 404 that comes from a server in front of the upstream.
        if !exchange.is_head() && matches!(error.kind, upstream::ErrorKind::Foreign { .. }) {
            return Err(Error::new(ErrorKind::UpstreamUnavailable { retry_after: None }, error));
        }
        let is_answered = error.is_answer() && !exchange.is_head();
        match error.kind.is_outage() && !is_answered && deletion.is_none() {
            true => Ok(None),
            false => Err(Error::of_upstream(Operation::Manifest, error)),
        }
    }
}

/// Whether forebay asks the upstream before the cache answers: if the upstream takes pushes, for a HEAD and for a
/// referrers tag.
///
/// A client that is about to push sends a HEAD to learn whether it can leave a manifest out: a manifest that is cached
/// by its digest may be of another repository, and another client may have moved a tag. The reader of a referrers tag
/// pushes its manifest again, with one entry more.
fn asks_upstream_first(exchange: &Exchange<'_>, upstream: &Upstream, reference: &Reference) -> bool {
    let is_kept_by_clients = || matches!(reference, Reference::Tag(tag) if is_referrers_tag(tag));
    upstream.allows_push() && (exchange.is_head() || is_kept_by_clients())
}
