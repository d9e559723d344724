//! Referrers from a [`ReferrersTag`].
//!
//! The tag is cached and revalidated like any other. If the upstream authorizes each client, the caller checks the
//! client's grant for the tag first. An upstream without such a tag has answered, too: the digest has no referrers yet.

use std::time::Instant;

use http::header;

use super::{Lists, error::ListError, referrers_tag::ReferrersTag, served::ServedList, store::ListAnswer};
use crate::{
    cache::{ManifestError, ManifestRequest, Outcome, manifest::ServedManifest},
    oci::{Digest, MediaTypeKind, Reference, Referrers},
    upstream::ErrorKind,
};

impl Lists {
    /// The digest that the cache has for the tag.
    pub(crate) async fn cached_tag_digest(&self, referrers: &ReferrersTag) -> Option<Digest> {
        let Reference::Tag(tag) = &referrers.tag else { return None };
        let ManifestRequest { upstream, repository, accept, .. } = &referrers.manifest;
        self.0.manifests.cached_digest(upstream, repository, tag, accept).await
    }

    /// The referrers under the tag, and the digest of the tag's manifest.
    pub(crate) async fn get_by_tag(&self, referrers: &ReferrersTag) -> Result<(ServedList, Option<Digest>), ListError> {
        let sent = Instant::now();
        let manifest = self.0.manifests.get(&referrers.manifest, &referrers.tag).await;
        let digest = manifest.as_ref().ok().map(|served| served.content.digest.clone());
        let mut list = self.list_of_manifest(referrers, manifest, sent).await?;
        // The upstream's warnings about the manifest apply to the list that is made from it.
        if let Some(digest) = &digest {
            let ManifestRequest { upstream, repository, .. } = &referrers.manifest;
            let warnings = self.0.manifests.warnings(upstream, repository, digest);
            list.headers.extend(warnings.into_iter().map(|warning| (header::WARNING, warning)));
        }
        Ok((list, digest))
    }

    async fn list_of_manifest(
        &self,
        referrers: &ReferrersTag,
        manifest: Result<ServedManifest, ManifestError>,
        sent: Instant,
    ) -> Result<ServedList, ListError> {
        // Some registries take the tag for the digest and answer with the subject itself, which lists its platforms.
        if let Ok(served) = &manifest
            && referrers.is_subject(&served.content).await
        {
            return Ok(referrers.empty(served.outcome));
        }
        match manifest {
            Ok(served) if served.content.media_type.kind() == Some(MediaTypeKind::OciIndex) => {
                let ServedManifest { content, outcome, .. } = served;
                let filtered = self.0.filter.apply(content.clone(), &referrers.artifact_types).await;
                Ok(match filtered.ok_or(ListError::Abandoned)? {
                    Referrers::Whole => referrers.served(content.bytes.clone(), false, outcome),
                    Referrers::Filtered(index) => referrers.served(index, true, outcome),
                    Referrers::Nothing => referrers.empty(outcome),
                })
            }
            // A tag for another purpose that has such a name.
            Ok(served) => Ok(referrers.empty(served.outcome)),
            Err(ManifestError::CachedNotFound(_)) => Ok(referrers.empty(Outcome::Hit)),
            Err(ManifestError::Upstream(error)) if error.kind == ErrorKind::NotFound => {
                self.0.store.note(&referrers.query, sent, &ListAnswer::NoReferrers);
                Ok(referrers.empty(Outcome::Miss))
            }
            Err(error) => Err(ListError::Tag(error)),
        }
    }
}
