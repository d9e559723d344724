//! What answers hold in memory until their clients have taken it: one budget in bytes, shared by peers.
//!
//! What must hold: bytes count from the moment an answer has them until the last of it is sent or its connection is gone,
//! wherever they wait: the permit is inside them. Bytes that several answers share, as those of a cached manifest, count once,
//! for the peer that asked first. Parts of blobs have a budget of their own: see [`super::memory`].

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use bytes::Bytes;

use crate::peer::{Permit, Refused, Shares, TrustedNetworks};

/// The most that all answers together hold, in bytes.
const MAX_HELD: u64 = 256 * 1024 * 1024;
/// An answer of no more bytes than this is not counted: it is part of what any request costs.
const MAX_UNCOUNTED: usize = 16 * 1024;

/// The budget of all answers. A cheap handle.
#[derive(Clone, Debug)]
pub struct Held(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    shares: Shares,
    /// What counts already, by where it lies in memory. It lies there for as long as its charge lives.
    charges: Mutex<HashMap<Place, Weak<Charge>>>,
}

/// Address and length.
type Place = (usize, usize);

#[derive(Debug)]
struct Charge {
    place: Place,
    held: Held,
    _permit: Permit,
}

/// Bytes with their charge. The bytes are let go first.
struct Counted {
    bytes: Bytes,
    _charge: Arc<Charge>,
}

impl Held {
    pub fn new(trusted: TrustedNetworks) -> Held {
        Held::of(MAX_HELD, trusted)
    }

    fn of(total: u64, trusted: TrustedNetworks) -> Held {
        Held(Arc::new(Inner { shares: Shares::new(total, trusted), charges: Mutex::default() }))
    }

    /// The same bytes, which count until they are dropped, wherever they go.
    ///
    /// # Errors
    /// The budget is used up, or this peer holds the largest share of it.
    pub fn hold(&self, peer: IpAddr, bytes: Bytes) -> Result<Bytes, Refused> {
        if bytes.len() <= MAX_UNCOUNTED {
            return Ok(bytes);
        }
        let place = (bytes.as_ptr().addr(), bytes.len());
        let mut charges = self.charges();
        let charge = match charges.get(&place).and_then(Weak::upgrade) {
            Some(charge) => charge,
            None => {
                let permit = self.0.shares.take(peer, bytes.len() as u64)?;
                let charge = Arc::new(Charge { place, held: self.clone(), _permit: permit });
                charges.insert(place, Arc::downgrade(&charge));
                charge
            }
        };
        drop(charges);
        Ok(Bytes::from_owner(Counted { bytes, _charge: charge }))
    }

    fn charges(&self) -> MutexGuard<'_, HashMap<Place, Weak<Charge>>> {
        // An entry is whole even if a thread panicked beside it.
        self.0.charges.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        let mut charges = self.held.charges();
        // Meanwhile another answer may have been charged for what lies there.
        if charges.get(&self.place).is_some_and(|charge| charge.strong_count() == 0) {
            charges.remove(&self.place);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: usize = 2 * MAX_UNCOUNTED;

    fn address(n: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, n])
    }

    fn bytes() -> Bytes {
        Bytes::from(vec![7; SIZE])
    }

    fn held(answers: usize) -> Held {
        Held::of((answers * SIZE) as u64, TrustedNetworks::default())
    }

    #[test]
    fn bytes_count_until_their_last_part_is_dropped() {
        let held = held(1);
        let mut whole = held.hold(address(1), bytes()).unwrap();
        assert_eq!(held.hold(address(2), bytes()).unwrap_err(), Refused::Full);
        let part = whole.split_to(10);
        drop(whole);
        assert_eq!(held.hold(address(2), bytes()).unwrap_err(), Refused::Full);
        drop(part);
        assert_eq!(held.hold(address(2), bytes()).unwrap(), vec![7; SIZE]);
        assert_eq!((held.0.shares.used(), held.charges().len()), (0, 0));
    }

    #[test]
    fn bytes_that_answers_share_count_once() {
        let held = held(2);
        let shared = bytes();
        let answers: Vec<_> = (0..100).map(|n| held.hold(address(n), shared.clone()).unwrap()).collect();
        assert_eq!(held.0.shares.used(), SIZE as u64);
        let other = held.hold(address(1), shared.slice(1..)).unwrap();
        assert_eq!(held.0.shares.used(), 2 * SIZE as u64 - 1);
        drop((answers, other));
        assert_eq!((held.0.shares.used(), held.charges().len()), (0, 0));
    }

    #[test]
    fn one_peer_leaves_a_quarter_of_the_budget() {
        let held = held(8);
        let hog: Vec<_> = std::iter::from_fn(|| held.hold(address(1), bytes()).ok()).collect();
        assert_eq!((hog.len(), held.hold(address(1), bytes()).unwrap_err()), (6, Refused::Share));
        assert!(held.hold(address(2), bytes()).is_ok());
    }

    #[test]
    fn small_answers_are_not_counted() {
        let held = held(0);
        assert!(held.hold(address(1), Bytes::from(vec![7; MAX_UNCOUNTED])).is_ok());
        assert_eq!(held.hold(address(1), bytes()).unwrap_err(), Refused::Full);
    }
}
