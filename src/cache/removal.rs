//! Removes images from the cache: the records of their tags, and the manifests and blobs that no other image has.
//!
//! What must hold: once a removal is told as done, no client gets of its images what was cached, nor after a restart; a
//! client that is reading one of their blobs gets all of it. A removal that has begun goes on when the operator leaves. Pinned
//! images stay, also those that are pinned while it runs.

use std::{sync::Arc, time::SystemTime};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    BlobCache, DiskStore, Inventory, ManifestCache, Pins,
    inventory::{ImageName, RemovalPlan},
    storage::{
        blocking,
        lru_index::{CompactKey, IndexKey},
    },
};
use crate::upstream::Upstream;

/// How many steps the operator may be behind before the removal waits.
const MAX_STEPS: usize = 64;
/// After how many objects the operator is told how far the removal is.
const PROGRESS_OBJECTS: usize = 1000;

/// A cheap handle.
#[derive(Clone)]
pub(crate) struct Removal {
    store: DiskStore,
    manifests: ManifestCache,
    blobs: BlobCache,
    inventory: Inventory,
    pins: Pins,
    tasks: TaskTracker,
    end: CancellationToken,
    /// One removal or import at a time: an import relies on what is here.
    turn: Arc<Semaphore>,
}

/// Why nothing is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RemovalError {
    #[error("another removal or an import is running; try again soon")]
    Busy,
    #[error("forebay is still reading what is on disk, and cannot tell yet what images share; try again soon")]
    Reading,
}

/// What will be removed, and the turn to do so.
pub(crate) struct PlannedRemoval {
    pub plan: RemovalPlan,
    turn: OwnedSemaphorePermit,
}

/// What happened of a removal.
#[derive(Debug)]
pub(crate) enum RemovalStep {
    Image(ImageName),
    /// It was pinned after the plan was made.
    Pinned(ImageName),
    /// So many manifests and blobs are done.
    Objects(usize),
    /// All is done.
    Done(Removed),
}

/// What a removal did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Removed {
    pub images: usize,
    /// Images that were named and stay.
    pub pinned: usize,
    /// Manifests and blobs.
    pub objects: usize,
    pub bytes: u64,
}

impl From<&RemovalPlan> for Removed {
    fn from(plan: &RemovalPlan) -> Self {
        let RemovalPlan { images, kept, objects, bytes } = plan;
        Self { images: images.len(), pinned: kept.len(), objects: objects.len(), bytes: *bytes }
    }
}

impl Removal {
    pub(crate) fn new(
        (store, manifests, blobs): (DiskStore, ManifestCache, BlobCache),
        (inventory, pins): (Inventory, Pins),
        (tasks, end): (TaskTracker, CancellationToken),
    ) -> Self {
        Self { store, manifests, blobs, inventory, pins, tasks, end, turn: Arc::new(Semaphore::new(1)) }
    }

    /// The turn of a removal, for those during which nothing may be removed.
    pub(crate) fn turn(&self) -> Arc<Semaphore> {
        self.turn.clone()
    }

    /// What goes if the images that are `wanted` are removed, by their names and when they were last used or confirmed.
    ///
    /// # Errors
    /// Another removal or an import is running, or it is not known yet what images share.
    pub(crate) async fn plan(
        &self,
        wanted: impl Fn(&ImageName, Option<SystemTime>) -> bool + Send + 'static,
    ) -> Result<PlannedRemoval, RemovalError> {
        let turn = self.turn.clone().try_acquire_owned().map_err(|_| RemovalError::Busy)?;
        if !self.inventory.until_read().await {
            return Err(RemovalError::Reading);
        }
        let (inventory, pins) = (self.inventory.clone(), self.pins.clone());
        let plan = blocking(move || inventory.plan_removal(wanted, |name| pins.is_pinned(name))).await;
        Ok(PlannedRemoval { plan, turn })
    }

    /// Removes what is planned, as a task of its own. `upstreams`: all that are configured.
    pub(crate) fn run(&self, planned: PlannedRemoval, upstreams: Arc<Vec<Upstream>>) -> mpsc::Receiver<RemovalStep> {
        let (steps, receiver) = mpsc::channel(MAX_STEPS);
        let removal = self.clone();
        self.tasks.spawn(async move {
            let PlannedRemoval { plan, turn } = planned;
            let end = removal.end.clone();
            end.run_until_cancelled(removal.remove(plan, &upstreams, &steps)).await;
            drop(turn);
        });
        receiver
    }

    async fn remove(&self, plan: RemovalPlan, upstreams: &[Upstream], steps: &mpsc::Sender<RemovalStep>) {
        let mut removed = Removed::from(&plan);
        // An operator who has left is told nothing.
        for name in plan.images {
            if self.pins.is_pinned(&name) {
                (removed.images, removed.pinned) = (removed.images - 1, removed.pinned + 1);
                let _ = steps.send(RemovalStep::Pinned(name)).await;
                continue;
            }
            if let Some(tag) = name.tag_key() {
                self.manifests.remove_tag(&tag, upstreams).await;
            }
            self.inventory.remove(&name);
            let _ = steps.send(RemovalStep::Image(name)).await;
        }
        for (at, object) in plan.objects.iter().enumerate() {
            match self.store.is_held_for_operator(object) {
                true => {
                    removed.objects -= 1;
                    removed.bytes -= self.store.bytes_on_disk(object).unwrap_or_default().min(removed.bytes);
                }
                false => self.remove_object(upstreams, object).await,
            }
            if (at + 1) % PROGRESS_OBJECTS == 0 {
                let _ = steps.send(RemovalStep::Objects(at + 1)).await;
            }
        }
        let _ = steps.send(RemovalStep::Done(removed)).await;
    }

    async fn remove_object(&self, upstreams: &[Upstream], object: &CompactKey) {
        match object.key() {
            IndexKey::Manifest(id) => self.manifests.remove_content(upstreams, &id).await,
            IndexKey::Blob(id) => self.blobs.remove(id).await,
            IndexKey::Tag(_) | IndexKey::Partial(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::HashMap, thread};

    use serde_json::json;
    use tempfile::TempDir;

    use super::*;
    use crate::{
        cache::{CacheContext, Images, Visibility},
        oci::{Algorithm, Digest},
    };

    struct Fixture {
        _directory: TempDir,
        store: DiskStore,
        inventory: Inventory,
        pins: Pins,
        removal: Removal,
    }

    impl Fixture {
        async fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let context = CacheContext::of_test(directory.path()).await;
            let manifests = ManifestCache::new(context.clone(), Images::default());
            let blobs = BlobCache::new(context.clone(), Images::default());
            let CacheContext { store, inventory, pins, tasks, end, .. } = context;
            tasks.spawn(inventory.clone().run(end.clone()));
            let removal =
                Removal::new((store.clone(), manifests, blobs), (inventory.clone(), pins.clone()), (tasks, end));
            Self { _directory: directory, store, inventory, pins, removal }
        }

        /// An image of a manifest and a configuration; the key of this one.
        async fn add(&self, tag: &str) -> (ImageName, CompactKey) {
            let key = |content: &str| Visibility::Shared.key(&Digest::of(Algorithm::Sha256, content.as_bytes()));
            let configuration = key(tag);
            let manifest = json!({
                "schemaVersion": 2, "layers": [],
                "config": { "mediaType": "a/b", "digest": configuration.digest.as_str(), "size": tag.len() },
            })
            .to_string();
            let configuration = IndexKey::Blob(configuration);
            self.store.write(configuration.clone(), tag.into()).await.unwrap();
            let file = format!("application/vnd.oci.image.manifest.v1+json\n{manifest}");
            self.store.write(IndexKey::Manifest(key(&manifest)), file.into()).await.unwrap();
            let name = ImageName::parse(Visibility::Shared, &format!("hub/team/app:{tag}")).unwrap();
            self.inventory.note_image(&name, &key(&manifest).digest);
            (name, CompactKey::from(&configuration))
        }
    }

    #[tokio::test]
    async fn what_is_pinned_while_a_removal_runs_stays() {
        // The removal waits for its follower before it comes to the last image.
        const IMAGES: usize = MAX_STEPS + 3;
        let fixture = Fixture::new().await;
        let mut of_images = HashMap::new();
        for number in 0..IMAGES {
            let (name, configuration) = fixture.add(&format!("tag{number:03}")).await;
            of_images.insert(name.to_string(), configuration);
        }
        let planned = fixture.removal.plan(|_, _| true).await.unwrap();
        assert_eq!((planned.plan.images.len(), planned.plan.objects.len()), (IMAGES, 2 * IMAGES));
        let last = planned.plan.images.last().unwrap().clone();
        let mut steps = fixture.removal.run(planned, Arc::default());
        let first = steps.recv().await.unwrap();
        assert!(matches!(&first, RemovalStep::Image(name) if *name != last), "{first:?}");
        fixture.pins.pin(&last.to_string(), None, |name| name == "hub").await.unwrap();
        let mut told = Vec::new();
        while let Some(step) = steps.recv().await {
            told.push(step);
        }
        let gone = IMAGES - 1;
        let done = Removed { images: gone, pinned: 1, objects: 2 * gone, bytes: 2 * 4096 * gone as u64 };
        assert!(
            matches!(&*told, [.., RemovalStep::Pinned(kept), RemovalStep::Done(removed)]
                if *kept == last && *removed == done),
            "{told:?}"
        );
        for (name, configuration) in of_images {
            let expected = (name == last.to_string()).then_some(4096);
            assert_eq!(fixture.store.bytes_on_disk(&configuration), expected, "{name}");
        }
    }

    #[tokio::test]
    async fn a_removal_is_planned_off_the_async_threads() {
        let fixture = Fixture::new().await;
        fixture.add("one").await;
        // This runtime has one thread, which runs the test as well.
        let own = thread::current().id();
        let planned = fixture.removal.plan(move |_, _| thread::current().id() != own).await.unwrap();
        assert_eq!(planned.plan.images.len(), 1);
        assert_eq!(fixture.removal.plan(|_, _| true).await.err(), Some(RemovalError::Busy));
    }
}
