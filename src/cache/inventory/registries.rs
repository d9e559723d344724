//! Which registries the upstreams are: under the same name, other URLs lead to another one.

use std::sync::{Arc, atomic::Ordering};

use super::{Inventory, names::Unread};
use crate::{
    cache::storage::tag_record::{TagKey, TagRecord},
    oci::Reference,
    upstream::Registry,
};

impl Inventory {
    /// The upstreams are these registries from now on: what another registry under the name of one said of tags does not
    /// count, as it does not for clients. Looks at all names.
    pub(crate) fn set_registries(&self, registries: Vec<Registry>) {
        let before = self.0.registries.load_full();
        let changed: Vec<_> = registries.iter().filter(|registry| !before.contains(registry)).cloned().collect();
        self.0.registries.store(Arc::new(registries));
        self.0.names.retain(|name, state| {
            let is_changed = || changed.iter().any(|registry| **registry.name() == *name.upstream);
            if matches!(name.reference, Reference::Tag(_)) && is_changed() {
                (state.manifest, state.confirmed, state.unread) = (None, 0, Unread::Record);
            }
            true
        });
        self.0.has_garbage.store(true, Ordering::Relaxed);
        self.0.work.notify_one();
    }

    /// Whether a record of a tag counts for the registry that the upstream is now. One that is not configured any more
    /// answers nothing else.
    pub(super) fn is_current(&self, tag: &TagKey, record: &TagRecord) -> bool {
        let registries = self.0.registries.load();
        let registry = registries.iter().find(|registry| *registry.name() == tag.upstream);
        registry.is_none_or(|registry| record.is_of(registry, tag.visibility))
    }
}
