//! Manifests: in memory over disk by digest; by tag, what the upstream last said, for as long as it can be
//! believed.
//!
//! A manifest's content never changes, so it is kept by digest and verified before use. A tag is trusted for
//! `tag_ttl`; after that one HEAD asks for all who want it, and an unchanged answer costs no GET. An upstream
//! that is down, slow, or says 429 or 5xx leaves us with what it last said, up to `stale_if_error`; so does one that tells of a limit
//! of which little is left, where only a pull would tell more.

mod content;
mod file_records;
mod files;
mod invalidate;
mod lookup;
mod query;
mod store_async;
mod tags;

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use http::HeaderValue;
use moka::policy::EvictionPolicy;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub(crate) use self::{
    content::Content,
    lookup::{ManifestError, ManifestHead, ServedManifest},
    query::ManifestRequest,
};
use self::{
    content::ManifestFound,
    files::ManifestFiles,
    lookup::{ManifestLookup, confirmed_before},
    query::ManifestQuery,
    store_async::AsyncStore,
    tags::TagRecords,
};
use super::{
    Config, ContentKey, DiskStore, Images, Source, Visibility, Warnings, freshness::Freshness, storage::index::IndexKey,
};
use crate::{
    cache::{
        Outcome,
        storage::tag_record::{TagKey, TagRecord},
    },
    metrics::Metrics,
    oci::{Accept, Digest, DocumentType, MediaType, MediaTypeKind, OtherType, Reference, Repository, Tag},
    offload::Offload,
    single_flight::{SingleFlight, WaitCycle},
    upstream::{self, ContentNotes, ErrorKind, Registry, Upstream},
};

/// How long a client waits for the upstream when there is a stale answer at hand.
const STALE_PATIENCE: Duration = Duration::from_secs(3);
/// How many 404s are remembered; one that comes with a long reason counts as several.
const MAX_MISSING: u64 = 10_000;

/// A cheap handle on the manifests of the cache.
#[derive(Clone)]
pub struct ManifestCache(Arc<ManifestCacheInner>);

struct ManifestCacheInner {
    store: DiskStore,
    writer: AsyncStore,
    shelves: ManifestFiles,
    metrics: Metrics,
    /// By the registry too, where the bytes do not say all that clients get.
    contents: moka::sync::Cache<(ContentKey, Option<Registry>), Arc<Content>>,
    tags: TagRecords,
    /// With what the upstream said.
    missing: moka::sync::Cache<ManifestQuery, upstream::Error>,
    questions: SingleFlight<ManifestQuery, Result<ManifestLookup, ManifestError>>,
    /// Of tags that moved to a digest.
    moves: SingleFlight<(ManifestQuery, Digest), Result<ManifestLookup, ManifestError>>,
    images: Images,
    /// Of large documents that are read or hashed.
    documents: Offload,
    remarks: Warnings,
}

/// A manifest that came.
struct Got {
    content: Content,
    remark: ContentNotes,
    confirmed: SystemTime,
    /// Whether it was kept before it was given.
    waited: bool,
}

impl ManifestCache {
    /// Questions and writes run as tasks of `tasks`; questions end with `shutdown`.
    pub fn new(
        config: &Config,
        store: DiskStore,
        metrics: Metrics,
        tasks: TaskTracker,
        shutdown: CancellationToken,
        images: Images,
    ) -> Self {
        let contents = moka::sync::Cache::builder()
            .max_capacity(config.manifest_memory / 1024)
            .weigher(|_, content: &Arc<Content>| content.weight())
            // The default policy refuses newcomers that were never asked for before: a pull's manifests are.
            .eviction_policy(EvictionPolicy::lru())
            .build();
        let missing = moka::sync::Cache::builder()
            .max_capacity(MAX_MISSING)
            .weigher(|_, error: &upstream::Error| {
                let reason = error.refusal().map_or(0, |refusal| refusal.size());
                u32::try_from(reason / 1024 + 1).unwrap_or(u32::MAX)
            })
            .time_to_live(config.negative_ttl)
            .build();
        let writer = AsyncStore { store: store.clone(), tasks: tasks.clone() };
        let tags = TagRecords::new(config, writer.clone());
        let questions = SingleFlight::new(tasks.clone(), shutdown.clone());
        let moves = SingleFlight::new(tasks, shutdown);
        let (documents, remarks): (Offload, Warnings) = Default::default();
        let shelves = ManifestFiles::new(store.clone(), documents.clone());
        Self(Arc::new(ManifestCacheInner {
            store,
            writer,
            shelves,
            metrics,
            contents,
            tags,
            missing,
            questions,
            moves,
            images,
            documents,
            remarks,
        }))
    }

    /// The warnings that the upstream gave with a manifest.
    pub fn warnings(&self, upstream: &Upstream, repository: &Repository, digest: &Digest) -> Vec<HeaderValue> {
        self.0.remarks.of(upstream, repository, digest).warnings
    }

    /// The type of a manifest that is here.
    pub async fn media_type(&self, source: &Source) -> Option<MediaType> {
        let id = source.id();
        if self.in_memory(&source.upstream, &id, None).is_none() && !self.0.store.has_manifest(&id) {
            return None;
        }
        let Source { upstream, repository, digest } = source.clone();
        let wanted = ManifestRequest { upstream, repository, accept: Accept::default(), tag_digest: None };
        self.cached(&wanted, &digest, None).await.map(|content| content.media_type.clone())
    }

    /// The manifest a reference means.
    pub async fn get(&self, wanted: &ManifestRequest, reference: &Reference) -> Result<ServedManifest, ManifestError> {
        match reference {
            Reference::Digest(digest) => self.get_digest(wanted, digest).await,
            Reference::Tag(tag) => self.get_tag(wanted, tag).await,
        }
    }

    /// What a HEAD of a reference says: never fetches the manifest, unless the upstream's HEAD is of no use.
    pub async fn head(&self, wanted: &ManifestRequest, reference: &Reference) -> Result<ManifestHead, ManifestError> {
        match reference {
            Reference::Digest(digest) => self.head_digest(wanted, digest).await,
            Reference::Tag(tag) => self.head_tag(wanted, tag).await,
        }
    }

    /// The manifest a reference means, when it is in memory and can be served at once. Waits for nothing.
    pub fn get_in_memory(
        &self,
        upstream: &Upstream,
        repository: &Repository,
        reference: &Reference,
        accept: &Accept,
        told: Option<&Digest>,
    ) -> Option<ServedManifest> {
        let visibility = Visibility::of(upstream);
        let (content, confirmed) = match reference {
            Reference::Digest(digest) => {
                let content = self.in_memory(upstream, &visibility.key(digest), None);
                (content.filter(|content| accept.takes(&content.media_type))?, None)
            }
            Reference::Tag(tag) => {
                let key = TagKey {
                    visibility,
                    upstream: upstream.name().clone(),
                    repository: repository.clone(),
                    tag: tag.clone(),
                    class: accept.class(),
                };
                let record = self.0.tags.fresh_in_memory(&key, upstream.registry(), upstream.is_near_rate_limit())?;
                if told.is_some_and(|told| *told != record.digest) {
                    return None;
                }
                let content = self.in_memory(upstream, &visibility.key(&record.digest), Some(&record.media_type))?;
                (content, Some(record.confirmed))
            }
        };
        Some(ServedManifest { content, outcome: Outcome::Hit, confirmed })
    }

    /// A client at this address reads this manifest.
    pub fn note_read(&self, upstream: &Upstream, repository: &Repository, content: &Content, client: IpAddr) {
        self.0.images.note_read(upstream.registry(), repository, content, client);
    }

    /// Where a tag points, as far as it is known here.
    pub async fn cached_digest(
        &self,
        upstream: &Upstream,
        repository: &Repository,
        tag: &Tag,
        accept: &Accept,
    ) -> Option<Digest> {
        let (upstream, repository, accept) = (upstream.clone(), repository.clone(), accept.clone());
        let wanted = ManifestRequest { upstream, repository, accept, tag_digest: None };
        self.record(&wanted, &wanted.key(tag)).await.0.map(|record| record.digest.clone())
    }

    /// The record of a tag that is for this client, and how far it can be believed.
    async fn record(&self, wanted: &ManifestRequest, key: &TagKey) -> (Option<Arc<TagRecord>>, Freshness) {
        match self.0.tags.get(key, wanted.upstream.registry(), wanted.upstream.is_near_rate_limit()).await {
            (Some(record), freshness) if wanted.is_tag_digest(&record.digest) => (Some(record), freshness),
            _ => (None, Freshness::Missing),
        }
    }

    async fn get_digest(&self, wanted: &ManifestRequest, digest: &Digest) -> Result<ServedManifest, ManifestError> {
        let cached = self.cached(wanted, digest, None).await;
        if let Some(content) = &cached
            && wanted.accept.takes(&content.media_type)
        {
            return Ok(ServedManifest { content: content.clone(), outcome: Outcome::Hit, confirmed: None });
        }
        let reference = Reference::Digest(digest.clone());
        match self.ask(wanted, &reference, false, None).await {
            Ok((ManifestLookup::Content { content, .. }, outcome)) => {
                Ok(ServedManifest { content, outcome, confirmed: None })
            }
            // Asked for the content, it never answers without.
            Ok((ManifestLookup::Unchanged(_) | ManifestLookup::Head(_), _)) => Err(ManifestError::Abandoned),
            Err(error) if error.is_outage() && cached.is_some() => Err(ManifestError::NotAcceptable),
            Err(error) => Err(error),
        }
    }

    async fn get_tag(&self, wanted: &ManifestRequest, tag: &Tag) -> Result<ServedManifest, ManifestError> {
        let key = wanted.key(tag);
        let (record, freshness) = self.record(wanted, &key).await;
        let content = match &record {
            Some(record) => self.cached(wanted, &record.digest, Some(&record.media_type)).await,
            None => None,
        };
        if let Some(content) = &content
            && (freshness == Freshness::Fresh || self.0.tags.is_troubled(wanted, &key))
        {
            let outcome = if freshness == Freshness::Fresh { Outcome::Hit } else { Outcome::Stale };
            let confirmed = record.map(|record| record.confirmed);
            return Ok(ServedManifest { content: content.clone(), outcome, confirmed });
        }
        // What clients of another kind got serves in an outage, too: it is waited for as long.
        let other = match &content {
            Some(_) => None,
            None => self.stale(wanted, &key, None, record.as_deref()).await,
        };
        let reference = Reference::Tag(tag.clone());
        // A HEAD pays only when the manifest it may confirm is here.
        let known = record.clone().filter(|_| content.is_some());
        let asking = self.ask_for_content(wanted, &reference, known);
        let asked = match (&content, &other) {
            (None, Some(_)) if self.0.tags.is_troubled(wanted, &key) => None,
            (None, None) => Some(asking.await),
            _ => tokio::time::timeout(STALE_PATIENCE, asking).await.ok(),
        };
        match (asked, content) {
            (Some(Ok((ManifestLookup::Content { content, confirmed }, outcome))), _) => {
                Ok(ServedManifest { content, outcome, confirmed })
            }
            (Some(Ok((ManifestLookup::Unchanged(record) | ManifestLookup::Head(record), _))), Some(content)) => {
                Ok(ServedManifest { content, outcome: Outcome::Revalidated, confirmed: Some(record.confirmed) })
            }
            (Some(Err(error)), content) if error.is_outage() => {
                self.0.tags.note_trouble(wanted, &key);
                self.stale(wanted, &key, content, record.as_deref()).await.ok_or(error)
            }
            (Some(Err(error)), _) => Err(error),
            (None, content) => {
                self.0.tags.note_trouble(wanted, &key);
                self.stale(wanted, &key, content, record.as_deref()).await.ok_or(ManifestError::Abandoned)
            }
            // Confirmed for somebody who has the manifest, which this one found evicted: now it is fetched.
            (Some(Ok(_)), None) => match self.ask(wanted, &reference, false, None).await? {
                (ManifestLookup::Content { content, confirmed }, outcome) => {
                    Ok(ServedManifest { content, outcome, confirmed })
                }
                (ManifestLookup::Unchanged(_) | ManifestLookup::Head(_), _) => Err(ManifestError::Abandoned),
            },
        }
    }

    /// What there is for a tag of which the upstream cannot be asked: its manifest, else what clients of another kind got for it.
    async fn stale(
        &self,
        wanted: &ManifestRequest,
        key: &TagKey,
        content: Option<Arc<Content>>,
        record: Option<&TagRecord>,
    ) -> Option<ServedManifest> {
        let outcome = Outcome::Stale;
        if let Some(content) = content {
            return Some(ServedManifest { content, outcome, confirmed: record.map(|record| record.confirmed) });
        }
        // No other than the one that this client was told.
        if wanted.tag_digest.is_some() {
            return None;
        }
        let (content, confirmed) = self.other_class(wanted, key).await?;
        Some(ServedManifest { content, outcome, confirmed: Some(confirmed) })
    }

    /// What is here for a tag that moved to what the upstream does not give.
    pub async fn previous(&self, wanted: &ManifestRequest, tag: &Tag) -> Option<ServedManifest> {
        let (record, _) = self.record(wanted, &wanted.key(tag)).await;
        let record = record?;
        let content = self.cached(wanted, &record.digest, Some(&record.media_type)).await?;
        Some(ServedManifest { content, outcome: Outcome::Stale, confirmed: Some(record.confirmed) })
    }

    /// Whether the upstream is not to be asked for a tag's manifest just now, if there is another one at hand.
    pub fn prefers_cached(&self, wanted: &ManifestRequest, reference: &Reference) -> bool {
        match reference {
            Reference::Tag(tag) => {
                wanted.upstream.is_near_rate_limit() || self.0.tags.is_troubled(wanted, &wanted.key(tag))
            }
            Reference::Digest(_) => false,
        }
    }

    async fn head_digest(&self, wanted: &ManifestRequest, digest: &Digest) -> Result<ManifestHead, ManifestError> {
        let cached = self.cached(wanted, digest, None).await;
        if let Some(content) = &cached
            && wanted.accept.takes(&content.media_type)
        {
            return Ok(ManifestHead::of(content, Outcome::Hit, None));
        }
        match self.ask(wanted, &Reference::Digest(digest.clone()), true, None).await {
            // Content never ages.
            Ok((answer, outcome)) => Ok(ManifestHead { confirmed: None, ..answer.head(outcome) }),
            Err(error) if error.is_outage() && cached.is_some() => Err(ManifestError::NotAcceptable),
            Err(error) => Err(error),
        }
    }

    async fn head_tag(&self, wanted: &ManifestRequest, tag: &Tag) -> Result<ManifestHead, ManifestError> {
        let key = wanted.key(tag);
        let (record, freshness) = self.record(wanted, &key).await;
        match &record {
            Some(record) if freshness == Freshness::Fresh => {
                return Ok(self.head_of(wanted, record, Outcome::Hit).await);
            }
            Some(_) if self.0.tags.is_troubled(wanted, &key) => {
                return self.stale_head(wanted, &key, record.as_deref()).await.ok_or(ManifestError::Abandoned);
            }
            Some(_) | None => {}
        }
        let has_other = record.is_none() && self.stale(wanted, &key, None, None).await.is_some();
        let reference = Reference::Tag(tag.clone());
        let asking = self.ask(wanted, &reference, true, record.clone());
        let asked = match &record {
            None if has_other && self.0.tags.is_troubled(wanted, &key) => None,
            None if !has_other => Some(asking.await),
            Some(_) | None => tokio::time::timeout(STALE_PATIENCE, asking).await.ok(),
        };
        match (asked, record) {
            (Some(Ok((ManifestLookup::Unchanged(record) | ManifestLookup::Head(record), outcome))), _) => {
                Ok(self.head_of(wanted, &record, outcome).await)
            }
            (Some(Ok((answer @ ManifestLookup::Content { .. }, outcome))), _) => Ok(answer.head(outcome)),
            (Some(Err(error)), record) if error.is_outage() => {
                self.0.tags.note_trouble(wanted, &key);
                self.stale_head(wanted, &key, record.as_deref()).await.ok_or(error)
            }
            (Some(Err(error)), _) => Err(error),
            (None, record) => {
                self.0.tags.note_trouble(wanted, &key);
                self.stale_head(wanted, &key, record.as_deref()).await.ok_or(ManifestError::Abandoned)
            }
        }
    }

    /// What a HEAD says of a tag that points where the record says: what its manifest is, where that is here.
    async fn head_of(&self, wanted: &ManifestRequest, record: &TagRecord, outcome: Outcome) -> ManifestHead {
        match self.cached(wanted, &record.digest, Some(&record.media_type)).await {
            Some(content) => ManifestHead::of(&content, outcome, Some(record.confirmed)),
            None => ManifestHead::recorded(record, outcome),
        }
    }

    /// What a HEAD says of a tag of which the upstream cannot be asked: what a GET would give, else what is known of it.
    async fn stale_head(
        &self,
        wanted: &ManifestRequest,
        key: &TagKey,
        record: Option<&TagRecord>,
    ) -> Option<ManifestHead> {
        let content = match record {
            Some(record) => self.cached(wanted, &record.digest, Some(&record.media_type)).await,
            None => None,
        };
        match self.stale(wanted, key, content, record).await {
            Some(served) => Some(served.into()),
            None => record.map(|record| ManifestHead::recorded(record, Outcome::Stale)),
        }
    }

    /// What the upstream says of a manifest just now, for a client that may be about to push; `None` when that is not all
    /// that the client needs to know.
    ///
    /// # Errors
    /// What the upstream says instead, or why it cannot be asked.
    pub async fn head_from_upstream(
        &self,
        wanted: &ManifestRequest,
        reference: &Reference,
    ) -> Result<Option<ManifestHead>, upstream::Error> {
        let key = match reference {
            Reference::Tag(tag) => Some(wanted.key(tag)),
            Reference::Digest(_) => None,
        };
        let known = match &key {
            Some(key) => self.0.tags.get(key, wanted.upstream.registry(), false).await.0,
            None => None,
        };
        let mut question = self.question(wanted, reference, false);
        let mut head = match wanted.upstream.head_manifest(&wanted.repository, reference, &wanted.accept).await {
            Ok(head) => head,
            Err(error) if error.kind == ErrorKind::Unsupported => {
                return self.get_now(wanted, &question, key.as_ref()).await.map(Some);
            }
            Err(error) => {
                if let (ErrorKind::NotFound, Some(key)) = (error.kind, &key) {
                    self.0.tags.remove(key).await;
                }
                return Err(error);
            }
        };
        self.note_remark(wanted, head.digest.as_ref(), &head.notes);
        let was_missing = self.0.missing.contains_key(&question.of_missing());
        let digest = head.digest.clone().filter(|_| key.is_some());
        let moved = digest.as_ref().is_some_and(|digest| known.as_ref().is_none_or(|known| known.digest != *digest));
        // That it gives it another type is passed on as it is.
        self.correct(wanted, &mut head).await.ok();
        let record = TagRecord::from_head(head).filter(|_| key.is_some());
        let to = digest.as_ref().filter(|_| moved);
        // The head leaves out what the tag points to; or it is the word of one client, which must not count for all.
        let is_to_be_proved = record.is_none() || wanted.upstream.uses_client_credentials();
        // A GET that was refused a moment ago would be refused again.
        let is_troubled = key.as_ref().is_some_and(|key| self.0.tags.is_troubled(wanted, key));
        let is_spared = !is_to_be_proved
            && (is_troubled || self.spares(wanted, known.as_deref()).await)
            && self.is_to_be_fetched(wanted, reference, known.as_deref(), to).await;
        if let (Some(key), Some(to)) = (&key, to)
            && !is_spared
        {
            let record = record.filter(|_| !is_to_be_proved);
            let moving = self.moved(wanted, question, known, key, (to, record.clone()));
            let Some(record) = record else { return moving.await.map(Some) };
            return match tokio::time::timeout(STALE_PATIENCE, moving).await {
                Ok(Ok(told)) => Ok(Some(told)),
                Ok(Err(error)) if !error.kind.is_outage() => Err(error),
                // A client that pushes has to know where the tag is, whatever a GET would give.
                Ok(Err(_)) | Err(_) => {
                    self.0.tags.note_trouble(wanted, key);
                    Ok(Some(ManifestHead::recorded(&record, Outcome::Miss)))
                }
            };
        }
        if was_missing || moved {
            // It was put elsewhere: what was asked before is outdated, and so is what was missing, for all clients.
            self.0.tags.note_elsewhere(&mut question);
        }
        if let (Some(key), None) = (&key, &digest) {
            return self.get_now(wanted, &question, Some(key)).await.map(Some);
        }
        let Some(record) = record else { return Ok(None) };
        if is_spared {
            return Ok(Some(ManifestHead::recorded(&record, Outcome::Miss)));
        }
        let record = self.0.tags.put(wanted, &question, record).await;
        Ok(Some(ManifestHead::recorded(&record, Outcome::Miss)))
    }

    /// What there is to say of a tag that moved, found out once for all who were told that it moved there: with `record`, what the
    /// HEAD says will do where the manifest need not be fetched.
    async fn moved(
        &self,
        wanted: &ManifestRequest,
        question: ManifestQuery,
        known: Option<Arc<TagRecord>>,
        key: &TagKey,
        (to, record): (&Digest, Option<TagRecord>),
    ) -> Result<ManifestHead, upstream::Error> {
        let (cache, by, named, mut asked) = (self.clone(), wanted.clone(), to.clone(), question.clone());
        let (flight, leads) = self.0.moves.join((question.of_any_time(), to.clone()), || async move {
            // What was asked before is outdated for all, and so is that it was missing.
            cache.0.tags.note_elsewhere(&mut asked);
            match record {
                Some(record)
                    if !cache.is_to_be_fetched(&by, &asked.reference, known.as_deref(), Some(&named)).await =>
                {
                    Ok(ManifestLookup::Head(cache.0.tags.put(&by, &asked, record).await))
                }
                _ => cache.fetch(&by, &asked, None).await,
            }
        });
        let answered = flight.answer_unless(question.circle && !leads).await;
        match answered {
            // Whatever was asked before this client was told so, an answer that says the same is one.
            Ok(Some(Ok(answer))) if leads || answer.digest() == to => Ok(answer.head(Outcome::Miss)),
            Ok(Some(Err(error))) if leads || error.is_outage() => self.refused_now(error, Some(key)).await,
            Ok(_) | Err(WaitCycle) => {
                let question = self.question(wanted, &question.reference, false);
                self.get_now(wanted, &question, Some(key)).await
            }
        }
    }

    /// The same by a GET: the manifest says what it is.
    async fn get_now(
        &self,
        wanted: &ManifestRequest,
        question: &ManifestQuery,
        key: Option<&TagKey>,
    ) -> Result<ManifestHead, upstream::Error> {
        match self.fetch(wanted, question, None).await {
            Ok(answer) => Ok(answer.head(Outcome::Miss)),
            Err(error) => self.refused_now(error, key).await,
        }
    }

    async fn refused_now<T>(&self, error: ManifestError, key: Option<&TagKey>) -> Result<T, upstream::Error> {
        let ManifestError::Upstream(error) = error else {
            return Err(upstream::Error::new(ErrorKind::Protocol, error.to_string()));
        };
        if let (ErrorKind::NotFound, Some(key)) = (error.kind, key) {
            self.0.tags.remove(key).await;
        }
        Err(error)
    }

    /// What clients of another kind got for this tag, where this one can read it: better than nothing when the
    /// upstream cannot be asked. With it, when that was confirmed.
    async fn other_class(&self, wanted: &ManifestRequest, key: &TagKey) -> Option<(Arc<Content>, SystemTime)> {
        let mut best: Option<(Arc<Content>, SystemTime)> = None;
        for (record, freshness) in self.0.tags.other_classes(key, wanted.upstream.registry()).await {
            if freshness == Freshness::Missing || !wanted.accept.takes(&record.media_type) {
                continue;
            }
            // An index is what the tag really is; a plain manifest may have been converted from it.
            if best.as_ref().is_some_and(|(best, _)| best.media_type.kind().is_some_and(MediaTypeKind::is_index)) {
                break;
            }
            if let Some(content) = self.cached(wanted, &record.digest, Some(&record.media_type)).await {
                best = Some((content, record.confirmed));
            }
        }
        best
    }

    /// `said`: the type that the upstream gave the tag it is wanted for, which counts where the document says none.
    fn in_memory(&self, upstream: &Upstream, id: &ContentKey, said: Option<&MediaType>) -> Option<Arc<Content>> {
        let content = match self.0.contents.get(&(id.clone(), None)) {
            Some(content) => content,
            None => self.0.contents.get(&(id.clone(), Some(upstream.registry().clone())))?,
        };
        // What is in use in memory is in use: it must not be the first to go from the disk.
        self.0.store.note_use(&content.used, || IndexKey::Manifest(id.clone()));
        match said {
            Some(said) if !content.own && *said != content.media_type => content.typed(said).map(Arc::new),
            _ => Some(content),
        }
    }

    /// A manifest in memory or on disk.
    async fn cached(
        &self,
        wanted: &ManifestRequest,
        digest: &Digest,
        said: Option<&MediaType>,
    ) -> Option<Arc<Content>> {
        let id = wanted.visibility().key(digest);
        if let Some(content) = self.in_memory(&wanted.upstream, &id, said) {
            return Some(content);
        }
        let key = IndexKey::Manifest(id.clone());
        let bytes = match self.0.store.read(key.clone(), Content::MAX_FILE_LEN).await {
            Ok(bytes) => bytes?,
            Err(error) => {
                tracing::error!(%error, %digest, "cannot read a cached manifest");
                return None;
            }
        };
        let (of, registry, said) = (id.clone(), wanted.upstream.registry().clone(), said.cloned());
        match self.0.documents.read(bytes.len(), move || Content::decode(&of, bytes, &registry, said.as_ref())).await? {
            ManifestFound::Whole(content) => {
                self.0.images.recall(wanted.upstream.registry(), &wanted.repository, &content);
                Some(self.remember(wanted, id, content))
            }
            ManifestFound::OfOthers => None,
            ManifestFound::Damaged => {
                self.0.store.remove_damaged(key).await;
                None
            }
        }
    }

    /// Puts a manifest into memory, unless it is there: nothing is replaced by the same digest under another type.
    fn remember(&self, wanted: &ManifestRequest, id: ContentKey, content: Arc<Content>) -> Arc<Content> {
        let of = (!content.own).then(|| wanted.upstream.registry().clone());
        self.0.contents.entry((id, of)).or_insert_with(|| content.clone());
        content
    }

    /// Asks for a manifest. Where one is `known`, its HEAD is one with those of clients that want no more.
    async fn ask_for_content(
        &self,
        wanted: &ManifestRequest,
        reference: &Reference,
        known: Option<Arc<TagRecord>>,
    ) -> Result<(ManifestLookup, Outcome), ManifestError> {
        if known.is_some() {
            match self.ask(wanted, reference, true, known).await? {
                // It moved, perhaps to what is here.
                (ManifestLookup::Head(record), outcome) => {
                    if let Some(content) = self.cached(wanted, &record.digest, Some(&record.media_type)).await {
                        return Ok((ManifestLookup::Content { content, confirmed: Some(record.confirmed) }, outcome));
                    }
                }
                answered => return Ok(answered),
            }
        }
        self.ask(wanted, reference, false, None).await
    }

    /// Asks the upstream, together with everyone who asks the same now.
    async fn ask(
        &self,
        wanted: &ManifestRequest,
        reference: &Reference,
        head: bool,
        known: Option<Arc<TagRecord>>,
    ) -> Result<(ManifestLookup, Outcome), ManifestError> {
        let question = self.question(wanted, reference, head);
        if let Some(error) = self.0.missing.get(&question.of_missing()) {
            return Err(ManifestError::CachedNotFound(error));
        }
        let (cache, wanted, circle) = (self.clone(), wanted.clone(), question.circle);
        let (flight, leads) = self.0.questions.join(question.clone(), || async move {
            if let Some(answer) = cache.answered_meanwhile(&wanted, &question).await {
                return Ok(answer);
            }
            let answer = cache.fetch(&wanted, &question, known).await;
            if let Err(ManifestError::Upstream(error)) = &answer
                && matches!(error.kind, ErrorKind::NotFound)
            {
                cache.note_missing(&wanted, question, error.clone()).await;
            }
            answer
        });
        let answered = flight.answer_unless(circle && !leads).await.map_err(|WaitCycle| ManifestError::WaitCycle)?;
        let answer = answered.ok_or(ManifestError::Abandoned)??;
        let outcome = match (&answer, leads) {
            (ManifestLookup::Unchanged(_), _) => Outcome::Revalidated,
            (_, true) => Outcome::Miss,
            (_, false) => Outcome::Joined,
        };
        Ok((answer, outcome))
    }

    fn question(&self, wanted: &ManifestRequest, reference: &Reference, head: bool) -> ManifestQuery {
        ManifestQuery {
            registry: wanted.upstream.registry().clone(),
            asker: wanted.upstream.principal(),
            repository: wanted.repository.clone(),
            reference: reference.clone(),
            class: wanted.accept.class(),
            head,
            circle: wanted.upstream.may_be_loop(),
            writes: self.0.tags.writes(wanted.upstream.name(), &wanted.repository),
        }
    }

    /// What the question before this one was answered: whoever looked into the cache before that answer was there,
    /// and came to ask after it had been given, need not ask again.
    async fn answered_meanwhile(&self, wanted: &ManifestRequest, question: &ManifestQuery) -> Option<ManifestLookup> {
        match &question.reference {
            Reference::Digest(digest) => {
                let content = self.cached(wanted, digest, None).await?;
                wanted.accept.takes(&content.media_type).then_some(ManifestLookup::Content { content, confirmed: None })
            }
            Reference::Tag(tag) => match self.record(wanted, &wanted.key(tag)).await {
                (Some(record), Freshness::Fresh) if question.head => Some(ManifestLookup::Head(record)),
                (Some(record), Freshness::Fresh) => {
                    let content = self.cached(wanted, &record.digest, Some(&record.media_type)).await?;
                    Some(ManifestLookup::Content { content, confirmed: Some(record.confirmed) })
                }
                _ => None,
            },
        }
    }

    async fn note_missing(&self, wanted: &ManifestRequest, question: ManifestQuery, error: upstream::Error) {
        if let Reference::Tag(tag) = &question.reference {
            self.0.tags.remove(&wanted.key(tag)).await;
        }
        self.0.missing.insert(question.of_missing(), error);
    }

    async fn fetch(
        &self,
        wanted: &ManifestRequest,
        question: &ManifestQuery,
        known: Option<Arc<TagRecord>>,
    ) -> Result<ManifestLookup, ManifestError> {
        let ManifestRequest { upstream, repository, accept, .. } = wanted;
        // What one client is told of a tag counts for all that may read it: a manifest proves it, a head does not.
        let by_client = upstream.uses_client_credentials();
        let mut told = None;
        let is_tag = matches!(question.reference, Reference::Tag(_));
        if question.head || known.is_some() {
            let mut is_missing = false;
            match upstream.head_manifest(repository, &question.reference, accept).await {
                Ok(mut head) => {
                    told.clone_from(&head.digest);
                    self.note_remark(wanted, head.digest.as_ref(), &head.notes);
                    self.correct(wanted, &mut head).await?;
                    // The digest alone says that nothing changed, whatever else the head leaves out.
                    if let Some(record) = known.as_ref().filter(|known| head.digest.as_ref() == Some(&known.digest)) {
                        let confirmed = confirmed_before(head.age);
                        let record = self.0.tags.confirm(wanted, question, record, confirmed).await;
                        return Ok(ManifestLookup::Unchanged(record));
                    }
                    if question.head
                        && !(by_client && is_tag)
                        && !self.is_to_be_fetched(wanted, &question.reference, known.as_deref(), told.as_ref()).await
                        && let Some(record) = TagRecord::from_head(head)
                        && question.is_met_by(&record.digest)
                    {
                        return Ok(ManifestLookup::Head(self.0.tags.put(wanted, question, record).await));
                    }
                    // The head leaves out what clients need, is that of another manifest, or names one that has to be fetched first.
                }
                // Some registries know only GET, or answer a HEAD with 404 for what they would first have to
                // fetch themselves. What is not there costs no pull, by GET either.
                Err(error) if matches!(error.kind, ErrorKind::Unsupported | ErrorKind::NotFound) => {
                    is_missing = error.kind == ErrorKind::NotFound;
                }
                // A head may have a wrong type; the manifest is known by its content.
                Err(error) if error.kind == ErrorKind::Protocol => {}
                Err(error) => return Err(ManifestError::Upstream(error)),
            }
            // A HEAD is no pull. What is not there costs none either, and has to be known.
            if !is_missing && is_tag && self.spares(wanted, known.as_deref()).await {
                return Err(ManifestError::LimitNearlyUsed);
            }
        }
        let mut got = self.get_verified(wanted, question).await?;
        // What was kept for this question is older than the head, and may be what the tag was before.
        if got.waited && told.is_some_and(|told| told != got.content.digest) {
            got = self.get_verified(wanted, question).await?;
        }
        let Got { content, remark, confirmed, .. } = got;
        self.note_remark(wanted, Some(&content.digest), &remark);
        let content = self.keep(wanted, question, content).await;
        self.0.tags.put(wanted, question, TagRecord::of(&content, confirmed)).await;
        Ok(ManifestLookup::Content { content, confirmed: is_tag.then_some(confirmed) })
    }

    async fn get_verified(&self, wanted: &ManifestRequest, question: &ManifestQuery) -> Result<Got, ManifestError> {
        let ManifestRequest { upstream, repository, accept, .. } = wanted;
        let by_client = upstream.uses_client_credentials();
        let body =
            upstream.get_manifest(repository, &question.reference, accept).await.map_err(ManifestError::Upstream)?;
        let (reference, confirmed) = (question.reference.clone(), confirmed_before(body.age));
        let (remark, waited) = (body.notes.clone(), !body.resident_time.is_zero());
        let verified = self.0.documents.read(body.bytes.len(), move || {
            let is_answer = !by_client || Content::is_proof(&reference, &body);
            if is_answer { Content::verified(&reference, body) } else { Err(ManifestError::NoManifest) }
        });
        let verified = verified.await;
        let content = verified.unwrap_or(Err(ManifestError::Abandoned)).map_err(|error| {
            if matches!(error, ManifestError::OtherType) {
                tracing::error!(upstream = %upstream.name(), %repository, reference = %question.reference, "the upstream gives a manifest another type than its content has");
            }
            if matches!(error, ManifestError::Mismatch) {
                self.0.metrics.digest_mismatch(upstream.name());
                tracing::error!(upstream = %upstream.name(), %repository, reference = %question.reference, "a manifest does not match its digest");
            }
            error
        })?;
        Ok(Got { content, remark, confirmed, waited })
    }

    /// Whether a tag moved to a manifest that is not here, and a GET would give one that is, should the upstream fail between the two:
    /// a HEAD names what a GET gives.
    async fn is_to_be_fetched(
        &self,
        wanted: &ManifestRequest,
        reference: &Reference,
        known: Option<&TagRecord>,
        told: Option<&Digest>,
    ) -> bool {
        let (Reference::Tag(tag), Some(told)) = (reference, told) else { return false };
        if known.is_some_and(|known| known.digest == *told) || self.cached(wanted, told, None).await.is_some() {
            return false;
        }
        let content = match known {
            Some(known) => self.cached(wanted, &known.digest, Some(&known.media_type)).await,
            None => None,
        };
        self.stale(wanted, &wanted.key(tag), content, known).await.is_some()
    }

    /// Whether a tag's manifest that is here goes on, since little is left of the upstream's limit.
    async fn spares(&self, wanted: &ManifestRequest, known: Option<&TagRecord>) -> bool {
        let Some(known) = known.filter(|_| wanted.upstream.is_near_rate_limit()) else { return false };
        self.cached(wanted, &known.digest, Some(&known.media_type)).await.is_some()
    }

    fn note_remark(&self, wanted: &ManifestRequest, digest: Option<&Digest>, remark: &ContentNotes) {
        if let Some(digest) = digest {
            self.0.remarks.note(&wanted.upstream, &wanted.repository, digest, remark);
        }
    }

    /// Puts into a head what is known of a manifest that is here: its length, and its type where its bytes say it. A head that
    /// gives it another type is as wrong as a body that does.
    async fn correct(&self, wanted: &ManifestRequest, head: &mut upstream::ManifestHead) -> Result<(), ManifestError> {
        let Some(digest) = head.digest.clone() else { return Ok(()) };
        let Some(content) = self.cached(wanted, &digest, None).await else { return Ok(()) };
        head.len = Some(content.bytes.len() as u64);
        if content.own {
            let settled = DocumentType::Said(content.media_type.clone()).settle(head.media_type.clone());
            let (own, _) = settled.map_err(|OtherType| ManifestError::OtherType)?;
            head.media_type = Some(own);
        }
        Ok(())
    }

    /// Keeps a manifest, unless a change was made since it was asked for: it may have been deleted.
    async fn keep(&self, wanted: &ManifestRequest, question: &ManifestQuery, content: Content) -> Arc<Content> {
        let content = Arc::new(content);
        let (upstream, repository) = (wanted.upstream.name(), &question.repository);
        let is_outdated = || self.0.tags.writes(upstream, repository) != question.writes;
        if is_outdated() {
            return content;
        }
        self.0.images.note(wanted.upstream.registry(), &wanted.repository, &content);
        let id = wanted.visibility().key(&content.digest);
        let content = self.remember(wanted, id.clone(), content);
        let gate = self.0.tags.gate(upstream, repository, question.writes);
        let (shelves, written, of) = (self.0.shelves.clone(), content.clone(), wanted.upstream.registry().clone());
        let (key, to) = (IndexKey::Manifest(id.clone()), id.clone());
        self.0.writer.run(key, async move { shelves.write(to, written, of, gate).await }).await;
        if is_outdated() {
            self.forget_in_memory(&wanted.upstream, &id);
        }
        content
    }
}
