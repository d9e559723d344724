//! Changes that forebay makes at an upstream take effect in the cache at once.
//!
//! What must hold: once a change is answered, no client is served what was there before it. An upstream request that
//! was in flight meanwhile is not joined any more and leaves no record (`TagRecords::writes`). Remembered 404s are part
//! of the same key, so they end as well.

use http::HeaderMap;

use super::ManifestCache;
use crate::{
    cache::{ContentKey, Visibility, first_seen::TagName, storage::tag_record::TagKey},
    oci::{Accept, Digest, Repository, Tag},
    upstream::Upstream,
};

impl ManifestCache {
    /// A manifest was pushed, for which there may be a remembered 404.
    pub(crate) fn note_write(&self, upstream: &Upstream, repository: &Repository) {
        self.0.tags.note_write(upstream.name(), repository);
    }

    /// A tag was created, moved or deleted.
    pub(crate) async fn forget_tag(&self, upstream: &Upstream, repository: &Repository, tag: &Tag) {
        // Any class: the records of all classes are removed.
        let class = Accept::from_headers(&HeaderMap::new()).class();
        let is_in_store = upstream.object_store().is_some();
        let (visibility, upstream) = (Visibility::of(upstream), upstream.name().clone());
        let (repository, tag) = (repository.clone(), tag.clone());
        self.0.tags.forget(&TagKey { visibility, upstream, repository, tag, class }, is_in_store).await;
    }

    /// An operator removed a tag from the cache. What an import froze is not there any more. `upstreams`: all of them.
    pub(crate) async fn remove_tag(&self, key: &TagKey, upstreams: &[Upstream]) {
        self.end_import(&TagName::from(key)).await;
        let is_its = |upstream: &&Upstream| *upstream.name() == key.upstream;
        let is_in_store = upstreams.iter().find(is_its).is_some_and(|upstream| upstream.object_store().is_some());
        self.0.tags.forget(key, is_in_store).await;
    }

    /// An operator removed a manifest from the cache: for the clients of all of these upstreams.
    pub(crate) async fn remove_content(&self, upstreams: &[Upstream], id: &ContentKey) {
        let forget = || upstreams.iter().for_each(|upstream| self.forget_in_memory(upstream, id));
        forget();
        self.0.files.remove(id).await;
        // A request may have read the file before it was removed.
        forget();
    }

    /// A manifest was deleted, and with it the tags that point at it. If another repository has it, it is fetched
    /// again.
    pub(crate) async fn forget_manifest(&self, upstream: &Upstream, repository: &Repository, digest: &Digest) {
        // Responses from before the change are on disk now, or never will be.
        self.0.tags.begin_change(upstream.name(), repository).await;
        let id = Visibility::of(upstream).key(digest);
        self.forget_in_memory(upstream, &id);
        self.0.files.remove(&id).await;
        // A request may have read the file before it was removed.
        self.forget_in_memory(upstream, &id);
        self.0.tags.forget_pointing_at(id.visibility, upstream.name(), repository, digest).await;
        if let (Some(tier), Some(_)) = (&self.0.tier, upstream.object_store()) {
            tier.remove_manifest(&id, (upstream.name(), repository)).await;
        }
    }

    pub(super) fn forget_in_memory(&self, upstream: &Upstream, id: &ContentKey) {
        self.0.contents.invalidate(&(id.clone(), None));
        self.0.contents.invalidate(&(id.clone(), Some(upstream.registry().clone())));
    }
}
