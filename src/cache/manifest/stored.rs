//! Manifests and tags that are not here, but in the object store: a tier under the disk.
//!
//! Manifests are written there after they were verified, records of tags when the upstream confirms them; both in the background.
//! They are read where memory and disk have none, and where the upstream fails: another forebay may have reached it since.
//!
//! What must hold: a slow or dead store keeps a pull waiting for [`tier::READ_TIMEOUT`] at most, and then for nothing until its
//! breaker probes it; a tag that a rule or an import holds is neither read there nor written; a change through forebay ends what
//! the store says of the tag.

mod background;
mod known;
mod manifests;
mod removals;
mod signed_record;
mod tags;
mod tier;

use std::sync::Arc;

pub(super) use self::{known::is_outdated, tier::ObjectTier};
use super::{
    ManifestCache, ManifestError,
    content::VerifiedManifest,
    fetched::{Fetched, ManifestHead, ServedManifest},
    query::ManifestQuery,
    request::ManifestRequest,
};
use crate::{
    cache::{
        Outcome, UploadQueue,
        freshness::Freshness,
        storage::{
            lru_index::IndexKey,
            tag_record::{TagKey, TagRecord},
        },
    },
    oci::{Digest, Reference},
};

impl ManifestCache {
    /// The store, if the content of this upstream is there, and the request may be answered by it.
    fn tier(&self, request: &ManifestRequest) -> Option<&ObjectTier> {
        let store = request.upstream.object_store().filter(|_| !request.upstream.is_for_proof());
        store.and(self.0.tier.as_ref())
    }

    /// The record of a tag that this client may be served from, and its freshness: that of the store if there is none here. With
    /// it whether its manifest, too, came from the store.
    pub(super) async fn record_or_stored(
        &self,
        request: &ManifestRequest,
        key: &TagKey,
    ) -> (Option<Arc<TagRecord>>, Freshness, bool) {
        let (mut here, mut is_stored) = (self.record(request, key).await, false);
        if here.0.is_none()
            && let Some(was_stored) = self.take_stored_record(request, key).await
        {
            (here, is_stored) = (self.record(request, key).await, was_stored);
        }
        (here.0, here.1, is_stored)
    }

    /// Takes the record of a tag over that the store has, if it is newer than what is here, and forebay has its manifest: without
    /// that it would take the place of a record that can be served while the upstream fails. Returns whether the manifest came
    /// from the store; `None`: the record was not taken.
    async fn take_stored_record(&self, request: &ManifestRequest, key: &TagKey) -> Option<bool> {
        let tier = self.tier(request)?;
        if self.tag_rules(&key.upstream, &key.repository, &key.tag).hold.is_some() {
            return None;
        }
        let writes = self.0.tags.writes(&key.upstream, &key.repository);
        let found = tier.find(key).await;
        let record = found.filter(|record| record.is_of(request.upstream.registry(), key.visibility))?;
        let (content, is_stored) = self.cached_or_stored_of(request, Some(&record)).await;
        content?;
        self.0.tags.take_stored(key, writes, record).await.then_some(is_stored)
    }

    /// The manifest of a tag's record, and whether it comes from the store.
    pub(super) async fn cached_or_stored_of(
        &self,
        request: &ManifestRequest,
        record: Option<&TagRecord>,
    ) -> (Option<Arc<VerifiedManifest>>, bool) {
        let Some(record) = record else { return (None, false) };
        match self.cached_of(request, Some(record)).await {
            Some(content) => (Some(content), false),
            None => (self.stored(request, &record.digest).await, true),
        }
    }

    /// A manifest that is in the store, and then here.
    async fn stored(&self, request: &ManifestRequest, digest: &Digest) -> Option<Arc<VerifiedManifest>> {
        let tier = self.tier(request)?;
        let id = request.visibility().key(digest);
        let (upstream, repository) = (request.upstream.name(), &request.repository);
        let writes = self.0.tags.writes(upstream, repository);
        let content = tier.get(&id, &self.0.documents).await?;
        if self.0.tags.writes(upstream, repository) != writes {
            // It may have been deleted.
            return None;
        }
        let registry = request.upstream.registry().clone();
        self.0.images.note(&registry, repository, &content);
        let content = self.remember(request, id.clone(), content);
        let gate = self.0.tags.gate(upstream, repository, writes);
        let (files, written, inventory, name) =
            (self.0.files.clone(), content.clone(), self.0.inventory.clone(), id.clone());
        let write = async move {
            files.write(name.clone(), written, registry, gate).await?;
            inventory.note_landed(name);
            Ok(())
        };
        self.0.writer.run(IndexKey::Manifest(id), write).await;
        Some(content)
    }

    /// What the store has for a request by digest.
    pub(super) async fn stored_for(&self, request: &ManifestRequest, query: &ManifestQuery) -> Option<Fetched> {
        let Reference::Digest(digest) = &query.reference else { return None };
        let content = self.stored(request, digest).await?;
        request.accept.takes(&content.media_type).then_some(Fetched::Content { content, confirmed: None })
    }

    /// While the upstream fails: what another forebay found out since, if it could reach it.
    pub(super) async fn or_stored_since(
        &self,
        request: &ManifestRequest,
        key: &TagKey,
        result: Result<ServedManifest, ManifestError>,
    ) -> Result<ServedManifest, ManifestError> {
        let is_outage = match &result {
            Ok(served) => served.outcome == Outcome::Stale,
            Err(error) => error.is_outage(),
        };
        match self.stored_since(request, key, is_outage).await {
            Some((content, record)) => {
                Ok(ServedManifest { content, outcome: Outcome::Stale, confirmed: Some(record.confirmed) })
            }
            None => result,
        }
    }

    /// The same for a `HEAD`: it names what a `GET` serves.
    pub(super) async fn head_or_stored_since(
        &self,
        request: &ManifestRequest,
        key: &TagKey,
        result: Result<ManifestHead, ManifestError>,
    ) -> Result<ManifestHead, ManifestError> {
        let is_outage = match &result {
            Ok(head) => head.outcome == Outcome::Stale,
            Err(error) => error.is_outage(),
        };
        match self.stored_since(request, key, is_outage).await {
            Some((content, record)) => Ok(ManifestHead::of(&content, Outcome::Stale, Some(record.confirmed))),
            None => result,
        }
    }

    async fn stored_since(
        &self,
        request: &ManifestRequest,
        key: &TagKey,
        is_outage: bool,
    ) -> Option<(Arc<VerifiedManifest>, Arc<TagRecord>)> {
        if !is_outage {
            return None;
        }
        self.take_stored_record(request, key).await?;
        let record = self.record(request, key).await.0?;
        let content = self.cached_or_stored_of(request, Some(&record)).await.0?;
        Some((content, record))
    }

    /// Where a manifest waits for its upload that the upstream has just given. What a peer gave, the peer uploads.
    pub(super) fn uploads_of(&self, request: &ManifestRequest, content: &VerifiedManifest) -> Option<UploadQueue> {
        let is_to_be_uploaded =
            content.is_self_described && request.upstream.object_store().is_some() && !request.asks_peers();
        self.0.uploads.clone().filter(|_| is_to_be_uploaded)
    }
}
