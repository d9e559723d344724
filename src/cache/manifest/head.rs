//! `HEAD` of a manifest.

use super::{
    ManifestCache,
    error::ManifestError,
    fetched::{Fetched, ManifestHead},
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
    pub(super) async fn head_digest(
        &self,
        request: &ManifestRequest,
        digest: &Digest,
    ) -> Result<ManifestHead, ManifestError> {
        let cached = self.cached(request, digest, None).await;
        if let Some(content) = &cached
            && request.accept.takes(&content.media_type)
        {
            return Ok(ManifestHead::of(content, Outcome::Hit, None));
        }
        match self.fetch_joined(request, &Reference::Digest(digest.clone()), true, None).await {
            // Content never ages.
            Ok((fetched, outcome)) => Ok(ManifestHead { confirmed: None, ..fetched.head(outcome) }),
            Err(error) if error.is_outage() && cached.is_some() => Err(ManifestError::NotAcceptable),
            Err(error) => Err(error),
        }
    }

    pub(super) async fn head_tag(&self, request: &ManifestRequest, tag: &Tag) -> Result<ManifestHead, ManifestError> {
        let key = request.key(tag);
        let (record, freshness, _) = self.record_or_stored(request, &key).await;
        let freshness = match &record {
            Some(_) => freshness,
            None => self.freshness_of_other_class(request, &key).await,
        };
        let cached = |outcome| self.cached_head(request, &key, record.as_deref(), outcome);
        let reference = Reference::Tag(tag.clone());
        let fetch = async {
            match self.fetch_joined(request, &reference, true, record.clone()).await? {
                (Fetched::Unchanged(record) | Fetched::Head(record), outcome) => {
                    Ok(self.head_of(request, &record, outcome).await)
                }
                (fetched @ Fetched::Content { .. }, outcome) => Ok(fetched.head(outcome)),
            }
        };
        let outage = self.0.tags.outage(request, &key);
        let result = revalidate(freshness, Some(outage), cached, fetch, ManifestError::is_outage).await;
        self.note_outage(request, &key, &result);
        self.head_or_stored_since(request, &key, result).await
    }

    /// The response for a tag that points where the record says: by its manifest, if that is cached.
    async fn head_of(&self, request: &ManifestRequest, record: &TagRecord, outcome: Outcome) -> ManifestHead {
        match self.cached_of(request, Some(record)).await {
            Some(content) => ManifestHead::of(&content, outcome, Some(record.confirmed)),
            None => ManifestHead::recorded(record, outcome),
        }
    }

    /// The response from the cache: a stale one is for what a `GET` would serve, else for what the record says.
    async fn cached_head(
        &self,
        request: &ManifestRequest,
        key: &TagKey,
        record: Option<&TagRecord>,
        outcome: Outcome,
    ) -> Option<ManifestHead> {
        if let (Some(record), Outcome::Hit) = (record, outcome) {
            return Some(self.head_of(request, record, outcome).await);
        }
        let content = self.cached_of(request, record).await;
        match self.cached_for_tag(request, key, content, record, outcome).await {
            Some(served) => Some(served.into()),
            None => record.map(|record| ManifestHead::recorded(record, outcome)),
        }
    }
}
