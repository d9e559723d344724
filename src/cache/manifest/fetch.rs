//! Requests to the upstream, which equal requests of clients share, and what they leave in the cache.

use std::{ops::ControlFlow, sync::Arc, time::SystemTime};

use tracing::Instrument as _;

use super::{
    ManifestCache,
    content::VerifiedManifest,
    error::ManifestError,
    fetched::{Fetched, confirmed_before},
    query::ManifestQuery,
    request::ManifestRequest,
};
use crate::{
    cache::{
        Outcome,
        freshness::Freshness,
        storage::{lru_index::IndexKey, tag_record::TagRecord},
    },
    metrics::Label as _,
    oci::{Digest, DocumentType, OtherType, Reference},
    single_flight::WaitCycle,
    upstream::{self, ContentNotes, ErrorKind, FailureCause},
};

/// A manifest that the upstream sent, verified.
struct Received {
    content: VerifiedManifest,
    notes: ContentNotes,
    confirmed: SystemTime,
    /// The upstream client kept the response for a while: it may be older than other responses.
    is_delayed: bool,
}

impl ManifestCache {
    /// The response of the upstream to a request that equal requests share. `record`: what a `HEAD` may confirm.
    pub(super) async fn fetch_joined(
        &self,
        request: &ManifestRequest,
        reference: &Reference,
        head: bool,
        record: Option<Arc<TagRecord>>,
    ) -> Result<(Fetched, Outcome), ManifestError> {
        let query = self.query(request, reference, head);
        if let Some(error) = self.0.not_found.get(&query.not_found_key()) {
            return Err(ManifestError::CachedNotFound(error));
        }
        let flight = self.0.requests.run(query.clone(), query.may_cycle, || {
            let (cache, mut request) = (self.clone(), request.clone());
            // Requests of peers may wait for this one, and peers that were dead may be alive when it is sent.
            if !query.asks_peers {
                request.upstream = request.upstream.without_peers();
            }
            let span = request.upstream.trace().span();
            let fetch = async move {
                if let Some(fetched) = cache.cached_meanwhile(&request, &query).await {
                    return Ok(fetched);
                }
                if let Some(fetched) = cache.stored_for(&request, &query).await {
                    return Ok(fetched);
                }
                let fetched = cache.fetch(&request, &query, record).await;
                if let Err(ManifestError::Upstream(error)) = &fetched
                    && matches!(error.kind, ErrorKind::NotFound)
                {
                    cache.note_not_found(&request, query, error.clone()).await;
                }
                fetched
            };
            fetch.instrument(span)
        });
        let flight = request.upstream.trace().wait(flight).await.map_err(|WaitCycle| ManifestError::WaitCycle)?;
        let fetched = flight.response.ok_or(ManifestError::Abandoned)??;
        let outcome = match (&fetched, flight.is_leader) {
            (Fetched::Unchanged(_), _) => Outcome::Revalidated,
            (_, true) => Outcome::Miss,
            (_, false) => Outcome::Joined,
        };
        Ok((fetched, outcome))
    }

    pub(super) fn query(&self, request: &ManifestRequest, reference: &Reference, head: bool) -> ManifestQuery {
        ManifestQuery {
            registry: request.upstream.registry().clone(),
            principal: request.upstream.principal(),
            repository: request.repository.clone(),
            reference: reference.clone(),
            class: request.accept.class(),
            head,
            may_cycle: request.upstream.may_be_loop(),
            asks_peers: request.asks_peers(),
            is_for_proof: request.upstream.is_for_proof(),
            writes: self.0.tags.writes(request.upstream.name(), &request.repository),
        }
    }

    /// What the request before this one left in the cache. A caller that looked into the cache before that response,
    /// and sends its request after it, needs no second request.
    async fn cached_meanwhile(&self, request: &ManifestRequest, query: &ManifestQuery) -> Option<Fetched> {
        match &query.reference {
            Reference::Digest(digest) => {
                let content = self.cached(request, digest, None).await?;
                request.accept.takes(&content.media_type).then_some(Fetched::Content { content, confirmed: None })
            }
            Reference::Tag(tag) => match self.record(request, &request.key(tag)).await {
                (Some(record), Freshness::Fresh) if query.head => Some(Fetched::Head(record)),
                (Some(record), Freshness::Fresh) => {
                    let content = self.cached_of(request, Some(&record)).await?;
                    Some(Fetched::Content { content, confirmed: Some(record.confirmed) })
                }
                _ => None,
            },
        }
    }

    pub(super) async fn note_not_found(&self, request: &ManifestRequest, query: ManifestQuery, error: upstream::Error) {
        if let Reference::Tag(tag) = &query.reference {
            self.0.tags.remove(&request.key(tag)).await;
        }
        self.0.not_found.insert(query.not_found_key(), error);
    }

    pub(super) fn is_not_found(&self, query: &ManifestQuery) -> bool {
        self.0.not_found.contains_key(&query.not_found_key())
    }

    /// Asks the upstream: by a `HEAD` if that is what the query is, and by a `GET` if the `HEAD` is not enough.
    pub(super) async fn fetch(
        &self,
        request: &ManifestRequest,
        query: &ManifestQuery,
        record: Option<Arc<TagRecord>>,
    ) -> Result<Fetched, ManifestError> {
        let mut head_digest = None;
        if query.head {
            match self.fetch_head(request, query, record).await? {
                ControlFlow::Break(fetched) => return Ok(fetched),
                ControlFlow::Continue(digest) => head_digest = digest,
            }
        }
        let mut received = self.fetch_verified(request, query).await?;
        // A delayed response is older than the HEAD, and may be of the manifest to which the tag pointed before.
        if received.is_delayed && head_digest.is_some_and(|digest| digest != received.content.digest) {
            received = self.fetch_verified(request, query).await?;
        }
        let Received { content, notes, confirmed, .. } = received;
        self.note_warnings(request, Some(&content.digest), &notes);
        let content = self.keep(request, query, content).await;
        self.0.tags.put(request, query, TagRecord::of(&content, confirmed)).await;
        let is_tag = matches!(query.reference, Reference::Tag(_));
        Ok(Fetched::Content { content, confirmed: is_tag.then_some(confirmed) })
    }

    /// Sends a `HEAD`. Breaks with the response if that is enough; else continues with the digest that it gave.
    async fn fetch_head(
        &self,
        request: &ManifestRequest,
        query: &ManifestQuery,
        record: Option<Arc<TagRecord>>,
    ) -> Result<ControlFlow<Fetched, Option<Digest>>, ManifestError> {
        let ManifestRequest { upstream, repository, accept, .. } = request;
        let (digest, is_missing) = match upstream.head_manifest(repository, &query.reference, accept).await {
            Ok(head) => {
                let digest = head.digest.clone();
                if let Some(fetched) = self.accept_head(request, query, record.as_ref(), head).await? {
                    return Ok(ControlFlow::Break(fetched));
                }
                (digest, false)
            }
            // Some registries know only GET, or answer a HEAD with 404 for what they would first have to fetch
            // themselves. A GET of what is not there does not count as a pull either.
            Err(error) if matches!(error.kind, ErrorKind::Unsupported | ErrorKind::NotFound) => {
                (None, error.kind == ErrorKind::NotFound)
            }
            // A HEAD may have a wrong media type; a GET shows the content.
            Err(error) if error.kind == ErrorKind::Protocol => (None, false),
            Err(error) => return Err(ManifestError::Upstream(error)),
        };
        // A HEAD does not count as a pull; nor does a GET of what is not there, and clients must see the 404.
        let is_tag = matches!(query.reference, Reference::Tag(_));
        if !is_missing && is_tag && self.saves_limit(request, record.as_deref()).await {
            return Err(ManifestError::NearRateLimit);
        }
        Ok(ControlFlow::Continue(digest))
    }

    /// What a `HEAD` found; `None` if it leaves out what clients need, is about another manifest, or names one that
    /// must be fetched first.
    async fn accept_head(
        &self,
        request: &ManifestRequest,
        query: &ManifestQuery,
        record: Option<&Arc<TagRecord>>,
        mut head: upstream::ManifestHead,
    ) -> Result<Option<Fetched>, ManifestError> {
        self.note_warnings(request, head.digest.as_ref(), &head.notes);
        self.correct(request, &mut head).await?;
        let Some(digest) = head.digest.clone() else { return Ok(None) };
        // The digest alone says that nothing changed, whatever else the HEAD leaves out.
        if let Some(record) = record.filter(|record| record.digest == digest) {
            let confirmed = confirmed_before(head.age);
            let record = TagRecord { confirmed, ..TagRecord::clone(record) };
            return Ok(Some(Fetched::Unchanged(self.0.tags.put(request, query, record).await)));
        }
        // A record counts for all clients that may read the tag. A HEAD that one client got proves nothing without the
        // manifest.
        let is_tag = matches!(query.reference, Reference::Tag(_));
        if (is_tag && request.upstream.uses_client_credentials())
            || self.must_be_fetched(request, &query.reference, record.map(AsRef::as_ref), &digest).await
        {
            return Ok(None);
        }
        match TagRecord::from_head(head).filter(|record| query.allows(&record.digest)) {
            Some(record) => Ok(Some(Fetched::Head(self.0.tags.put(request, query, record).await))),
            None => Ok(None),
        }
    }

    async fn fetch_verified(
        &self,
        request: &ManifestRequest,
        query: &ManifestQuery,
    ) -> Result<Received, ManifestError> {
        let ManifestRequest { upstream, repository, accept, .. } = request;
        let body =
            upstream.get_manifest(repository, &query.reference, accept).await.map_err(ManifestError::Upstream)?;
        let (confirmed, is_delayed, notes) =
            (confirmed_before(body.age), !body.resident_time.is_zero(), body.notes.clone());
        let len = body.bytes.len();
        let (reference, needs_proof) = (query.reference.clone(), upstream.uses_client_credentials());
        let verify = move || {
            let is_manifest = !needs_proof || VerifiedManifest::is_proof(&reference, &body);
            if is_manifest { VerifiedManifest::verified(&reference, body) } else { Err(ManifestError::NoManifest) }
        };
        let verified = self.0.documents.read(len, verify).await;
        match verified.unwrap_or(Err(ManifestError::Abandoned)) {
            Ok(content) => Ok(Received { content, notes, confirmed, is_delayed }),
            Err(error) => {
                self.log_invalid(request, query, &error);
                Err(error)
            }
        }
    }

    /// Counts and logs a manifest that is wrong, once per upstream and minute.
    fn log_invalid(&self, request: &ManifestRequest, query: &ManifestQuery, error: &ManifestError) {
        let (upstream, repository, reference) = (request.upstream.name(), &request.repository, &query.reference);
        match error {
            ManifestError::OtherType | ManifestError::NoManifest => {}
            ManifestError::Mismatch => self.0.metrics.digest_mismatch(upstream),
            _ => return,
        }
        let cause = FailureCause::NotARegistry;
        self.0.metrics.upstream_error(upstream, cause);
        if let Some(left_out) = self.0.lines.admit(upstream.clone()) {
            let (cause, request) = (cause.as_str(), request.upstream.request().map(tracing::field::display));
            tracing::warn!(%upstream, %repository, %reference, cause, %error, request, left_out, "a manifest is wrong");
        }
    }

    /// Whether a tag moved to a manifest that is not cached, while another is that a `GET` would serve if the upstream
    /// failed before the manifest is fetched. Then a `HEAD` must not name the new manifest: a `HEAD` names what a `GET`
    /// serves.
    pub(super) async fn must_be_fetched(
        &self,
        request: &ManifestRequest,
        reference: &Reference,
        record: Option<&TagRecord>,
        to: &Digest,
    ) -> bool {
        let Reference::Tag(tag) = reference else { return false };
        if record.is_some_and(|record| record.digest == *to) || self.cached(request, to, None).await.is_some() {
            return false;
        }
        let content = self.cached_of(request, record).await;
        self.cached_for_tag(request, &request.key(tag), content, record, Outcome::Stale).await.is_some()
    }

    /// Whether the cached manifest of a tag is not replaced, because little is left of the upstream's rate limit.
    pub(super) async fn saves_limit(&self, request: &ManifestRequest, record: Option<&TagRecord>) -> bool {
        request.upstream.is_near_rate_limit() && self.cached_of(request, record).await.is_some()
    }

    pub(super) fn note_warnings(&self, request: &ManifestRequest, digest: Option<&Digest>, notes: &ContentNotes) {
        if let Some(digest) = digest {
            // A cached manifest has its own type. Noted, it would make each hit look for warnings.
            let notes = ContentNotes { media_type: None, warnings: notes.warnings.clone() };
            self.0.warnings.note(&request.upstream, &request.repository, digest, &notes);
        }
    }

    /// Corrects a `HEAD` by the cached manifest: its length, and its media type if the document says it.
    ///
    /// # Errors
    /// If the `HEAD` gives the document another type than it says: that is as wrong as in a response with the content.
    pub(super) async fn correct(
        &self,
        request: &ManifestRequest,
        head: &mut upstream::ManifestHead,
    ) -> Result<(), ManifestError> {
        let Some(digest) = head.digest.clone() else { return Ok(()) };
        let Some(content) = self.cached(request, &digest, None).await else { return Ok(()) };
        head.len = Some(content.bytes.len() as u64);
        if content.is_self_described {
            let settled = DocumentType::Said(content.media_type.clone()).settle(head.media_type.clone());
            let (media_type, _) = settled.map_err(|OtherType| ManifestError::OtherType)?;
            head.media_type = Some(media_type);
        }
        Ok(())
    }

    /// Caches a manifest, unless a change was made through forebay since the request: it may have been deleted.
    async fn keep(
        &self,
        request: &ManifestRequest,
        query: &ManifestQuery,
        content: VerifiedManifest,
    ) -> Arc<VerifiedManifest> {
        let content = Arc::new(content);
        let (upstream, repository) = (request.upstream.name(), &query.repository);
        let is_outdated = || self.0.tags.writes(upstream, repository) != query.writes;
        if is_outdated() {
            return content;
        }
        let registry = request.upstream.registry().clone();
        self.0.images.note(&registry, &request.repository, &content);
        let key = request.visibility().key(&content.digest);
        let content = self.remember(request, key.clone(), content);
        let gate = self.0.tags.gate(upstream, repository, query.writes);
        let (files, written, name) = (self.0.files.clone(), content.clone(), key.clone());
        let (inventory, uploads) = (self.0.inventory.clone(), self.uploads_of(request, &content));
        let write = async move {
            files.write(name.clone(), written, registry, gate).await?;
            if let Some(uploads) = uploads {
                uploads.add(&IndexKey::Manifest(name.clone()));
            }
            inventory.note_landed(name);
            Ok(())
        };
        self.0.writer.run(IndexKey::Manifest(key.clone()), write).await;
        if is_outdated() {
            self.forget_in_memory(&request.upstream, &key);
        }
        content
    }
}
