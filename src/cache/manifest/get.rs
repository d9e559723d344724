//! `GET` of a manifest.

use std::sync::Arc;

use super::{
    ManifestCache, content::VerifiedManifest, error::ManifestError, fetched::Fetched, fetched::ServedManifest,
    request::ManifestRequest,
};
use crate::{
    cache::{
        Outcome,
        revalidate::revalidate,
        storage::tag_record::{TagKey, TagRecord},
    },
    oci::{Digest, Reference, Tag},
};

impl ManifestCache {
    pub(super) async fn get_digest(
        &self,
        request: &ManifestRequest,
        digest: &Digest,
    ) -> Result<ServedManifest, ManifestError> {
        let cached = self.cached(request, digest, None).await;
        if let Some(content) = &cached
            && request.accept.takes(&content.media_type)
        {
            return Ok(ServedManifest { content: content.clone(), outcome: Outcome::Hit, confirmed: None });
        }
        match self.fetch_content(request, &Reference::Digest(digest.clone())).await {
            Err(error) if error.is_outage() && cached.is_some() => Err(ManifestError::NotAcceptable),
            served => served,
        }
    }

    pub(super) async fn get_tag(&self, request: &ManifestRequest, tag: &Tag) -> Result<ServedManifest, ManifestError> {
        let key = request.key(tag);
        let (record, freshness, was_stored) = self.record_or_stored(request, &key).await;
        let (content, is_stored) = self.cached_or_stored_of(request, record.as_deref()).await;
        let is_stored = is_stored || was_stored;
        let freshness = match &content {
            Some(_) => freshness,
            None => self.freshness_of_other_class(request, &key).await,
        };
        // A HEAD saves a GET only if the manifest that it may confirm is cached.
        let confirmable = record.clone().zip(content.clone());
        let cached = |outcome| {
            let outcome = if is_stored && outcome == Outcome::Hit { Outcome::Miss } else { outcome };
            self.cached_for_tag(request, &key, content, record.as_deref(), outcome)
        };
        let fetch = self.fetch_tag(request, Reference::Tag(tag.clone()), confirmable);
        let outage = self.0.tags.outage(request, &key);
        let result = revalidate(freshness, Some(outage), cached, fetch, ManifestError::is_outage).await;
        self.note_outage(request, &key, &result);
        self.or_stored_since(request, &key, result).await
    }

    /// Remembers an outage also if this request found nothing stale: the client may have a right to the tag's previous manifest,
    /// which is then served without another request ([`ManifestCache::prefers_cached`]).
    pub(super) fn note_outage<T>(&self, request: &ManifestRequest, key: &TagKey, result: &Result<T, ManifestError>) {
        if result.as_ref().is_err_and(ManifestError::is_outage) {
            self.0.tags.outage(request, key).note();
        }
    }

    /// Asks the upstream for a tag's manifest: by a `HEAD` first, which equals the `HEAD`s that clients send, if the
    /// manifest of its record is cached.
    async fn fetch_tag(
        &self,
        request: &ManifestRequest,
        reference: Reference,
        confirmable: Option<(Arc<TagRecord>, Arc<VerifiedManifest>)>,
    ) -> Result<ServedManifest, ManifestError> {
        let Some((record, content)) = confirmable else { return self.fetch_content(request, &reference).await };
        match self.fetch_joined(request, &reference, true, Some(record)).await? {
            (Fetched::Unchanged(record), _) => {
                Ok(ServedManifest { content, outcome: Outcome::Revalidated, confirmed: Some(record.confirmed) })
            }
            (Fetched::Content { content, confirmed }, outcome) => Ok(ServedManifest { content, outcome, confirmed }),
            // The tag moved, perhaps to a manifest that is cached.
            (Fetched::Head(record), outcome) => match self.cached_or_stored_of(request, Some(&record)).await.0 {
                Some(content) => Ok(ServedManifest { content, outcome, confirmed: Some(record.confirmed) }),
                None => self.fetch_content(request, &reference).await,
            },
        }
    }

    async fn fetch_content(
        &self,
        request: &ManifestRequest,
        reference: &Reference,
    ) -> Result<ServedManifest, ManifestError> {
        match self.fetch_joined(request, reference, false, None).await? {
            (Fetched::Content { content, confirmed }, outcome) => Ok(ServedManifest { content, outcome, confirmed }),
            // A GET never ends without content.
            (Fetched::Unchanged(_) | Fetched::Head(_), _) => Err(ManifestError::Abandoned),
        }
    }
}
