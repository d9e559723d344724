//! Manifests in memory and on disk.

use std::{sync::Arc, time::SystemTime};

use super::{
    ManifestCache, content::VerifiedManifest, content_file::StoredManifest, fetched::ServedManifest,
    request::ManifestRequest,
};
use crate::{
    cache::{
        ContentKey, Outcome,
        freshness::Freshness,
        storage::{
            lru_index::IndexKey,
            tag_record::{TagKey, TagRecord},
        },
    },
    oci::{Digest, MediaType, MediaTypeKind},
    upstream::Upstream,
};

impl ManifestCache {
    /// The record of a tag that this client may be served from, and its freshness.
    pub(super) async fn record(&self, request: &ManifestRequest, key: &TagKey) -> (Option<Arc<TagRecord>>, Freshness) {
        match self.0.tags.get(key, request.upstream.registry(), request.upstream.is_near_rate_limit()).await {
            (Some(record), freshness) if request.allows(&record.digest) => (Some(record), freshness),
            _ => (None, Freshness::Missing),
        }
    }

    /// A manifest in memory. `tag_type`: the media type that the upstream gave the requested tag, which counts if the
    /// document does not say its own.
    pub(super) fn in_memory(
        &self,
        upstream: &Upstream,
        key: &ContentKey,
        tag_type: Option<&MediaType>,
    ) -> Option<Arc<VerifiedManifest>> {
        let content = match self.0.contents.get(&(key.clone(), None)) {
            Some(content) => content,
            None => self.0.contents.get(&(key.clone(), Some(upstream.registry().clone())))?,
        };
        // A use in memory counts as a use of the file, which must not be evicted first.
        self.0.store.note_use(&content.used, || IndexKey::Manifest(key.clone()));
        match tag_type {
            Some(tag_type) if !content.is_self_described && *tag_type != content.media_type => {
                content.typed(tag_type).map(Arc::new)
            }
            _ => Some(content),
        }
    }

    /// A manifest in memory or on disk; `tag_type` as for [`ManifestCache::in_memory`].
    pub(super) async fn cached(
        &self,
        request: &ManifestRequest,
        digest: &Digest,
        tag_type: Option<&MediaType>,
    ) -> Option<Arc<VerifiedManifest>> {
        let key = request.visibility().key(digest);
        if let Some(content) = self.in_memory(&request.upstream, &key, tag_type) {
            return Some(content);
        }
        let object = IndexKey::Manifest(key.clone());
        let bytes = match self.0.store.read(object.clone(), VerifiedManifest::MAX_FILE_LEN).await {
            Ok(bytes) => bytes?,
            Err(error) => {
                self.0.store.disk_failed("cannot read a cached manifest", digest, &error);
                return None;
            }
        };
        let (len, name, registry) = (bytes.len(), key.clone(), request.upstream.registry().clone());
        let tag_type = tag_type.cloned();
        let decode = move || VerifiedManifest::decode(&name, bytes, &registry, tag_type.as_ref());
        match self.0.documents.read(len, decode).await? {
            StoredManifest::Whole(content) => {
                self.0.images.recall(request.upstream.registry(), &request.repository, &content);
                Some(self.remember(request, key, content))
            }
            StoredManifest::OfOtherRegistry => None,
            StoredManifest::Damaged => {
                self.0.store.remove_damaged(object).await;
                None
            }
        }
    }

    /// The manifest of a tag's record, if it is cached.
    pub(super) async fn cached_of(
        &self,
        request: &ManifestRequest,
        record: Option<&TagRecord>,
    ) -> Option<Arc<VerifiedManifest>> {
        let record = record?;
        self.cached(request, &record.digest, Some(&record.media_type)).await
    }

    /// Puts a manifest into memory, unless it is there: the same digest under another media type replaces nothing.
    pub(super) fn remember(
        &self,
        request: &ManifestRequest,
        key: ContentKey,
        content: Arc<VerifiedManifest>,
    ) -> Arc<VerifiedManifest> {
        let registry = (!content.is_self_described).then(|| request.upstream.registry().clone());
        self.0.contents.entry((key, registry)).or_insert_with(|| content.clone());
        content
    }

    /// What is cached for a tag: the manifest of its record, else the manifest that clients of another `Accept` class
    /// got for the tag.
    pub(super) async fn cached_for_tag(
        &self,
        request: &ManifestRequest,
        key: &TagKey,
        content: Option<Arc<VerifiedManifest>>,
        record: Option<&TagRecord>,
        outcome: Outcome,
    ) -> Option<ServedManifest> {
        match content {
            Some(content) => {
                Some(ServedManifest { content, outcome, confirmed: record.map(|record| record.confirmed) })
            }
            None => self.stale_of_other_class(request, key).await,
        }
    }

    /// How far what is cached for a tag may be served, if the tag's own manifest is not: what clients of another class
    /// got is stale.
    pub(super) async fn freshness_of_other_class(&self, request: &ManifestRequest, key: &TagKey) -> Freshness {
        match self.stale_of_other_class(request, key).await {
            Some(_) => Freshness::Stale,
            None => Freshness::Missing,
        }
    }

    /// What clients of another `Accept` class got for this tag, if this client accepts its type. It is better than
    /// nothing while the upstream fails.
    async fn stale_of_other_class(&self, request: &ManifestRequest, key: &TagKey) -> Option<ServedManifest> {
        // This client may get only the manifest whose digest the upstream gave it.
        if request.tag_digest.is_some() {
            return None;
        }
        let mut best: Option<(Arc<VerifiedManifest>, SystemTime)> = None;
        for (record, freshness) in self.0.tags.other_classes(key, request.upstream.registry()).await {
            if freshness == Freshness::Missing || !request.accept.takes(&record.media_type) {
                continue;
            }
            // An index is what the tag is; a registry may have converted it into a plain manifest.
            if best.as_ref().is_some_and(|(best, _)| best.media_type.kind().is_some_and(MediaTypeKind::is_index)) {
                break;
            }
            if let Some(content) = self.cached_of(request, Some(&record)).await {
                best = Some((content, record.confirmed));
            }
        }
        let (content, confirmed) = best?;
        Some(ServedManifest { content, outcome: Outcome::Stale, confirmed: Some(confirmed) })
    }
}
