//! The images of an archive that has come: they are checked first, and named last.

use std::{collections::HashSet, sync::Arc};

use bytes::Bytes;

use super::{Import, ImportError, receive::Received};
use crate::{
    cache::{
        ManifestRequest, Visibility,
        inventory::ImageName,
        storage::lru_index::{CompactKey, IndexKey},
    },
    error_chain::ErrorChain,
    oci::{Accept, Content, Descriptor, Digest, Manifest, Reference, layout::LayoutImage},
    upstream::Upstream,
};

/// How deep indices may name indices.
const MAX_DEPTH: usize = 4;
/// How many problems are told.
const MAX_PROBLEMS: usize = 20;
/// How many manifests all images may have. One that several images have counts for each of them: a small archive can name
/// the same thousands again and again.
const MAX_MANIFESTS: usize = 50_000;
/// How many bytes of manifests are read of all images, counted in the same way.
const MAX_MANIFEST_BYTES: u64 = 256 * 1024 * 1024;

/// Which image gets which name.
#[derive(Clone)]
pub(crate) struct ImportTarget {
    pub image: LayoutImage,
    pub name: ImageName,
    pub upstream: Upstream,
}

/// An image that was imported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Imported {
    pub name: String,
    pub digest: Digest,
    /// The bytes of its manifests and blobs.
    pub bytes: u64,
}

/// The manifests of an image, those that others name first.
#[derive(Default)]
struct Checked {
    manifests: Vec<(Descriptor, Bytes)>,
    bytes: u64,
}

/// How many manifests the images that were checked have, with their bytes, and what they consist of: each object once.
#[derive(Default)]
struct Sum {
    manifests: usize,
    bytes: u64,
    objects: HashSet<CompactKey>,
}

impl Sum {
    /// Counts a manifest.
    fn add(&mut self, len: usize) -> Result<(), ImportError> {
        self.manifests += 1;
        self.bytes = self.bytes.saturating_add(len as u64);
        let is_too_much = self.manifests > MAX_MANIFESTS || self.bytes > MAX_MANIFEST_BYTES;
        if is_too_much { Err(ImportError::TooManyManifests) } else { Ok(()) }
    }
}

impl Import {
    /// Gives the images their names, after the last byte of the archive.
    ///
    /// # Errors
    /// The archive is not whole, a part of an image is missing, or pins have no room for all: then no image is named.
    pub(crate) async fn finish(mut self, targets: Vec<ImportTarget>) -> Result<Vec<Imported>, ImportError> {
        self.check_end()?;
        let (mut checked, mut problems, mut sum) = (Vec::new(), Vec::new(), Sum::default());
        for target in targets {
            match self.check(&target, &mut sum).await? {
                Ok(found) => checked.push((target, found)),
                Err(missing) => problems.extend(missing.into_iter().map(|why| format!("{}: {why}", target.name))),
            }
            if problems.len() >= MAX_PROBLEMS {
                break;
            }
        }
        if !problems.is_empty() {
            problems.truncate(MAX_PROBLEMS);
            return Err(ImportError::Incomplete(problems));
        }
        let mut imported = Vec::new();
        for (target, found) in &checked {
            let request = request(target);
            for (descriptor, bytes) in &found.manifests {
                let written = self.imports.manifests.import_manifest(&request, descriptor, bytes.clone()).await;
                written.map_err(|error| not_written(target, &error.to_string()))?;
            }
        }
        // All of them are here, and stay: from now on they have names.
        let names = Arc::new(checked.iter().map(|(target, _)| target.name.clone()).collect::<Vec<_>>());
        self.imports.pins.pin_imports(names.clone(), sum.objects).await?;
        for (target, found) in checked {
            let request = request(&target);
            let digest = &target.image.manifest.digest;
            let named = self.imports.manifests.import_name(&request, &target.name.reference, digest).await;
            named.map_err(|error| not_written(&target, &ErrorChain(&error).to_string()))?;
            tracing::info!(image = %target.name, %digest, "an image was imported");
            imported.push(Imported { name: target.name.to_string(), digest: digest.clone(), bytes: found.bytes });
        }
        self.imports.pins.note_imported(names).await;
        Ok(imported)
    }

    /// Collects what belongs to an image; inside, what is missing.
    async fn check(
        &mut self,
        target: &ImportTarget,
        sum: &mut Sum,
    ) -> Result<Result<Checked, Vec<String>>, ImportError> {
        let request = request(target);
        let (mut checked, mut problems) = (Checked::default(), Vec::new());
        let key_of = |digest: &Digest| Visibility::of(&target.upstream).key(digest);
        let mut seen = HashSet::new();
        let mut next = vec![(target.image.manifest.clone(), 0)];
        while let Some((descriptor, depth)) = next.pop() {
            if !seen.insert(descriptor.digest.clone()) {
                continue;
            }
            if depth > MAX_DEPTH {
                problems.push("its indices name indices, too deep".to_owned());
            }
            if problems.len() >= MAX_PROBLEMS || depth > MAX_DEPTH {
                break;
            }
            let digest = &descriptor.digest;
            let Some(bytes) = self.manifest(&request, &descriptor).await else {
                // A layout may leave out what an index names, for example other platforms.
                if depth == 0 {
                    problems.push(format!("the manifest {digest} is missing"));
                }
                continue;
            };
            sum.add(bytes.len())?;
            // Thousands of short ones are read without a wait otherwise, and a thread serves no client meanwhile.
            tokio::task::yield_now().await;
            checked.bytes += bytes.len() as u64;
            let (document, len) = (bytes.clone(), bytes.len());
            let parsed = self.imports.documents.read(len, move || Manifest::parse(&document)).await;
            match parsed.ok_or(ImportError::End)? {
                Ok(Manifest { content: Content::Index { manifests }, .. }) => {
                    next.extend(manifests.into_iter().map(|child| (child, depth + 1)));
                }
                Ok(Manifest { content: Content::Image { config, layers }, .. }) => {
                    let blobs = layers.into_iter().filter(Descriptor::is_distributable).chain([config]);
                    for blob in blobs {
                        if problems.len() >= MAX_PROBLEMS {
                            break;
                        }
                        match self.blob(&blob).await? {
                            Some(size) if size == blob.size => {
                                checked.bytes += size;
                                sum.objects.insert((&IndexKey::Blob(key_of(&blob.digest))).into());
                            }
                            Some(size) => {
                                problems.push(format!("the blob {} has {size} bytes, not {}", blob.digest, blob.size))
                            }
                            None => problems.push(format!("the blob {} is missing", blob.digest)),
                        }
                    }
                }
                Err(error) => problems.push(format!("{digest} is no image: {error}")),
            }
            sum.objects.insert((&IndexKey::Manifest(key_of(&descriptor.digest))).into());
            checked.manifests.push((descriptor, bytes));
        }
        if problems.is_empty() && checked.manifests.len() == 1 && is_index(&checked.manifests) {
            problems.push("none of the manifests of its index is in the archive".to_owned());
        }
        // Those that others name first: none is ever here without them.
        checked.manifests.reverse();
        Ok(if problems.is_empty() { Ok(checked) } else { Err(problems) })
    }

    /// The manifest of a descriptor: of the archive, or of the cache.
    async fn manifest(&self, request: &ManifestRequest, descriptor: &Descriptor) -> Option<Bytes> {
        if let Some(bytes) = self.received.manifests.get(&descriptor.digest) {
            return Some(bytes.clone());
        }
        let reference = Reference::Digest(descriptor.digest.clone());
        Some(self.imports.manifests.meant_here(request, &reference).await?.bytes.clone())
    }

    /// The size of a blob that is here, and stays until the end of the import.
    async fn blob(&mut self, blob: &Descriptor) -> Result<Option<u64>, ImportError> {
        let Received { blobs, manifests, .. } = &mut self.received;
        if let Some((size, _)) = blobs.get(&blob.digest) {
            return Ok(Some(*size));
        }
        // A configuration may look like a manifest.
        if let Some(content) = manifests.get(&blob.digest).cloned() {
            self.received.add_blob(&self.imports, blob.digest.clone(), content.clone()).await?;
            return Ok(Some(content.len() as u64));
        }
        let Some(stored) = self.imports.blobs.kept(&Visibility::Shared.key(&blob.digest)).await else {
            return Ok(None);
        };
        blobs.insert(blob.digest.clone(), (stored.len, stored.pin));
        Ok(Some(stored.len))
    }
}

fn request(target: &ImportTarget) -> ManifestRequest {
    ManifestRequest {
        upstream: target.upstream.clone(),
        repository: target.name.repository.clone(),
        accept: Accept::of_images(),
        tag_digest: None,
    }
}

fn is_index(manifests: &[(Descriptor, Bytes)]) -> bool {
    manifests.iter().any(|(_, bytes)| {
        let content = Manifest::parse(bytes).map(|manifest| manifest.content);
        matches!(content, Ok(Content::Index { manifests }) if !manifests.is_empty())
    })
}

fn not_written(target: &ImportTarget, why: &str) -> ImportError {
    ImportError::Incomplete(vec![format!("{}: {why}", target.name)])
}
