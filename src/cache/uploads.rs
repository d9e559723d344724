//! What is to be uploaded to the object store.
//!
//! What must hold: the queue has keys and no content, and is bounded. What does not fit is not lost: the content stays
//! on disk, and the store is compared with it again and again.

use std::{
    collections::{HashSet, VecDeque},
    sync::Arc,
};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::storage::lru_index::{CompactKey, IndexKey};
use crate::{metrics::Metrics, store::UploadResult};

/// How many keys wait, of some 100 bytes each.
const MAX_WAITING: usize = 100_000;

/// A cheap handle on the contents that are to be uploaded.
#[derive(Clone)]
pub(crate) struct UploadQueue(Arc<Inner>);

struct Inner {
    waiting: Mutex<Waiting>,
    added: Notify,
    metrics: Metrics,
}

#[derive(Default)]
struct Waiting {
    order: VecDeque<CompactKey>,
    /// Those in the order.
    known: HashSet<CompactKey>,
}

impl UploadQueue {
    pub(crate) fn new(metrics: Metrics) -> Self {
        Self(Arc::new(Inner { waiting: Mutex::default(), added: Notify::new(), metrics }))
    }

    /// Adds a blob or a manifest, unless it waits already. Returns whether it waits now.
    pub(crate) fn add(&self, key: &IndexKey) -> bool {
        let added = self.put(CompactKey::from(key), MAX_WAITING);
        if !added {
            self.0.metrics.store_upload(UploadResult::NoRoom);
        }
        added
    }

    /// Puts back what could not be uploaded now: it comes after the others.
    pub(super) fn put_back(&self, key: CompactKey) {
        // Its place may have been taken: then one more waits, for each upload that runs.
        self.put(key, usize::MAX);
    }

    fn put(&self, key: CompactKey, most: usize) -> bool {
        let mut waiting = self.0.waiting.lock();
        if waiting.known.contains(&key) {
            return true;
        }
        if waiting.order.len() >= most {
            return false;
        }
        waiting.known.insert(key.clone());
        waiting.order.push_back(key);
        self.0.metrics.store_queue(waiting.order.len());
        self.0.added.notify_one();
        true
    }

    /// Waits for the next key.
    pub(super) async fn next(&self) -> CompactKey {
        loop {
            if let Some(key) = self.take() {
                return key;
            }
            self.0.added.notified().await;
        }
    }

    fn take(&self) -> Option<CompactKey> {
        let mut waiting = self.0.waiting.lock();
        let key = waiting.order.pop_front()?;
        waiting.known.remove(&key);
        self.0.metrics.store_queue(waiting.order.len());
        // Another worker may wait, and one call wakes one.
        if !waiting.order.is_empty() {
            self.0.added.notify_one();
        }
        Some(key)
    }

    /// How many wait.
    pub(crate) fn len(&self) -> usize {
        self.0.waiting.lock().order.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cache::Visibility,
        oci::{Algorithm, Digest},
    };

    fn key(number: u8) -> IndexKey {
        IndexKey::Blob(Visibility::Shared.key(&Digest::of(Algorithm::Sha256, &[number])))
    }

    #[tokio::test]
    async fn keys_wait_once_and_in_their_order() {
        let queue = UploadQueue::new(Metrics::new().unwrap());
        assert!(queue.add(&key(1)) && queue.add(&key(2)) && queue.add(&key(1)));
        assert_eq!(queue.len(), 2);
        assert!(queue.next().await == CompactKey::from(&key(1)));
        queue.put_back(CompactKey::from(&key(1)));
        assert!(queue.next().await == CompactKey::from(&key(2)));
        assert!(queue.next().await == CompactKey::from(&key(1)));
        assert!(queue.take().is_none());
    }

    #[test]
    fn the_queue_is_bounded() {
        let queue = UploadQueue::new(Metrics::new().unwrap());
        assert!(queue.put(CompactKey::from(&key(1)), 1));
        assert!(!queue.put(CompactKey::from(&key(2)), 1));
        assert!(queue.put(CompactKey::from(&key(1)), 1), "it waits already");
        assert_eq!(queue.len(), 1);
    }
}
