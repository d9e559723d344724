//! One image in detail: its manifests, and what they name.

use std::collections::HashMap;

use super::{ImageName, Inventory, manifest_key, names::Named, page::Image, survey::Survey};
use crate::{
    cache::{
        ContentKey, Visibility,
        manifest::VerifiedManifest,
        storage::lru_index::{CompactKey, IndexKey},
    },
    oci::{Content, Descriptor, Digest, Manifest, MediaType, Platform},
};

/// How many manifests of an index are shown with what they name.
const MAX_MANIFESTS: usize = 256;
/// How many manifests, configurations and layers are shown in all.
const MAX_PARTS: usize = 4096;
/// How many bytes of manifests are read for one image: a thousand times what a large one has.
const MAX_READ: usize = 64 << 20;
/// How many other names are told for a blob.
const MAX_SHARED: usize = 5;

/// An image, and its manifests.
#[derive(Debug)]
pub(crate) struct Details {
    pub image: Image,
    /// `None`: its manifest is not here.
    pub media_type: Option<MediaType>,
    /// The manifests of an index, or the manifest itself.
    pub manifests: Vec<ManifestDetails>,
    /// How many manifests and layers are not shown because there are too many.
    pub left_out: usize,
}

/// What may still be shown of an image.
struct Room {
    parts: usize,
    bytes: usize,
    left_out: usize,
}

/// A manifest of an image.
#[derive(Debug)]
pub(crate) struct ManifestDetails {
    pub platform: Option<Platform>,
    pub manifest: Part,
    /// Empty if the manifest is not here, or names nothing that is known.
    pub configuration: Option<Part>,
    pub layers: Vec<Part>,
}

/// A manifest or a blob of an image.
#[derive(Debug)]
pub(crate) struct Part {
    pub digest: Digest,
    pub media_type: MediaType,
    /// In bytes, as the manifest says.
    pub size: u64,
    pub is_here: bool,
    /// Some of the other images that have it, and how many there are in all.
    pub shared_with: Vec<ImageName>,
    pub shares: usize,
}

impl Inventory {
    pub(super) fn details_now(&self, name: &ImageName) -> Option<Details> {
        let image = self.image_now(name)?;
        let root = image.digest.as_ref().map(|digest| name.visibility.key(digest));
        let read = root.as_ref().and_then(|root| self.peek_manifest(root));
        let Some((root, (media_type, bytes))) = root.zip(read) else {
            return Some(Details { image, media_type: None, manifests: Vec::new(), left_out: 0 });
        };
        let own = Descriptor { media_type: media_type.clone(), digest: root.digest, size: bytes.len() as u64 };
        let mut room = Room { parts: MAX_PARTS, bytes: MAX_READ, left_out: 0 };
        let mut manifests = match Manifest::parse(&bytes).map(|manifest| manifest.content) {
            Ok(Content::Index { manifests }) => {
                let platforms = Platform::of_index(&bytes).into_iter().chain(std::iter::repeat(None));
                self.manifests_of_index(name.visibility, manifests.into_iter().zip(platforms), &mut room)
            }
            Ok(content @ Content::Image { .. }) => {
                let platform = image.platforms.first().and_then(|state| state.platform.clone());
                vec![self.with_content(name.visibility, own, platform, Some(content), &mut room)]
            }
            Err(_) => vec![self.with_content(name.visibility, own, None, None, &mut room)],
        };
        self.find_shares(name, &mut manifests);
        Some(Details { image, media_type: Some(media_type), manifests, left_out: room.left_out })
    }

    fn manifests_of_index(
        &self,
        visibility: Visibility,
        children: impl Iterator<Item = (Descriptor, Option<Platform>)>,
        room: &mut Room,
    ) -> Vec<ManifestDetails> {
        let mut shown = Vec::new();
        for (child, platform) in children {
            if shown.len() == MAX_MANIFESTS || room.parts == 0 || room.bytes == 0 {
                room.left_out += 1;
                continue;
            }
            let read = self.peek_manifest(&visibility.key(&child.digest));
            let content = read.and_then(|(_, bytes)| {
                room.bytes = room.bytes.saturating_sub(bytes.len());
                Manifest::parse(&bytes).ok()
            });
            let content = content.map(|manifest| manifest.content);
            shown.push(self.with_content(visibility, child, platform, content, room));
        }
        shown
    }

    fn with_content(
        &self,
        visibility: Visibility,
        manifest: Descriptor,
        platform: Option<Platform>,
        content: Option<Content>,
        room: &mut Room,
    ) -> ManifestDetails {
        let part = |descriptor: Descriptor, key: CompactKey| {
            let Descriptor { media_type, digest, size } = descriptor;
            let is_here = self.0.store.bytes_on_disk(&key).is_some();
            Part { digest, media_type, size, is_here, shared_with: Vec::new(), shares: 0 }
        };
        let blob = |descriptor: Descriptor| {
            let key = blob_key(visibility, &descriptor.digest);
            part(descriptor, key)
        };
        let key = manifest_key(visibility, &manifest.digest);
        room.take(1);
        let (configuration, layers) = match content {
            Some(Content::Image { config, layers }) => {
                room.take(1);
                let count = room.take(layers.len());
                (Some(blob(config)), layers.into_iter().take(count).map(blob).collect())
            }
            Some(Content::Index { .. }) | None => (None, Vec::new()),
        };
        ManifestDetails { platform, manifest: part(manifest, key), configuration, layers }
    }

    /// The type and the bytes of a manifest on disk.
    fn peek_manifest(&self, id: &ContentKey) -> Option<(MediaType, Vec<u8>)> {
        let key = IndexKey::Manifest(id.clone());
        let file = self.0.store.peek(&key, VerifiedManifest::MAX_FILE_LEN).ok()??;
        let bytes = VerifiedManifest::document_in(&file).filter(|_| VerifiedManifest::is_whole(&id.digest, &file))?;
        Some((VerifiedManifest::type_in(&file)?, bytes.to_vec()))
    }

    /// Finds out which other images have the same blobs.
    fn find_shares(&self, of: &ImageName, manifests: &mut [ManifestDetails]) {
        let all = self.0.names.list(|name, state| name.visibility == of.visibility && state.manifest.is_some());
        let (summaries, on_disk) = (self.0.summaries.read(), self.on_disk());
        let mut survey = Survey::new(&summaries, &on_disk);
        let mut parts = HashMap::<_, Vec<&mut Part>>::new();
        for ManifestDetails { configuration, layers, .. } in manifests {
            for part in configuration.iter_mut().chain(layers) {
                if let Some(number) = summaries.number(&blob_key(of.visibility, &part.digest)) {
                    parts.entry(number).or_default().push(part);
                }
            }
        }
        for (root, of_root) in survey.by_root(all.iter().filter(|other| other.name != *of)) {
            survey.begin();
            survey.visit_root(root, |number| {
                for part in parts.get_mut(&number).into_iter().flatten() {
                    part.shares += of_root.len();
                    let room = MAX_SHARED.saturating_sub(part.shared_with.len());
                    part.shared_with.extend(of_root.iter().take(room).map(|Named { name, .. }| name.clone()));
                }
            });
        }
    }
}

impl Room {
    /// Takes room for so many parts, or for as many as there is; what there is none for is left out.
    fn take(&mut self, parts: usize) -> usize {
        let taken = parts.min(self.parts);
        self.parts -= taken;
        self.left_out += parts - taken;
        taken
    }
}

fn blob_key(visibility: Visibility, digest: &Digest) -> CompactKey {
    CompactKey::from(&IndexKey::Blob(visibility.key(digest)))
}
