//! The images in the cache: which there are, how they are used, and how much of each is here.
//!
//! Requests note names, uses and pulls ([`names`]); the [`reader`] learns in the background what the manifests on disk name
//! ([`summaries`]); what is here of it is asked of the index of the disk when an operator asks ([`survey`]). How images were
//! used outlives a restart in a `file`.
//!
//! What must hold: a note keeps no request waiting for the disk, or for an operator's question; names and memory are
//! bounded; nothing here counts as a use of an object.

mod bounds;
mod details;
mod disk_usage;
mod document;
mod file;
mod given;
mod name;
mod names;
mod objects;
mod page;
mod pinned;
mod reader;
mod registries;
mod removal_plan;
mod repositories;
mod selection;
mod summaries;
mod survey;

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use arc_swap::ArcSwap;
use parking_lot::{Mutex, RwLock};
use tokio::{
    sync::{Notify, Semaphore, watch},
    time::timeout,
};

pub use self::name::{ImageName, NameRef};
pub(crate) use self::{
    details::{Details, ManifestDetails, Part},
    disk_usage::DiskUsage,
    page::{Image, Page, PageQuery, Sort},
    pinned::IncompletePins,
    removal_plan::RemovalPlan,
    selection::Selection,
    survey::PlatformState,
};
use self::{
    given::GivenDigests,
    names::{NameState, Names, Unread},
    pinned::PinnedState,
    summaries::Summaries,
};
use super::{
    ContentKey, DiskStore, Visibility,
    storage::{
        blocking,
        lru_index::{CompactKey, IndexKey},
        tag_record::TagKey,
    },
};
use crate::{
    oci::{Digest, Reference, Repository},
    upstream::Registry,
};

/// How many manifests that came are remembered until they are read; if more come, all names are looked at again.
const MAX_LANDED: usize = 4096;
/// How long what needs to know all images waits until those on disk are read.
const READING_TIMEOUT: Duration = Duration::from_secs(5);

/// A cheap handle.
#[derive(Clone)]
pub struct Inventory(Arc<InventoryInner>);

struct InventoryInner {
    store: DiskStore,
    /// How many bytes names and summaries may take.
    max_memory: usize,
    names: Names,
    summaries: RwLock<Summaries>,
    given: GivenDigests,
    pinned: Mutex<PinnedState>,
    landed: Mutex<Landed>,
    /// The registries that the upstreams are now.
    registries: ArcSwap<Vec<Registry>>,
    /// Where the use of images is kept.
    state: Mutex<Option<PathBuf>>,
    /// Whether the names that the disk has are known.
    is_rebuilt: AtomicBool,
    /// Whether the reader has taken out something that it has not read yet.
    is_busy: AtomicBool,
    /// Whether the last write of the file failed.
    is_failing: AtomicBool,
    /// Whether summaries may belong to no name any more.
    has_garbage: AtomicBool,
    /// Wakes the reader.
    work: Notify,
    /// Changes when the reader has read all that there was to read.
    readings: watch::Sender<()>,
    /// One question about all images at a time.
    questions: Arc<Semaphore>,
}

/// The manifests that came and were not read yet.
#[derive(Default)]
struct Landed {
    manifests: Vec<ContentKey>,
    are_lost: bool,
}

/// A client's request for a manifest, which it gets.
#[derive(Clone, Copy, Debug)]
pub struct ManifestUse<'a> {
    pub visibility: Visibility,
    pub upstream: &'a Arc<str>,
    pub repository: &'a Repository,
    /// As the client named it.
    pub reference: &'a Reference,
    /// What it gets.
    pub digest: &'a Digest,
    pub client: IpAddr,
    /// The upstream has just answered for this repository: what is cached is served for any repository.
    pub is_fetched: bool,
}

impl Inventory {
    pub fn new(store: DiskStore) -> Self {
        Self::within(bounds::MAX_MEMORY, store)
    }

    fn within(max_memory: usize, store: DiskStore) -> Self {
        Self(Arc::new(InventoryInner {
            store,
            max_memory,
            names: Names::default(),
            summaries: RwLock::default(),
            given: GivenDigests::default(),
            pinned: Mutex::default(),
            landed: Mutex::default(),
            registries: ArcSwap::default(),
            state: Mutex::default(),
            is_rebuilt: AtomicBool::new(false),
            is_busy: AtomicBool::new(false),
            is_failing: AtomicBool::new(false),
            has_garbage: AtomicBool::new(false),
            work: Notify::new(),
            readings: watch::Sender::new(()),
            questions: Arc::new(Semaphore::new(1)),
        }))
    }

    /// Keeps the use of images in this directory from now on, and takes over what an earlier process left there. Blocks.
    pub(crate) fn keep(&self, directory: &Path) {
        let mut state = self.0.state.lock();
        if state.as_deref() == Some(directory) {
            return;
        }
        match file::read(directory) {
            Ok(read) => {
                if read.damaged > 0 {
                    tracing::warn!(
                        path = %directory.display(), lines = read.damaged,
                        "the file images is damaged (kept as images.damaged): some images begin anew with 0 pulls"
                    );
                }
                read.images.into_iter().for_each(|image| self.take_over(image));
                *state = Some(directory.to_owned());
                self.0.work.notify_one();
            }
            Err(error) => tracing::warn!(
                %error, path = %directory.display(),
                "how images were used cannot be read, and is not kept over a restart"
            ),
        }
    }

    fn take_over(&self, image: file::Usage) {
        let file::Usage { name, pulls, last_use } = image;
        let manifest = match &name.reference {
            Reference::Digest(digest) => Some(manifest_key(name.visibility, digest)),
            Reference::Tag(_) => None,
        };
        self.0.names.with_new(
            name.borrow(),
            || name.clone(),
            |state| {
                state.pulls = state.pulls.saturating_add(pulls);
                state.last_use = state.last_use.max(last_use);
                if state.manifest.is_none() {
                    state.unread = if manifest.is_some() { Unread::Manifest } else { Unread::Record };
                    state.manifest = manifest;
                }
            },
        );
    }

    /// The upstream said at this time that a tag has this digest.
    pub(crate) fn note_tag(&self, key: &TagKey, digest: &Digest, confirmed: SystemTime) {
        let manifest = manifest_key(key.visibility, digest);
        let confirmed = seconds(confirmed);
        let is_news = self.0.names.with_new(
            key.into(),
            || key.into(),
            |state| {
                state.confirmed = confirmed;
                let is_news = state.manifest.as_ref() != Some(&manifest);
                if is_news {
                    state.manifest = Some(manifest);
                    state.unread = Unread::Manifest;
                }
                is_news
            },
        );
        if is_news == Some(true) {
            self.0.has_garbage.store(true, Ordering::Relaxed);
            self.0.names.note_change();
            self.0.work.notify_one();
        }
    }

    /// A tag has no record any more.
    pub(crate) fn forget_tag(&self, key: &TagKey) {
        self.0.names.with(key.into(), |state| {
            (state.manifest, state.unread) = (None, Unread::Nothing);
        });
        self.0.has_garbage.store(true, Ordering::Relaxed);
    }

    /// A manifest was deleted: no name of the repository leads to it.
    pub(crate) fn forget_manifest(
        &self,
        visibility: Visibility,
        upstream: &str,
        repository: &Repository,
        digest: &Digest,
    ) {
        let manifest = manifest_key(visibility, digest);
        self.0.names.retain(|name, state| {
            let is_it = state.manifest.as_ref() == Some(&manifest)
                && *name.upstream == *upstream
                && name.repository == *repository;
            if is_it {
                (state.manifest, state.unread) = (None, Unread::Nothing);
            }
            !is_it || matches!(name.reference, Reference::Tag(_))
        });
        self.0.has_garbage.store(true, Ordering::Relaxed);
    }

    /// A manifest is on disk now.
    pub(crate) fn note_landed(&self, manifest: ContentKey) {
        {
            let mut landed = self.0.landed.lock();
            match landed.manifests.len() < MAX_LANDED {
                true => landed.manifests.push(manifest),
                false => landed.are_lost = true,
            }
        }
        self.0.work.notify_one();
    }

    /// A client gets the head of a manifest.
    pub(crate) fn note_head(&self, used: ManifestUse<'_>) {
        let ManifestUse { visibility, upstream, repository, reference, digest, client, .. } = used;
        let place = self.0.given.place(client, upstream, repository);
        self.0.given.note_head(place, reference, digest);
        let now = seconds(SystemTime::now());
        let name = NameRef::new(visibility, upstream, repository, reference);
        if self.0.names.with(name, |state| state.last_use = now).is_some() {
            self.0.names.note_change();
        }
    }

    /// A client gets a manifest; `children`: the fronts of the digests of an index. Returns the tag or digest that the
    /// request pulls, if it is a pull. A name by digest is added for a repository that the upstream is known to have: a
    /// client may make up any other one.
    pub fn note_get(&self, used: ManifestUse<'_>, children: &[u64]) -> Option<Reference> {
        let ManifestUse { visibility, upstream, repository, reference, digest, client, is_fetched } = used;
        let place = self.0.given.place(client, upstream, repository);
        let pulled = self.0.given.note_get(place, reference, digest, children)?;
        let now = seconds(SystemTime::now());
        let name = NameRef::new(visibility, upstream, repository, &pulled);
        let count = |state: &mut NameState| {
            state.pulls = state.pulls.saturating_add(1);
            state.last_use = now;
            let is_new = state.manifest.is_none();
            if is_new {
                state.manifest = Some(manifest_key(visibility, digest));
                state.unread = Unread::Manifest;
            }
            is_new
        };
        let may_add = is_fetched
            || visibility == Visibility::PerClient
            || matches!(pulled, Reference::Tag(_))
            || self.0.names.has_repository(visibility, upstream, repository);
        let owned = || ImageName {
            visibility,
            upstream: upstream.clone(),
            repository: repository.clone(),
            reference: pulled.clone(),
        };
        let is_new = match may_add {
            true => self.0.names.with_new(name, owned, count),
            false => self.0.names.with(name, count),
        };
        if is_new.is_some() {
            self.0.names.note_change();
        }
        if is_new == Some(true) {
            self.0.work.notify_one();
        }
        Some(pulled)
    }

    /// A rule serves this digest for a tag, whatever the upstream says.
    pub(crate) fn note_held(&self, used: ManifestUse<'_>) {
        let ManifestUse { visibility, upstream, repository, reference, digest, .. } = used;
        let manifest = manifest_key(visibility, digest);
        let is_news =
            self.0.names.with(NameRef::new(visibility, upstream, repository, reference), |state| state.means(manifest));
        if is_news == Some(true) {
            self.0.has_garbage.store(true, Ordering::Relaxed);
            self.0.work.notify_one();
        }
    }

    /// An operator had this image fetched or imported, and its name means this digest.
    pub(crate) fn note_image(&self, name: &ImageName, digest: &Digest) {
        let manifest = manifest_key(name.visibility, digest);
        let is_news = self.0.names.with_new(name.borrow(), || name.clone(), |state| state.means(manifest));
        if is_news == Some(true) {
            self.0.has_garbage.store(true, Ordering::Relaxed);
            self.0.names.note_change();
            self.0.work.notify_one();
        }
    }

    /// Answers a question about all images on the blocking pool, one at a time; `None` if the process ends.
    async fn answer<T: Send + 'static>(&self, question: impl FnOnce(&Self) -> T + Send + 'static) -> Option<T> {
        let turn = self.0.questions.clone().acquire_owned().await.ok()?;
        let inventory = self.clone();
        let work = move || {
            // Held until the work is done: the client may leave before that.
            let _turn = turn;
            question(&inventory)
        };
        Some(blocking(work).await)
    }

    /// A page of the images that are here.
    pub(crate) async fn page(&self, query: PageQuery) -> Option<Page> {
        self.answer(move |inventory| inventory.page_now(&query)).await
    }

    /// What an image consists of; `None`: there is no such image here.
    pub(crate) async fn details(&self, name: ImageName) -> Option<Details> {
        self.answer(move |inventory| inventory.details_now(&name)).await.flatten()
    }

    /// What takes the room of the cache.
    pub(crate) async fn disk_usage(&self, sees_clients: bool) -> Option<DiskUsage> {
        self.answer(move |inventory| inventory.disk_usage_now(sees_clients)).await
    }

    /// Whether names or manifests are yet to be read.
    pub fn is_reading(&self) -> bool {
        !self.0.is_rebuilt.load(Ordering::Acquire)
            || self.0.names.has_unread()
            || !self.0.landed.lock().manifests.is_empty()
            // Last: the reader is busy before it takes out any of these.
            || self.0.is_busy.load(Ordering::Acquire)
    }

    /// Changes when names, or what they consist of, may have changed.
    pub(crate) fn readings(&self) -> watch::Receiver<()> {
        self.0.readings.subscribe()
    }

    /// The names of the images that are `wanted`.
    pub(crate) async fn names(&self, wanted: impl Fn(&ImageName) -> bool + Send + 'static) -> Vec<ImageName> {
        let question = move |inventory: &Self| {
            let named = inventory.0.names.list(|name, state| page::is_shown(state) && wanted(name));
            named.into_iter().map(|named| named.name).collect()
        };
        self.answer(question).await.unwrap_or_default()
    }

    /// Waits until all is read that there is to read, for [`READING_TIMEOUT`] at most; returns whether it is. Before that it is
    /// not known which images there are, and what they share.
    pub(crate) async fn until_read(&self) -> bool {
        let mut readings = self.readings();
        let read = async {
            // The inventory has the sender.
            while self.is_reading() && readings.changed().await.is_ok() {}
        };
        timeout(READING_TIMEOUT, read).await.is_ok()
    }

    /// How many images are known, and the bytes that they take in memory.
    pub fn memory(&self) -> (usize, usize) {
        (self.0.names.len(), self.0.names.memory() + self.0.summaries.read().memory())
    }

    /// How many bytes an object takes on disk, if it is there.
    fn on_disk(&self) -> impl Fn(&CompactKey) -> Option<u64> {
        |key| self.0.store.bytes_on_disk(key)
    }
}

fn manifest_key(visibility: Visibility, digest: &Digest) -> CompactKey {
    CompactKey::from(&IndexKey::Manifest(visibility.key(digest)))
}

/// Seconds since 1970.
pub(super) fn seconds(time: SystemTime) -> u32 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u32::try_from(since.as_secs()).unwrap_or(u32::MAX)
}

/// The time of so many seconds since 1970; 0 is none.
pub(super) fn time_of(seconds: u32) -> Option<SystemTime> {
    (seconds > 0).then(|| UNIX_EPOCH.checked_add(Duration::from_secs(seconds.into()))).flatten()
}

#[cfg(test)]
mod tests;
