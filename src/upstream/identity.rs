//! The identity of a registry, which outlives reloads of the configuration.

use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use url::Url;

use crate::oci::{Algorithm, Digest};

/// A registry, by its name and URLs: with other URLs, the same name may be another registry. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Registry(Arc<RegistryUrls>);

#[derive(Debug, PartialEq, Eq, Hash)]
struct RegistryUrls {
    name: Arc<str>,
    urls: Vec<Url>,
    hashes: UrlHashes,
}

/// Hashes of an upstream's URLs, in their order: the same in every process.
pub type UrlHashes = Arc<[u64]>;

impl Registry {
    pub fn new(name: &Arc<str>, urls: &[Url]) -> Self {
        let hashes = urls.iter().map(hash).collect();
        Self(Arc::new(RegistryUrls { name: name.clone(), urls: urls.to_vec(), hashes }))
    }

    /// Its name in the configuration.
    pub fn name(&self) -> &Arc<str> {
        &self.0.name
    }

    /// The form of its URLs on disk.
    pub fn url_hashes(&self) -> &UrlHashes {
        &self.0.hashes
    }

    /// Its form on disk: 16 hexadecimal digits of the SHA-256 of name and URLs.
    pub fn fingerprint(&self) -> String {
        let mut text = self.0.name.to_string();
        for url in &self.0.urls {
            // Neither names nor URLs have line ends.
            text.push('\n');
            text.push_str(url.as_str());
        }
        Digest::of(Algorithm::Sha256, text.as_bytes()).hex().chars().take(16).collect()
    }
}

fn hash(url: &Url) -> u64 {
    digest(&SHA256, url.as_str().as_bytes()).as_ref().first_chunk().copied().map(u64::from_be_bytes).unwrap_or_default()
}
