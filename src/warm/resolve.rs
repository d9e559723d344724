//! What an image consists of: from its name to the blobs of the platforms that are wanted.
//!
//! What must hold: a manifest that is cached costs no request; one that counts as a pull is not requested beyond the limit;
//! the number of manifests and blobs of an image is bounded.

use std::{
    collections::{BTreeSet, HashSet, VecDeque},
    sync::Arc,
};

use http::{HeaderMap, HeaderValue, header};

use super::{
    Warmer,
    failure::Failure,
    platforms::{Chosen, Platforms},
    pull_limit::PullLimit,
};
use crate::{
    cache::{
        ManifestError, ManifestRequest, Outcome, Source, Visibility, inventory::ImageName, manifest::VerifiedManifest,
    },
    error::ErrorKind,
    oci::{Accept, Content, Descriptor, Digest, Manifest, MediaTypeKind, Platform, Reference, Tag},
    route::{ImageRoute, NameError, RouteError, resolve_image},
    rule::Subject,
    upstream::Upstream,
};

/// How many manifests of one image are fetched.
const MAX_MANIFESTS: usize = 512;
/// How many blobs one image may have.
const MAX_BLOBS: usize = 20_000;
/// An index may name indices. No registry has more of them in each other.
const MAX_DEPTH: u32 = 3;

/// What clients accept that are built on containerd: BuildKit, CRI, and dockerd with its image store.
///
/// Source: containerd, `core/remotes/docker/resolver.go`, `Resolve`.
const ACCEPT: [&str; 5] = [
    MediaTypeKind::DockerManifest.as_str(),
    MediaTypeKind::DockerList.as_str(),
    MediaTypeKind::OciManifest.as_str(),
    MediaTypeKind::OciIndex.as_str(),
    "*/*",
];

/// An image whose manifests are cached.
pub(super) struct ResolvedImage {
    /// Its full name.
    pub name: String,
    pub digest: Digest,
    /// Where its blobs are fetched from.
    source: Source,
    /// Whether this run fetched a manifest.
    pub has_fetched: bool,
    /// Whether the upstream could not say what the tag means.
    pub is_stale: bool,
    /// The configurations and layers, each once.
    pub blobs: Vec<ImageBlob>,
    /// Why not all of the image is fetched.
    pub problem: Option<Failure>,
}

/// A configuration or a layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ImageBlob {
    pub digest: Digest,
    /// In bytes.
    pub size: u64,
}

/// An image that cannot be fetched.
pub(super) struct Unresolved {
    pub name: String,
    pub failure: Failure,
}

/// What a run wants of each image.
#[derive(Clone)]
pub(super) struct Wanted {
    pub platforms: Arc<Platforms>,
    pub pulls: Arc<PullLimit>,
}

/// What a tag means.
struct Meaning {
    digest: Digest,
    /// Whether the manifest was fetched to find out.
    has_fetched: bool,
    /// Whether the upstream could not be asked.
    is_stale: bool,
}

/// What a manifest names.
enum Parts {
    /// Of an index, the manifests that are wanted, and what it lacks.
    Manifests {
        chosen: Vec<Digest>,
        missing: Option<Failure>,
    },
    Blobs(Vec<ImageBlob>),
}

impl ResolvedImage {
    pub(super) fn visibility(&self) -> Visibility {
        Visibility::of(&self.source.upstream)
    }

    /// The length of its blobs.
    pub(super) fn bytes(&self) -> u64 {
        self.blobs.iter().fold(0, |sum: u64, blob| sum.saturating_add(blob.size))
    }

    /// Where one of its blobs is fetched from.
    pub(super) fn source_of(&self, digest: &Digest) -> Source {
        Source { digest: digest.clone(), ..self.source.clone() }
    }
}

impl Warmer {
    /// Finds what an image consists of, and fetches its manifests.
    ///
    /// # Errors
    /// The image cannot be fetched.
    pub(super) async fn resolve(self, image: String, wanted: Wanted) -> Result<ResolvedImage, Unresolved> {
        let written = || image.chars().take(1024).collect();
        let route = resolve_image(&self.routes.load(), &image).map_err(|error| Unresolved {
            name: written(),
            failure: match error {
                NameError::Route(RouteError::UnknownUpstream(name)) => Failure::unconfigured_upstream(&name),
                error => Failure::invalid_name(error.to_string()),
            },
        })?;
        let ImageRoute { upstream, repository, reference, .. } = route;
        let name = ImageName {
            visibility: Visibility::of(&upstream),
            upstream: upstream.name().clone(),
            repository,
            reference,
        };
        self.resolve_name(&name, upstream, &wanted)
            .await
            .map_err(|failure| Unresolved { name: name.to_string(), failure })
    }

    async fn resolve_name(
        &self,
        name: &ImageName,
        upstream: Upstream,
        wanted: &Wanted,
    ) -> Result<ResolvedImage, Failure> {
        let ImageName { repository, reference, .. } = name;
        if upstream.uses_client_credentials() {
            return Err(Failure::client_credentials(upstream.name()));
        }
        let subject = || Some(Subject::reference(upstream.name(), repository, reference));
        if let Some(rule) = self.manifests.rules().denial(upstream.name(), subject) {
            return Err(ErrorKind::DeniedByRule(rule).into());
        }
        let source = |digest: &Digest| Source {
            upstream: upstream.clone(),
            repository: repository.clone(),
            digest: digest.clone(),
        };
        let request = ManifestRequest {
            upstream: upstream.clone(),
            repository: repository.clone(),
            accept: accept(),
            tag_digest: None,
        };
        let meaning = match reference {
            Reference::Digest(digest) => Meaning { digest: digest.clone(), has_fetched: false, is_stale: false },
            Reference::Tag(tag) => self.meaning_of(&request, tag, &wanted.pulls).await?,
        };
        let Meaning { digest, has_fetched, is_stale } = meaning;
        let (name_text, source) = (name.to_string(), source(&digest));
        let (blobs, problem) = Default::default();
        let mut image = ResolvedImage { name: name_text, source, digest, has_fetched, is_stale, blobs, problem };
        self.walk(&request, &mut image, wanted).await?;
        self.inventory.note_image(name, &image.digest);
        Ok(image)
    }

    /// What a tag means.
    async fn meaning_of(&self, request: &ManifestRequest, tag: &Tag, pulls: &PullLimit) -> Result<Meaning, Failure> {
        let reference = Reference::Tag(tag.clone());
        let ManifestRequest { upstream, repository, accept, .. } = request;
        let rules = self.manifests.rules_of(upstream, repository, &reference);
        if (rules.hold.is_some() || rules.is_immutable)
            && let Some(held) = self.manifests.resolve_held(request, tag, &rules).await?
        {
            return Ok(Meaning { digest: held.digest, has_fetched: false, is_stale: held.outcome == Outcome::Stale });
        }
        let before = match self.manifests.cached_digest(upstream, repository, tag, accept).await {
            Some(digest) if self.has_manifest(request, &digest).await => Some(digest),
            _ => None,
        };
        // If the tag has moved away from a manifest that is cached, the HEAD brings the new manifest with it.
        if before.is_some() && pulls.is_used_up(upstream) {
            let head = upstream.head_manifest(repository, &reference, accept).await.map_err(ManifestError::Upstream)?;
            let unchanged = before.filter(|before| head.digest.as_ref() == Some(before));
            let digest = unchanged.ok_or_else(Failure::pull_limit)?;
            return Ok(Meaning { digest, has_fetched: false, is_stale: false });
        }
        let head = self.manifests.head(request, &reference).await?;
        let has_fetched = before.is_some_and(|before| before != head.digest)
            && matches!(head.outcome, Outcome::Miss | Outcome::Joined);
        if has_fetched {
            pulls.note_spent(upstream);
        }
        Ok(Meaning { digest: head.digest, has_fetched, is_stale: head.outcome == Outcome::Stale })
    }

    /// Fetches the manifests of an image from its own on, and notes their blobs.
    async fn walk(&self, request: &ManifestRequest, image: &mut ResolvedImage, wanted: &Wanted) -> Result<(), Failure> {
        let (mut manifests, mut blobs) = (HashSet::new(), HashSet::new());
        let mut next = VecDeque::from([(image.digest.clone(), 0)]);
        while let Some((digest, depth)) = next.pop_front() {
            if !manifests.insert(digest.clone()) {
                continue;
            }
            if manifests.len() > MAX_MANIFESTS || depth > MAX_DEPTH {
                return Err(Failure::too_many_parts("it has too many manifests"));
            }
            let (content, has_fetched) = self.manifest(request, &digest, &wanted.pulls).await?;
            image.has_fetched |= has_fetched;
            match self.read(content, wanted.platforms.clone()).await? {
                Parts::Manifests { chosen, missing } => {
                    if let Some(missing) = missing {
                        if chosen.is_empty() {
                            return Err(missing);
                        }
                        image.problem.get_or_insert(missing);
                    }
                    next.extend(chosen.into_iter().map(|digest| (digest, depth + 1)));
                }
                Parts::Blobs(found) => {
                    image.blobs.extend(found.into_iter().filter(|blob| blobs.insert(blob.digest.clone())));
                    if image.blobs.len() > MAX_BLOBS {
                        return Err(Failure::too_many_parts("it has too many layers"));
                    }
                }
            }
        }
        Ok(())
    }

    /// A manifest, and whether it was fetched for this.
    async fn manifest(
        &self,
        request: &ManifestRequest,
        digest: &Digest,
        pulls: &PullLimit,
    ) -> Result<(Arc<VerifiedManifest>, bool), Failure> {
        if !self.has_manifest(request, digest).await && !pulls.may_spend(&request.upstream) {
            return Err(Failure::pull_limit());
        }
        let served = self.manifests.get(request, &Reference::Digest(digest.clone())).await?;
        Ok((served.content, served.outcome != Outcome::Hit))
    }

    async fn has_manifest(&self, request: &ManifestRequest, digest: &Digest) -> bool {
        let ManifestRequest { upstream, repository, .. } = request.clone();
        self.manifests.media_type(&Source { upstream, repository, digest: digest.clone() }).await.is_some()
    }

    /// Reads a manifest off the threads that serve clients, if it is large.
    async fn read(&self, content: Arc<VerifiedManifest>, platforms: Arc<Platforms>) -> Result<Parts, Failure> {
        let len = content.bytes.len();
        let read = self.documents.read(len, move || Parts::of(&content.bytes, &platforms)).await;
        read.unwrap_or_else(|| Err(Failure::ending()))
    }
}

impl Parts {
    fn of(bytes: &[u8], platforms: &Platforms) -> Result<Self, Failure> {
        match Manifest::parse(bytes).map_err(Failure::unreadable)?.content {
            Content::Image { config, layers } => {
                let blobs = std::iter::once(config).chain(layers).filter(Descriptor::is_distributable);
                Ok(Self::Blobs(blobs.map(|Descriptor { digest, size, .. }| ImageBlob { digest, size }).collect()))
            }
            Content::Index { manifests } => {
                let mut offered = Platform::of_index(bytes);
                offered.resize(manifests.len(), None);
                let Chosen { positions, missing } = platforms.choose(&offered);
                let chosen = positions.iter().filter_map(|position| manifests.get(*position));
                let chosen = chosen.map(|manifest| manifest.digest.clone()).collect();
                let missing = (!missing.is_empty()).then(|| {
                    let there_are: BTreeSet<&str> = offered.iter().flatten().map(Platform::as_str).collect();
                    Failure::no_platform(&listed(missing.iter().map(Platform::as_str)), &listed(there_are))
                });
                Ok(Self::Manifests { chosen, missing })
            }
        }
    }
}

fn listed<'a>(texts: impl IntoIterator<Item = &'a str>) -> String {
    texts.into_iter().collect::<Vec<_>>().join(", ")
}

fn accept() -> Accept {
    let values = ACCEPT.map(|value| (header::ACCEPT, HeaderValue::from_static(value)));
    Accept::from_headers(&values.into_iter().collect::<HeaderMap>())
}

#[cfg(test)]
impl ResolvedImage {
    /// An image with these blobs, by their names and lengths.
    pub(super) fn of_test(name: &str, blobs: &[(&str, u64)]) -> Self {
        use crate::{
            oci::Algorithm,
            upstream::{Config, Context},
        };
        let digest = |name: &str| Digest::of(Algorithm::Sha256, name.as_bytes());
        let config = Config::at("registry.test", &["https://registry.test"]);
        let upstream = Upstream::new(&config, Context::of_test()).unwrap();
        let blobs = blobs.iter().map(|(name, size)| ImageBlob { digest: digest(name), size: *size }).collect();
        let (has_fetched, is_stale, problem) = Default::default();
        let source = Source { upstream, repository: "team/app".parse().unwrap(), digest: digest(name) };
        Self { name: name.to_owned(), digest: digest(name), source, has_fetched, is_stale, blobs, problem }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::oci::{Algorithm, MediaType};

    fn descriptor(name: &str, media_type: &str, size: u64) -> Value {
        let digest = Digest::of(Algorithm::Sha256, name.as_bytes());
        json!({ "mediaType": media_type, "digest": digest.as_str(), "size": size })
    }

    fn read(document: &Value) -> Result<Parts, Failure> {
        Parts::of(document.to_string().as_bytes(), &Platforms::parse(["linux/arm64", "linux/s390x"]).unwrap())
    }

    #[test]
    fn a_manifest_has_blobs_without_what_registries_do_not_store() {
        let foreign = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip";
        let document = json!({
            "schemaVersion": 2,
            "config": descriptor("config", "a/b", 1),
            "layers": [descriptor("layer", "a/b", 2), descriptor("windows", foreign, 3)],
        });
        let Parts::Blobs(blobs) = read(&document).unwrap() else { panic!("an image") };
        assert_eq!(blobs.iter().map(|blob| blob.size).collect::<Vec<_>>(), [1, 2]);
    }

    #[test]
    fn an_index_has_the_manifests_of_the_wanted_platforms() {
        let child = |name: &str, platform: Value| {
            let mut child = descriptor(name, MediaType::OCI_MANIFEST.as_str(), 9);
            child["platform"] = platform;
            child
        };
        let linux = |architecture: &str| json!({ "os": "linux", "architecture": architecture });
        let children = [child("a", linux("amd64")), child("b", linux("arm64")), child("c", Value::Null)];
        let Parts::Manifests { chosen, missing } = read(&json!({ "schemaVersion": 2, "manifests": children })).unwrap()
        else {
            panic!("an index")
        };
        assert_eq!(chosen, [Digest::of(Algorithm::Sha256, b"b")]);
        assert_eq!(missing.unwrap().why, "it has no linux/s390x; there are linux/amd64, linux/arm64");
    }

    #[test]
    fn what_is_no_manifest_is_a_failure() {
        for document in [json!(null), json!({ "schemaVersion": 1, "fsLayers": [] }), json!({ "schemaVersion": 2 })] {
            assert_eq!(read(&document).err().map(|failure| failure.word), Some("unreadable_manifest"), "{document}");
        }
    }
}
