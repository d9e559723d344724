//! Shares of a limited resource, and how much of it one peer may hold.
//!
//! What must hold:
//! - permits never exceed the total; each is returned when it is dropped;
//! - while no more than three quarters are used, a peer has no other limit;
//! - in the last quarter a peer that holds something may not become the largest holder: the largest is refused first, and a
//!   peer that holds nothing finds room;
//! - of the last sixteenth a peer gets no more than it leaves to others, so that only many peers can use up all of it;
//! - trusted peers are limited by the total only, and their units do not count in the shares of others.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use parking_lot::{Mutex, MutexGuard};

use super::{PeerPrefix, TrustedNetworks};

/// Why a peer is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Not so many units are left, for any peer.
    #[error("nothing is left")]
    Full,
    /// They are left, but this peer holds the most already.
    #[error("this address holds the largest share")]
    Share,
}

/// A bounded number of units (connections or bytes, for example) that peers share. A cheap handle.
#[derive(Clone, Debug)]
pub struct Shares(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// Read under the lock of `held` where it decides; it may be less than what is held.
    total: AtomicU64,
    trusted: TrustedNetworks,
    /// Held for a look-up; above three quarters of use for an iteration over the peers.
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    used: u64,
    by_trusted: u64,
    /// Without those of trusted peers. No peer stands here with 0.
    by_peer: HashMap<PeerPrefix, u64>,
}

/// Units that one peer holds until this is dropped.
#[derive(Debug)]
pub struct Permit {
    shares: Shares,
    /// `None`: of a trusted peer.
    peer: Option<PeerPrefix>,
    units: u64,
}

impl Shares {
    pub fn new(total: u64, trusted: TrustedNetworks) -> Shares {
        Shares(Arc::new(Inner { total: AtomicU64::new(total), trusted, held: Mutex::default() }))
    }

    /// Takes units for the peer at this address, without waiting.
    ///
    /// # Errors
    /// Not so many are left, or not for this peer.
    pub fn take(&self, address: IpAddr, units: u64) -> Result<Permit, Refused> {
        let peer = self.peer(address);
        let mut held = self.lock();
        let decision = match peer {
            None => within(self.total(), held.used, units),
            Some(peer) => {
                let own = held.by_peer.get(&peer).copied().unwrap_or_default();
                let (total, used) = (self.total().saturating_sub(held.by_trusted), held.used - held.by_trusted);
                may_take(total, used, own, units, || held.most_of_others(peer))
            }
        };
        decision?;
        held.add(peer, units);
        drop(held);
        Ok(Permit { shares: self.clone(), peer, units })
    }

    /// How many units the peer at this address, refused for its [share](Refused::Share), has to return at least before it gets
    /// these.
    pub fn to_give_back(&self, address: IpAddr, units: u64) -> u64 {
        let peer = PeerPrefix::from(address);
        let held = self.lock();
        let own = held.by_peer.get(&peer).copied().unwrap_or_default();
        let (total, used) = (self.total().saturating_sub(held.by_trusted), held.used - held.by_trusted);
        least_to_give_back(total, used, own, units, held.most_of_others(peer))
    }

    pub fn total(&self) -> u64 {
        self.0.total.load(Ordering::Relaxed)
    }

    /// Changes the number of units. Those that are held stay held, and while they are more than that, no peer gets any.
    pub fn set_total(&self, total: u64) {
        self.0.total.store(total, Ordering::Relaxed);
    }

    /// How many units are held.
    pub fn used(&self) -> u64 {
        self.lock().used
    }

    /// Whether so many are used that shares are limited.
    pub fn is_scarce(&self) -> bool {
        is_scarce(self.total(), self.used())
    }

    /// The peer that holds the most, and how much.
    pub fn largest(&self) -> Option<(PeerPrefix, u64)> {
        self.lock().by_peer.iter().map(|(peer, units)| (*peer, *units)).max_by_key(|(peer, units)| (*units, *peer))
    }

    /// `None` for a trusted peer.
    fn peer(&self, address: IpAddr) -> Option<PeerPrefix> {
        (!self.0.trusted.contains(address)).then(|| PeerPrefix::from(address))
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.0.held.lock()
    }
}

impl Held {
    fn add(&mut self, peer: Option<PeerPrefix>, units: u64) {
        self.used += units;
        match peer {
            None => self.by_trusted += units,
            Some(_) if units == 0 => {}
            Some(peer) => *self.by_peer.entry(peer).or_default() += units,
        }
    }

    fn sub(&mut self, peer: Option<PeerPrefix>, units: u64) {
        self.used = self.used.saturating_sub(units);
        let Some(peer) = peer else {
            self.by_trusted = self.by_trusted.saturating_sub(units);
            return;
        };
        if let Some(held) = self.by_peer.get_mut(&peer) {
            *held = held.saturating_sub(units);
            if *held == 0 {
                self.by_peer.remove(&peer);
            }
        }
    }

    fn most_of_others(&self, peer: PeerPrefix) -> u64 {
        self.by_peer.iter().filter(|(other, _)| **other != peer).map(|(_, units)| *units).max().unwrap_or_default()
    }
}

impl Permit {
    pub fn units(&self) -> u64 {
        self.units
    }

    /// Passes the units to the peer at this address, also beyond its share: they were taken already.
    pub fn pass_to(&mut self, address: IpAddr) {
        let peer = self.shares.peer(address);
        let mut held = self.shares.lock();
        held.sub(self.peer, self.units);
        held.add(peer, self.units);
        self.peer = peer;
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.shares.lock().sub(self.peer, self.units);
    }
}

/// Whether a peer that holds `own` may take more (pure).
fn may_take(total: u64, used: u64, own: u64, units: u64, most_of_others: impl FnOnce() -> u64) -> Result<(), Refused> {
    within(total, used, units)?;
    let (own_then, used_then) = (own.saturating_add(units), used.saturating_add(units));
    if own == 0 || !is_scarce(total, used_then) {
        return Ok(());
    }
    let is_nearly_gone = u128::from(used_then) * 16 > u128::from(total) * 15;
    if own_then > most_of_others() || is_nearly_gone && own_then > total.saturating_sub(used) {
        return Err(Refused::Share);
    }
    Ok(())
}

/// The least of `own` after which the peer may take more, or all of it (pure). The less a peer holds, the more it may.
fn least_to_give_back(total: u64, used: u64, own: u64, units: u64, most_of_others: u64) -> u64 {
    let (mut too_few, mut enough) = (0, own);
    while too_few < enough {
        let middle = too_few + (enough - too_few) / 2;
        match may_take(total, used.saturating_sub(middle), own - middle, units, || most_of_others) {
            Ok(()) => enough = middle,
            Err(_) => too_few = middle + 1,
        }
    }
    enough
}

fn within(total: u64, used: u64, units: u64) -> Result<(), Refused> {
    used.checked_add(units).filter(|used| *used <= total).map(|_| ()).ok_or(Refused::Full)
}

fn is_scarce(total: u64, used: u64) -> bool {
    u128::from(used) * 4 > u128::from(total) * 3
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn address(n: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, n])
    }

    proptest! {
        #[test]
        fn what_is_given_back_is_enough_and_no_more(
            slack in 0_u64..200,
            own in 0_u64..1000,
            others in 0_u64..1000,
            units in 0_u64..1000,
            part in 1_u64..5,
        ) {
            let used = own + others;
            let total = used.max(others + units) + slack;
            let may = |back: u64| may_take(total, used - back, own - back, units, || others / part).is_ok();
            let back = least_to_give_back(total, used, own, units, others / part);
            prop_assert!(may(back));
            prop_assert!(back == 0 || !may(back - 1));
        }
    }

    #[test]
    fn the_largest_holder_is_refused_first() {
        for (total, used, own, units, others, expected) in [
            // Up to three quarters a peer takes what it likes.
            (8, 0, 0, 6, 0, Ok(())),
            (8, 5, 5, 1, 0, Ok(())),
            // Beyond, the last quarter is for others.
            (8, 6, 6, 1, 0, Err(Refused::Share)),
            (8, 6, 0, 1, 6, Ok(())),
            (8, 6, 1, 1, 5, Ok(())),
            (64, 48, 8, 8, 40, Ok(())),
            (8, 6, 3, 1, 3, Err(Refused::Share)),
            // Of the last sixteenth a peer gets no more than it leaves.
            (64, 59, 12, 1, 48, Ok(())),
            (64, 60, 13, 1, 48, Err(Refused::Share)),
            (64, 60, 3, 1, 48, Ok(())),
            (64, 61, 3, 1, 48, Err(Refused::Share)),
            (64, 63, 0, 1, 48, Ok(())),
            // Many peers with one each leave room for one more with one.
            (8, 7, 0, 1, 1, Ok(())),
            (8, 7, 1, 1, 1, Err(Refused::Share)),
            // The whole binds for all.
            (8, 8, 0, 1, 8, Err(Refused::Full)),
            (8, 0, 0, 9, 0, Err(Refused::Full)),
            (8, 8, 0, 0, 8, Ok(())),
            (0, 0, 0, 1, 0, Err(Refused::Full)),
            (1, 0, 0, 1, 0, Ok(())),
            (u64::MAX, u64::MAX, 1, 1, 0, Err(Refused::Full)),
        ] {
            assert_eq!(may_take(total, used, own, units, || others), expected, "{total} {used} {own} {units} {others}");
        }
    }

    #[test]
    fn one_peer_leaves_a_quarter_to_the_others() {
        let shares = Shares::new(8, TrustedNetworks::default());
        let hog: Vec<_> = std::iter::from_fn(|| shares.take(address(1), 1).ok()).collect();
        assert_eq!((hog.len(), shares.take(address(1), 1).unwrap_err()), (6, Refused::Share));
        let others: Vec<_> = (2..10).filter_map(|n| shares.take(address(n), 1).ok()).collect();
        assert_eq!((others.len(), shares.take(address(99), 1).unwrap_err()), (2, Refused::Full));
        assert_eq!(shares.largest(), Some((PeerPrefix::from(address(1)), 6)));
        drop((hog, others));
        assert_eq!((shares.used(), shares.largest()), (0, None));
    }

    #[test]
    fn it_takes_many_peers_to_leave_nothing() {
        let shares = Shares::new(800, TrustedNetworks::default());
        let mut taken = Vec::new();
        let mut held_by = |n| {
            let before = taken.len();
            taken.extend(std::iter::from_fn(|| shares.take(address(n), 1).ok()));
            taken.len() - before
        };
        assert_eq!([1, 2, 3, 4, 5, 6, 7, 8].map(&mut held_by), [600, 150, 25, 13, 6, 3, 2, 1]);
    }

    #[test]
    fn what_trusted_peers_hold_is_no_share_of_the_others() {
        let shares = Shares::new(800, TrustedNetworks::new(vec!["10.0.0.1".parse().unwrap()]));
        let trusted = shares.take(address(1), 640).unwrap();
        let mut of_one: Vec<_> = std::iter::from_fn(|| shares.take(address(2), 1).ok()).collect();
        assert_eq!(of_one.len(), 120, "three quarters of the rest");
        assert!(shares.take(address(3), 1).is_ok());
        drop(trusted);
        of_one.extend(std::iter::from_fn(|| shares.take(address(2), 1).ok()));
        assert_eq!(of_one.len(), 600);
    }

    #[test]
    fn trusted_peers_are_held_to_the_total_only() {
        let trusted = TrustedNetworks::new(vec!["10.0.0.1".parse().unwrap()]);
        let shares = Shares::new(8, trusted.clone());
        let cluster: Vec<_> = std::iter::from_fn(|| shares.take(address(1), 1).ok()).collect();
        assert_eq!((cluster.len(), shares.take(address(1), 1).unwrap_err()), (8, Refused::Full));
        // What was taken while it was trusted is given back as such.
        trusted.set(Vec::new());
        drop(cluster);
        assert_eq!((shares.used(), shares.largest()), (0, None));
    }

    #[test]
    fn a_permit_passes_to_another_peer() {
        let shares = Shares::new(8, TrustedNetworks::new(vec!["10.0.0.1".parse().unwrap()]));
        let mut permit = shares.take(address(2), 3).unwrap();
        let _other = shares.take(address(3), 1).unwrap();
        for (to, largest) in [(3, (3, 4)), (1, (3, 1)), (2, (2, 3))] {
            permit.pass_to(address(to));
            let (peer, units) = largest;
            assert_eq!(shares.largest(), Some((PeerPrefix::from(address(peer)), units)), "{to}");
            assert_eq!(shares.used(), 4);
        }
        drop(permit);
        assert_eq!(shares.used(), 1);
    }

    #[test]
    fn addresses_of_one_prefix_share_one_share() {
        let shares = Shares::new(8, TrustedNetworks::default());
        let of = |n: u16| IpAddr::from([0x2001, 0xdb8, 0, 0, n, n, n, n]);
        let hog: Vec<_> = (0..20).filter_map(|n| shares.take(of(n), 1).ok()).collect();
        assert_eq!(hog.len(), 6);
    }

    proptest! {
        #[test]
        fn permits_stay_within_the_total_and_all_come_back(
            total in 0u64..64,
            steps in prop::collection::vec((0u8..5, 0u64..16, any::<bool>()), 0..80),
        ) {
            let shares = Shares::new(total, TrustedNetworks::new(vec!["10.0.0.0".parse().unwrap()]));
            let mut permits: Vec<Permit> = Vec::new();
            for (peer, units, give_back) in steps {
                let before = shares.used();
                if give_back && !permits.is_empty() {
                    permits.swap_remove(usize::from(peer) % permits.len());
                } else {
                    let own: u64 =
                        permits.iter().filter(|permit| permit.peer == Some(address(peer).into())).map(|permit| permit.units).sum();
                    match shares.take(address(peer), units) {
                        Ok(permit) => permits.push(permit),
                        Err(Refused::Full) => prop_assert!(before + units > total),
                        Err(Refused::Share) => prop_assert!((before + units) * 4 > total * 3 && own > 0 && peer != 0),
                    }
                }
                prop_assert!(shares.used() <= total);
                prop_assert_eq!(shares.used(), permits.iter().map(|permit| permit.units).sum::<u64>());
            }
            drop(permits);
            prop_assert_eq!((shares.used(), shares.largest()), (0, None));
        }
    }
}
