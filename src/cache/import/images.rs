//! The images of an archive that has come: they are checked first, and named last.

use std::collections::HashSet;

use bytes::Bytes;

use super::{Import, ImportError, ImportsInner, receive::Received};
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
    /// Gives the images their names, after the last byte of the archive. That goes on when this is dropped: some may have
    /// their names by then.
    ///
    /// # Errors
    /// The archive is not whole, a part of an image is missing, or pins have no room for all: then no image is named.
    pub(crate) async fn finish(self, targets: Vec<ImportTarget>) -> Result<Vec<Imported>, ImportError> {
        let tasks = self.imports.tasks.clone();
        tasks.spawn(self.take(targets)).await.map_err(|_| ImportError::End)?
    }

    async fn take(mut self, targets: Vec<ImportTarget>) -> Result<Vec<Imported>, ImportError> {
        self.check_end()?;
        let (checked, objects) = self.check_all(targets).await?;
        let ImportsInner { manifests, pins, .. } = &*self.imports;
        for (target, found) in &checked {
            let request = request(target);
            for (descriptor, bytes) in &found.manifests {
                let written = manifests.import_manifest(&request, descriptor, bytes.clone()).await;
                written.map_err(|error| not_written(target, &error.to_string()))?;
            }
        }
        // All of them are here, and stay: from now on they have names.
        let names = checked.iter().map(|(target, _)| target.name.clone()).collect();
        let pinned = pins.pin_imports(names, objects).await?;
        let (mut named, mut imported, mut problem) = (Vec::new(), Vec::new(), None);
        for (target, found) in checked {
            let digest = &target.image.manifest.digest;
            if let Err(error) = manifests.import_name(&request(&target), &target.name.reference, digest).await {
                problem = Some(not_written(&target, &ErrorChain(&error).to_string()));
                break;
            }
            tracing::info!(image = %target.name, %digest, "an image was imported");
            imported.push(Imported { name: target.name.to_string(), digest: digest.clone(), bytes: found.bytes });
            named.push(target.name);
        }
        named.retain(|name| manifests.is_imported(name));
        let ended = pinned.end(named).await;
        match problem {
            Some(problem) => Err(problem),
            None => ended.map(|()| imported).map_err(ImportError::from),
        }
    }

    /// The images, if nothing of them is missing, and what they consist of.
    async fn check_all(
        &mut self,
        targets: Vec<ImportTarget>,
    ) -> Result<(Vec<(ImportTarget, Checked)>, HashSet<CompactKey>), ImportError> {
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
        Ok((checked, sum.objects))
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

#[cfg(test)]
mod tests {
    use std::{future::Future as _, pin::pin, task::Poll};

    use serde_json::json;

    use super::*;
    use crate::{
        cache::{BlobCache, CacheContext, Images, ManifestCache, Removal, import::Imports, removal::RemovalError},
        oci::{Algorithm, layout::blob_path},
        tar::{END, file_header, padding},
        upstream::{Config, Context},
    };

    struct Fixture {
        _directory: tempfile::TempDir,
        context: CacheContext,
        manifests: ManifestCache,
        imports: Imports,
        removal: Removal,
    }

    impl Fixture {
        async fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let context = CacheContext::of_test(directory.path()).await;
            let CacheContext { store, inventory, pins, tasks, end, .. } = context.clone();
            tasks.spawn(inventory.clone().run(end.clone()));
            let manifests = ManifestCache::new(context.clone(), Images::default());
            let blobs = BlobCache::new(context.clone(), Images::default());
            let removal = Removal::new(
                (store.clone(), manifests.clone(), blobs.clone()),
                (inventory, pins.clone()),
                (tasks.clone(), end),
            );
            let imports = Imports::new((store, pins), (manifests.clone(), blobs), (tasks, removal.turn()));
            Self { _directory: directory, context, manifests, imports, removal }
        }
    }

    /// An archive of an image with this name, and without layers.
    fn archive(name: &str) -> Vec<u8> {
        let descriptor = |kind: &str, content: &str| {
            let digest = Digest::of(Algorithm::Sha256, content.as_bytes());
            (json!({ "mediaType": kind, "digest": digest.as_str(), "size": content.len() }), blob_path(&digest))
        };
        let configuration = json!({ "architecture": "arm64", "os": "linux" }).to_string();
        let (config, of_configuration) = descriptor("application/vnd.oci.image.config.v1+json", &configuration);
        let manifest = json!({ "schemaVersion": 2, "config": config, "layers": [] }).to_string();
        let (mut entry, of_manifest) = descriptor("application/vnd.oci.image.manifest.v1+json", &manifest);
        entry["annotations"] = json!({ "org.opencontainers.image.ref.name": name });
        let index = json!({ "schemaVersion": 2, "manifests": [entry] }).to_string();
        let mut archive = Vec::new();
        for (name, content) in [
            ("oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#),
            ("index.json", &index),
            (&*of_manifest, &manifest),
            (&*of_configuration, &configuration),
        ] {
            archive.extend(file_header(name, content.len() as u64));
            archive.extend(content.as_bytes());
            archive.extend(vec![0; padding(content.len() as u64)]);
        }
        [archive, END.to_vec()].concat()
    }

    #[tokio::test]
    async fn names_are_given_also_if_the_client_leaves() {
        let fixture = Fixture::new().await;
        let name = ImageName::parse(Visibility::Shared, "hub/team/app:1").unwrap();
        let mut import = fixture.imports.begin(None).unwrap();
        import.push(archive(&name.to_string()).into()).await.unwrap();
        let upstream = Upstream::new(&Config::at("hub", &["https://a.test"]), Context::of_test()).unwrap();
        let image = import.images().unwrap()[0].clone();
        {
            let mut finish = pin!(import.finish(vec![ImportTarget { image, name: name.clone(), upstream }]));
            let polled = std::future::poll_fn(|context| Poll::Ready(finish.as_mut().poll(context))).await;
            assert!(polled.is_pending());
        }
        let CacheContext { tasks, end, pins, .. } = &fixture.context;
        // The import has its turn until it is over.
        let turn = fixture.removal.turn().acquire_owned().await.unwrap();
        assert!(fixture.manifests.is_imported(&name));
        assert!(pins.get(&name.to_string()).is_some_and(|pin| pin.is_imported));
        drop(turn);
        end.cancel();
        tasks.close();
        tasks.wait().await;
    }

    #[tokio::test]
    async fn an_import_and_a_removal_take_turns() {
        let Fixture { imports, removal, .. } = &Fixture::new().await;
        let planned = removal.plan(|_, _| true).await.unwrap();
        assert!(matches!(imports.begin(None).err(), Some(ImportError::Removal)));
        drop(planned);
        let import = imports.begin(None).unwrap();
        assert_eq!(removal.plan(|_, _| true).await.err(), Some(RemovalError::Busy));
        assert!(matches!(imports.begin(None).err(), Some(ImportError::Busy)));
        drop(import);
        assert!(removal.plan(|_, _| true).await.is_ok());
    }
}
