//! All fills in flight: who leads is decided here, atomically, and who still reads is counted here.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Semaphore;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{Fill, FillError, FillReader, Progress, distrust::Distrust, task};
use crate::{
    cache::{ContentId, DiskStore, Source},
    metrics::Metrics,
};

/// Fills that go on although nobody reads them any more: the next client is likely to come soon. More than
/// these are given up, the last orphaned first, and leave what they have to be gone on with.
const MOST_ORPHANS: usize = 16;

/// How many connections beside the first of each fill there are at most, for all fills together.
const MOST_LANES: usize = 48;

/// A cheap handle on the fills in flight.
#[derive(Clone)]
pub struct Fills(Arc<Shared>);

struct Shared {
    entries: Mutex<HashMap<ContentId, Entry>>,
    /// Blobs that one request fetches beside their fill.
    beside: Mutex<HashSet<ContentId>>,
    pub store: DiskStore,
    pub metrics: Metrics,
    tasks: TaskTracker,
    shutdown: CancellationToken,
    /// Connections beside the first of each fill.
    lanes: Arc<Semaphore>,
    distrust: Distrust,
}

struct Entry {
    fill: Arc<Fill>,
    members: usize,
}

/// How somebody came to a fill.
pub enum Joined {
    /// It was started for this one.
    Leader(Membership),
    /// It was there.
    Follower(Membership),
}

/// Somebody is interested in a fill as long as this lives.
pub struct Membership {
    fills: Fills,
    fill: Arc<Fill>,
}

impl Fills {
    pub fn new(store: DiskStore, metrics: Metrics, tasks: TaskTracker, shutdown: CancellationToken) -> Self {
        Self(Arc::new(Shared {
            entries: Mutex::default(),
            beside: Mutex::default(),
            store,
            metrics,
            tasks,
            shutdown,
            lanes: Arc::new(Semaphore::new(MOST_LANES)),
            distrust: Distrust::default(),
        }))
    }

    pub(super) fn store(&self) -> &DiskStore {
        &self.0.store
    }

    pub(super) fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    pub(super) fn distrust(&self) -> &Distrust {
        &self.0.distrust
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

    /// Whether there is a fill of this blob that can be joined.
    pub fn has(&self, id: &ContentId) -> bool {
        self.entries().get(id).is_some_and(|entry| entry.fill.can_be_joined())
    }

    /// The fill of this blob, if there is one that can be joined.
    pub fn find(&self, id: &ContentId) -> Option<Membership> {
        let mut entries = self.entries();
        let entry = entries.get_mut(id).filter(|entry| entry.fill.can_be_joined())?;
        Some(self.enter(entry))
    }

    /// The place of the one request that may fetch this blob beside its fill, since it must not wait for that; `None` when
    /// it is taken.
    pub fn beside(&self, id: &ContentId) -> Option<Beside> {
        let taken = self.0.beside.lock().unwrap_or_else(PoisonError::into_inner).insert(id.clone());
        taken.then(|| Beside { fills: self.clone(), id: id.clone() })
    }

    /// Waits for the commit of this blob, if it is verified and not committed yet: a removal before would come too early.
    pub async fn committed(&self, id: &ContentId) {
        let fill = self.entries().get(id).map(|entry| entry.fill.clone()).filter(|fill| fill.is_complete());
        if let Some(fill) = fill {
            fill.when(|state| state.ended.then_some(())).await;
        }
    }

    /// Joins the fill of this blob, or starts it. There is never more than one.
    pub async fn join(&self, source: &Source) -> Joined {
        loop {
            let id = source.id();
            let leaving = {
                let mut entries = self.entries();
                match entries.get_mut(&id) {
                    Some(entry) if entry.fill.can_be_joined() => return Joined::Follower(self.enter(entry)),
                    Some(entry) => entry.fill.clone(),
                    None => {
                        let cancel = self.0.shutdown.child_token();
                        let fill = Arc::new(Fill::new(source.clone(), self.0.metrics.clone(), cancel));
                        let mut entry = Entry { fill: fill.clone(), members: 0 };
                        let membership = self.enter(&mut entry);
                        entries.insert(id, entry);
                        self.0.tasks.spawn(task::run(self.clone(), fill));
                        return Joined::Leader(membership);
                    }
                }
            };
            // It was given up a moment ago and still holds its temporary file.
            let _ = leaving.end().await;
            if self.0.shutdown.is_cancelled() {
                return Joined::Follower(Membership { fills: self.clone(), fill: leaving });
            }
        }
    }

    /// Puts a fill on the list that this one has; `None` when there is one of its blob.
    pub(super) fn enter_new(&self, fill: Arc<Fill>) -> Option<Membership> {
        let id = fill.source.id();
        let mut entries = self.entries();
        if entries.contains_key(&id) {
            return None;
        }
        let mut entry = Entry { fill, members: 0 };
        let membership = self.enter(&mut entry);
        entries.insert(id, entry);
        Some(membership)
    }

    /// Ends a fill: those who ask from now on find the blob on disk, or start anew.
    pub(super) fn end(&self, fill: &Arc<Fill>, progress: Progress) {
        let mut entries = self.entries();
        if entries.get(&fill.source.id()).is_some_and(|entry| Arc::ptr_eq(&entry.fill, fill)) {
            entries.remove(&fill.source.id());
        }
        drop(entries);
        fill.update(|state| {
            state.ended = true;
            if !state.is_over() {
                state.progress = progress;
            }
        });
    }

    fn enter(&self, entry: &mut Entry) -> Membership {
        entry.members += 1;
        Membership { fills: self.clone(), fill: entry.fill.clone() }
    }

    fn leave(&self, fill: &Arc<Fill>) {
        let mut entries = self.entries();
        let Some(entry) = entries.get_mut(&fill.source.id()).filter(|entry| Arc::ptr_eq(&entry.fill, fill)) else {
            return;
        };
        entry.members = entry.members.saturating_sub(1);
        if entry.members > 0 || fill.is_complete() {
            return;
        }
        let orphans = entries.values().filter(|entry| entry.members == 0 && !entry.fill.cancel.is_cancelled()).count();
        if orphans > MOST_ORPHANS {
            tracing::info!(digest = %fill.source.digest, orphans, "a fill that nobody reads any more is given up");
            fill.cancel.cancel();
        }
    }

    /// Ends a fill that only one has joined, who does not want it any more.
    fn give_up(&self, fill: &Arc<Fill>) {
        let entries = self.entries();
        let entry = entries.get(&fill.source.id()).filter(|entry| Arc::ptr_eq(&entry.fill, fill));
        if entry.is_some_and(|entry| entry.members == 1) && !fill.is_complete() {
            fill.cancel.cancel();
        }
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<ContentId, Entry>> {
        self.0.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Membership {
    pub fn fill(&self) -> &Arc<Fill> {
        &self.fill
    }

    pub(super) fn fills(&self) -> &Fills {
        &self.fills
    }

    /// Leaves the fill to the others; without any it ends, and is no orphan.
    pub fn give_up(self) {
        self.fills.give_up(&self.fill);
    }

    /// Reads from `first` up to `end` (exclusive), or to the end. Call it when [`Fill::head`] has answered.
    pub fn read(self, source: Source, first: u64, end: Option<u64>) -> FillReader {
        FillReader::new(self, source, first, end)
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        self.fills.leave(&self.fill);
    }
}

impl Joined {
    pub fn into_membership(self) -> Membership {
        match self {
            Self::Leader(membership) | Self::Follower(membership) => membership,
        }
    }
}

/// A blob is fetched beside its fill as long as this lives.
pub struct Beside {
    fills: Fills,
    id: ContentId,
}

impl Drop for Beside {
    fn drop(&mut self) {
        self.fills.0.beside.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
    }
}

/// Ends the fill when its task does, however it does.
pub(super) struct Ended {
    pub fills: Fills,
    pub fill: Arc<Fill>,
}

impl Drop for Ended {
    fn drop(&mut self) {
        self.fills.end(&self.fill, Progress::Failed(FillError::Abandoned));
    }
}
