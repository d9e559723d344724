//! What is to be uploaded to the object store.
//!
//! What must hold: the queue has keys and no content, and is bounded. What does not fit is not lost: the content stays
//! on disk, and the store is compared with it again and again.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{
    Visibility,
    storage::lru_index::{CompactKey, IndexKey},
};
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
    known: HashMap<CompactKey, Reason>,
    /// Whose content may wait because the store lacks it.
    comparable: Vec<Visibility>,
}

/// Why a content is to be uploaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reason {
    /// An upstream whose content may be in the store has sent it.
    Sent,
    /// It is on disk, and the store lacks it.
    Lacking,
}

/// A content that is to be uploaded now.
pub(super) struct Upload {
    pub key: CompactKey,
    reason: Reason,
}

impl UploadQueue {
    pub(crate) fn new(metrics: Metrics) -> Self {
        Self(Arc::new(Inner { waiting: Mutex::default(), added: Notify::new(), metrics }))
    }

    /// Adds a blob or a manifest, unless it waits already. Returns whether it waits now.
    pub(crate) fn add(&self, key: &IndexKey) -> bool {
        self.add_for(CompactKey::from(key), Reason::Sent)
    }

    /// Adds what is on disk and not in the store, as long as that may be compared.
    pub(super) fn add_lacking(&self, key: CompactKey) -> bool {
        self.add_for(key, Reason::Lacking)
    }

    /// What is on disk and not in the store waits from now on for these alone: of two calls, the last one asks last.
    pub(super) fn set_comparable(&self, comparable: impl FnOnce() -> Vec<Visibility>) {
        let waiting = &mut *self.0.waiting.lock();
        waiting.comparable = comparable();
        let comparable = &waiting.comparable;
        waiting.known.retain(|key, reason| may_wait(key, *reason, comparable));
        waiting.order.retain(|key| waiting.known.contains_key(key));
        self.0.metrics.store_queue(waiting.order.len());
    }

    fn add_for(&self, key: CompactKey, reason: Reason) -> bool {
        let added = self.put(key, reason, MAX_WAITING);
        if !added {
            self.0.metrics.store_upload(UploadResult::NoRoom);
        }
        added
    }

    /// Puts back what could not be uploaded now: it comes after the others.
    pub(super) fn put_back(&self, upload: Upload) {
        // Its place may have been taken: then one more waits, for each upload that runs.
        self.put(upload.key, upload.reason, usize::MAX);
    }

    fn put(&self, key: CompactKey, reason: Reason, most: usize) -> bool {
        let waiting = &mut *self.0.waiting.lock();
        if !may_wait(&key, reason, &waiting.comparable) {
            return true;
        }
        if let Some(known) = waiting.known.get_mut(&key) {
            if reason == Reason::Sent {
                *known = reason;
            }
            return true;
        }
        if waiting.order.len() >= most {
            return false;
        }
        waiting.known.insert(key.clone(), reason);
        waiting.order.push_back(key);
        self.0.metrics.store_queue(waiting.order.len());
        self.0.added.notify_one();
        true
    }

    /// Waits for the next key.
    pub(super) async fn next(&self) -> Upload {
        loop {
            if let Some(upload) = self.take() {
                return upload;
            }
            self.0.added.notified().await;
        }
    }

    fn take(&self) -> Option<Upload> {
        let mut waiting = self.0.waiting.lock();
        let key = waiting.order.pop_front()?;
        let reason = waiting.known.remove(&key)?;
        self.0.metrics.store_queue(waiting.order.len());
        // Another worker may wait, and one call wakes one.
        if !waiting.order.is_empty() {
            self.0.added.notify_one();
        }
        Some(Upload { key, reason })
    }

    /// How many wait.
    pub(crate) fn len(&self) -> usize {
        self.0.waiting.lock().order.len()
    }
}

fn may_wait(key: &CompactKey, reason: Reason, comparable: &[Visibility]) -> bool {
    reason == Reason::Sent || key.place().is_some_and(|(visibility, ..)| comparable.contains(&visibility))
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
        let first = queue.next().await;
        assert!(first.key == CompactKey::from(&key(1)));
        queue.put_back(first);
        assert!(queue.next().await.key == CompactKey::from(&key(2)));
        assert!(queue.next().await.key == CompactKey::from(&key(1)));
        assert!(queue.take().is_none());
    }

    #[test]
    fn the_queue_is_bounded() {
        let queue = UploadQueue::new(Metrics::new().unwrap());
        let put = |number| queue.put(CompactKey::from(&key(number)), Reason::Sent, 1);
        assert!(put(1) && !put(2));
        assert!(put(1), "it waits already");
        assert_eq!(queue.len(), 1);
    }

    #[test]
    fn what_the_store_lacks_waits_while_it_may_be_compared() {
        let queue = UploadQueue::new(Metrics::new().unwrap());
        let lacking = |number| queue.add_lacking(CompactKey::from(&key(number)));
        assert!(lacking(1), "it is passed over");
        assert_eq!(queue.len(), 0);
        queue.set_comparable(|| vec![Visibility::Shared]);
        assert!(lacking(1) && lacking(2) && lacking(3) && queue.add(&key(4)));
        assert!(queue.add(&key(2)) && lacking(2), "an upstream has sent it");
        let first = queue.take().unwrap();
        queue.set_comparable(|| vec![Visibility::PerClient]);
        queue.put_back(first);
        let left: Vec<CompactKey> = std::iter::from_fn(|| queue.take()).map(|upload| upload.key).collect();
        assert!(left == [CompactKey::from(&key(2)), CompactKey::from(&key(4))]);
    }
}
