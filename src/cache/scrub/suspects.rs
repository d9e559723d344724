//! Blobs that a client received completely and requests again: they may be damaged.
//!
//! A client verifies the blobs it receives. If it soon requests the same blob again, it may have found the blob wrong;
//! so the scrub verifies that blob before others. What must hold: the queue is bounded whatever clients request, and
//! the scrub verifies a blob for this reason at most once an hour.

use std::{
    collections::{VecDeque, hash_map::RandomState},
    hash::BuildHasher as _,
    time::Duration,
};

use parking_lot::{Mutex, MutexGuard};

use tokio::sync::Notify;

use crate::{cache::ContentKey, peer::PeerPrefix};

/// For how long forebay remembers that a client received a whole blob.
const AGAIN: Duration = Duration::from_secs(10 * 60);
/// After a blob was queued for this reason, it is not queued again for this long.
const INTERVAL: Duration = Duration::from_secs(60 * 60);
/// How many pairs of a client and a blob are remembered, and how many blobs.
const MAX_REMEMBERED: u64 = 20_000;
/// How many blobs may be queued.
const MAX_QUEUED: usize = 64;

pub(super) struct Suspects {
    /// Hashes of pairs of peer and blob.
    had: moka::sync::Cache<u64, ()>,
    lately: moka::sync::Cache<ContentKey, ()>,
    queue: Mutex<VecDeque<ContentKey>>,
    more: Notify,
    hasher: RandomState,
}

impl Suspects {
    pub(super) fn new() -> Self {
        Self {
            had: moka::sync::Cache::builder().max_capacity(MAX_REMEMBERED).time_to_live(AGAIN).build(),
            lately: moka::sync::Cache::builder().max_capacity(MAX_REMEMBERED).time_to_live(INTERVAL).build(),
            queue: Mutex::default(),
            more: Notify::new(),
            hasher: RandomState::new(),
        }
    }

    /// A client requests a whole blob that is cached; returns the argument for [`Suspects::had`].
    pub(super) fn wanted(&self, peer: PeerPrefix, id: &ContentKey) -> u64 {
        let pair = self.hasher.hash_one((peer, id));
        if self.had.contains_key(&pair) {
            self.suspect(id);
        }
        pair
    }

    /// The client received the whole blob.
    pub(super) fn had(&self, pair: u64) {
        self.had.insert(pair, ());
    }

    fn suspect(&self, id: &ContentKey) {
        if self.lately.contains_key(id) {
            return;
        }
        let mut queue = self.queue();
        if queue.len() < MAX_QUEUED && !queue.contains(id) {
            self.lately.insert(id.clone(), ());
            queue.push_back(id.clone());
            self.more.notify_one();
        }
    }

    /// The next suspect, if there is one.
    pub(super) fn take(&self) -> Option<ContentKey> {
        self.queue().pop_front()
    }

    /// Waits for the next suspect. Cancel-safe.
    pub(super) async fn next(&self) -> ContentKey {
        loop {
            if let Some(id) = self.take() {
                return id;
            }
            self.more.notified().await;
        }
    }

    fn queue(&self) -> MutexGuard<'_, VecDeque<ContentKey>> {
        self.queue.lock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cache::Visibility,
        oci::{Algorithm, Digest},
    };

    fn id(number: usize) -> ContentKey {
        Visibility::Shared.key(&Digest::of(Algorithm::Sha256, &number.to_le_bytes()))
    }

    fn peer(last: u8) -> PeerPrefix {
        std::net::IpAddr::from([10, 0, 0, last]).into()
    }

    #[test]
    fn who_had_it_whole_and_asks_again_makes_it_suspect_once() {
        let suspects = Suspects::new();
        let first = suspects.wanted(peer(1), &id(1));
        suspects.wanted(peer(1), &id(1));
        assert_eq!(suspects.take(), None, "the first one was not complete");
        suspects.had(first);
        suspects.wanted(peer(2), &id(1));
        suspects.wanted(peer(1), &id(2));
        suspects.wanted(peer(1), &Visibility::PerClient.key(&id(1).digest));
        assert_eq!(suspects.take(), None, "another client, another blob, another visibility");
        for expected in [Some(id(1)), None, None] {
            suspects.had(suspects.wanted(peer(1), &id(1)));
            assert_eq!(suspects.take(), expected);
        }
    }

    #[tokio::test]
    async fn no_more_wait_than_may_and_those_beyond_are_not_forgotten() {
        let suspects = Suspects::new();
        let ask = |number| {
            suspects.had(suspects.wanted(peer(1), &id(number)));
            suspects.wanted(peer(1), &id(number));
        };
        (0..MAX_QUEUED + 1).for_each(ask);
        for number in 0..MAX_QUEUED {
            assert_eq!(suspects.next().await, id(number));
        }
        assert_eq!(suspects.take(), None);
        ask(MAX_QUEUED);
        assert_eq!(suspects.next().await, id(MAX_QUEUED));
    }
}
