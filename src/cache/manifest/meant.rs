//! What a reference means to clients now: for tasks of operators.

use std::sync::Arc;

use super::{ManifestCache, content::VerifiedManifest, error::ManifestError, request::ManifestRequest};
use crate::{
    cache::Outcome,
    oci::{Digest, Reference},
};

impl ManifestCache {
    /// The manifest that clients get for a reference, from the cache or the upstream.
    ///
    /// # Errors
    /// Those that clients get.
    pub(crate) async fn meant(
        &self,
        request: &ManifestRequest,
        reference: &Reference,
    ) -> Result<Arc<VerifiedManifest>, ManifestError> {
        if let Reference::Tag(tag) = reference {
            let rules = self.rules_of(&request.upstream, &request.repository, reference);
            if (rules.hold.is_some() || rules.is_immutable)
                && let Some(held) = self.resolve_held(request, tag, &rules).await?
            {
                return Ok(self.get_digest(request, &held.digest).await?.content);
            }
        }
        Ok(self.get(request, reference).await?.content)
    }

    /// The same from the cache alone.
    pub(crate) async fn meant_here(
        &self,
        request: &ManifestRequest,
        reference: &Reference,
    ) -> Option<Arc<VerifiedManifest>> {
        let tag = match reference {
            Reference::Digest(digest) => return self.cached(request, digest, None).await,
            Reference::Tag(tag) => tag,
        };
        let key = request.key(tag);
        if self.rules_of(&request.upstream, &request.repository, reference).hold.is_some() {
            let held: Digest = self.0.first_seen.eligible(&key)?.0;
            return self.cached(request, &held, None).await;
        }
        let (record, _) = self.record(request, &key).await;
        let content = self.cached_of(request, record.as_deref()).await;
        let served = self.cached_for_tag(request, &key, content, record.as_deref(), Outcome::Hit).await?;
        Some(served.content)
    }
}
