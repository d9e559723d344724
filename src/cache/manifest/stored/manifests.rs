//! Manifests in the object store: the bytes of those that say their own type.
//!
//! What must hold: a manifest is verified when it comes back, as one of a registry; wrong bytes are not read again.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;

use super::{
    signed_record::manifest_name,
    tier::{ObjectTier, READ_TIMEOUT},
};
use crate::{
    cache::{ContentKey, manifest::content::VerifiedManifest},
    oci::Reference,
    offload::Offload,
    upstream::ManifestBody,
};

/// The longest manifest that is read from the store, in bytes: registries take no longer ones.
const MAX_LEN: usize = 4 * 1024 * 1024;

impl ObjectTier {
    /// A manifest, verified.
    pub(in crate::cache::manifest) async fn get(
        &self,
        id: &ContentKey,
        documents: &Offload,
    ) -> Option<Arc<VerifiedManifest>> {
        let is_asked = self.0.objects.may_read()
            && !self.0.objects.is_distrusted(&manifest_name(id))
            && !self.0.removals.has_manifest(id);
        if !is_asked {
            return None;
        }
        let flight = self.0.contents.run(id.clone(), false, || {
            let (tier, id, documents) = (self.clone(), id.clone(), documents.clone());
            async move { tokio::time::timeout(READ_TIMEOUT, tier.read_manifest(&id, &documents)).await.ok().flatten() }
        });
        flight.await.ok()?.response.flatten()
    }

    async fn read_manifest(&self, id: &ContentKey, documents: &Offload) -> Option<Arc<VerifiedManifest>> {
        let _turn = self.0.reads.acquire().await.ok()?;
        let name = manifest_name(id);
        let bytes = self.0.objects.get_small(&name, MAX_LEN, READ_TIMEOUT).await.ok()?;
        let (digest, len) = (id.digest.clone(), bytes.len());
        match documents.read(len, move || VerifiedManifest::verified(&Reference::Digest(digest), body(bytes))).await? {
            Ok(content) => content.is_self_described.then(|| Arc::new(content)),
            Err(_) => {
                self.0.objects.distrust(&name);
                None
            }
        }
    }
}

/// As if a registry had sent it.
fn body(bytes: Bytes) -> ManifestBody {
    ManifestBody {
        media_type: None,
        digest: None,
        bytes,
        age: Duration::ZERO,
        resident_time: Duration::ZERO,
        notes: Default::default(),
        room: Default::default(),
    }
}
