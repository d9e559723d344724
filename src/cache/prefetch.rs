//! Prefetches the layers that a client is about to request.
//!
//! A client that reads an image's configuration will soon request its layers: forebay downloads those that are not
//! cached at once, in the manifest's order, a few at a time. Several images may share one configuration (the same
//! layers in gzip and in zstd, artifacts with an empty one), so the manifest that this client has just read determines
//! the layers; for a client that has read several of these manifests, or none, forebay prefetches nothing. A prefetch
//! is a download like any other, which clients join; a layer whose prefetch fails is downloaded when a client requests
//! it, and not before.
//!
//! A prefetch is a guess, so it is bounded: in total, per upstream, by the sizes in the manifest, and by time when no
//! bytes arrive. Layers that no client has requested yet are evicted first, and count against the client whose request
//! began their prefetch ([`Unclaimed`]). If a repository's manifest lies about a layer, and its upstream itself served
//! that manifest, forebay prefetches nothing of that repository for a while.

pub(crate) mod images;
mod layer_end;
pub(crate) mod recent_manifests;
pub(crate) mod unclaimed;

use std::{
    net::IpAddr,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::{StreamExt, stream};
use moka::policy::EvictionPolicy;
use tokio::sync::Semaphore;

pub(crate) use self::images::Images;
use self::{
    images::{Image, Layer, Variant},
    layer_end::PrefetchEnded,
    unclaimed::Unclaimed,
};
use super::{ContentKey, DiskStore, ReloadableConfig, Source, Visibility, download::Downloads};
use crate::{
    oci::{Digest, Repository},
    peer::TrustedNetworks,
    store::{ObjectName, Presence},
    upstream::Registry,
};

/// How many requested configurations are remembered.
const MAX_BEGUN: u64 = 10_000;
/// How many layers of all images are prefetched concurrently, and how many of them from one upstream: a slow upstream
/// leaves room for others.
const MAX_AT_ONCE: usize = 24;
const MAX_UPSTREAM: usize = 8;
/// How many images may have layers whose prefetch runs or waits for its turn, in total and per upstream. Nothing of
/// further images is prefetched: before their turn, clients would have requested the layers themselves.
const MAX_WAITING: usize = 64;
const MAX_WAITING_FOR_UPSTREAM: usize = 16;
/// For how many upstreams permits are remembered.
const MAX_UPSTREAMS: u64 = 1024;
/// A second request for the same configuration within this time starts no prefetch.
const ONCE_IN: Duration = Duration::from_secs(60);
/// One part in this many of the cache may hold prefetched layers that no client has requested; a single client may
/// cause three quarters of that.
const MAX_PART_OF_CACHE: u64 = 4;
/// For how long, and for how many repositories at most, nothing is prefetched after a layer differed from its manifest.
const DISTRUST_TTL: Duration = Duration::from_secs(10 * 60);
const MAX_DISTRUSTED: u64 = 10_000;

/// Begins downloads before clients request them. A cheap handle.
#[derive(Clone)]
pub(crate) struct Prefetch(Arc<PrefetchInner>);

struct PrefetchInner {
    config: ReloadableConfig,
    unclaimed: Unclaimed,
    /// Repositories whose manifests recently lied about a layer.
    distrusted: moka::sync::Cache<(Registry, Repository), ()>,
    images: Images,
    /// The images, and their manifests, whose configurations clients requested within [`ONCE_IN`].
    begun: moka::sync::Cache<(Image, Digest), ()>,
    at_once: Semaphore,
    waiting: Arc<Semaphore>,
    turns: moka::sync::Cache<Registry, Arc<Turns>>,
    store: DiskStore,
    downloads: Downloads,
    /// What clients get from the object store; empty: none does.
    elsewhere: OnceLock<Presence>,
}

/// Permits for prefetches from one upstream.
struct Turns {
    layers: Semaphore,
    /// Permits for images.
    waiting: Arc<Semaphore>,
}

impl Default for Turns {
    fn default() -> Self {
        Self { layers: Semaphore::new(MAX_UPSTREAM), waiting: Arc::new(Semaphore::new(MAX_WAITING_FOR_UPSTREAM)) }
    }
}

impl Prefetch {
    pub(crate) fn new(
        config: &ReloadableConfig,
        images: Images,
        store: DiskStore,
        downloads: Downloads,
        trusted: TrustedNetworks,
    ) -> Self {
        let budget = config.load().max_size / MAX_PART_OF_CACHE;
        let distrusted = moka::sync::Cache::builder().max_capacity(MAX_DISTRUSTED).time_to_live(DISTRUST_TTL);
        Self(Arc::new(PrefetchInner {
            config: config.clone(),
            unclaimed: Unclaimed::new(budget, trusted),
            distrusted: distrusted.eviction_policy(EvictionPolicy::lru()).build(),
            images,
            begun: moka::sync::Cache::builder().max_capacity(MAX_BEGUN).time_to_live(ONCE_IN).build(),
            at_once: Semaphore::new(MAX_AT_ONCE),
            waiting: Arc::new(Semaphore::new(MAX_WAITING)),
            turns: moka::sync::Cache::new(MAX_UPSTREAMS),
            store,
            downloads,
            elsewhere: OnceLock::new(),
        }))
    }

    /// From now on, prefetches nothing that its client gets from the object store.
    pub(crate) fn redirects_by(&self, presence: Presence) {
        // There is one store.
        let _ = self.0.elsewhere.set(presence);
    }

    /// Whether this client is sent to the object store for a blob.
    async fn is_elsewhere(&self, source: &Source, client: IpAddr) -> bool {
        let presence = self.0.elsewhere.get().filter(|presence| presence.serves(client));
        let (Some(presence), Some(pool)) = (presence, source.upstream.store_pool()) else { return false };
        let name = ObjectName::blob(pool, &source.digest);
        source.upstream.redirects() && presence.len_for_clients(&name).await.is_some()
    }

    /// The cache may hold so many bytes now, and prefetched layers that no client requested a part of them.
    pub(crate) fn set_max_size(&self, max_size: u64) {
        self.0.unclaimed.set_budget(max_size / MAX_PART_OF_CACHE);
    }

    /// How many layers of one image are prefetched concurrently.
    fn most(&self) -> usize {
        self.0.config.load().prefetch
    }

    /// A client gets this blob: it counts against no client any more.
    pub(crate) fn taken(&self, id: &ContentKey) {
        self.0.unclaimed.release(id);
    }

    /// The client at this address gets this blob: if it is the configuration of an image, the client will request the
    /// layers next.
    pub(crate) fn config_wanted(&self, source: &Source, client: IpAddr) {
        if self.most() == 0 || self.0.distrusted.contains_key(&place(source)) {
            return;
        }
        let image = Image::of(source);
        let Some(Variant { manifest, layers, is_told }) = self.0.images.read_by(client, &image) else { return };
        if !self.0.begun.entry((image, manifest)).or_insert(()).is_fresh() {
            return;
        }
        let visibility = Visibility::of(&source.upstream);
        let missing: Vec<Layer> =
            layers.iter().filter(|layer| !self.0.store.has_blob(&visibility.key(&layer.digest))).cloned().collect();
        let bytes = missing.iter().fold(0, |sum: u64, layer| sum.saturating_add(layer.size));
        if missing.is_empty() || bytes > self.0.unclaimed.budget() {
            return;
        }
        let turns = self.0.turns.get_with_by_ref(source.upstream.registry(), Arc::default);
        let (Ok(of_all), Ok(of_upstream)) =
            (self.0.waiting.clone().try_acquire_owned(), turns.waiting.clone().try_acquire_owned())
        else {
            tracing::debug!(digest = %source.digest, "too much is fetched ahead already");
            return;
        };
        let source = Source { upstream: source.upstream.uncounted(), ..source.clone() };
        let prefetch = self.clone();
        self.0.downloads.tasks().spawn(async move {
            let _places = (of_all, of_upstream);
            let shutdown = prefetch.0.downloads.shutdown().clone();
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = prefetch.fetch(&source, client, &turns, missing, is_told) => {}
            }
        });
    }

    async fn fetch(&self, config: &Source, client: IpAddr, turns: &Turns, layers: Vec<Layer>, is_told: bool) {
        // If the upstream fails for one layer, forebay does not request the rest from it.
        let over = &AtomicBool::new(false);
        let fetch = async |layer: Layer| {
            // The semaphores are never closed. The upstream's permit comes first: waiting for it blocks no other
            // upstream.
            let Ok(_turn) = turns.layers.acquire().await else { return };
            let Ok(_turn_of_all) = self.0.at_once.acquire().await else { return };
            let source = Source { digest: layer.digest.clone(), ..config.clone() };
            if over.load(Ordering::Relaxed) || self.0.store.has_blob(&source.id()) {
                return;
            }
            // The blob is downloaded from another registry already: clients wait for that download if it is quick, and
            // no longer than they have to.
            if self.0.downloads.find_other(&source).is_some() || self.0.distrusted.contains_key(&place(&source)) {
                return;
            }
            if self.is_elsewhere(&source, client).await {
                return;
            }
            let (id, is_cached) = (source.id(), |id: &ContentKey| self.0.store.has_blob(id));
            // The layer counts against the client beyond the end of its download, however that ends.
            let Some(_on_its_way) = self.0.unclaimed.hold(&id, layer.size, client, is_cached) else { return };
            // The subscription is held until the end, so that the download is no orphan.
            let subscription = self.0.downloads.join_ahead(&source).await.into_subscription();
            let download = subscription.download().clone();
            let ended = layer.end(&download).await;
            match &ended {
                PrefetchEnded::Complete => {}
                PrefetchEnded::Failed(error) => {
                    tracing::debug!(%error, digest = %source.digest, "a layer was not fetched ahead")
                }
                PrefetchEnded::Stalled | PrefetchEnded::OtherSize => {
                    tracing::debug!(?ended, digest = %source.digest, "a layer is no longer fetched ahead");
                    // A download that a client had joined becomes an orphan like any other.
                    if !download.is_wanted() {
                        subscription.give_up();
                    }
                }
            }
            // A manifest that another upstream served says nothing about this repository.
            if ended.is_lie() && is_told {
                let (upstream, repository, digest) = (source.upstream.name(), &source.repository, &source.digest);
                tracing::warn!(%upstream, %repository, %digest, "a layer differs from its manifest: forebay prefetches nothing of this repository for a while");
                self.0.distrusted.insert(place(&source), ());
            }
            // The bytes of a failed prefetch count as well.
            match &ended {
                _ if download.is_wanted() || download.received() == 0 => self.0.unclaimed.release(&id),
                PrefetchEnded::Complete => {
                    // The download completes before the blob has its final name.
                    self.0.downloads.committed(&id).await;
                    self.0.unclaimed.landed(&id);
                }
                PrefetchEnded::Failed(_) | PrefetchEnded::Stalled | PrefetchEnded::OtherSize => {}
            }
            if ended.is_trouble() {
                over.store(true, Ordering::Relaxed);
            }
        };
        stream::iter(layers).for_each_concurrent(self.most(), fetch).await;
    }
}

/// The registry and repository of an image.
fn place(source: &Source) -> (Registry, Repository) {
    (source.upstream.registry().clone(), source.repository.clone())
}
