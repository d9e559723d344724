//! What must stay in the cache because a rule serves it: the manifests and blobs of digests that tags meant before.
//!
//! What must hold: nothing is downloaded for this; the numbers of digests and objects are bounded, and the bytes by the
//! index.

use std::collections::{HashMap, HashSet};

use parking_lot::Mutex;

use super::content::VerifiedManifest;
use crate::{
    cache::{ContentKey, DiskStore, first_seen::TagName, storage::lru_index::IndexKey},
    oci::{Content, Manifest},
    offload::Offload,
};

/// How many digests are held at a time. Those of further tags may be evicted.
const MAX_ROOTS: usize = 1_000;
/// How many objects belong to them.
const MAX_OBJECTS: usize = 50_000;

pub(super) struct HeldContent {
    store: DiskStore,
    documents: Offload,
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    /// By the manifest or index that a tag means.
    roots: HashMap<ContentKey, Root>,
    /// The roots of each tag that has any.
    tags: HashMap<TagName, Vec<ContentKey>>,
    objects: usize,
}

#[derive(Default)]
struct Root {
    /// How many tags it belongs to.
    tags: usize,
    objects: HashSet<IndexKey>,
    /// Manifests whose content is not known yet.
    unread: Vec<ContentKey>,
}

impl HeldContent {
    pub(super) fn new(store: DiskStore, documents: Offload) -> Self {
        Self { store, documents, held: Mutex::default() }
    }

    /// Holds these manifests for a tag, with what belongs to them as far as it is cached, and nothing else.
    pub(super) async fn set(&self, name: &TagName, manifests: &[ContentKey]) {
        let unread = {
            let mut held = self.held.lock();
            let before = held.tags.remove(name).unwrap_or_default();
            let now = manifests.iter().filter(|root| self.add_root(&mut held, root, before.contains(root))).cloned();
            let now: Vec<ContentKey> = now.collect();
            for root in before.iter().filter(|root| !now.contains(root)) {
                self.release_root(&mut held, root);
            }
            let is_unread = |root: &&ContentKey| held.roots.get(root).is_some_and(|of_root| !of_root.unread.is_empty());
            let unread: Vec<ContentKey> = now.iter().filter(is_unread).cloned().collect();
            if !now.is_empty() {
                held.tags.insert(name.clone(), now);
            }
            unread
        };
        for root in unread {
            self.read(&root).await;
        }
    }

    /// Holds a manifest for a tag, which may have it already; returns whether it is held.
    fn add_root(&self, held: &mut Held, root: &ContentKey, has_it: bool) -> bool {
        if has_it {
            return true;
        }
        if !held.roots.contains_key(root) {
            if held.roots.len() >= MAX_ROOTS {
                return false;
            }
            held.roots.insert(root.clone(), Root::default());
            self.add_object(held, root, IndexKey::Manifest(root.clone()));
        }
        if let Some(of_root) = held.roots.get_mut(root) {
            of_root.tags += 1;
        }
        true
    }

    /// Releases a manifest that a tag does not mean any more, unless another one does.
    fn release_root(&self, held: &mut Held, root: &ContentKey) {
        let Some(of_root) = held.roots.get_mut(root) else { return };
        of_root.tags -= 1;
        if of_root.tags == 0
            && let Some(of_root) = held.roots.remove(root)
        {
            of_root.objects.iter().for_each(|object| self.store.release_held(object));
            held.objects -= of_root.objects.len();
        }
    }

    fn add_object(&self, held: &mut Held, root: &ContentKey, object: IndexKey) {
        let Some(of_root) = held.roots.get_mut(root).filter(|_| held.objects < MAX_OBJECTS) else { return };
        if of_root.objects.insert(object.clone()) {
            self.store.hold(&object);
            held.objects += 1;
            if let IndexKey::Manifest(manifest) = object {
                of_root.unread.push(manifest);
            }
        }
    }

    /// Reads the manifests of a root that are cached by now, and holds what they name.
    async fn read(&self, root: &ContentKey) {
        let mut tried = HashSet::new();
        while let Some(manifest) = self.next_unread(root, &tried) {
            tried.insert(manifest.clone());
            // One that is missing is read when the tag is requested next.
            let Some(named) = self.named_by(&manifest).await else { continue };
            let mut held = self.held.lock();
            let Some(of_root) = held.roots.get_mut(root) else { return };
            of_root.unread.retain(|unread| *unread != manifest);
            named.into_iter().for_each(|object| self.add_object(&mut held, root, object));
        }
    }

    fn next_unread(&self, root: &ContentKey, tried: &HashSet<ContentKey>) -> Option<ContentKey> {
        let held = self.held.lock();
        let mut unread = held.roots.get(root)?.unread.iter();
        unread.find(|manifest| !tried.contains(manifest) && self.store.has_manifest(manifest)).cloned()
    }

    /// What a cached manifest names; `None` if it cannot be read.
    async fn named_by(&self, manifest: &ContentKey) -> Option<Vec<IndexKey>> {
        let key = IndexKey::Manifest(manifest.clone());
        let file = self.store.read(key, VerifiedManifest::MAX_FILE_LEN).await.ok()??;
        let (visibility, len) = (manifest.visibility, file.len());
        let parse = move || {
            // What is no image and no index names nothing that is held.
            let document = VerifiedManifest::document_in(&file).and_then(|bytes| Manifest::parse(bytes).ok());
            match document.map(|document| document.content) {
                Some(Content::Index { manifests }) => {
                    manifests.iter().map(|child| IndexKey::Manifest(visibility.key(&child.digest))).collect()
                }
                Some(Content::Image { config, layers }) => {
                    let blobs = layers.iter().chain([&config]);
                    blobs.map(|blob| IndexKey::Blob(visibility.key(&blob.digest))).collect()
                }
                None => Vec::new(),
            }
        };
        self.documents.read(len, parse).await
    }
}
