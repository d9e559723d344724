//! Removes images from the cache: the records of their tags, and the manifests and blobs that no other image has.
//!
//! What must hold: once a removal is told as done, no client gets of its images what was cached, nor after a restart; a
//! client that is reading one of their blobs gets all of it. A removal that has begun goes on when the operator leaves. Pinned
//! images stay.

use std::{sync::Arc, time::Duration};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    BlobCache, Inventory, ManifestCache, Pins,
    inventory::{ImageName, RemovalPlan},
    storage::{blocking, lru_index::IndexKey},
};
use crate::upstream::Upstream;

/// How long a removal waits until the inventory has read what is on disk: before that it is not known what images share.
const READING_TIMEOUT: Duration = Duration::from_secs(5);
/// How many steps the operator may be behind before the removal waits.
const MAX_STEPS: usize = 64;
/// After how many objects the operator is told how far the removal is.
const PROGRESS_OBJECTS: usize = 1000;

/// A cheap handle.
#[derive(Clone)]
pub(crate) struct Removal {
    manifests: ManifestCache,
    blobs: BlobCache,
    inventory: Inventory,
    pins: Pins,
    tasks: TaskTracker,
    end: CancellationToken,
    /// One removal at a time.
    turn: Arc<Semaphore>,
}

/// Why nothing is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RemovalError {
    #[error("another removal is running; try again soon")]
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
    /// So many manifests and blobs are removed.
    Objects(usize),
    /// All is done.
    Done,
}

impl Removal {
    pub(crate) fn new(
        (manifests, blobs): (ManifestCache, BlobCache),
        (inventory, pins): (Inventory, Pins),
        (tasks, end): (TaskTracker, CancellationToken),
    ) -> Self {
        Self { manifests, blobs, inventory, pins, tasks, end, turn: Arc::new(Semaphore::new(1)) }
    }

    /// What goes if the images that are `wanted` are removed.
    ///
    /// # Errors
    /// Another removal is running, or it is not known yet what images share.
    pub(crate) async fn plan(
        &self,
        wanted: impl Fn(&ImageName) -> bool + Send + 'static,
    ) -> Result<PlannedRemoval, RemovalError> {
        let turn = self.turn.clone().try_acquire_owned().map_err(|_| RemovalError::Busy)?;
        if !self.inventory.until_read(READING_TIMEOUT).await {
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
        // An operator who has left is told nothing.
        for name in plan.images {
            if let Some(tag) = name.tag_key() {
                self.manifests.remove_tag(&tag).await;
            }
            self.inventory.remove(&name);
            let _ = steps.send(RemovalStep::Image(name)).await;
        }
        for (at, object) in plan.objects.iter().enumerate() {
            match object.key() {
                IndexKey::Manifest(id) => self.manifests.remove_content(upstreams, &id).await,
                IndexKey::Blob(id) => self.blobs.remove(id).await,
                IndexKey::Tag(_) | IndexKey::Partial(_) => {}
            }
            if (at + 1) % PROGRESS_OBJECTS == 0 {
                let _ = steps.send(RemovalStep::Objects(at + 1)).await;
            }
        }
        let _ = steps.send(RemovalStep::Done).await;
    }
}
