//! Collects what belongs to the images of an archive, and downloads what is not here.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};

use super::{ExportImage, ExportProblem, ExportsInner, Gathered, KeptBlob, docker};
use crate::{
    cache::{ManifestRequest, Source, manifest::VerifiedManifest},
    error_chain::ErrorChain,
    oci::{Accept, Content, Descriptor, Digest, Manifest, Platform, Reference, layout::LayoutImage},
    rule::Subject,
};

/// How many blobs of an image are downloaded at a time.
const MAX_AT_ONCE: usize = 4;
/// How many manifests and blobs an archive has.
const MAX_OBJECTS: usize = 20_000;
/// How many bytes of manifests.
const MAX_MANIFESTS: usize = 64 * 1024 * 1024;
/// How deep indices may name indices.
const MAX_DEPTH: usize = 4;
/// How many problems of one image are told.
const MAX_PROBLEMS: usize = 10;

/// The collection of one archive.
pub(super) struct Gathering<'a> {
    exports: &'a ExportsInner,
    /// The wanted ones; all if it is empty.
    platforms: &'a [Platform],
    gathered: Gathered,
    /// By the index of an image, its manifest that Docker gets.
    for_docker: HashMap<Digest, Digest>,
    /// What is in the archive, or was tried.
    seen: HashSet<Digest>,
    bytes: usize,
    problems: Vec<ExportProblem>,
}

/// A manifest that belongs to an image.
struct Child {
    digest: Digest,
    platform: Option<Platform>,
    depth: usize,
}

impl<'a> Gathering<'a> {
    pub(super) fn new(exports: &'a ExportsInner, platforms: &'a [Platform]) -> Self {
        let (gathered, for_docker) = (Gathered::default(), HashMap::new());
        Self { exports, platforms, gathered, for_docker, seen: HashSet::new(), bytes: 0, problems: Vec::new() }
    }

    /// Adds an image, or notes what keeps it out.
    pub(super) async fn add(&mut self, image: &ExportImage) {
        let mut problems = Vec::new();
        if let Err(problem) = self.add_image(image, &mut problems).await {
            problems.push(problem);
        }
        let named = problems.into_iter().take(MAX_PROBLEMS);
        self.problems.extend(named.map(|why| ExportProblem { name: image.name.clone(), why }));
    }

    /// All of it.
    ///
    /// # Errors
    /// Something is missing.
    pub(super) async fn end(mut self) -> Result<Gathered, Vec<ExportProblem>> {
        if !self.problems.is_empty() {
            return Err(self.problems);
        }
        let manifests: HashMap<&Digest, &Bytes> =
            self.gathered.manifests.iter().map(|(digest, bytes)| (digest, bytes)).collect();
        let named = self.gathered.images.iter().filter_map(|LayoutImage { manifest, name }| {
            let chosen = self.for_docker.get(&manifest.digest).unwrap_or(&manifest.digest);
            Some((name.clone()?, Bytes::clone(manifests.get(chosen)?)))
        });
        let named: Vec<(String, Bytes)> = named.collect();
        let len = named.iter().map(|(_, manifest)| manifest.len()).sum();
        self.gathered.docker_list = self.exports.documents.read(len, move || docker::list(&named)).await.flatten();
        Ok(self.gathered)
    }

    async fn add_image(&mut self, image: &ExportImage, problems: &mut Vec<String>) -> Result<(), String> {
        let request = ManifestRequest {
            upstream: image.upstream.clone(),
            repository: image.repository.clone(),
            accept: Accept::of_images(),
            tag_digest: None,
        };
        let subject = || Some(Subject::reference(image.upstream.name(), &image.repository, &image.reference));
        if let Some(rule) = self.exports.manifests.rules().denial(image.upstream.name(), subject) {
            return Err(format!("the rule {rule} denies it"));
        }
        let root = self.manifest(&request, &image.reference).await?;
        self.gathered.images.push(LayoutImage {
            manifest: Descriptor {
                media_type: root.media_type.clone(),
                digest: root.digest.clone(),
                size: root.bytes.len() as u64,
            },
            name: Some(image.name.clone()),
        });
        let mut next = vec![(root, 0)];
        while let Some((manifest, depth)) = next.pop() {
            let children = self.add_manifest(&request, &manifest, depth, problems).await?;
            if depth == 0 {
                let platforms: Vec<_> =
                    children.iter().map(|child| (child.platform.clone(), child.digest.clone())).collect();
                self.for_docker.extend(docker::chosen(&platforms).map(|chosen| (manifest.digest.clone(), chosen)));
            }
            for child in children {
                match self.manifest(&request, &Reference::Digest(child.digest)).await {
                    Ok(manifest) => next.push((manifest, child.depth)),
                    Err(problem) => problems.push(problem),
                }
            }
            if problems.len() > MAX_PROBLEMS {
                break;
            }
        }
        Ok(())
    }

    async fn manifest(
        &self,
        request: &ManifestRequest,
        reference: &Reference,
    ) -> Result<Arc<VerifiedManifest>, String> {
        let manifests = &self.exports.manifests;
        let meant = manifests.meant(request, reference).await;
        meant.map_err(|error| format!("{}: {}", told(reference), ErrorChain(&error)))
    }

    /// Adds a manifest and, of an image, its blobs. Returns the manifests of an index.
    async fn add_manifest(
        &mut self,
        request: &ManifestRequest,
        manifest: &VerifiedManifest,
        depth: usize,
        problems: &mut Vec<String>,
    ) -> Result<Vec<Child>, String> {
        if !self.seen.insert(manifest.digest.clone()) {
            return Ok(Vec::new());
        }
        self.bytes = self.bytes.saturating_add(manifest.bytes.len());
        if self.bytes > MAX_MANIFESTS || self.seen.len() > MAX_OBJECTS {
            return Err("this is too much for one archive: export fewer images at a time".to_owned());
        }
        self.gathered.manifests.push((manifest.digest.clone(), manifest.bytes.clone()));
        let bytes = manifest.bytes.clone();
        let read = move || (Manifest::parse(&bytes), Platform::of_index(&bytes));
        let (parsed, platforms) =
            self.exports.documents.read(manifest.bytes.len(), read).await.ok_or("forebay is about to end")?;
        match parsed.map_err(|error| format!("{} is no image: {error}", manifest.digest))?.content {
            Content::Index { .. } if depth >= MAX_DEPTH => Err("its indices name indices, too deep".to_owned()),
            Content::Index { manifests } => chosen(&manifests, &platforms, self.platforms, depth),
            Content::Image { config, layers } => {
                let blobs = layers.into_iter().filter(Descriptor::is_distributable).chain([config]);
                self.add_blobs(request, blobs.collect(), problems).await?;
                Ok(Vec::new())
            }
        }
    }

    async fn add_blobs(
        &mut self,
        request: &ManifestRequest,
        mut blobs: Vec<Descriptor>,
        problems: &mut Vec<String>,
    ) -> Result<(), String> {
        blobs.retain(|blob| self.seen.insert(blob.digest.clone()));
        if self.seen.len() > MAX_OBJECTS {
            return Err("these are too many blobs for one archive: export fewer images at a time".to_owned());
        }
        let exports = self.exports;
        let kept = stream::iter(blobs).map(|blob| async move { exports.keep(request, &blob).await });
        let mut kept = kept.buffered(MAX_AT_ONCE);
        while let Some(kept) = kept.next().await {
            match kept {
                Ok(blob) => self.gathered.blobs.push(blob),
                Err(problem) => problems.push(problem),
            }
        }
        Ok(())
    }
}

impl ExportsInner {
    /// Gets a blob, and keeps it here.
    async fn keep(&self, request: &ManifestRequest, blob: &Descriptor) -> Result<KeptBlob, String> {
        let ManifestRequest { upstream, repository, .. } = request;
        let (digest, size) = (&blob.digest, blob.size);
        let source = Source { upstream: upstream.clone(), repository: repository.clone(), digest: digest.clone() };
        let id = source.id();
        let kept = self.blobs.fetch_kept(&source).await;
        let stored = kept.map_err(|error| format!("the blob {digest}: {}", ErrorChain(&error)))?;
        if stored.len != size {
            return Err(format!("the blob {digest} has {} bytes, and the manifest says {size}", stored.len));
        }
        Ok(KeptBlob { id, len: stored.len, _pin: stored.pin })
    }
}

/// The manifests of an index that are wanted.
fn chosen(
    manifests: &[Descriptor],
    platforms: &[Option<Platform>],
    wanted: &[Platform],
    depth: usize,
) -> Result<Vec<Child>, String> {
    let is_wanted = |platform: &Option<Platform>| {
        wanted.is_empty() || platform.as_ref().is_some_and(|platform| wanted.iter().any(|wanted| platform.is_a(wanted)))
    };
    let all = manifests.iter().zip(platforms.iter().chain(std::iter::repeat(&None)));
    let chosen = all.filter(|(_, platform)| is_wanted(platform));
    let child = |(manifest, platform): (&Descriptor, &Option<Platform>)| Child {
        digest: manifest.digest.clone(),
        platform: platform.clone(),
        depth: depth + 1,
    };
    let children: Vec<Child> = chosen.map(child).collect();
    if let Some(missing) =
        wanted.iter().find(|wanted| !platforms.iter().flatten().any(|platform| platform.is_a(wanted)))
    {
        let known: Vec<&str> = platforms.iter().flatten().map(Platform::as_str).take(20).collect();
        return Err(format!("there is none for {missing}; there are {}", known.join(", ")));
    }
    Ok(children)
}

/// A reference for people.
fn told(reference: &Reference) -> String {
    match reference {
        Reference::Tag(tag) => format!("the tag {tag}"),
        Reference::Digest(digest) => format!("the manifest {digest}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::{Algorithm, MediaType};

    #[test]
    fn the_wanted_platforms_of_an_index_are_chosen() {
        let platform = |text: &str| text.parse::<Platform>().ok();
        let names = ["linux/amd64", "linux/arm64/v8", "linux/arm/v7", "", "windows/amd64"];
        let platforms = names.map(platform);
        let manifests = names.map(|name| Descriptor {
            media_type: MediaType::OCI_MANIFEST,
            digest: Digest::of(Algorithm::Sha256, name.as_bytes()),
            size: 1,
        });
        for (wanted, expected) in [
            (&[][..], Some(&[0, 1, 2, 3, 4][..])),
            (&["linux/amd64"], Some(&[0])),
            (&["linux/arm64", "windows/amd64"], Some(&[1, 4])),
            (&["linux/arm/v7"], Some(&[2])),
            (&["linux/arm"], Some(&[2])),
            (&["linux/arm/v6"], None),
            (&["linux/amd64", "linux/s390x"], None),
        ] {
            let wanted: Vec<Platform> = wanted.iter().filter_map(|text| platform(text)).collect();
            let chosen = chosen(&manifests, &platforms, &wanted, 0).ok();
            let digests = chosen.map(|chosen| chosen.into_iter().map(|child| child.digest).collect::<Vec<_>>());
            let expected = expected.map(|places| places.iter().map(|place| manifests[*place].digest.clone()).collect());
            assert_eq!(digests, expected, "{wanted:?}");
        }
    }
}
