//! The second pass of a run: downloads the blobs that are missing.
//!
//! What must hold: the number of downloads is bounded; a blob is downloaded once, from the first of its images whose
//! repository has it; each image is told once.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::{FutureExt as _, StreamExt as _, stream};
use parking_lot::Mutex;

use super::{
    Warmer,
    event::{ImageOutcome, WarmedImage},
    failure::Failure,
    plan::{Plan, PlannedBlob},
    progress::{CurrentImage, MAX_CURRENT},
    teller::Teller,
};
use crate::cache::{Download, FillError};

/// How many blobs are downloaded at a time.
const MAX_AT_ONCE: usize = 6;

/// The state of the second pass.
pub(super) struct Fill {
    warmer: Warmer,
    plan: Plan,
    images: Vec<ImageState>,
    active: Mutex<Vec<Active>>,
    /// The bytes of downloads that have ended.
    ended_bytes: AtomicU64,
    /// The same for blobs that were skipped or failed: nothing more comes of them.
    lost_bytes: AtomicU64,
    /// How long the images are pinned.
    pin: Option<Duration>,
    teller: Arc<Teller>,
}

/// How far an image is.
#[derive(Debug, Default)]
struct ImageState {
    /// How many of its blobs are still to come.
    left: AtomicU32,
    /// The bytes of its blobs that were missing, those of them that have come, and those that were downloaded for it.
    missing: u64,
    arrived: AtomicU64,
    fetched: AtomicU64,
    failure: Mutex<Option<Failure>>,
}

/// A download under way.
struct Active {
    /// The position of the blob.
    blob: usize,
    size: u64,
    download: Arc<Download>,
}

impl Fill {
    pub(super) fn new(warmer: Warmer, plan: Plan, (pin, teller): (Option<Duration>, Arc<Teller>)) -> Self {
        let missing_of = |positions: &[u32]| {
            let blobs = positions.iter().filter_map(|position| plan.blobs.get(*position as usize));
            blobs
                .filter(|blob| !blob.is_here)
                .fold((0, 0), |(count, bytes): (u32, u64), blob| (count + 1, bytes.saturating_add(blob.size)))
        };
        let state = |positions: &[u32]| {
            let (left, missing) = missing_of(positions);
            ImageState { left: AtomicU32::new(left), missing, ..ImageState::default() }
        };
        let images = plan.images.iter().map(|image| state(&image.blobs)).collect();
        let (active, ended_bytes, lost_bytes) = Default::default();
        Self { warmer, plan, images, active, ended_bytes, lost_bytes, pin, teller }
    }

    /// Downloads everything, or fails the images that need a download, and all if it is about all, if there is a `problem`.
    pub(super) async fn run(self: Arc<Self>, problem: Option<Failure>) {
        for blob in self.plan.blobs.iter().filter(|blob| blob.is_here) {
            self.warmer.blobs.note_used(&blob.key);
        }
        for (number, state) in self.images.iter().enumerate() {
            let is_here = state.left.load(Ordering::Relaxed) == 0;
            if let Some(problem) = problem.as_ref().filter(|problem| !is_here || problem.is_of_all()) {
                state.failure.lock().get_or_insert_with(|| problem.clone());
            }
            if is_here || problem.is_some() {
                self.tell(number).await;
            }
        }
        if problem.is_some() {
            return;
        }
        let all = self.plan.blobs.len();
        let is_missing = |position: &usize| self.plan.blobs.get(*position).is_some_and(|blob| !blob.is_here);
        let missing: Vec<usize> = (0..all).filter(is_missing).collect();
        let fill = move |position| self.clone().fill(position).boxed();
        stream::iter(missing).for_each_concurrent(MAX_AT_ONCE, fill).await;
    }

    async fn fill(self: Arc<Self>, position: usize) {
        let Some(blob) = self.plan.blobs.get(position) else { return };
        self.download(position, blob).await;
        for number in &blob.images {
            let Some(state) = self.images.get(*number as usize) else { continue };
            if state.left.fetch_sub(1, Ordering::AcqRel) == 1 {
                self.tell(*number as usize).await;
            }
        }
    }

    /// Downloads a blob from the first repository that has it. The images whose repositories do not give it fail.
    async fn download(&self, position: usize, blob: &PlannedBlob) {
        let mut tried = HashSet::new();
        let mut failed: Option<Failure> = None;
        for number in &blob.images {
            let (Some(state), Some(planned)) =
                (self.images.get(*number as usize), self.plan.images.get(*number as usize))
            else {
                continue;
            };
            if state.failure.lock().is_some() {
                continue;
            }
            let source = planned.image.source_of(&blob.key.digest);
            if tried.insert((source.upstream.registry().clone(), source.repository.clone())) {
                let begun = |download: Arc<Download>| {
                    let mut active = self.active.lock();
                    active.retain(|active| active.blob != position);
                    active.push(Active { blob: position, size: blob.size, download });
                };
                let filled = self.warmer.blobs.fill(&source, begun).await;
                self.active.lock().retain(|active| active.blob != position);
                match filled {
                    Ok(()) => {
                        self.ended_bytes.fetch_add(blob.size, Ordering::Relaxed);
                        state.fetched.fetch_add(blob.size, Ordering::Relaxed);
                        for number in &blob.images {
                            if let Some(state) = self.images.get(*number as usize) {
                                state.arrived.fetch_add(blob.size, Ordering::Relaxed);
                            }
                        }
                        return;
                    }
                    Err(error) => failed = Some(failure(error)),
                }
            }
            if let Some(failure) = &failed {
                state.failure.lock().get_or_insert_with(|| failure.clone());
            }
        }
        self.lost_bytes.fetch_add(blob.size, Ordering::Relaxed);
    }

    /// Tells what came of an image of which no blob is left.
    async fn tell(&self, number: usize) {
        let (Some(state), Some(planned)) = (self.images.get(number), self.plan.images.get(number)) else { return };
        let image = &planned.image;
        let is_here = |position: &u32| {
            let blob = self.plan.blobs.get(*position as usize);
            blob.is_some_and(|blob| self.warmer.blobs.has(&blob.key))
        };
        let fetched_bytes = state.fetched.load(Ordering::Relaxed);
        let mut failure = state.failure.lock().clone();
        failure = failure.or_else(|| (!planned.blobs.iter().all(is_here)).then(Failure::evicted));
        if let (Some(duration), None) = (self.pin, &failure) {
            failure = self.warmer.pin(&image.name, duration).await.err();
        }
        let outcome = match failure.or_else(|| image.problem.clone()) {
            Some(failure) => ImageOutcome::Failed(failure),
            None if image.has_fetched || state.missing > 0 => ImageOutcome::Fetched,
            None => ImageOutcome::Cached { is_stale: image.is_stale },
        };
        let warmed = WarmedImage {
            image: image.name.clone(),
            outcome,
            digest: Some(image.digest.clone()),
            bytes: planned.bytes,
            fetched_bytes,
        };
        self.teller.image(warmed).await;
    }

    /// What has come of what was missing, and what is to come in all.
    pub(super) fn bytes(&self) -> (u64, u64) {
        let active: u64 = self.active.lock().iter().map(Active::arrived).sum();
        let total = self.plan.missing_bytes().saturating_sub(self.lost_bytes.load(Ordering::Relaxed));
        (self.ended_bytes.load(Ordering::Relaxed).saturating_add(active), total)
    }

    /// The images that are being fetched.
    pub(super) fn current(&self) -> Vec<CurrentImage> {
        let active: Vec<(usize, u64)> =
            self.active.lock().iter().map(|active| (active.blob, active.arrived())).collect();
        let mut current: Vec<(usize, u64)> = Vec::new();
        for (blob, arrived) in active {
            let Some(number) = self.plan.blobs.get(blob).and_then(|blob| blob.images.first()) else { continue };
            let number = *number as usize;
            match current.iter_mut().find(|(known, _)| *known == number) {
                Some((_, bytes)) => *bytes = bytes.saturating_add(arrived),
                None => current.push((number, arrived)),
            }
        }
        current.truncate(MAX_CURRENT);
        let told = current.into_iter().filter_map(|(number, arrived)| {
            let (state, planned) = (self.images.get(number)?, self.plan.images.get(number)?);
            let bytes = state.arrived.load(Ordering::Relaxed).saturating_add(arrived);
            Some(CurrentImage { image: planned.image.name.clone(), bytes, total: state.missing })
        });
        told.collect()
    }
}

impl Active {
    /// A manifest may have told another size.
    fn arrived(&self) -> u64 {
        self.download.written().min(self.size)
    }
}

fn failure(error: FillError) -> Failure {
    match error {
        FillError::Blob(error) => error.into(),
        FillError::NoRoom | FillError::NotKept => Failure::no_room_left(),
        FillError::Disk(error) => Failure::disk(&error.to_string()),
    }
}
