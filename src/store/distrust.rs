//! Objects that had wrong bytes: they are not read again.

use std::num::NonZeroUsize;

use std::collections::VecDeque;

use lru::LruCache;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::names::ObjectName;

/// So many are remembered: some 100 bytes each.
const MAX_DISTRUSTED: NonZeroUsize = match NonZeroUsize::new(10_000) {
    Some(count) => count,
    None => NonZeroUsize::MIN,
};

/// The names of objects that had wrong bytes. Those that were found last are kept.
#[derive(Debug)]
pub(super) struct Distrust(Mutex<LruCache<ObjectName, ()>>);

impl Default for Distrust {
    fn default() -> Self {
        Self(Mutex::new(LruCache::new(MAX_DISTRUSTED)))
    }
}

impl Distrust {
    /// Whether this is new.
    pub(super) fn note(&self, name: &ObjectName) -> bool {
        self.0.lock().put(name.clone(), ()).is_none()
    }

    pub(super) fn has(&self, name: &ObjectName) -> bool {
        self.0.lock().contains(name)
    }

    /// The object was written anew.
    pub(super) fn forget(&self, name: &ObjectName) {
        self.0.lock().pop(name);
    }
}

/// How many objects wait to be deleted; what is found beyond that stays, and is not read.
const MAX_WAITING: usize = 1_000;

/// Objects that are to be deleted.
#[derive(Debug, Default)]
pub(super) struct WrongObjects {
    waiting: Mutex<VecDeque<ObjectName>>,
    added: Notify,
}

impl WrongObjects {
    pub(super) fn add(&self, name: ObjectName) {
        let mut waiting = self.waiting.lock();
        if waiting.len() < MAX_WAITING {
            waiting.push_back(name);
            self.added.notify_one();
        }
    }

    /// Waits for the next one.
    pub(super) async fn next(&self) -> ObjectName {
        loop {
            let next = self.waiting.lock().pop_front();
            match next {
                Some(name) => return name,
                None => self.added.notified().await,
            }
        }
    }
}
