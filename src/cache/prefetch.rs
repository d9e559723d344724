//! Layers that a client is about to ask for.
//!
//! Who gets an image's configuration will want its layers: those that are not here are begun at once, in the
//! manifest's order, a few at a time. A prefetch is a fill like any other, which clients join; what of it fails is
//! fetched when it is asked for, and not before.

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt, stream};
use moka::policy::EvictionPolicy;
use tokio::sync::Semaphore;

use super::{Config, DiskStore, Source, fill::Fills, manifests::Content};
use crate::oci::{Content as ManifestContent, Descriptor, Digest, Manifest, MediaTypeKind, Repository};

/// How much memory the layers of the images may take that are remembered, the most recently seen, in bytes.
const MOST_MEMORY: u64 = 4 * 1024 * 1024;
/// What an image weighs in memory without its layers, and one layer at most, in bytes.
const IMAGE_WEIGHT: usize = 512;
const LAYER_WEIGHT: usize = 192;
/// No runtime can stack so many layers: what has more is no image.
const MOST_LAYERS: usize = 200;
/// How many configurations that were asked for are remembered.
const MOST_BEGUN: u64 = 10_000;
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

/// A configuration where it was found. The same one elsewhere says nothing about this one: anybody can make a manifest
/// that names a well-known configuration and layers of their own invention.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Image {
    upstream: Arc<str>,
    repository: Repository,
    config: Digest,
}

/// The layers of images by their configuration. A cheap handle.
#[derive(Clone)]
pub struct Images(moka::sync::Cache<Image, Arc<[Layer]>>);

impl Default for Images {
    fn default() -> Self {
        let images = moka::sync::Cache::builder()
            .max_capacity(MOST_MEMORY)
            .weigher(|_, layers: &Arc<[Layer]>| {
                u32::try_from(IMAGE_WEIGHT + layers.len() * LAYER_WEIGHT).unwrap_or(u32::MAX)
            })
            // The default policy refuses newcomers, and it is the newest image whose layers are wanted next.
            .eviction_policy(EvictionPolicy::lru())
            .build();
        Self(images)
    }
}

impl Images {
    /// An upstream gave this manifest for a repository.
    pub fn note(&self, upstream: &Arc<str>, repository: &Repository, manifest: &Content) {
        if let Some((image, layers)) = image(upstream, repository, manifest) {
            self.0.insert(image, layers);
        }
    }

    /// This manifest was on disk, for whichever repository it was fetched: it replaces nothing that is known.
    pub fn recall(&self, upstream: &Arc<str>, repository: &Repository, manifest: &Content) {
        if let Some((image, layers)) = image(upstream, repository, manifest) {
            self.0.entry(image).or_insert(layers);
        }
    }
}

/// What a manifest says, if it is an image's.
fn image(upstream: &Arc<str>, repository: &Repository, manifest: &Content) -> Option<(Image, Arc<[Layer]>)> {
    let is_image =
        matches!(manifest.media_type.kind(), Some(MediaTypeKind::OciManifest | MediaTypeKind::DockerManifest));
    if !is_image {
        return None;
    }
    let ManifestContent::Image { config, layers } = Manifest::parse(&manifest.bytes).ok()?.content else { return None };
    if layers.len() > MOST_LAYERS {
        return None;
    }
    let image = Image { upstream: upstream.clone(), repository: repository.clone(), config: config.digest };
    Some((image, layers.iter().filter(|layer| is_here(layer)).map(Layer::of).collect()))
}

impl Image {
    /// The image whose configuration this may be.
    fn of(config: &Source) -> Self {
        Self {
            upstream: config.upstream.name().clone(),
            repository: config.repository.clone(),
            config: config.digest.clone(),
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
    begun: moka::sync::Cache<Image, ()>,
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
            begun: moka::sync::Cache::builder().max_capacity(MOST_BEGUN).time_to_live(ONCE_IN).build(),
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
        let image = Image::of(source);
        let Some(layers) = self.0.images.0.get(&image) else { return };
        if !self.0.begun.entry(image).or_insert(()).is_fresh() {
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

    fn manifest(media_type: MediaType, layers: &[(&str, &str, u64)]) -> Content {
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
        Content::verified(&reference, body).unwrap()
    }

    fn place(upstream: &str, repository: &str) -> Image {
        Image { upstream: upstream.into(), repository: repository.parse().unwrap(), config: digest("config") }
    }

    fn layers(images: &Images, of: &Image) -> Option<Vec<(Digest, u64)>> {
        let layers = images.0.get(of)?;
        Some(layers.iter().map(|layer| (layer.digest.clone(), layer.size)).collect())
    }

    fn noted(media_type: MediaType, of: &[(&str, &str, u64)]) -> Option<Vec<(Digest, u64)>> {
        let (images, place) = (Images::default(), place("a", "b"));
        images.note(&place.upstream, &place.repository, &manifest(media_type, of));
        layers(&images, &place)
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

    #[test]
    fn a_configuration_means_what_its_own_repository_says() {
        const KIND: &str = "vnd.oci.image.layer.v1.tar";
        let images = Images::default();
        let ours = place("good.example", "team/app");
        let true_one = manifest(MediaType::OCI_MANIFEST, &[(KIND, "true", 1)]);
        let invented = manifest(MediaType::OCI_MANIFEST, &[(KIND, "invented", 1)]);
        images.note(&ours.upstream, &ours.repository, &true_one);
        for other in [place("evil.example", "team/app"), place("good.example", "team/evil")] {
            images.note(&other.upstream, &other.repository, &invented);
            assert_eq!(layers(&images, &other), Some(vec![(digest("invented"), 1)]));
        }
        // What was fetched for those is on disk, and may be asked for by its digest here.
        images.recall(&ours.upstream, &ours.repository, &invented);
        assert_eq!(layers(&images, &ours), Some(vec![(digest("true"), 1)]));
        // What the upstream says now counts.
        let newer = manifest(MediaType::OCI_MANIFEST, &[(KIND, "newer", 1)]);
        images.note(&ours.upstream, &ours.repository, &newer);
        assert_eq!(layers(&images, &ours), Some(vec![(digest("newer"), 1)]));
    }

    #[test]
    fn memory_is_bounded_by_layers_and_the_newest_stay() {
        const KIND: &str = "vnd.oci.image.layer.v1.tar";
        let names: Vec<String> = (0..=MOST_LAYERS).map(|number| number.to_string()).collect();
        let many: Vec<(&str, &str, u64)> = names.iter().map(|name| (KIND, &**name, 1)).collect();
        let most = manifest(MediaType::OCI_MANIFEST, &many[..MOST_LAYERS]);
        let images = Images::default();
        let weight = (IMAGE_WEIGHT + MOST_LAYERS * LAYER_WEIGHT) as u64;
        let places: Vec<Image> =
            (0..2 * MOST_MEMORY / weight).map(|number| place("a", &format!("b/{number}"))).collect();
        for place in &places {
            images.note(&place.upstream, &place.repository, &most);
        }
        images.0.run_pending_tasks();
        let held = images.0.weighted_size();
        assert!(held <= MOST_MEMORY && held > MOST_MEMORY / 2, "{held} bytes");
        assert!(images.0.contains_key(places.last().unwrap()) && !images.0.contains_key(&places[0]));
        assert_eq!(noted(MediaType::OCI_MANIFEST, &many), None, "one more is no image");
    }
}
