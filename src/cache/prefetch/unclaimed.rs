//! What was fetched ahead and no client has taken: it counts for the client whose request began it.
//!
//! What must hold: what counts is within a budget of bytes, of which one client (a trusted network apart) has three quarters
//! at most. It counts until a client takes it, until it is no longer in the cache, or for ten minutes after its transfer
//! ended; what was fetched in vain counts as long. Each takes at least so much of the budget that no more than 4096 count.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use parking_lot::{Mutex, MutexGuard};

use tokio::time::Instant;

use super::super::{
    ContentKey,
    storage::lru_index::{BLOCK, allocated},
};
use crate::peer::{Permit, Shares, TrustedNetworks};

/// For how long what no client takes counts, once it is not on its way any more.
const TTL: Duration = Duration::from_secs(10 * 60);
/// It is looked for what counts no more once in so long at most: that goes over all that is held, and each hit waits for it.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);
/// How many layers count at a time.
const MAX_LAYERS: u64 = 4096;

/// All that counts.
pub(crate) struct Unclaimed {
    budget: Shares,
    layers: Mutex<Layers>,
    /// So that a hit looks no further where there is none.
    count: AtomicUsize,
}

#[derive(Default)]
struct Layers {
    held: HashMap<ContentKey, Held>,
    /// How many were held so far.
    number: u64,
    swept: Option<Instant>,
}

struct Held {
    number: u64,
    /// When its transfer ended.
    ended: Option<Instant>,
    /// Whether it is in the cache, or was.
    landed: bool,
    _permit: Permit,
}

impl Held {
    fn counts(&self, is_cached: bool) -> bool {
        self.ended.is_none_or(|ended| ended.elapsed() < TTL) && (!self.landed || is_cached)
    }
}

/// A layer is on its way as long as this lives.
pub(crate) struct OnItsWay<'a> {
    unclaimed: &'a Unclaimed,
    id: ContentKey,
    number: u64,
}

impl Drop for OnItsWay<'_> {
    fn drop(&mut self) {
        // Another one of it may count by now.
        if let Some(held) = self.unclaimed.layers().held.get_mut(&self.id).filter(|held| held.number == self.number) {
            held.ended = Some(Instant::now());
        }
    }
}

impl Unclaimed {
    /// With a budget in bytes.
    pub(crate) fn new(budget: u64, trusted: TrustedNetworks) -> Self {
        Self { budget: Shares::new(budget, trusted), layers: Mutex::default(), count: AtomicUsize::new(0) }
    }

    /// The most bytes that may count.
    pub(crate) fn budget(&self) -> u64 {
        self.budget.total()
    }

    /// Takes what a layer of this size needs for the client at this address; `None` where that has no more, or the layer
    /// counts already.
    pub(crate) fn hold(
        &self,
        id: &ContentKey,
        size: u64,
        client: IpAddr,
        is_cached: impl Fn(&ContentKey) -> bool,
    ) -> Option<OnItsWay<'_>> {
        let total = self.budget.total();
        let units = allocated(size).max(total / MAX_LAYERS).max(BLOCK);
        // One that takes more is more than one client's part, also where it holds nothing.
        if units > total / 4 * 3 {
            return None;
        }
        let mut layers = self.layers();
        let Layers { held, number, swept } = &mut *layers;
        if held.get(id).is_some_and(|known| known.counts(is_cached(id))) {
            return None;
        }
        held.remove(id);
        let mut permit = self.budget.take(client, units).ok();
        if permit.is_none() && swept.is_none_or(|swept| swept.elapsed() >= SWEEP_INTERVAL) {
            *swept = Some(Instant::now());
            held.retain(|id, held| held.counts(is_cached(id)));
            permit = self.budget.take(client, units).ok();
        }
        let on_its_way = permit.map(|permit| {
            *number += 1;
            held.insert(id.clone(), Held { number: *number, ended: None, landed: false, _permit: permit });
            OnItsWay { unclaimed: self, id: id.clone(), number: *number }
        });
        self.count.store(held.len(), Ordering::SeqCst);
        on_its_way
    }

    /// It is in the cache now: it counts no longer than it stays there.
    pub(crate) fn landed(&self, id: &ContentKey) {
        if let Some(held) = self.layers().held.get_mut(id) {
            held.landed = true;
        }
    }

    /// A client takes it, or nothing of it came: it counts no more.
    pub(crate) fn release(&self, id: &ContentKey) {
        if self.count.load(Ordering::SeqCst) == 0 {
            return;
        }
        let mut layers = self.layers();
        layers.held.remove(id);
        self.count.store(layers.held.len(), Ordering::SeqCst);
    }

    fn layers(&self) -> MutexGuard<'_, Layers> {
        // Whole even if a thread panicked beside it.
        self.layers.lock()
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;
    use crate::{
        cache::Visibility,
        oci::{Algorithm, Digest},
    };

    fn id(number: u8) -> ContentKey {
        Visibility::Shared.key(&Digest::of(Algorithm::Sha256, &[number]))
    }

    fn client(number: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, number])
    }

    fn unclaimed() -> Unclaimed {
        Unclaimed::new(16 * BLOCK, TrustedNetworks::new(vec!["192.0.2.200".parse().unwrap()]))
    }

    /// How many layers of this size a client may have fetched ahead.
    fn held_by(unclaimed: &Unclaimed, of: u8, numbers: std::ops::Range<u8>, size: u64) -> usize {
        numbers.filter(|number| unclaimed.hold(&id(*number), size, client(of), |_| true).is_some()).count()
    }

    #[test]
    fn a_client_has_three_quarters_and_all_have_the_whole() {
        let unclaimed = unclaimed();
        assert_eq!(held_by(&unclaimed, 1, 0..20, BLOCK - 1), 12);
        assert_eq!(held_by(&unclaimed, 2, 0..12, BLOCK), 0, "what counts for one client counts for no other");
        let others: usize = (2..9).map(|of| held_by(&unclaimed, of, 10 * of..10 * of + 10, BLOCK)).sum();
        assert_eq!(others, 4);
        unclaimed.release(&id(0));
        assert_eq!(held_by(&unclaimed, 9, 0..1, BLOCK), 1);
    }

    #[test]
    fn sizes_that_cannot_be_are_refused() {
        let unclaimed = unclaimed();
        for (size, expected) in [
            (u64::MAX, false),
            (u64::MAX - 1, false),
            (1 << 62, false),
            (13 * BLOCK, false),
            (12 * BLOCK + 1, false),
            (12 * BLOCK, true),
        ] {
            assert_eq!(unclaimed.hold(&id(1), size, client(1), |_| true).is_some(), expected, "{size}");
        }
        // A cache of nothing; a layer of nothing takes something all the same.
        assert!(Unclaimed::new(0, TrustedNetworks::default()).hold(&id(1), 0, client(1), |_| true).is_none());
        assert_eq!(held_by(&unclaimed, 2, 10..20, 0), 3, "of the last quarter, but for the last of it");
    }

    #[test]
    fn a_trusted_network_is_held_to_the_whole_alone() {
        assert_eq!(held_by(&unclaimed(), 200, 0..20, BLOCK), 16);
    }

    #[test]
    fn no_more_layers_count_than_are_remembered() {
        let unclaimed = Unclaimed::new(MAX_LAYERS * 3 * BLOCK, TrustedNetworks::default());
        let named = |number: u64| Visibility::Shared.key(&Digest::of(Algorithm::Sha256, &number.to_be_bytes()));
        let is_held = |number: &u64| unclaimed.hold(&named(*number), 1, client(1), |_| true).is_some();
        let held = (0..2 * MAX_LAYERS).filter(is_held).count();
        assert_eq!(held as u64, MAX_LAYERS / 4 * 3);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_gone_or_old_counts_no_more() {
        let unclaimed = unclaimed();
        let evicted = |gone: ContentKey| move |id: &ContentKey| *id != gone;
        assert_eq!(held_by(&unclaimed, 1, 0..20, BLOCK), 12);
        // What is on its way is not in the cache yet.
        assert!(unclaimed.hold(&id(30), BLOCK, client(1), evicted(id(3))).is_none());
        unclaimed.landed(&id(3));
        unclaimed.landed(&id(4));
        advance(SWEEP_INTERVAL).await;
        assert!(unclaimed.hold(&id(30), BLOCK, client(1), evicted(id(3))).is_some());
        // The same layer again.
        assert!(unclaimed.hold(&id(4), BLOCK, client(1), evicted(id(4))).is_some());
        advance(TTL - 2 * SWEEP_INTERVAL).await;
        assert_eq!(held_by(&unclaimed, 1, 40..60, BLOCK), 0);
        advance(2 * SWEEP_INTERVAL).await;
        assert_eq!(held_by(&unclaimed, 1, 40..60, BLOCK), 12);
        assert_eq!(unclaimed.count.load(Ordering::SeqCst), 12);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_on_its_way_counts_however_long_that_takes() {
        let unclaimed = unclaimed();
        let on_its_way = unclaimed.hold(&id(1), 12 * BLOCK, client(1), |_| true);
        assert!(on_its_way.is_some());
        let is_full = || unclaimed.hold(&id(2), BLOCK, client(1), |_| true).is_none();
        for _ in 0..10 {
            advance(TTL).await;
            assert!(is_full());
        }
        drop(on_its_way);
        advance(TTL - Duration::from_secs(1)).await;
        assert!(is_full());
        advance(Duration::from_secs(1)).await;
        assert!(!is_full());
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_of_one_transfer_ends_no_other_of_the_layer() {
        let unclaimed = unclaimed();
        let hold = |number| unclaimed.hold(&id(number), 12 * BLOCK, client(1), |_| true);
        let first = hold(1);
        unclaimed.release(&id(1));
        let second = hold(1);
        assert!(first.is_some() && second.is_some());
        drop(first);
        advance(TTL).await;
        assert!(hold(2).is_none());
        drop(second);
        advance(TTL).await;
        assert!(hold(2).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn layers_that_are_refused_sweep_once_a_second() {
        let unclaimed = unclaimed();
        assert_eq!(held_by(&unclaimed, 1, 0..12, BLOCK), 12);
        for number in 0..12 {
            unclaimed.landed(&id(number));
        }
        advance(SWEEP_INTERVAL).await;
        let looked = AtomicUsize::new(0);
        let is_cached = |_: &ContentKey| looked.fetch_add(1, Ordering::Relaxed) < usize::MAX;
        for second in 1..=3 {
            for number in 100..200 {
                assert!(unclaimed.hold(&id(number), BLOCK, client(1), is_cached).is_none());
            }
            assert_eq!(looked.load(Ordering::Relaxed), 12 * second);
            advance(SWEEP_INTERVAL).await;
        }
    }
}
