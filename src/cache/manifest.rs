//! Manifests: by digest in memory over disk; by tag, the upstream's last response for as long as it may be served.
//!
//! The content of a manifest never changes, so it is cached by digest and verified before use. A tag's record is fresh
//! for `tag_ttl`. After that forebay sends one `HEAD` for all clients that request the tag, and a digest that did not
//! change costs no `GET`. If the upstream is down, is slow, or answers 429 or 5xx, clients get its previous response
//! for up to `stale_if_error` ([`revalidate`](super::revalidate)). They also get it if little is left of the upstream's
//! rate limit and only a pull would tell more.

mod background_writer;
mod cached;
mod content;
mod content_file;
mod error;
mod fetch;
mod fetched;
mod file_records;
mod files;
mod get;
mod head;
mod head_for_push;
mod held;
mod held_content;
mod import;
mod invalidate;
mod meant;
mod peek;
mod query;
mod refresh;
mod request;
mod stored;
mod tags;

use std::{net::IpAddr, sync::Arc, time::Duration};

use http::HeaderValue;

use self::{
    background_writer::BackgroundWriter, fetched::Fetched, files::ManifestFiles, held_content::HeldContent,
    query::ManifestQuery, stored::ObjectTier, tags::TagRecords,
};
pub(crate) use self::{
    content::VerifiedManifest,
    error::ManifestError,
    fetched::{ManifestHead, ServedManifest},
    held::HeldTag,
    peek::{CachedImage, Place},
    refresh::NotRefreshed,
    request::ManifestRequest,
};
use super::{
    CacheContext, ContentKey, DiskStore, Images, Inventory, NegativeTtl, Outcome, Pins, Source, UploadQueue,
    Visibility, Warnings, first_seen::FirstSeen, inventory::ManifestUse, storage::tag_record::TagKey,
};
use crate::{
    bounded_cache,
    line_limit::{LINE_INTERVAL, LineLimit},
    metrics::Metrics,
    oci::{Accept, Digest, MediaType, Reference, Repository, Tag},
    offload::Offload,
    rule::{CurrentRules, TagRules},
    single_flight::SingleFlight,
    upstream::{self, Registry, Upstream},
};

/// How many 404s forebay remembers. One with a long error body counts as several.
const MAX_NOT_FOUND: u64 = 10_000;

/// How many upstreams get a line in the log about a wrong manifest within a minute.
const MAX_LINES: usize = 64;

/// The manifests of the cache. Cheap to clone.
#[derive(Clone)]
pub(crate) struct ManifestCache(Arc<ManifestCacheInner>);

struct ManifestCacheInner {
    store: DiskStore,
    writer: BackgroundWriter,
    files: ManifestFiles,
    metrics: Metrics,
    /// With the registry in the key if the bytes do not determine everything that clients get.
    contents: moka::sync::Cache<(ContentKey, Option<Registry>), Arc<VerifiedManifest>>,
    tags: TagRecords,
    /// Recent 404s, each with the upstream's response.
    not_found: moka::sync::Cache<ManifestQuery, upstream::Error>,
    requests: SingleFlight<ManifestQuery, Result<Fetched, ManifestError>>,
    /// Requests for a tag that moved to a digest.
    moves: SingleFlight<(ManifestQuery, Digest), Result<Fetched, ManifestError>>,
    images: Images,
    /// Parses and hashes large manifests off the async threads.
    documents: Offload,
    warnings: Warnings,
    /// Which wrong manifests get a line in the log, by upstream.
    lines: LineLimit<Arc<str>>,
    rules: CurrentRules,
    first_seen: FirstSeen,
    held: HeldContent,
    inventory: Inventory,
    pins: Pins,
    /// `None`: there is no object store.
    tier: Option<ObjectTier>,
    /// What is to be uploaded to it.
    uploads: Option<UploadQueue>,
}

impl ManifestCache {
    /// Upstream requests and writes run as tasks of `tasks`; upstream requests end with `shutdown`.
    pub(crate) fn new(context: CacheContext, images: Images) -> Self {
        let CacheContext { config, store, metrics, tasks, end: shutdown, rules, inventory, pins, objects, .. } =
            context;
        let memory = config.load().manifest_memory / 1024;
        let contents = bounded_cache::lru(memory, |_, content: &Arc<VerifiedManifest>| content.weight());
        let not_found = moka::sync::Cache::builder()
            .max_capacity(MAX_NOT_FOUND)
            .weigher(|_, error: &upstream::Error| error.weight())
            .expire_after(NegativeTtl { config: config.clone(), most: Duration::MAX })
            .build();
        let writer = BackgroundWriter { store: store.clone(), tasks: tasks.clone() };
        let uploads = objects.uploads.clone();
        let tier = ObjectTier::new(objects, metrics.clone(), tasks.clone(), shutdown.clone());
        let (documents, first_seen) = (Offload::default(), FirstSeen::default());
        Self(Arc::new(ManifestCacheInner {
            files: ManifestFiles::new(store.clone(), documents.clone()),
            held: HeldContent::new(store.clone(), documents.clone()),
            store,
            metrics,
            contents,
            tags: TagRecords::new(
                &config,
                writer.clone(),
                (rules.clone(), first_seen.clone()),
                (inventory.clone(), tier.clone()),
            ),
            writer,
            not_found,
            requests: SingleFlight::new(tasks.clone(), shutdown.clone()),
            moves: SingleFlight::new(tasks, shutdown),
            images,
            documents,
            warnings: Warnings::default(),
            lines: LineLimit::new(LINE_INTERVAL, MAX_LINES),
            rules,
            first_seen,
            inventory,
            pins,
            tier,
            uploads,
        }))
    }

    /// Forgets all 404s: they were remembered for another `negative_ttl`.
    pub(crate) fn forget_not_found(&self) {
        self.0.not_found.invalidate_all();
    }

    /// The manifest of a reference.
    pub(crate) async fn get(
        &self,
        request: &ManifestRequest,
        reference: &Reference,
    ) -> Result<ServedManifest, ManifestError> {
        match reference {
            Reference::Digest(digest) => self.get_digest(request, digest).await,
            Reference::Tag(tag) => self.get_tag(request, tag).await,
        }
    }

    /// The response to a `HEAD` of a reference. Does not fetch the manifest, unless the upstream's `HEAD` is of no use.
    pub(crate) async fn head(
        &self,
        request: &ManifestRequest,
        reference: &Reference,
    ) -> Result<ManifestHead, ManifestError> {
        match reference {
            Reference::Digest(digest) => self.head_digest(request, digest).await,
            Reference::Tag(tag) => self.head_tag(request, tag).await,
        }
    }

    /// The manifest of a reference, if it is in memory and fresh; `rules`: what they say about it. Does not wait.
    pub(crate) fn get_in_memory(
        &self,
        upstream: &Upstream,
        repository: &Repository,
        reference: &Reference,
        accept: &Accept,
        tag_digest: Option<&Digest>,
        rules: &TagRules,
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
                let is_near_rate_limit = upstream.is_near_rate_limit();
                let record = self.0.tags.fresh_in_memory(&key, upstream.registry(), is_near_rate_limit, rules)?;
                if tag_digest.is_some_and(|digest| *digest != record.digest) {
                    return None;
                }
                let content = self.in_memory(upstream, &visibility.key(&record.digest), Some(&record.media_type))?;
                // An immutable tag is as good as confirmed now.
                (content, (!rules.is_immutable).then_some(record.confirmed))
            }
        };
        Some(ServedManifest { content, outcome: Outcome::Hit, confirmed })
    }

    /// The cached manifest of a tag, for use when the tag moved to a manifest that the upstream does not send.
    pub(crate) async fn previous(&self, request: &ManifestRequest, tag: &Tag) -> Option<ServedManifest> {
        let (record, _) = self.record(request, &request.key(tag)).await;
        let record = record?;
        let content = self.cached_or_stored_of(request, Some(&record)).await.0?;
        Some(ServedManifest { content, outcome: Outcome::Stale, confirmed: Some(record.confirmed) })
    }

    /// Whether to serve a cached manifest of a tag rather than fetch one: little is left of the upstream's rate limit,
    /// or the upstream recently failed.
    pub(crate) fn prefers_cached(&self, request: &ManifestRequest, reference: &Reference) -> bool {
        match reference {
            Reference::Tag(tag) => {
                request.upstream.is_near_rate_limit() || self.0.tags.outage(request, &request.key(tag)).is_recent()
            }
            Reference::Digest(_) => false,
        }
    }

    /// Whether a manifest is cached for a tag and may no longer be served.
    pub(crate) async fn is_too_old(&self, request: &ManifestRequest, reference: &Reference) -> bool {
        let Reference::Tag(tag) = reference else { return false };
        let record = self.0.tags.too_old(&request.key(tag), request.upstream.registry()).await;
        let record = record.filter(|record| request.allows(&record.digest));
        self.cached_of(request, record.as_deref()).await.is_some()
    }

    /// The cached digest of a tag.
    pub(crate) async fn cached_digest(
        &self,
        upstream: &Upstream,
        repository: &Repository,
        tag: &Tag,
        accept: &Accept,
    ) -> Option<Digest> {
        let (upstream, repository, accept) = (upstream.clone(), repository.clone(), accept.clone());
        let request = ManifestRequest { upstream, repository, accept, tag_digest: None };
        self.record(&request, &request.key(tag)).await.0.map(|record| record.digest.clone())
    }

    /// The media type of a cached manifest.
    pub(crate) async fn media_type(&self, source: &Source) -> Option<MediaType> {
        let key = source.id();
        if self.in_memory(&source.upstream, &key, None).is_none() && !self.0.store.has_manifest(&key) {
            return None;
        }
        let Source { upstream, repository, digest } = source.clone();
        let request = ManifestRequest { upstream, repository, accept: Accept::default(), tag_digest: None };
        self.cached(&request, &digest, None).await.map(|content| content.media_type.clone())
    }

    /// The warnings that the upstream sent with a manifest.
    pub(crate) fn warnings(&self, upstream: &Upstream, repository: &Repository, digest: &Digest) -> Vec<HeaderValue> {
        self.0.warnings.of(upstream, repository, digest).warnings
    }

    /// Records that a client at this address reads a manifest, which it named so; returns whether that is a pull of an
    /// image. `outcome`: where the manifest comes from.
    pub(crate) fn note_read(
        &self,
        (upstream, repository, reference): (&Upstream, &Repository, &Reference),
        (content, outcome): (&VerifiedManifest, Outcome),
        client: IpAddr,
    ) -> bool {
        self.0.images.note_read(upstream.registry(), repository, content, client);
        let used = manifest_use((upstream, repository, reference), &content.digest, client);
        let is_fetched = matches!(outcome, Outcome::Miss | Outcome::Joined | Outcome::Revalidated);
        self.0.inventory.note_get(ManifestUse { is_fetched, ..used }, &content.children).is_some()
    }

    /// Records that a client at this address gets the head of a manifest, which it named so.
    pub(crate) fn note_head(
        &self,
        (upstream, repository, reference): (&Upstream, &Repository, &Reference),
        digest: &Digest,
        client: IpAddr,
    ) {
        self.0.inventory.note_head(manifest_use((upstream, repository, reference), digest, client));
    }

    /// Records that a rule serves this digest for a tag.
    pub(crate) fn note_held(
        &self,
        (upstream, repository, tag): (&Upstream, &Repository, &Reference),
        digest: &Digest,
        client: IpAddr,
    ) {
        self.0.inventory.note_held(manifest_use((upstream, repository, tag), digest, client));
    }
}

fn manifest_use<'a>(
    (upstream, repository, reference): (&'a Upstream, &'a Repository, &'a Reference),
    digest: &'a Digest,
    client: IpAddr,
) -> ManifestUse<'a> {
    ManifestUse {
        visibility: Visibility::of(upstream),
        upstream: upstream.name(),
        repository,
        reference,
        digest,
        client,
        is_fetched: false,
    }
}
