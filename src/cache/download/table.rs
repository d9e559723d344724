//! All fills in flight: who leads is decided here, atomically, and who still reads is counted here.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, atomic::Ordering},
    time::SystemTime,
};

use parking_lot::{Mutex, MutexGuard};

use futures_util::future::{FutureExt as _, join_all};
use tokio::{sync::Semaphore, time::timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{Download, DownloadError, DownloadReader, Progress, abandoned, range_suspension::RangeSuspensions};
use crate::{
    cache::{
        ContentKey, DiskStore, Source,
        storage::{Short, index::IndexKey},
    },
    metrics::Metrics,
    upstream::Registry,
};

/// Fills that go on although nobody reads them any more: the next client is likely to come soon. More than
/// these are given up, the last orphaned first, and leave what they have to be gone on with.
const MAX_ORPHANS: usize = 16;

/// How many connections beside the first of each fill there are at most, for all fills together.
const MAX_LANES: usize = 48;

/// How many leftovers are remembered as not whole.
const MAX_IN_PART: u64 = 10_000;

/// A cheap handle on the fills in flight.
#[derive(Clone)]
pub struct Downloads(Arc<DownloadsInner>);

struct DownloadsInner {
    /// Of each blob one at most per registry.
    entries: Mutex<DownloadEntries>,
    /// Blobs that one request fetches beside their fill.
    beside: Mutex<HashSet<(ContentKey, Registry)>>,
    pub store: DiskStore,
    pub metrics: Metrics,
    tasks: TaskTracker,
    shutdown: CancellationToken,
    /// Connections beside the first of each fill.
    lanes: Arc<Semaphore>,
    distrust: RangeSuspensions,
    /// What earlier fills left and was hashed: it is not all of the blob.
    in_part: moka::sync::Cache<ContentKey, Leftover>,
}

/// By its bytes from the front and its time of last change, what is left of a blob is known again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Leftover {
    pub front: u64,
    pub modified: SystemTime,
}

type DownloadEntries = HashMap<ContentKey, Vec<Arc<Download>>>;

/// What a request finds in the table.
pub(super) enum Entry {
    /// A fill that it has joined.
    Joined(Subscription),
    /// Nothing: a fill was added.
    Added(Subscription),
    /// A fill that was given up and has not ended yet.
    Leaving(Arc<Download>),
}

/// Somebody is interested in a fill as long as this lives.
pub struct Subscription {
    fills: Downloads,
    fill: Arc<Download>,
    /// It is there for no client.
    ahead: bool,
}

impl Downloads {
    /// The store asks them from now on for the room that fills without clients hold.
    pub fn new(store: DiskStore, metrics: Metrics, tasks: TaskTracker, shutdown: CancellationToken) -> Self {
        let fills = Self(Arc::new(DownloadsInner {
            entries: Mutex::default(),
            beside: Mutex::default(),
            store,
            metrics,
            tasks,
            shutdown,
            lanes: Arc::new(Semaphore::new(MAX_LANES)),
            distrust: RangeSuspensions::default(),
            in_part: moka::sync::Cache::new(MAX_IN_PART),
        }));
        let shared = Arc::downgrade(&fills.0);
        fills.store().on_shortage(move |short| {
            let fills = shared.upgrade().map(Downloads);
            async move {
                match fills {
                    Some(fills) => fills.make_room(short).await,
                    None => false,
                }
            }
            .boxed()
        });
        fills
    }

    pub(super) fn store(&self) -> &DiskStore {
        &self.0.store
    }

    pub(super) fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    pub(super) fn distrust(&self) -> &RangeSuspensions {
        &self.0.distrust
    }

    pub(super) fn in_part(&self) -> &moka::sync::Cache<ContentKey, Leftover> {
        &self.0.in_part
    }

    pub(super) fn lanes(&self) -> &Arc<Semaphore> {
        &self.0.lanes
    }

    pub fn tasks(&self) -> &TaskTracker {
        &self.0.tasks
    }

    /// The process ends.
    pub fn shutdown(&self) -> &CancellationToken {
        &self.0.shutdown
    }

    /// Whether there is a fill of this blob from this registry that can be joined.
    pub fn has(&self, source: &Source) -> bool {
        let entries = self.entries();
        own(&entries, source).is_some_and(|fill| fill.can_be_joined())
    }

    /// The fill of this blob from this registry, if there is one that can be joined.
    pub fn find(&self, source: &Source) -> Option<Subscription> {
        let entries = self.entries();
        let fill = own(&entries, source).filter(|fill| fill.can_be_joined())?;
        Some(self.enter(fill, false))
    }

    /// A fill of this blob from another registry, where there is none from this one.
    pub fn find_other(&self, source: &Source) -> Option<Subscription> {
        let entries = self.entries();
        if own(&entries, source).is_some() {
            return None;
        }
        let fill = entries.get(&source.id())?.iter().find(|fill| fill.can_be_joined())?;
        Some(self.enter(fill, false))
    }

    /// The place of the one request that may fetch this blob beside its registry's fill, since it must not wait for that;
    /// `None` when it is taken.
    pub fn beside(&self, source: &Source) -> Option<Coexisting> {
        let what = (source.id(), source.upstream.registry().clone());
        let taken = self.0.beside.lock().insert(what.clone());
        taken.then(|| Coexisting { fills: self.clone(), what })
    }

    /// Waits for the commit of this blob, if it is verified and not committed yet: a removal before would come too early.
    pub async fn committed(&self, id: &ContentKey) {
        let complete = |fills: &Vec<Arc<Download>>| -> Vec<Arc<Download>> {
            fills.iter().filter(|fill| fill.is_complete()).cloned().collect()
        };
        let fills = self.entries().get(id).map(complete).unwrap_or_default();
        for fill in fills {
            fill.when(|state| state.ended.then_some(())).await;
        }
    }

    /// Joins the fill of this blob from this registry, or adds one for which no task works yet.
    pub(super) fn enter_or_add(&self, source: &Source, wanted: bool) -> Entry {
        let mut entries = self.entries();
        match own(&entries, source) {
            Some(fill) if fill.can_be_joined() => Entry::Joined(self.enter(fill, !wanted)),
            Some(fill) => Entry::Leaving(fill.clone()),
            None => {
                let cancel = self.0.shutdown.child_token();
                let of_blob = entries.entry(source.id()).or_default();
                let beside = !of_blob.is_empty();
                let fill = Arc::new(Download::new(source.clone(), beside, wanted, self.0.metrics.clone(), cancel));
                let membership = self.enter(&fill, !wanted);
                of_blob.push(fill);
                Entry::Added(membership)
            }
        }
    }

    /// Joins a fill that has ended.
    pub(super) fn enter_ended(&self, fill: &Arc<Download>, wanted: bool) -> Subscription {
        let _entries = self.entries();
        self.enter(fill, !wanted)
    }

    /// Puts a fill on the list that this one has; `None` when there is one of its blob from its registry.
    pub(super) fn enter_new(&self, fill: Arc<Download>) -> Option<Subscription> {
        let mut entries = self.entries();
        if own(&entries, &fill.source).is_some() {
            return None;
        }
        let membership = self.enter(&fill, false);
        entries.entry(fill.source.id()).or_default().push(fill);
        Some(membership)
    }

    /// Ends a fill: those who ask from now on find the blob on disk, or start anew.
    pub(super) fn end(&self, fill: &Arc<Download>, progress: Progress) {
        let mut entries = self.entries();
        let id = fill.source.id();
        if let Some(of_blob) = entries.get_mut(&id) {
            of_blob.retain(|entry| !Arc::ptr_eq(entry, fill));
            if of_blob.is_empty() {
                entries.remove(&id);
            }
        }
        drop(entries);
        fill.update(|state| {
            state.ended = true;
            if !state.is_over() {
                state.progress = progress;
            }
        });
    }

    /// Called under the lock.
    fn enter(&self, fill: &Arc<Download>, ahead: bool) -> Subscription {
        fill.members_ahead.fetch_add(usize::from(ahead), Ordering::SeqCst);
        fill.members.send_modify(|members| *members += 1);
        Subscription { fills: self.clone(), fill: fill.clone(), ahead }
    }

    fn leave(&self, fill: &Arc<Download>, ahead: bool) {
        let entries = self.entries();
        fill.members_ahead.fetch_sub(usize::from(ahead), Ordering::SeqCst);
        fill.members.send_modify(|members| *members = members.saturating_sub(1));
        if !has(&entries, fill) || fill.members() > 0 || fill.is_complete() {
            return;
        }
        let orphans =
            entries.values().flatten().filter(|fill| fill.members() == 0 && !fill.cancel.is_cancelled()).count();
        if orphans > MAX_ORPHANS {
            tracing::info!(digest = %fill.source.digest, orphans, "a fill that nobody reads any more is given up");
            fill.cancel.cancel();
        }
    }

    /// Ends a fill that only one has joined, who does not want it any more.
    fn give_up(&self, fill: &Arc<Download>) {
        let entries = self.entries();
        if has(&entries, fill) && fill.members() == 1 && !fill.is_complete() {
            fill.cancel.cancel();
        }
    }

    /// Ends a fill if it has no clients; whether it has none.
    pub(super) fn give_up_without_clients(&self, fill: &Arc<Download>) -> bool {
        let _entries = self.entries();
        let has_none = !fill.has_clients() && !fill.is_complete();
        if has_none {
            fill.cancel.cancel();
        }
        has_none
    }

    /// Ends fills without clients, as many as hold the room that is short, and waits until they are gone, and those that
    /// were ended a moment ago; whether there were any.
    async fn make_room(&self, short: Short) -> bool {
        let leaving = {
            let entries = self.entries();
            let leaving = |fill: &Arc<Download>| Some((fill.clone(), fill.leaving()?));
            let mut leaving: Vec<_> = entries.values().flatten().filter_map(leaving).collect();
            let missing =
                leaving.iter().fold(short.missing, |missing, (_, reserved)| missing.saturating_sub(*reserved));
            let idle = entries.values().flatten().filter_map(Download::idle).collect();
            for fill in abandoned::to_give_up(idle, Short { missing, ..short }) {
                tracing::info!(digest = %fill.source.digest, "a fill without clients is given up: a client needs its room");
                fill.cancel.cancel();
                leaving.extend(fill.leaving().map(|reserved| (fill, reserved)));
            }
            leaving
        };
        let gone = leaving.iter().map(|(fill, _)| fill.when(|state| state.ended.then_some(())));
        let _ = timeout(abandoned::ENDED_TIMEOUT, join_all(gone)).await;
        !leaving.is_empty()
    }

    fn entries(&self) -> MutexGuard<'_, DownloadEntries> {
        self.0.entries.lock()
    }
}

/// The fill of a blob from its registry.
fn own<'a>(entries: &'a DownloadEntries, source: &Source) -> Option<&'a Arc<Download>> {
    entries.get(&source.id())?.iter().find(|fill| fill.source.is_of_same_registry(source))
}

fn has(entries: &DownloadEntries, fill: &Arc<Download>) -> bool {
    entries.get(&fill.source.id()).is_some_and(|of_blob| of_blob.iter().any(|entry| Arc::ptr_eq(entry, fill)))
}

impl Subscription {
    pub fn fill(&self) -> &Arc<Download> {
        &self.fill
    }

    pub(super) fn fills(&self) -> &Downloads {
        &self.fills
    }

    /// A client is to get it.
    pub fn want(&self) {
        // Its commit looks at the same in the other order, so that one of both sees it.
        if !self.fill.wanted.swap(true, Ordering::SeqCst) && self.fill.is_complete() {
            self.fills.0.store.used(IndexKey::Blob(self.fill.source.id()));
        }
    }

    /// Leaves the fill to the others; without any it ends, and is no orphan.
    pub fn give_up(self) {
        self.fills.give_up(&self.fill);
    }

    /// Reads from `first` up to `end` (exclusive), or to the end. Call it when [`Download::head`] has answered.
    pub fn read(self, source: Source, first: u64, end: Option<u64>) -> DownloadReader {
        DownloadReader::new(self, source, first, end)
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.fills.leave(&self.fill, self.ahead);
    }
}

/// A blob is fetched beside its fill as long as this lives.
pub struct Coexisting {
    fills: Downloads,
    what: (ContentKey, Registry),
}

impl Drop for Coexisting {
    fn drop(&mut self) {
        self.fills.0.beside.lock().remove(&self.what);
    }
}

/// Ends the fill when its task does, however it does.
pub(super) struct DownloadEnd {
    pub fills: Downloads,
    pub fill: Arc<Download>,
}

impl Drop for DownloadEnd {
    fn drop(&mut self) {
        self.fills.end(&self.fill, Progress::Failed(DownloadError::Abandoned));
    }
}

#[cfg(test)]
mod tests {
    use std::{fs::File, path::Path, time::Duration};

    use super::*;
    use crate::{
        cache::Config,
        oci::{Algorithm, Digest},
        upstream::{self, Context, Upstream},
    };

    const PART: u64 = 100_000;

    fn fills(directory: &Path) -> Downloads {
        let config = Config::at(directory);
        let metrics = Metrics::new().unwrap();
        let store = DiskStore::open(&config, metrics.clone()).unwrap();
        Downloads::new(store, metrics, TaskTracker::new(), CancellationToken::new())
    }

    /// A fill without clients, for which room is reserved, and no task works.
    fn idle(fills: &Downloads, number: u8, file: &File) -> Arc<Download> {
        let config = upstream::Config::at("registry.example", &["https://registry.example"]);
        let source = Source {
            upstream: Upstream::new(&config, Context::of_test()).unwrap(),
            repository: "team/app".parse().unwrap(),
            digest: Digest::of(Algorithm::Sha256, &[number]),
        };
        let cancel = fills.shutdown().child_token();
        let fill = Arc::new(Download::new(source, false, true, fills.metrics().clone(), cancel));
        fill.update(|state| {
            state.file = Some(Arc::new(file.try_clone().unwrap()));
            state.total = Some(PART);
        });
        drop(fills.enter_new(fill.clone()));
        fill
    }

    #[tokio::test(start_paused = true)]
    async fn a_fill_that_does_not_end_is_waited_for_once() {
        let directory = tempfile::tempdir().unwrap();
        let fills = fills(directory.path());
        let file = tempfile::tempfile().unwrap();
        let [first, second] = [1, 2].map(|number| idle(&fills, number, &file));
        let given_up = || [&first, &second].map(|fill| fill.cancel.is_cancelled());
        let short = Short { missing: PART, kept: 0 };
        // The first that is given up leaves room for both that want it, and does not end.
        let both = tokio::join!(fills.make_room(short), fills.make_room(short));
        assert_eq!((both, given_up().iter().filter(|given_up| **given_up).count()), ((true, true), 1));
        assert!(fills.make_room(short).await);
        assert_eq!(given_up(), [true; 2]);
        let begun = tokio::time::Instant::now();
        assert!(!fills.make_room(short).await);
        assert_eq!(begun.elapsed(), Duration::ZERO);
    }
}
