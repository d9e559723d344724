//! A person has forebay ask the upstream now what a tag names.
//!
//! What must hold: an upstream that does not answer takes nothing away that is cached, nor does one that has no such tag take
//! what was imported or pinned; an answer counts for clients of every class, and ends what a rule has kept of the tag so far.

use super::{ManifestCache, error::ManifestError, fetched::Fetched, request::ManifestRequest};
use crate::{
    cache::storage::tag_record::{TagKey, TagRecord},
    oci::{Accept, Digest, Reference, Repository, Tag},
    upstream::{ErrorKind, Upstream},
};

/// What a tag named, and what it names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refreshed {
    /// `None`: nothing was cached for it.
    pub before: Option<Digest>,
    pub now: Digest,
}

/// Why it is not known what a tag names.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotRefreshed {
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    #[error("gone at the registry, removed from the cache")]
    Gone { before: Digest },
    #[error("the registry has no such tag; it is imported, so it stays as it is in the cache")]
    Imported,
    #[error("the registry has no such tag; it is pinned, so it stays as it is in the cache")]
    Pinned,
}

impl ManifestCache {
    /// Asks the upstream what a tag names, whatever is cached, and takes the answer over. The upstream is asked with forebay's
    /// own credentials. `is_pinned` says whether a pin is about the tag.
    ///
    /// # Errors
    /// The upstream's error, or that of a manifest that is wrong.
    pub(crate) async fn refresh(
        &self,
        upstream: &Upstream,
        repository: &Repository,
        tag: &Tag,
        is_pinned: impl FnOnce() -> bool,
    ) -> Result<Refreshed, NotRefreshed> {
        let request = ManifestRequest {
            // A peer would tell what it heard of the registry before.
            upstream: upstream.without_peers(),
            repository: repository.clone(),
            // A registry refuses what such a request does not name, or converts it.
            accept: Accept::of_images(),
            tag_digest: None,
        };
        let key = request.key(tag);
        let before = self.meaning_so_far(&request, &key).await;
        upstream.ask_no_peers_for(repository, self.0.tags.ttl(&key));
        // What the upstream said to requests that are under way is older than what it says now.
        self.0.tags.begin_change(upstream.name(), repository).await;
        let (record, _) = self.record(&request, &key).await;
        let query = self.query(&request, &Reference::Tag(tag.clone()), true);
        let fetched = match self.fetch(&request, &query, record).await {
            Ok(fetched) => fetched,
            Err(ManifestError::Upstream(error)) if error.kind == ErrorKind::NotFound => {
                if self.0.first_seen.is_imported(upstream.name(), repository, tag) {
                    return Err(NotRefreshed::Imported);
                }
                if is_pinned() {
                    return Err(NotRefreshed::Pinned);
                }
                self.note_not_found(&request, query, error.clone()).await;
                let error = NotRefreshed::Manifest(ManifestError::Upstream(error));
                return Err(before.map_or(error, |before| NotRefreshed::Gone { before }));
            }
            Err(error) => return Err(error.into()),
        };
        let record = match &fetched {
            Fetched::Unchanged(record) | Fetched::Head(record) => TagRecord::clone(record),
            Fetched::Content { content, confirmed } => {
                TagRecord::of(content, confirmed.unwrap_or_else(std::time::SystemTime::now))
            }
        };
        let (now, confirmed) = (record.digest.clone(), record.confirmed);
        let others = self.0.tags.other_classes(&key, upstream.registry()).await;
        if others.iter().any(|(other, _)| other.digest != now) {
            self.0.tags.forget(&key, upstream.object_store().is_some()).await;
            let query = self.query(&request, &Reference::Tag(tag.clone()), true);
            self.0.tags.put(&request, &query, record).await;
        }
        // As if the tag had been pushed: no rule, and no import, holds it back.
        self.note_push(upstream, repository, tag, &now).await;
        self.0.inventory.note_tag(&key, &now, confirmed);
        Ok(Refreshed { before, now })
    }

    /// What clients get for a tag by what is cached and by the rules.
    async fn meaning_so_far(&self, request: &ManifestRequest, key: &TagKey) -> Option<Digest> {
        let rules = self.rules_of(&request.upstream, &request.repository, &Reference::Tag(key.tag.clone()));
        if rules.hold.is_some() {
            return self.0.first_seen.eligible(key).map(|(digest, _)| digest);
        }
        let (own, _) = self.record(request, key).await;
        let others = self.0.tags.other_classes(key, request.upstream.registry()).await;
        let records = own.into_iter().chain(others.into_iter().map(|(record, _)| record));
        records.max_by_key(|record| record.confirmed).map(|record| record.digest.clone())
    }
}
