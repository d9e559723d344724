//! Verifies images for an operator: reads what is stored of them again, as the scrub does.
//!
//! What must hold: one verification runs at a time, at the pace of the scrub; what is damaged is removed, and told with the
//! names of the images that have it. A verification ends when the operator leaves.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::{Semaphore, mpsc};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    DiskStore, Inventory, ObjectKind, Scrub,
    inventory::ImageName,
    scrub::ObjectState,
    storage::{
        SHARDS, blocking,
        lru_index::{CompactKey, IndexKey},
    },
};
use crate::oci::Digest;

/// How many objects are verified for a pattern: more of them are verified without one.
const MAX_OBJECTS: usize = 500_000;
/// How many images are named that have a damaged object.
const MAX_NAMES: usize = 5;
/// How often the operator is told how far it is.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);
/// How many steps the operator may be behind before the verification waits.
const MAX_STEPS: usize = 64;

/// A cheap handle.
#[derive(Clone)]
pub(crate) struct ImageVerification {
    scrub: Scrub,
    store: DiskStore,
    inventory: Inventory,
    tasks: TaskTracker,
    end: CancellationToken,
    /// One verification at a time.
    turn: Arc<Semaphore>,
}

/// Why nothing is verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum VerifyError {
    #[error("another verification is running; try again when it is over")]
    Busy,
    #[error("the images on disk are still being read; try again in a moment")]
    Reading,
    #[error("the images have more than {MAX_OBJECTS} parts: verify the whole cache, without a pattern")]
    TooMuch,
}

/// How much was verified, and what of it is wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sums {
    pub objects: u64,
    pub bytes: u64,
    /// About what all of it takes.
    pub total_bytes: u64,
    pub damaged: u64,
    pub unreadable: u64,
}

/// A damaged object, which is removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Damage {
    pub kind: ObjectKind,
    pub digest: Digest,
    /// Some of the images that have it.
    pub images: Vec<ImageName>,
}

/// What happened.
#[derive(Debug)]
pub(crate) enum VerifyStep {
    Progress(Sums),
    /// An image is verified, apart from what was verified with one before it.
    Image {
        name: ImageName,
        damages: Vec<Damage>,
        unreadable: u64,
    },
    /// Found while the whole cache is verified.
    Damaged(Damage),
    Done(Sums),
}

impl ImageVerification {
    pub(crate) fn new(
        scrub: Scrub,
        (store, inventory): (DiskStore, Inventory),
        (tasks, end): (TaskTracker, CancellationToken),
    ) -> Self {
        Self { scrub, store, inventory, tasks, end, turn: Arc::new(Semaphore::new(1)) }
    }

    /// Verifies the images that are `wanted`; `None`: all that is in the cache.
    ///
    /// # Errors
    /// Another verification is running, it is not known yet which images there are, or there is too much for one.
    pub(crate) async fn begin(
        &self,
        wanted: Option<impl Fn(&ImageName) -> bool + Send + 'static>,
    ) -> Result<mpsc::Receiver<VerifyStep>, VerifyError> {
        let turn = self.turn.clone().try_acquire_owned().map_err(|_| VerifyError::Busy)?;
        let images = match wanted {
            Some(wanted) => {
                if !self.inventory.until_read().await {
                    return Err(VerifyError::Reading);
                }
                let inventory = self.inventory.clone();
                let images = blocking(move || inventory.objects_by_image(wanted, MAX_OBJECTS)).await;
                Some(images.ok_or(VerifyError::TooMuch)?)
            }
            None => None,
        };
        let (steps, receiver) = mpsc::channel(MAX_STEPS);
        let (verification, end) = (self.clone(), self.end.clone());
        self.tasks.spawn(async move {
            let run = Run { steps: &steps, sums: Sums::default(), told: Instant::now(), verification: &verification };
            let work = async {
                match images {
                    Some(images) => run.images(images).await,
                    None => run.everything().await,
                }
            };
            tokio::select! {
                () = end.cancelled() => {}
                () = steps.closed() => {}
                () = work => {}
            }
            drop(turn);
        });
        Ok(receiver)
    }
}

/// One verification.
struct Run<'a> {
    verification: &'a ImageVerification,
    steps: &'a mpsc::Sender<VerifyStep>,
    sums: Sums,
    /// When the operator was last told how far it is.
    told: Instant,
}

impl Run<'_> {
    async fn images(mut self, images: Vec<(ImageName, Vec<CompactKey>)>) {
        let objects = images.iter().flat_map(|(_, objects)| objects);
        self.sums.total_bytes = objects.filter_map(|object| self.verification.store.bytes_on_disk(object)).sum();
        self.tell(VerifyStep::Progress(self.sums)).await;
        for (name, objects) in images {
            let (mut damages, before) = (Vec::new(), self.sums.unreadable);
            for object in objects {
                damages.extend(self.verify(&object).await);
            }
            let unreadable = self.sums.unreadable - before;
            self.tell(VerifyStep::Image { name, damages, unreadable }).await;
        }
        self.tell(VerifyStep::Done(self.sums)).await;
    }

    async fn everything(mut self) {
        self.verification.store.until_scanned().await;
        let totals = self.verification.store.status().usage.totals;
        let verified = ObjectKind::EVERY.iter().zip(totals).filter(|(kind, _)| **kind != ObjectKind::Tag);
        self.sums.total_bytes = verified.map(|(_, totals)| totals.bytes).sum();
        self.tell(VerifyStep::Progress(self.sums)).await;
        for shard in 0..SHARDS {
            let store = self.verification.store.clone();
            for found in blocking(move || store.list(shard)).await {
                if let Some(damage) = self.verify(&found.key).await {
                    self.tell(VerifyStep::Damaged(damage)).await;
                }
            }
        }
        self.tell(VerifyStep::Done(self.sums)).await;
    }

    async fn verify(&mut self, object: &CompactKey) -> Option<Damage> {
        let ImageVerification { scrub, store, inventory, .. } = self.verification;
        let bytes = store.bytes_on_disk(object)?;
        let state = scrub.verify_now(&object.key()).await;
        if state == ObjectState::Gone {
            return None;
        }
        self.sums.objects += 1;
        self.sums.bytes += bytes;
        if self.told.elapsed() >= PROGRESS_INTERVAL {
            self.told = Instant::now();
            self.tell(VerifyStep::Progress(self.sums)).await;
        }
        match state {
            ObjectState::Damaged => {
                self.sums.damaged += 1;
                let (inventory, of) = (inventory.clone(), object.clone());
                let images = blocking(move || inventory.images_with(&of, MAX_NAMES)).await;
                let key = object.key();
                let (IndexKey::Blob(id) | IndexKey::Manifest(id) | IndexKey::Partial(id)) = &key else { return None };
                Some(Damage { kind: key.kind(), digest: id.digest.clone(), images })
            }
            ObjectState::Unreadable => {
                self.sums.unreadable += 1;
                None
            }
            ObjectState::Right | ObjectState::Gone => None,
        }
    }

    async fn tell(&self, step: VerifyStep) {
        // If the operator has left, the verification is about to end.
        let _ = self.steps.send(step).await;
    }
}
