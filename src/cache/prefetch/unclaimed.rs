//! The prefetched layers that no client has requested yet: each counts against the client whose request began the
//! prefetch.
//!
//! What must hold: the counted layers fit into a budget of bytes, of which one client (trusted networks excepted) has
//! at most three quarters. A layer counts until a client takes it, until it is no longer in the cache, or until ten
//! minutes after its transfer ended; a failed prefetch counts just as long. Each layer takes at least so large a part
//! of the budget that no more than 4096 layers count.

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

/// For how long a layer that no client takes counts after its transfer ended.
const TTL: Duration = Duration::from_secs(10 * 60);
/// The shortest interval between two sweeps for layers that no longer count: a sweep visits every held layer, and cache
/// hits wait for it.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);
/// How many layers can count at a time.
const MAX_LAYERS: u64 = 4096;

/// All layers that count.
pub(crate) struct Unclaimed {
    budget: Shares,
    layers: Mutex<Layers>,
    /// The number of held layers, so that a cache hit takes no lock if there are none.
    count: AtomicUsize,
}

#[derive(Default)]
struct Layers {
    held: HashMap<ContentKey, Held>,
    /// How many layers were held so far.
    number: u64,
    swept: Option<Instant>,
}

struct Held {
    number: u64,
    /// When the transfer ended; `None` while it runs.
    ended: Option<Instant>,
    /// Whether the layer is, or was, in the cache.
    landed: bool,
    _permit: Permit,
}

impl Held {
    fn counts(&self, is_cached: bool) -> bool {
        self.ended.is_none_or(|ended| ended.elapsed() < TTL) && (!self.landed || is_cached)
    }
}

/// The transfer of a layer, until this is dropped.
pub(crate) struct OnItsWay<'a> {
    unclaimed: &'a Unclaimed,
    id: ContentKey,
    number: u64,
}

impl Drop for OnItsWay<'_> {
    fn drop(&mut self) {
        // Another transfer of the layer may count by now.
        if let Some(held) = self.unclaimed.layers().held.get_mut(&self.id).filter(|held| held.number == self.number) {
            held.ended = Some(Instant::now());
        }
    }
}

impl Unclaimed {
    /// Creates it with a budget in bytes.
    pub(crate) fn new(budget: u64, trusted: TrustedNetworks) -> Self {
        Self { budget: Shares::new(budget, trusted), layers: Mutex::default(), count: AtomicUsize::new(0) }
    }

    /// The most bytes that may count.
    pub(crate) fn budget(&self) -> u64 {
        self.budget.total()
    }

    /// Changes the most bytes that may count; layers that count already go on counting.
    pub(crate) fn set_budget(&self, budget: u64) {
        self.budget.set_total(budget);
    }

    /// Takes the budget for a layer of this size on behalf of the client at this address; `None` if that client has too
    /// little left, or the layer already counts.
    pub(crate) fn hold(
        &self,
        id: &ContentKey,
        size: u64,
        client: IpAddr,
        is_cached: impl Fn(&ContentKey) -> bool,
    ) -> Option<OnItsWay<'_>> {
        let total = self.budget.total();
        let units = allocated(size).max(total / MAX_LAYERS).max(BLOCK);
        // A larger layer exceeds one client's part, even if the client holds nothing.
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

    /// The layer is in the cache now: it counts no longer than it stays there.
    pub(crate) fn landed(&self, id: &ContentKey) {
        if let Some(held) = self.layers().held.get_mut(id) {
            held.landed = true;
        }
    }

    /// A client takes the layer, or none of its bytes arrived: it no longer counts.
    pub(crate) fn release(&self, id: &ContentKey) {
        if self.count.load(Ordering::SeqCst) == 0 {
            return;
        }
        let mut layers = self.layers();
        layers.held.remove(id);
        self.count.store(layers.held.len(), Ordering::SeqCst);
    }

    fn layers(&self) -> MutexGuard<'_, Layers> {
        // The layers stay consistent even if a thread panics while it holds the lock.
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

    /// How many layers of this size forebay may prefetch for a client.
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
        // A cache of 0 bytes; a layer of 0 bytes takes a part of the budget all the same.
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
        // A layer in transfer is not in the cache yet.
        assert!(unclaimed.hold(&id(30), BLOCK, client(1), evicted(id(3))).is_none());
        unclaimed.landed(&id(3));
        unclaimed.landed(&id(4));
        advance(SWEEP_INTERVAL).await;
        assert!(unclaimed.hold(&id(30), BLOCK, client(1), evicted(id(3))).is_some());
        // The same layer is prefetched again.
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
