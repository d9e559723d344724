//! What is cached of an image, for operators.
//!
//! What must hold: to look is no use: it brings nothing into memory, renews nothing, and changes no order of eviction.

use std::time::SystemTime;

use bytes::Bytes;

use super::{ManifestCache, content::VerifiedManifest, request::ManifestRequest};
use crate::{
    cache::{freshness::Freshness, storage::lru_index::IndexKey},
    oci::{Content, Digest, Manifest, Reference},
};

/// How many manifests of an index are looked into.
const MAX_IMAGES: usize = 64;
/// How many blobs of an image are looked up.
const MAX_BLOBS: usize = 1000;

/// What is cached of an image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct CachedImage {
    /// That of the tag's record, or the requested one.
    pub digest: Option<Digest>,
    /// When the upstream last confirmed the tag, and whether the record may be served. `None` for a digest.
    pub tag: Option<(SystemTime, Freshness)>,
    /// `None`: the manifest is not cached.
    pub manifest: Option<Place>,
    /// The manifests of an index: how many there are, and how many are cached. Zero for an image of one platform.
    pub images: Count,
    /// Whether one of its platforms is complete, or the image itself.
    pub is_complete: bool,
    /// The configurations and layers of all manifests that are cached.
    pub blobs: Count,
    pub bytes: Count,
}

/// Where a manifest is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Memory,
    Disk,
}

/// How much there is, and how much of it is cached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Count {
    pub cached: u64,
    pub all: u64,
}

impl Count {
    fn add(&mut self, number: u64, is_cached: bool) {
        self.all = self.all.saturating_add(number);
        if is_cached {
            self.cached = self.cached.saturating_add(number);
        }
    }
}

impl ManifestCache {
    /// What is cached of a reference, for clients that accept what the request accepts.
    pub(crate) async fn peek(&self, request: &ManifestRequest, reference: &Reference) -> CachedImage {
        let mut found = CachedImage::default();
        let digest = match reference {
            Reference::Digest(digest) => digest.clone(),
            Reference::Tag(tag) => {
                let (key, registry) = (request.key(tag), request.upstream.registry());
                let record = match self.0.tags.peek(&key, registry).await {
                    Some(record) => Some(record),
                    None => self.0.tags.peek_other_classes(&key, registry).await,
                };
                let Some((record, freshness)) = record else { return found };
                found.tag = Some((record.confirmed, freshness));
                record.digest.clone()
            }
        };
        found.digest = Some(digest.clone());
        let Some((place, document)) = self.peek_manifest(request, &digest).await else { return found };
        found.manifest = Some(place);
        match self.parse(document).await {
            Some(Content::Index { manifests }) => {
                for image in manifests.iter().take(MAX_IMAGES) {
                    let cached = self.peek_manifest(request, &image.digest).await;
                    found.images.add(1, cached.is_some());
                    if let Some((_, document)) = cached {
                        let content = self.parse(document).await;
                        self.count_blobs(request, content.as_ref(), &mut found);
                    }
                }
            }
            content => self.count_blobs(request, content.as_ref(), &mut found),
        }
        found
    }

    async fn peek_manifest(&self, request: &ManifestRequest, digest: &Digest) -> Option<(Place, Bytes)> {
        let key = request.visibility().key(digest);
        let registry = Some(request.upstream.registry().clone());
        let in_memory = [None, registry].into_iter().find_map(|registry| self.0.contents.get(&(key.clone(), registry)));
        if let Some(content) = in_memory {
            return Some((Place::Memory, content.bytes.clone()));
        }
        let file = self.0.store.peek_off_thread(IndexKey::Manifest(key), VerifiedManifest::MAX_FILE_LEN).await?;
        Some((Place::Disk, Bytes::copy_from_slice(VerifiedManifest::document_in(&file)?)))
    }

    /// Off the async threads, if it is large.
    async fn parse(&self, document: Bytes) -> Option<Content> {
        let document_len = document.len();
        let parse = move || Manifest::parse(&document).ok().map(|manifest| manifest.content);
        self.0.documents.read(document_len, parse).await?
    }

    fn count_blobs(&self, request: &ManifestRequest, content: Option<&Content>, found: &mut CachedImage) {
        let Some(Content::Image { config, layers }) = content else { return };
        let mut is_complete = true;
        for blob in std::iter::once(config).chain(layers).take(MAX_BLOBS) {
            let is_cached = self.0.store.has_blob(&request.visibility().key(&blob.digest));
            found.blobs.add(1, is_cached);
            found.bytes.add(blob.size, is_cached);
            is_complete &= is_cached;
        }
        found.is_complete |= is_complete;
    }
}
