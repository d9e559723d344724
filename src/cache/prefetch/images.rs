//! The layers of images by their configuration, as listed in their manifests.

use std::{collections::HashSet, net::IpAddr, sync::Arc};

use super::recent_manifests::{Read, RecentManifests};
use crate::{
    bounded_cache,
    cache::{Source, manifest::VerifiedManifest},
    oci::{Content, Descriptor, Digest, Manifest, MediaTypeKind, Repository},
    upstream::Registry,
};

/// How much memory the layers of the most recently seen images may take, in bytes.
const MAX_MEMORY: u64 = 4 * 1024 * 1024;
/// The memory that an image takes without its layers, and at most one layer, in bytes.
const IMAGE_WEIGHT: usize = 512;
const LAYER_WEIGHT: usize = 192;
/// A manifest with more bytes than this is no image's: parsing it takes long, and 200 layers need no more than this.
const MAX_MANIFEST: usize = 256 * 1024;
/// No runtime can stack more layers: a manifest that has more is no image's.
const MAX_LAYERS: usize = 200;
/// How many images with one configuration are remembered, the most recently seen.
const MAX_VARIANTS: usize = 8;
/// The media type of the empty configuration: a manifest with it is no image's, and clients download only the parts
/// they need.
///
/// Source: OCI image specification v1.1, "Guidance for an Empty Descriptor".
const EMPTY_CONFIG: &str = "application/vnd.oci.empty.v1+json";
/// A layer as its manifest describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Layer {
    pub(super) digest: Digest,
    /// In bytes.
    pub(super) size: u64,
}

/// A configuration in a repository. The same configuration elsewhere says nothing about this one: any user can push a
/// manifest that names a well-known configuration and other layers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Image {
    pub(super) registry: Registry,
    pub(super) repository: Repository,
    pub(super) config: Digest,
}

/// One of the images with a configuration: its manifest, and the layers to prefetch.
#[derive(Clone, Debug)]
pub(super) struct Variant {
    pub(super) manifest: Digest,
    pub(super) layers: Arc<[Layer]>,
    /// The upstream itself served this manifest for this repository. A manifest from disk may come from another
    /// upstream, which can lie about its layers.
    pub(super) is_told: bool,
}

/// The layers of images by their configuration, and which of their manifests clients have read. A cheap handle.
#[derive(Clone)]
pub(crate) struct Images {
    known: moka::sync::Cache<Image, Arc<[Variant]>>,
    reads: Arc<RecentManifests>,
}

impl Default for Images {
    fn default() -> Self {
        let weight = |variant: &Variant| IMAGE_WEIGHT + variant.layers.len() * LAYER_WEIGHT;
        let known =
            bounded_cache::lru(MAX_MEMORY, move |_, variants: &Arc<[Variant]>| variants.iter().map(weight).sum());
        Self { known, reads: Arc::default() }
    }
}

impl Images {
    /// Notes a manifest that an upstream served for a repository.
    pub(crate) fn note(&self, registry: &Registry, repository: &Repository, manifest: &VerifiedManifest) {
        if let Some((image, variant)) = image(registry, repository, manifest) {
            let variant = Variant { is_told: true, ..variant };
            self.merge(image, variant, |variant, others| {
                [variant].into_iter().chain(others).take(MAX_VARIANTS).collect()
            });
        }
    }

    /// Notes a manifest from disk, which may have been fetched for another repository: it replaces no known manifest.
    pub(crate) fn recall(&self, registry: &Registry, repository: &Repository, manifest: &VerifiedManifest) {
        if let Some((image, variant)) = image(registry, repository, manifest) {
            self.merge(image, variant, |variant, others| {
                others.into_iter().chain([variant]).take(MAX_VARIANTS).collect()
            });
        }
    }

    /// Notes that a client reads this manifest of a repository.
    pub(crate) fn note_read(
        &self,
        registry: &Registry,
        repository: &Repository,
        manifest: &VerifiedManifest,
        client: IpAddr,
    ) {
        if is_image(manifest) {
            self.reads.note(Read { client, registry, repository, manifest: &manifest.digest });
        }
    }

    /// The image with this configuration whose manifest this client has read since its last request for the
    /// configuration; `None` if it has read no such manifest, or several.
    pub(super) fn read_by(&self, client: IpAddr, image: &Image) -> Option<Variant> {
        let variants = self.known.get(image)?;
        let Image { registry, repository, .. } = image;
        let is_read =
            |variant: &&Variant| self.reads.take(Read { client, registry, repository, manifest: &variant.manifest });
        let mut read = variants.iter().filter(is_read);
        let one = read.next()?;
        // `count` visits all variants, so that the notes of earlier reads are removed.
        (read.count() == 0).then(|| one.clone())
    }

    /// `merge` decides the position of this variant among the known ones.
    fn merge(&self, image: Image, variant: Variant, merge: impl FnOnce(Variant, Vec<Variant>) -> Arc<[Variant]>) {
        self.known.entry(image).and_upsert_with(|known| {
            let known = known.map(|known| known.into_value());
            let is_it = |other: &&Variant| other.manifest == variant.manifest;
            let (same, others): (Vec<&Variant>, Vec<&Variant>) =
                known.iter().flat_map(|known| known.iter()).partition(is_it);
            let is_told = variant.is_told || same.iter().any(|same| same.is_told);
            let others = others.into_iter().cloned().collect();
            merge(Variant { is_told, ..variant }, others)
        });
    }
}

fn is_image(manifest: &VerifiedManifest) -> bool {
    matches!(manifest.media_type.kind(), Some(MediaTypeKind::OciManifest | MediaTypeKind::DockerManifest))
}

/// The image that a manifest describes, if it is an image's.
fn image(registry: &Registry, repository: &Repository, manifest: &VerifiedManifest) -> Option<(Image, Variant)> {
    if !is_image(manifest) || manifest.bytes.len() > MAX_MANIFEST {
        return None;
    }
    let Content::Image { config, layers } = Manifest::parse(&manifest.bytes).ok()?.content else { return None };
    if layers.len() > MAX_LAYERS {
        return None;
    }
    let is_artifact = config.media_type.essence() == EMPTY_CONFIG;
    let image = Image { registry: registry.clone(), repository: repository.clone(), config: config.digest };
    // The manifests of older images repeat the empty layer.
    let mut seen = HashSet::new();
    let layers = layers.iter().filter(|layer| !is_artifact && layer.is_distributable() && seen.insert(&layer.digest));
    let (manifest, layers) = (manifest.digest.clone(), layers.map(Layer::of).collect());
    Some((image, Variant { manifest, layers, is_told: false }))
}

impl Image {
    /// The image whose configuration this blob may be.
    pub(super) fn of(config: &Source) -> Self {
        Self {
            registry: config.upstream.registry().clone(),
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

    fn manifest(media_type: MediaType, layers: &[(&str, &str, u64)]) -> VerifiedManifest {
        of_config("a/b", media_type, layers)
    }

    fn of_config(kind: &str, media_type: MediaType, layers: &[(&str, &str, u64)]) -> VerifiedManifest {
        let layers: Vec<String> = layers
            .iter()
            .map(|(kind, of, size)| {
                format!(r#"{{"mediaType":"application/{kind}","digest":"{}","size":{size}}}"#, digest(of))
            })
            .collect();
        let bytes = format!(
            r#"{{"schemaVersion":2,"mediaType":"{media_type}","config":{{"mediaType":"{kind}","digest":"{}","size":2}},"layers":[{}]}}"#,
            digest("config"),
            layers.join(",")
        );
        let (media_type, bytes) = (Some(media_type), Bytes::from(bytes));
        let (age, resident_time) = Default::default();
        let body = ManifestBody {
            media_type,
            digest: None,
            bytes,
            age,
            resident_time,
            notes: Default::default(),
            room: Default::default(),
        };
        let reference: Reference = "1".parse().unwrap();
        VerifiedManifest::verified(&reference, body).unwrap()
    }

    fn place(upstream: &str, repository: &str) -> Image {
        let registry = Registry::new(&upstream.into(), &[format!("https://{upstream}").parse().unwrap()]);
        Image { registry, repository: repository.parse().unwrap(), config: digest("config") }
    }

    const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

    /// The layers that forebay prefetches for a client that reads these manifests and then the configuration.
    fn layers(images: &Images, of: &Image, read: &[&VerifiedManifest]) -> Option<Vec<(Digest, u64)>> {
        for manifest in read {
            images.note_read(&of.registry, &of.repository, manifest, CLIENT);
        }
        let layers = images.read_by(CLIENT, of)?.layers;
        Some(layers.iter().map(|layer| (layer.digest.clone(), layer.size)).collect())
    }

    fn noted(media_type: MediaType, of: &[(&str, &str, u64)]) -> Option<Vec<(Digest, u64)>> {
        let (images, place, manifest) = (Images::default(), place("a", "b"), manifest(media_type, of));
        images.note(&place.registry, &place.repository, &manifest);
        layers(&images, &place, &[&manifest])
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
        // A manifest with the empty configuration is an artifact's: no layers follow from a client's read of that
        // configuration.
        let (images, place) = (Images::default(), place("a", "b"));
        let artifact = of_config(EMPTY_CONFIG, MediaType::OCI_MANIFEST, &layers);
        images.note(&place.registry, &place.repository, &artifact);
        assert_eq!(self::layers(&images, &place, &[&artifact]), Some(vec![]));
        // A document that is too long for an image's manifest is not parsed.
        let long = "a".repeat(MAX_MANIFEST);
        assert_eq!(noted(MediaType::OCI_MANIFEST, &[(&long, "a", 5)]), None);
    }

    #[test]
    fn a_configuration_means_what_its_own_repository_says() {
        const KIND: &str = "vnd.oci.image.layer.v1.tar";
        let images = Images::default();
        let ours = place("good.example", "team/app");
        let true_one = manifest(MediaType::OCI_MANIFEST, &[(KIND, "true", 1)]);
        let invented = manifest(MediaType::OCI_MANIFEST, &[(KIND, "invented", 1)]);
        images.note(&ours.registry, &ours.repository, &true_one);
        for other in [place("evil.example", "team/app"), place("good.example", "team/evil")] {
            images.note(&other.registry, &other.repository, &invented);
            assert_eq!(layers(&images, &other, &[&invented]), Some(vec![(digest("invented"), 1)]));
            // A read in that repository says nothing about this one.
            images.note_read(&other.registry, &other.repository, &invented, CLIENT);
        }
        assert_eq!(layers(&images, &ours, &[]), None);
        // The manifests of those repositories are on disk, and a client may request them here by digest.
        images.recall(&ours.registry, &ours.repository, &invented);
        assert_eq!(layers(&images, &ours, &[&true_one]), Some(vec![(digest("true"), 1)]));
    }

    /// Several images share one configuration: the same layers in gzip and in zstd, or artifacts.
    #[test]
    fn of_images_with_one_config_the_manifest_read_last_counts() {
        const KIND: &str = "vnd.oci.image.layer.v1.tar";
        let (images, ours) = (Images::default(), place("good.example", "team/app"));
        let [gzip, zstd] = ["gzip", "zstd"].map(|of| manifest(MediaType::OCI_MANIFEST, &[(KIND, of, 1)]));
        images.note(&ours.registry, &ours.repository, &gzip);
        images.note(&ours.registry, &ours.repository, &zstd);
        let expected = |of: &str| Some(vec![(digest(of), 1)]);
        assert_eq!(layers(&images, &ours, &[&gzip]), expected("gzip"));
        assert_eq!(layers(&images, &ours, &[&zstd]), expected("zstd"));
        // Neither another client's read counts for this client, nor a read that this client's request for the
        // configuration has used up.
        let other = IpAddr::from([192, 0, 2, 2]);
        images.note_read(&ours.registry, &ours.repository, &gzip, other);
        assert_eq!(layers(&images, &ours, &[]), None);
        // Which of both images the client wants is not known, now or later.
        assert_eq!(layers(&images, &ours, &[&gzip, &zstd]), None);
        assert_eq!(layers(&images, &ours, &[]), None);
        assert_eq!(layers(&images, &ours, &[&zstd]), expected("zstd"));
        assert!(images.read_by(other, &ours).is_some());
        // A manifest that is noted again, from either source, adds no variant.
        images.recall(&ours.registry, &ours.repository, &zstd);
        images.note(&ours.registry, &ours.repository, &zstd);
        assert_eq!(images.known.get(&ours).unwrap().len(), 2);
    }

    #[test]
    fn an_upstreams_word_stays_before_what_was_on_disk() {
        const KIND: &str = "vnd.oci.image.layer.v1.tar";
        let (images, ours) = (Images::default(), place("good.example", "team/app"));
        let names: Vec<String> = (0..3 * MAX_VARIANTS).map(|number| number.to_string()).collect();
        let all: Vec<VerifiedManifest> =
            names.iter().map(|name| manifest(MediaType::OCI_MANIFEST, &[(KIND, name, 1)])).collect();
        let known = |read: &VerifiedManifest| layers(&images, &ours, &[read]).is_some();
        let (first, rest) = all.split_first().unwrap();
        images.note(&ours.registry, &ours.repository, first);
        for other in rest {
            images.recall(&ours.registry, &ours.repository, other);
        }
        assert_eq!(all.iter().filter(|manifest| known(manifest)).count(), MAX_VARIANTS);
        assert!(known(first) && !known(rest.last().unwrap()));
        images.note(&ours.registry, &ours.repository, rest.last().unwrap());
        // The client read it before, when it was not known.
        assert!(known(rest.last().unwrap()) && known(first));
    }

    #[test]
    fn memory_is_bounded_by_layers_and_the_newest_stay() {
        const KIND: &str = "vnd.oci.image.layer.v1.tar";
        let names: Vec<String> = (0..=MAX_LAYERS).map(|number| number.to_string()).collect();
        let many: Vec<(&str, &str, u64)> = names.iter().map(|name| (KIND, &**name, 1)).collect();
        let most = manifest(MediaType::OCI_MANIFEST, &many[..MAX_LAYERS]);
        let images = Images::default();
        let weight = (IMAGE_WEIGHT + MAX_LAYERS * LAYER_WEIGHT) as u64;
        let places: Vec<Image> =
            (0..2 * MAX_MEMORY / weight).map(|number| place("a", &format!("b/{number}"))).collect();
        for place in &places {
            images.note(&place.registry, &place.repository, &most);
        }
        images.known.run_pending_tasks();
        let held = images.known.weighted_size();
        assert!(held <= MAX_MEMORY && held > MAX_MEMORY / 2, "{held} bytes");
        assert!(images.known.contains_key(places.last().unwrap()) && !images.known.contains_key(&places[0]));
        assert_eq!(noted(MediaType::OCI_MANIFEST, &many), None, "one more is no image");
    }
}
