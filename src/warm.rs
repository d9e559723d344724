//! Fetches images into the cache before clients pull them: when an operator asks for it, or by `[[warm]]`.
//!
//! A run first finds out what all of its images consist of ([`resolve`]), and whether that fits into the cache ([`plan`]);
//! then it downloads what is missing ([`fill`]). See docs/decisions/0033-warm-before-a-rollout.md.
//!
//! What must hold: a run fetches by the same paths as a client's pull, and never more than a limit of pulls allows; each of
//! its images has one outcome; it ends when it is dropped.

mod config;
mod event;
mod failure;
mod fill;
mod jobs;
mod plan;
mod platforms;
mod progress;
mod pull_limit;
mod resolve;
mod schedule;
mod teller;

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use futures_util::{FutureExt as _, StreamExt as _, future::BoxFuture, stream};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::{Instant, MissedTickBehavior, interval},
};

pub use self::{
    config::Config,
    platforms::{PlatformError, Platforms},
    schedule::{NoTime, Schedule, TimeOfDay},
};
pub(crate) use self::{
    event::{ImageOutcome, WarmEvent, WarmResult, WarmSummary, WarmedImage},
    jobs::{JobReport, LastRun, WarmJobs},
    progress::Progress,
};
use self::{
    failure::Failure,
    fill::Fill,
    plan::{Plan, TooManyBlobs},
    progress::{PROGRESS_INTERVAL, Phase, Rate, time_left},
    pull_limit::PullLimit,
    resolve::{Unresolved, Wanted},
    teller::Teller,
};
use crate::{
    cache::{BlobCache, DiskStore, Inventory, ManifestCache, Pins},
    error_chain::ErrorChain,
    metrics::Metrics,
    offload::Offload,
    route::Routes,
    upstream::Upstream,
};

/// How many images one run may have.
pub(crate) const MAX_IMAGES: usize = 10_000;
/// How many runs operators may have at a time. `[[warm]]` has one of its own.
pub(crate) const MAX_RUNS: usize = 2;
/// How many images are looked at in the first pass at a time. With a limit of pulls it is one, so that these buy whole
/// images.
const MAX_RESOLVED_AT_ONCE: usize = 4;

/// What is to be fetched.
#[derive(Clone, Debug)]
pub(crate) struct WarmRequest {
    /// As for docker.
    pub images: Vec<String>,
    pub platforms: Platforms,
    /// How many pulls may be spent; `None`: any number.
    pub limit: Option<u32>,
    /// How long the images are pinned; `None`: they are not.
    pub pin: Option<Duration>,
}

/// Runs warms. A cheap handle.
#[derive(Clone)]
pub(crate) struct Warmer {
    routes: Arc<ArcSwap<Routes<Upstream>>>,
    manifests: ManifestCache,
    blobs: BlobCache,
    store: DiskStore,
    inventory: Inventory,
    pins: Pins,
    metrics: Metrics,
    documents: Offload,
    places: Arc<Semaphore>,
}

/// What runs fetch with.
pub(crate) struct WarmSources {
    /// The upstreams and how names find them; replaced at a reload.
    pub routes: Arc<ArcSwap<Routes<Upstream>>>,
    pub manifests: ManifestCache,
    pub blobs: BlobCache,
    pub store: DiskStore,
    pub inventory: Inventory,
    pub pins: Pins,
    pub metrics: Metrics,
}

impl Warmer {
    pub(crate) fn new(sources: WarmSources) -> Self {
        let WarmSources { routes, manifests, blobs, store, inventory, pins, metrics } = sources;
        metrics.images_may_be_warmed::<WarmResult>();
        let (documents, places) = (Offload::default(), Arc::new(Semaphore::new(MAX_RUNS)));
        Self { routes, manifests, blobs, store, inventory, pins, metrics, documents, places }
    }

    /// A place for a run of an operator; `None`: [`MAX_RUNS`] run already.
    pub(crate) fn place(&self) -> Option<OwnedSemaphorePermit> {
        self.places.clone().try_acquire_owned().ok()
    }

    /// Fetches images, and tells what comes of each, and of all. It ends when it is dropped: downloads that no client has
    /// joined end with it, and the next run resumes them.
    pub(crate) fn run(self, request: WarmRequest, told: mpsc::Sender<WarmEvent>) -> BoxFuture<'static, ()> {
        let teller = Arc::new(Teller::new(told, self.metrics.clone()));
        self.run_told(request, teller).boxed()
    }

    async fn run_told(self, request: WarmRequest, teller: Arc<Teller>) {
        let begun = Instant::now();
        let WarmRequest { images, platforms, limit, pin } = request;
        let pulls = Arc::new(PullLimit::new(limit));
        let mut seen = HashSet::new();
        let images: Vec<String> = images.into_iter().filter(|image| seen.insert(image.clone())).collect();
        drop(seen);
        let (count, resolved) = (images.len(), Arc::new(AtomicUsize::new(0)));
        let wanted = Wanted { platforms: platforms.into(), pulls: pulls.clone() };
        let planning = self.clone().plan(images, wanted, (teller.clone(), resolved.clone())).boxed();
        let look = {
            let pulls = pulls.clone();
            move |done, failed| Progress {
                pulls: pulls.spent(),
                resolved: resolved.load(Ordering::Relaxed),
                ..Progress::resolving(count, done, failed)
            }
        };
        let plan = telling(planning, &teller, look).await;
        let problem = self.problem(&plan, pin).await;
        let why = problem.as_ref().map(|problem| problem.why.clone());
        let fill = Arc::new(Fill::new(self, plan, (pin, teller.clone())));
        let filling = fill.clone().run(problem).boxed();
        let (mut rate, spent) = (Rate::default(), pulls.clone());
        let look = move |done, failed| {
            let (bytes, total) = fill.bytes();
            let rate = rate.note(Instant::now(), bytes);
            Progress {
                phase: Phase::Fetching,
                resolved: count,
                bytes,
                total,
                rate,
                left: time_left(bytes, total, rate),
                pulls: spent.spent(),
                current: fill.current(),
                ..Progress::resolving(count, done, failed)
            }
        };
        telling(filling, &teller, look).await;
        teller.done_with(pulls.spent(), begun.elapsed(), why).await;
    }

    /// Why nothing is downloaded; `None`: everything has room, and pins have it, too, if the images are to be pinned.
    async fn problem(&self, plan: &Plan, pin: Option<Duration>) -> Option<Failure> {
        if let Some(why) = plan.lacks_room(&self.store.status()) {
            return Some(Failure::no_room(&why));
        }
        pin?;
        self.pins.lack_room(plan.objects()).await.map(Failure::no_room_for_pins)
    }

    /// Pins an image by its full name for so long from now on, unless it has a longer pin.
    async fn pin(&self, name: &str, duration: Duration) -> Result<(), Failure> {
        let routes = self.routes.load_full();
        let is_upstream = |name: &str| routes.upstreams().any(|upstream| **upstream.name() == *name);
        let until = SystemTime::now().checked_add(duration);
        // A pin of an import ends with the next refresh, and counts for nothing here.
        if self.pins.get(name).is_some_and(|pin| pin.is_own_until(until)) {
            return Ok(());
        }
        let pinned = self.pins.pin(name, until, is_upstream).await;
        pinned.map(drop).map_err(|error| Failure::not_pinned(ErrorChain(&error)))
    }

    /// The first pass; `resolved`: how many images were looked at.
    async fn plan(
        self,
        images: Vec<String>,
        wanted: Wanted,
        (teller, resolved): (Arc<Teller>, Arc<AtomicUsize>),
    ) -> Plan {
        let at_once = if wanted.pulls.is_limited() { 1 } else { MAX_RESOLVED_AT_ONCE };
        let (warmer, mut plan) = (self.clone(), Plan::default());
        let mut found = stream::iter(images)
            .map(move |image| warmer.clone().resolve(image, wanted.clone()).boxed())
            .buffered(at_once);
        while let Some(image) = found.next().await {
            resolved.fetch_add(1, Ordering::Relaxed);
            let added = image.and_then(|image| {
                let added = plan.add(image, |blob| self.blobs.has(blob));
                let why = "the images have too many layers together";
                added.map_err(|TooManyBlobs(name)| Unresolved { name, failure: Failure::too_many_parts(why) })
            });
            if let Err(Unresolved { name, failure }) = added {
                teller.image(WarmedImage::failed(name, failure)).await;
            }
        }
        plan
    }
}

/// Tells how far the work is until it is done; `look` is given how many images are done, and how many of them failed.
async fn telling<T>(
    mut work: BoxFuture<'static, T>,
    teller: &Teller,
    mut look: impl FnMut(usize, usize) -> Progress,
) -> T {
    let mut ticks = interval(PROGRESS_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            done = work.as_mut() => return done,
            _ = ticks.tick() => {
                let (done, failed) = teller.done();
                teller.progress(look(done, failed));
            }
        }
    }
}
