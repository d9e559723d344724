//! What was fetched ahead and no client has taken: it counts for the client whose request began it.
//!
//! What must hold: what counts is within a budget of bytes, of which one client (a trusted network apart) has three quarters
//! at most. It counts until a client takes it, until it is no longer in the cache, or for ten minutes; what was fetched in vain
//! counts as long. Each takes at least so much of the budget that no more than 4096 count.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

use super::{
    ContentId,
    lru::{BLOCK, allocated},
};
use crate::peer::{Permit, Shares, TrustedNetworks};

/// For how long what no client takes counts.
const TTL: Duration = Duration::from_secs(10 * 60);
/// How many layers count at a time.
const MAX_LAYERS: u64 = 4096;

/// All that counts.
pub struct Untaken {
    budget: Shares,
    held: Mutex<HashMap<ContentId, Held>>,
    /// So that a hit looks no further where there is none.
    count: AtomicUsize,
}

struct Held {
    since: Instant,
    /// Whether it is in the cache, or was.
    landed: bool,
    _permit: Permit,
}

impl Untaken {
    /// With a budget in bytes.
    pub fn new(budget: u64, trusted: TrustedNetworks) -> Self {
        Self { budget: Shares::new(budget, trusted), held: Mutex::default(), count: AtomicUsize::new(0) }
    }

    /// The most bytes that may count.
    pub fn budget(&self) -> u64 {
        self.budget.total()
    }

    /// Takes what a layer of this size needs for the client at this address; `false` where that has no more, or the layer
    /// counts already.
    pub fn hold(&self, id: &ContentId, size: u64, client: IpAddr, is_cached: impl Fn(&ContentId) -> bool) -> bool {
        let total = self.budget.total();
        let units = allocated(size).max(total / MAX_LAYERS).max(BLOCK);
        // One that takes more is more than one client's part, also where it holds nothing.
        if units > total / 4 * 3 {
            return false;
        }
        let mut held = self.held();
        let now = Instant::now();
        let counts =
            |id: &ContentId, held: &Held| now.duration_since(held.since) < TTL && (!held.landed || is_cached(id));
        if held.get(id).is_some_and(|known| counts(id, known)) {
            return false;
        }
        held.remove(id);
        let permit = self.budget.take(client, units).or_else(|_| {
            held.retain(|id, held| counts(id, held));
            self.budget.take(client, units)
        });
        if let Ok(permit) = permit {
            held.insert(id.clone(), Held { since: now, landed: false, _permit: permit });
        }
        self.count.store(held.len(), Ordering::SeqCst);
        held.contains_key(id)
    }

    /// It is in the cache now: it counts no longer than it stays there.
    pub fn landed(&self, id: &ContentId) {
        if let Some(held) = self.held().get_mut(id) {
            held.landed = true;
        }
    }

    /// A client takes it, or nothing of it came: it counts no more.
    pub fn release(&self, id: &ContentId) {
        if self.count.load(Ordering::SeqCst) == 0 {
            return;
        }
        let mut held = self.held();
        held.remove(id);
        self.count.store(held.len(), Ordering::SeqCst);
    }

    fn held(&self) -> MutexGuard<'_, HashMap<ContentId, Held>> {
        // Whole even if a thread panicked beside it.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;
    use crate::{
        cache::Pool,
        oci::{Algorithm, Digest},
    };

    fn id(number: u8) -> ContentId {
        Pool::Open.id(&Digest::of(Algorithm::Sha256, &[number]))
    }

    fn client(number: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, number])
    }

    fn untaken() -> Untaken {
        Untaken::new(16 * BLOCK, TrustedNetworks::new(vec!["192.0.2.200".parse().unwrap()]))
    }

    /// How many layers of this size a client may have fetched ahead.
    fn held_by(untaken: &Untaken, of: u8, numbers: std::ops::Range<u8>, size: u64) -> usize {
        numbers.filter(|number| untaken.hold(&id(*number), size, client(of), |_| true)).count()
    }

    #[test]
    fn a_client_has_three_quarters_and_all_have_the_whole() {
        let untaken = untaken();
        assert_eq!(held_by(&untaken, 1, 0..20, BLOCK - 1), 12);
        assert_eq!(held_by(&untaken, 2, 0..12, BLOCK), 0, "what counts for one client counts for no other");
        let others: usize = (2..9).map(|of| held_by(&untaken, of, 10 * of..10 * of + 10, BLOCK)).sum();
        assert_eq!(others, 4);
        untaken.release(&id(0));
        assert_eq!(held_by(&untaken, 9, 0..1, BLOCK), 1);
    }

    #[test]
    fn sizes_that_cannot_be_are_refused() {
        let untaken = untaken();
        for (size, expected) in [
            (u64::MAX, false),
            (u64::MAX - 1, false),
            (1 << 62, false),
            (13 * BLOCK, false),
            (12 * BLOCK + 1, false),
            (12 * BLOCK, true),
        ] {
            assert_eq!(untaken.hold(&id(1), size, client(1), |_| true), expected, "{size}");
        }
        // A cache of nothing; a layer of nothing takes something all the same.
        assert!(!Untaken::new(0, TrustedNetworks::default()).hold(&id(1), 0, client(1), |_| true));
        assert_eq!(held_by(&untaken, 2, 10..20, 0), 3, "of the last quarter, but for the last of it");
    }

    #[test]
    fn a_trusted_network_is_held_to_the_whole_alone() {
        assert_eq!(held_by(&untaken(), 200, 0..20, BLOCK), 16);
    }

    #[test]
    fn no_more_layers_count_than_are_remembered() {
        let untaken = Untaken::new(MAX_LAYERS * 3 * BLOCK, TrustedNetworks::default());
        let named = |number: u64| Pool::Open.id(&Digest::of(Algorithm::Sha256, &number.to_be_bytes()));
        let held = (0..2 * MAX_LAYERS).filter(|number| untaken.hold(&named(*number), 1, client(1), |_| true)).count();
        assert_eq!(held as u64, MAX_LAYERS / 4 * 3);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_gone_or_old_counts_no_more() {
        let untaken = untaken();
        let evicted = |gone: ContentId| move |id: &ContentId| *id != gone;
        assert_eq!(held_by(&untaken, 1, 0..20, BLOCK), 12);
        // What is on its way is not in the cache yet.
        assert!(!untaken.hold(&id(30), BLOCK, client(1), evicted(id(3))));
        untaken.landed(&id(3));
        untaken.landed(&id(4));
        assert!(untaken.hold(&id(30), BLOCK, client(1), evicted(id(3))));
        // The same layer again.
        assert!(untaken.hold(&id(4), BLOCK, client(1), evicted(id(4))));
        advance(TTL - Duration::from_secs(1)).await;
        assert_eq!(held_by(&untaken, 1, 40..60, BLOCK), 0);
        advance(Duration::from_secs(1)).await;
        assert_eq!(held_by(&untaken, 1, 40..60, BLOCK), 12);
        assert_eq!(untaken.count.load(Ordering::SeqCst), 12);
    }
}
