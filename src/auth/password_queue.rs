//! The queue of passwords to verify.
//!
//! What must hold: few passwords are verified at a time, and few wait. Peers share the waiting places, and each peer
//! has no more passwords in the queue than are verified at a time: a peer that guesses by the dozen delays another by
//! one verification, not by dozens.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Weak},
};

use parking_lot::Mutex;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::peer::{PeerPrefix, Shares, TrustedNetworks};

/// How many passwords are verified at the same time. Each takes a core for its time, and pulls need the cores too.
const MAX_VERIFICATIONS: usize = 2;
/// How many more may wait, for some seconds at most. A client above this limit is guessing, or should retry later.
const MAX_WAITING: u64 = 64;

pub(super) struct VerificationQueue {
    places: Shares,
    trusted: TrustedNetworks,
    /// First come, first served.
    queue: Arc<Semaphore>,
    /// Bounds the passwords in the queue, for each peer that has one: no more peers than places.
    peers: Mutex<HashMap<PeerPrefix, Weak<Semaphore>>>,
}

/// The right to verify one password, until it is dropped.
pub(super) struct VerificationTurn {
    _queue: OwnedSemaphorePermit,
    _peer: Option<OwnedSemaphorePermit>,
}

impl VerificationQueue {
    pub(super) fn new(trusted: TrustedNetworks) -> VerificationQueue {
        VerificationQueue {
            places: Shares::new(MAX_WAITING, trusted.clone()),
            trusted,
            queue: Arc::new(Semaphore::new(MAX_VERIFICATIONS)),
            peers: Mutex::default(),
        }
    }

    /// Waits for a turn. `None`: too many passwords wait already, in total or of this peer.
    pub(super) async fn wait(&self, peer: IpAddr) -> Option<VerificationTurn> {
        // The place is free again when the turn has come, or when the client leaves. The semaphores are never closed.
        let _place = self.places.take(peer, 1).ok()?;
        let of_peer = match self.trusted.contains(peer) {
            true => None,
            false => Some(self.of_peer(peer.into()).acquire_owned().await.ok()?),
        };
        let queue = self.queue.clone().acquire_owned().await.ok()?;
        Some(VerificationTurn { _queue: queue, _peer: of_peer })
    }

    fn of_peer(&self, peer: PeerPrefix) -> Arc<Semaphore> {
        let mut peers = self.peers.lock();
        if let Some(known) = peers.get(&peer).and_then(Weak::upgrade) {
            return known;
        }
        peers.retain(|_, semaphore| semaphore.strong_count() > 0);
        let new = Arc::new(Semaphore::new(MAX_VERIFICATIONS));
        peers.insert(peer, Arc::downgrade(&new));
        new
    }
}

#[cfg(test)]
mod tests {
    use std::task::Poll;

    use futures_util::{FutureExt as _, poll};

    use super::*;

    fn address(n: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, n])
    }

    #[tokio::test]
    async fn a_crowd_of_one_peer_delays_another_by_one_turn() {
        let turns = VerificationQueue::new(TrustedNetworks::default());
        let mut running = vec![turns.wait(address(1)).await.unwrap(), turns.wait(address(1)).await.unwrap()];
        // The peer gets three quarters of the places; forebay refuses the rest at once.
        let mut crowd = Vec::new();
        for _ in 0..70 {
            let mut one = Box::pin(turns.wait(address(1)));
            match poll!(&mut one) {
                Poll::Pending => crowd.push(one),
                Poll::Ready(turn) => assert!(turn.is_none()),
            }
        }
        assert_eq!(crowd.len(), 48);
        let mut other = Box::pin(turns.wait(address(2)));
        assert!(poll!(&mut other).is_pending());
        running.pop();
        assert!(poll!(&mut crowd[0]).is_pending());
        let other = other.now_or_never().flatten();
        assert!(other.is_some(), "the next turn is the other peer's");
    }

    #[tokio::test]
    async fn all_the_places_are_for_a_trusted_network() {
        let turns = VerificationQueue::new(TrustedNetworks::new(vec!["192.0.2.1".parse().unwrap()]));
        let running = (turns.wait(address(1)).await.unwrap(), turns.wait(address(1)).await.unwrap());
        let mut waiting: Vec<_> = (0..64).map(|_| Box::pin(turns.wait(address(1)))).collect();
        for wait in &mut waiting {
            assert!(poll!(wait).is_pending());
        }
        assert!(turns.wait(address(1)).await.is_none());
        drop(running);
    }

    #[tokio::test]
    async fn peers_that_have_gone_are_forgotten() {
        let turns = VerificationQueue::new(TrustedNetworks::default());
        let stays = turns.wait(address(0)).await.unwrap();
        for n in 1..=255 {
            drop(turns.wait(address(n)).await);
        }
        let known = |n| turns.peers.lock().contains_key(&address(n).into());
        assert!(known(0) && known(255));
        assert_eq!(turns.peers.lock().len(), 2);
        drop(stays);
    }
}
