//! What the registry has.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use forebay::oci::{Algorithm, Digest};
use serde_json::Value;

#[derive(Default)]
pub(in super::super) struct Content {
    /// By repository and digest.
    blobs: HashMap<(String, String), Bytes>,
    /// By repository and digest: media type and bytes.
    manifests: HashMap<(String, String), (String, Bytes)>,
    /// By repository and tag.
    tags: BTreeMap<(String, String), String>,
}

/// What [`add_image`](forebay::FakeRegistry::add_image) made.
#[derive(Clone, Debug)]
pub struct Image {
    pub manifest: Digest,
    pub manifest_bytes: Bytes,
    pub config: Digest,
    pub layers: Vec<Digest>,
}

const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

impl Content {
    pub fn add_blob(&mut self, repository: &str, content: Bytes) -> Digest {
        let digest = Digest::of(Algorithm::Sha256, &content);
        self.put_blob(repository, &digest, content);
        digest
    }

    pub fn put_blob(&mut self, repository: &str, digest: &Digest, content: Bytes) {
        self.blobs.insert((repository.to_owned(), digest.to_string()), content);
    }

    pub fn remove_blob(&mut self, repository: &str, digest: &Digest) {
        self.blobs.remove(&(repository.to_owned(), digest.to_string()));
    }

    pub fn add_manifest(&mut self, repository: &str, media_type: &str, content: Bytes) -> Digest {
        let digest = Digest::of(Algorithm::Sha256, &content);
        let key = (repository.to_owned(), digest.to_string());
        self.manifests.insert(key, (media_type.to_owned(), content));
        digest
    }

    pub fn remove_manifest(&mut self, repository: &str, digest: &Digest) {
        self.manifests.remove(&(repository.to_owned(), digest.to_string()));
    }

    /// Removes a manifest, and the tags that point at it.
    pub fn delete_manifest(&mut self, repository: &str, digest: &Digest) {
        self.remove_manifest(repository, digest);
        self.tags.retain(|(of, _), tagged| of != repository || tagged != digest.as_str());
    }

    pub fn add_image(&mut self, repository: &str, tag: &str, layers: &[&[u8]]) -> Image {
        let descriptor = |media_type: &str, digest: &Digest, size: usize| serde_json::json!({ "mediaType": media_type, "digest": digest.as_str(), "size": size });
        // The tag makes configurations, and so manifests, of different images different.
        let config_bytes = format!(r#"{{"architecture":"amd64","os":"linux","author":"{repository}:{tag}"}}"#);
        let config_size = config_bytes.len();
        let config = self.add_blob(repository, config_bytes.into());
        let added: Vec<Digest> =
            layers.iter().map(|layer| self.add_blob(repository, Bytes::copy_from_slice(layer))).collect();
        let layer_type = "application/vnd.oci.image.layer.v1.tar";
        let manifest_bytes = Bytes::from(
            serde_json::json!({
                "schemaVersion": 2,
                "mediaType": OCI_MANIFEST,
                "config": descriptor("application/vnd.oci.image.config.v1+json", &config, config_size),
                "layers": added.iter().zip(layers).map(|(digest, layer)| descriptor(layer_type, digest, layer.len())).collect::<Vec<_>>(),
            })
            .to_string(),
        );
        let manifest = self.add_manifest(repository, OCI_MANIFEST, manifest_bytes.clone());
        self.tag(repository, tag, &manifest);
        Image { manifest, manifest_bytes, config, layers: added }
    }

    pub fn tag(&mut self, repository: &str, tag: &str, manifest: &Digest) {
        self.tags.insert((repository.to_owned(), tag.to_owned()), manifest.to_string());
    }

    pub fn untag(&mut self, repository: &str, tag: &str) {
        self.tags.remove(&(repository.to_owned(), tag.to_owned()));
    }

    pub fn blob(&self, repository: &str, digest: &str) -> Option<Bytes> {
        self.blobs.get(&(repository.to_owned(), digest.to_owned())).cloned()
    }

    /// Digest, media type and bytes of what a tag or a digest names.
    pub fn manifest(&self, repository: &str, reference: &str) -> Option<(String, String, Bytes)> {
        let tagged = self.tags.get(&(repository.to_owned(), reference.to_owned()));
        let digest = tagged.map_or(reference, String::as_str);
        let (media_type, bytes) = self.manifests.get(&(repository.to_owned(), digest.to_owned()))?;
        Some((digest.to_owned(), media_type.clone(), bytes.clone()))
    }

    /// Digest, media type and content of the manifests that have this subject, by digest.
    pub fn referrers(&self, repository: &str, subject: &str) -> Vec<(&str, &str, Value, usize)> {
        let in_repository = self.manifests.iter().filter(|((of, _), _)| of == repository);
        let read = in_repository.filter_map(|((_, digest), (media_type, bytes))| {
            let content: Value = serde_json::from_slice(bytes).ok()?;
            Some((digest.as_str(), media_type.as_str(), content, bytes.len()))
        });
        let mut found: Vec<_> = read.filter(|(_, _, content, _)| content["subject"]["digest"] == subject).collect();
        found.sort_by_key(|(digest, ..)| *digest);
        found
    }

    pub fn tags(&self, repository: &str) -> Vec<&str> {
        self.tags.keys().filter(|(of, _)| of == repository).map(|(_, tag)| tag.as_str()).collect()
    }

    pub fn repositories(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.tags.keys().map(|(repository, _)| repository.as_str()).collect();
        names.dedup();
        names
    }
}
