//! What goes if some images are removed: what belongs to no other image.

use std::time::SystemTime;

use super::{ImageName, Inventory, names::Named, objects::Number, page::is_shown, survey::Survey, time_of};
use crate::cache::storage::lru_index::{CompactKey, IndexKey};

/// What a removal of images removes.
#[derive(Debug, Default)]
pub(crate) struct RemovalPlan {
    pub images: Vec<ImageName>,
    /// Images that were named and stay.
    pub kept: Vec<ImageName>,
    /// Their manifests and blobs that are here and belong to no other image.
    pub objects: Vec<CompactKey>,
    /// What these and the records of the tags take on disk.
    pub bytes: u64,
}

impl Inventory {
    /// What goes if the images that are `wanted` are removed, except those that are `kept`. `wanted` is given when a client
    /// last used the image, or its upstream confirmed it, as far as that is known. Blocks.
    pub(crate) fn plan_removal(
        &self,
        wanted: impl Fn(&ImageName, Option<SystemTime>) -> bool,
        kept: impl Fn(&ImageName) -> bool,
    ) -> RemovalPlan {
        let mut plan = RemovalPlan::default();
        let is_wanted = |Named { name, state }: &Named| wanted(name, time_of(state.last_use.max(state.confirmed)));
        let (chosen, others): (Vec<Named>, Vec<Named>) =
            self.0.names.list(|_, state| is_shown(state)).into_iter().partition(is_wanted);
        let (staying, going): (Vec<Named>, Vec<Named>) = chosen.into_iter().partition(|named| kept(&named.name));
        {
            let (summaries, on_disk) = (self.0.summaries.read(), self.on_disk());
            let mut survey = Survey::new(&summaries, &on_disk);
            survey.begin();
            let roots = |survey: &Survey<'_>, all: &[Named]| -> Vec<Number> {
                all.iter().filter_map(|named| survey.root(&named.state)).collect()
            };
            let stay = [roots(&survey, &others), roots(&survey, &staying)].concat();
            let go = roots(&survey, &going);
            stay.into_iter().for_each(|root| survey.visit_root(root, |_| {}));
            for root in go {
                survey.visit_root(root, |number| plan.objects.extend(summaries.key(number).cloned()));
            }
        }
        let on_disk = self.on_disk();
        plan.objects.retain(|object| match on_disk(object) {
            Some(bytes) => {
                plan.bytes += bytes;
                true
            }
            None => false,
        });
        let tags = going.iter().filter_map(|named| named.name.tag_key());
        let records = tags.flat_map(|tag| self.0.store.records_of(&tag));
        plan.bytes += records.filter_map(|record| on_disk(&CompactKey::from(&IndexKey::Tag(record)))).sum::<u64>();
        let names = |all: Vec<Named>| {
            let mut names: Vec<ImageName> = all.into_iter().map(|named| named.name).collect();
            names.sort_by_cached_key(ToString::to_string);
            names
        };
        (plan.images, plan.kept) = (names(going), names(staying));
        plan
    }

    /// An operator removed an image.
    pub(crate) fn remove(&self, name: &ImageName) {
        if self.0.names.remove(name.borrow()) {
            self.0.has_garbage.store(true, std::sync::atomic::Ordering::Relaxed);
        }
    }

    /// Names of images that have an object: `most` of them at most. Blocks.
    pub(crate) fn images_with(&self, object: &CompactKey, most: usize) -> Vec<ImageName> {
        let all = self.0.names.list(|_, state| is_shown(state));
        let (summaries, on_disk) = (self.0.summaries.read(), self.on_disk());
        let Some(wanted) = summaries.number(object) else { return Vec::new() };
        let mut survey = Survey::new(&summaries, &on_disk);
        let mut has_it = |named: &&Named| {
            let mut is_found = false;
            survey.begin();
            if let Some(root) = survey.root(&named.state) {
                survey.visit_root(root, |number| is_found |= number == wanted);
            }
            is_found
        };
        all.iter().filter(|named| has_it(named)).take(most).map(|named| named.name.clone()).collect()
    }
}
