//! The objects of some images: what an operator pins, removes or verifies.

use std::collections::HashSet;

use tokio_util::sync::CancellationToken;

use super::{
    ImageName, Inventory, manifest_key,
    names::{Named, Unread},
    page::is_shown,
    survey::Survey,
};
use crate::{
    cache::storage::lru_index::{CompactKey, IndexKey},
    oci::Reference,
};

/// What some images consist of: records of tags, manifests and blobs, each once, whether they are here or not.
#[derive(Debug, Default)]
pub(crate) struct Selection {
    pub images: Vec<ImageName>,
    pub objects: HashSet<CompactKey>,
    /// What of it is on disk.
    pub bytes: u64,
    /// Whether there are more objects.
    pub is_cut: bool,
}

impl Inventory {
    /// The objects of the images that are `wanted`: about `most` of them at most. Blocks.
    pub(crate) fn select(&self, wanted: impl Fn(&ImageName) -> bool, most: usize) -> Selection {
        let chosen = self.0.names.list(|name, state| is_shown(state) && wanted(name));
        let mut selection = Selection::default();
        {
            let (summaries, on_disk) = (self.0.summaries.read(), self.on_disk());
            let mut survey = Survey::new(&summaries, &on_disk);
            survey.begin();
            for Named { name, state } in chosen {
                if selection.objects.len() >= most {
                    selection.is_cut = true;
                    break;
                }
                let records = name.tag_key().map(|tag| self.0.store.records_of(&tag)).unwrap_or_default();
                let records = records.into_iter().map(|record| CompactKey::from(&IndexKey::Tag(record)));
                selection.objects.extend(records.chain(state.manifest.clone()));
                if let Some(root) = survey.root(&state) {
                    survey.visit_root(root, |number| selection.objects.extend(summaries.key(number).cloned()));
                }
                selection.images.push(name);
            }
        }
        selection.bytes = selection.objects.iter().filter_map(self.on_disk()).sum();
        selection
    }

    /// The manifests and blobs of each image that is `wanted`, each once; `None`: there are more than `most`. Blocks.
    pub(crate) fn objects_by_image(
        &self,
        wanted: impl Fn(&ImageName) -> bool,
        most: usize,
    ) -> Option<Vec<(ImageName, Vec<CompactKey>)>> {
        let mut chosen = self.0.names.list(|name, state| is_shown(state) && wanted(name));
        chosen.sort_by_cached_key(|named| named.name.to_string());
        let (summaries, on_disk) = (self.0.summaries.read(), self.on_disk());
        let mut survey = Survey::new(&summaries, &on_disk);
        survey.begin();
        let mut left = most;
        let images = chosen.into_iter().map(|Named { name, state }| {
            let mut objects = Vec::new();
            if let Some(root) = survey.root(&state) {
                survey.visit_root(root, |number| objects.extend(summaries.key(number).cloned()));
            }
            left = left.checked_sub(objects.len())?;
            Some((name, objects))
        });
        images.collect()
    }

    /// From now on the images are pinned of which `is_pinned` says so, and no others. Blocks.
    pub(crate) fn mark_pinned(&self, is_pinned: impl Fn(&ImageName) -> bool) {
        self.0.names.retain(|name, state| {
            state.is_pinned = is_pinned(name);
            true
        });
    }

    /// Makes a digest known by its name if its manifest is here: nothing on disk says by which names it was requested.
    pub(crate) fn know_digest(&self, name: &ImageName) {
        let Reference::Digest(digest) = &name.reference else { return };
        let manifest = manifest_key(name.visibility, digest);
        if self.0.store.bytes_on_disk(&manifest).is_none() {
            return;
        }
        self.0.names.with_new(
            name.borrow(),
            || name.clone(),
            |state| {
                if state.manifest.is_none() {
                    (state.manifest, state.unread) = (Some(manifest), Unread::Manifest);
                }
            },
        );
        self.0.work.notify_one();
    }

    /// Reads what images consist of, also if the reader is at one of them. Blocks.
    pub(crate) fn read_again(&self, names: &[ImageName]) {
        for name in names {
            if let Some(state) = self.0.names.with(name.borrow(), |state| state.clone()) {
                self.read_name(&Named { name: name.clone(), state }, &CancellationToken::new());
            }
        }
    }

    /// Reads what the images that are `wanted` consist of before others. Blocks.
    pub(crate) fn read_first(&self, wanted: impl Fn(&ImageName) -> bool) {
        for named in self.0.names.list(|name, state| state.unread != Unread::Nothing && wanted(name)) {
            self.read_name(&named, &CancellationToken::new());
        }
    }
}
