//! Layers that a client is about to ask for.
//!
//! Who gets an image's configuration will want its layers: those that are not here are begun at once, in the
//! manifest's order, a few at a time. A prefetch is a fill like any other, which clients join; what of it fails is
//! fetched when it is asked for, and not before.

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt, stream};
use tokio::sync::Semaphore;

use super::{Config, DiskStore, Source, fill::Fills, manifests::Content};
use crate::oci::{Content as ManifestContent, Descriptor, Digest, Manifest, MediaTypeKind};

/// How many images are remembered, the most recently seen.
const MOST_IMAGES: u64 = 10_000;
/// How many layers of all images together are fetched ahead at a time.
const MOST_AT_ONCE: usize = 12;
/// Who asks for the same configuration again so soon starts nothing.
const ONCE_IN: Duration = Duration::from_secs(60);
/// A prefetch of more than this part of the cache would drive out what is in use.
const MOST_OF_CACHE: u64 = 2;

/// A layer as its manifest names it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Layer {
    digest: Digest,
    /// In bytes.
    size: u64,
}

/// The layers of images by the digest of their configuration. A cheap handle.
#[derive(Clone)]
pub struct Images(moka::sync::Cache<Digest, Arc<[Layer]>>);

impl Default for Images {
    fn default() -> Self {
        Self(moka::sync::Cache::new(MOST_IMAGES))
    }
}

impl Images {
    /// A manifest has come into memory.
    pub fn note(&self, manifest: &Content) {
        let is_image =
            matches!(manifest.media_type.kind(), Some(MediaTypeKind::OciManifest | MediaTypeKind::DockerManifest));
        if !is_image {
            return;
        }
        if let Ok(Manifest { content: ManifestContent::Image { config, layers }, .. }) =
            Manifest::parse(&manifest.bytes)
        {
            self.0.insert(config.digest, layers.iter().filter(|layer| is_here(layer)).map(Layer::of).collect());
        }
    }
}

impl Layer {
    fn of(descriptor: &Descriptor) -> Self {
        Self { digest: descriptor.digest.clone(), size: descriptor.size }
    }
}

/// Whether a registry has the layer: others may not be passed on, and are had from elsewhere.
fn is_here(layer: &Descriptor) -> bool {
    let kind = layer.media_type.essence();
    !kind.contains(".foreign.") && !kind.contains(".nondistributable.")
}

/// Begins fills before somebody asks for them. A cheap handle.
#[derive(Clone)]
pub struct Prefetch(Arc<Shared>);

struct Shared {
    /// Of one image, at a time.
    most: usize,
    /// In bytes.
    most_bytes: u64,
    images: Images,
    /// Configurations that were asked for within [`ONCE_IN`].
    begun: moka::sync::Cache<Digest, ()>,
    at_once: Semaphore,
    store: DiskStore,
    fills: Fills,
}

impl Prefetch {
    pub fn new(config: &Config, images: Images, store: DiskStore, fills: Fills) -> Self {
        Self(Arc::new(Shared {
            most: config.prefetch,
            most_bytes: config.max_size / MOST_OF_CACHE,
            images,
            begun: moka::sync::Cache::builder().max_capacity(MOST_IMAGES).time_to_live(ONCE_IN).build(),
            at_once: Semaphore::new(MOST_AT_ONCE),
            store,
            fills,
        }))
    }

    /// A client gets this blob: if it is the configuration of an image, the layers are what it asks for next.
    pub fn config_wanted(&self, source: &Source) {
        if self.0.most == 0 {
            return;
        }
        let Some(layers) = self.0.images.0.get(&source.digest) else { return };
        if !self.0.begun.entry(source.digest.clone()).or_insert(()).is_fresh() {
            return;
        }
        let missing: Vec<Layer> =
            layers.iter().filter(|layer| !self.0.store.has_blob(&layer.digest)).cloned().collect();
        let bytes = missing.iter().fold(0, |sum: u64, layer| sum.saturating_add(layer.size));
        if missing.is_empty() || bytes > self.0.most_bytes {
            return;
        }
        let (prefetch, source) = (self.clone(), source.clone());
        self.0.fills.tasks().spawn(async move {
            let shutdown = prefetch.0.fills.shutdown().clone();
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = prefetch.fetch(&source, missing) => {}
            }
        });
    }

    async fn fetch(&self, config: &Source, layers: Vec<Layer>) {
        let fetch = async |layer: Layer| {
            // Nobody closes it.
            let Ok(_turn) = self.0.at_once.acquire().await else { return };
            if self.0.store.has_blob(&layer.digest) {
                return;
            }
            let source = Source { digest: layer.digest, ..config.clone() };
            // Held until the end, so that the fill is no orphan.
            let membership = self.0.fills.join(&source).await.into_membership();
            if let Err(error) = membership.fill().end().await {
                tracing::debug!(%error, digest = %source.digest, "a layer could not be fetched ahead");
            }
        };
        stream::iter(layers).for_each_concurrent(self.0.most, fetch).await;
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::{
        oci::{Algorithm, MediaType, Reference},
        upstream::ManifestBody,
    };

    fn digest(of: &str) -> Digest {
        Digest::of(Algorithm::Sha256, of.as_bytes())
    }

    fn noted(media_type: MediaType, layers: &[(&str, &str, u64)]) -> Option<Vec<(Digest, u64)>> {
        let layers: Vec<String> = layers
            .iter()
            .map(|(kind, of, size)| {
                format!(r#"{{"mediaType":"application/{kind}","digest":"{}","size":{size}}}"#, digest(of))
            })
            .collect();
        let bytes = format!(
            r#"{{"schemaVersion":2,"config":{{"mediaType":"a/b","digest":"{}","size":2}},"layers":[{}]}}"#,
            digest("config"),
            layers.join(",")
        );
        let body = ManifestBody { media_type: Some(media_type), digest: None, bytes: Bytes::from(bytes) };
        let reference: Reference = "1".parse().unwrap();
        let images = Images::default();
        images.note(&Content::verified(&reference, body).unwrap());
        let layers = images.0.get(&digest("config"))?;
        Some(layers.iter().map(|layer| (layer.digest.clone(), layer.size)).collect())
    }

    #[test]
    fn the_layers_that_a_registry_has_in_order() {
        let layers = [
            ("vnd.oci.image.layer.v1.tar+gzip", "b", 7),
            ("vnd.docker.image.rootfs.foreign.diff.tar.gzip", "c", 1),
            ("vnd.oci.image.layer.nondistributable.v1.tar", "d", 1),
            ("vnd.docker.image.rootfs.diff.tar.gzip", "a", 5),
        ];
        let expected = vec![(digest("b"), 7), (digest("a"), 5)];
        assert_eq!(noted(MediaType::OCI_MANIFEST, &layers), Some(expected.clone()));
        assert_eq!(noted(MediaType::DOCKER_MANIFEST, &layers), Some(expected));
        assert_eq!(noted(MediaType::OCI_MANIFEST, &[]), Some(vec![]));
        assert_eq!(noted(MediaType::OCI_INDEX, &layers), None);
        assert_eq!(noted("text/plain".parse().unwrap(), &layers), None);
    }
}
