//! Checks of objects that clients came back for.
//!
//! A client that gets wrong bytes from the store requests them again, and no forebay has seen them: so forebay reads the object
//! itself. Most clients come back since they do not reach the store, so that this has to be rare.
//!
//! What must hold: one object is read at a time, and none a second time within an hour; no client waits for it.

use std::{num::NonZeroUsize, sync::Arc, time::Duration};

use lru::LruCache;
use parking_lot::Mutex;
use tokio::{sync::Semaphore, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    oci::Digest,
    store::{ObjectName, Store},
};

/// How long an object counts as right.
const RIGHT_TTL: Duration = Duration::from_secs(60 * 60);
/// So many objects are remembered: some 150 bytes each.
const MAX_CHECKED: NonZeroUsize = match NonZeroUsize::new(10_000) {
    Some(count) => count,
    None => NonZeroUsize::MIN,
};

/// Reads objects in the background.
pub(in crate::registry) struct Checks {
    checked: Arc<Mutex<LruCache<ObjectName, Instant>>>,
    turn: Arc<Semaphore>,
    tasks: TaskTracker,
    end: CancellationToken,
}

impl Checks {
    pub(super) fn new(tasks: TaskTracker, end: CancellationToken) -> Self {
        let checked = Arc::new(Mutex::new(LruCache::new(MAX_CHECKED)));
        Self { checked, turn: Arc::new(Semaphore::new(1)), tasks, end }
    }

    /// Checks a blob unless it was checked lately, or another one is being checked: then the next client that comes back for it
    /// will have it checked.
    pub(in crate::registry) fn begin(&self, store: &Store, name: &ObjectName, digest: &Digest) {
        let is_due = self.checked.lock().get(name).is_none_or(|at| at.elapsed() >= RIGHT_TTL);
        let Some(turn) = is_due.then(|| self.turn.clone().try_acquire_owned().ok()).flatten() else { return };
        let (store, name, digest) = (store.clone(), name.clone(), digest.clone());
        let (checked, end) = (self.checked.clone(), self.end.clone());
        self.tasks.spawn(async move {
            let _turn = turn;
            let Some(result) = end.run_until_cancelled(store.check(&name, &digest)).await else { return };
            match result {
                Ok(is_right) => {
                    tracing::debug!(%name, is_right, "an object was checked, since a client came back for it");
                    checked.lock().put(name, Instant::now());
                }
                Err(error) => tracing::debug!(%name, %error, "an object could not be checked"),
            }
        });
    }
}
