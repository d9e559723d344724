//! What was changed at an upstream through us is known at once.
//!
//! What must hold: once a change is answered, nobody is served what was there before it. A question that was on its way
//! meanwhile is not joined any more, and leaves no record (`TagRecords::writes`); so 404s that were believed are asked
//! again, too.

use http::HeaderMap;

use super::ManifestCache;
use crate::{
    cache::{ContentKey, Visibility, storage::tag_record::TagKey},
    oci::{Accept, Digest, Repository, Tag},
    upstream::Upstream,
};

impl ManifestCache {
    /// A manifest was put that may have been asked for in vain.
    pub fn note_write(&self, upstream: &Upstream, repository: &Repository) {
        self.0.tags.note_write(upstream.name(), repository);
    }

    /// A tag was made, moved or deleted.
    pub async fn forget_tag(&self, upstream: &Upstream, repository: &Repository, tag: &Tag) {
        // Whatever the class is: all of them are meant.
        let class = Accept::from_headers(&HeaderMap::new()).class();
        let (visibility, upstream) = (Visibility::of(upstream), upstream.name().clone());
        let (repository, tag) = (repository.clone(), tag.clone());
        self.0.tags.forget(&TagKey { visibility, upstream, repository, tag, class }).await;
    }

    /// A manifest was deleted, and with it the tags that point at it. Whoever has it in another repository fetches it
    /// again.
    pub async fn forget_manifest(&self, upstream: &Upstream, repository: &Repository, digest: &Digest) {
        // What was asked before is on disk now, or never will be.
        self.0.tags.begin_change(upstream.name(), repository).await;
        let id = Visibility::of(upstream).key(digest);
        self.forget_in_memory(upstream, &id);
        self.0.shelves.remove(&id).await;
        // Somebody may have read the file before it was removed.
        self.forget_in_memory(upstream, &id);
        self.0.tags.forget_pointing_at(id.visibility, upstream.name(), repository, digest).await;
    }

    pub(super) fn forget_in_memory(&self, upstream: &Upstream, id: &ContentKey) {
        self.0.contents.invalidate(&(id.clone(), None));
        self.0.contents.invalidate(&(id.clone(), Some(upstream.registry().clone())));
    }
}
