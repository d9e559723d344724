//! What answers hold in memory until their clients have taken it: one budget in bytes, shared by peers.
//!
//! What must hold: bytes count from the moment an answer has them until the last of it is sent or its connection is gone,
//! wherever they wait: the permit is inside them. Bytes that several answers share, as those of a cached manifest, count once,
//! for the peer that asked first. Where there is no room, readers that are slow enough go first. Parts of blobs have a budget of their own: see [`super::memory`].

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use bytes::Bytes;

use crate::{
    cache::{Holding, Readers, Reading, Taker},
    peer::{PeerPrefix, Permit, Refused, Shares, TrustedNetworks},
};

/// The most that all answers together hold, in bytes.
const MAX_HELD: u64 = 256 * 1024 * 1024;
/// An answer of no more bytes than this is not counted: it is part of what any request costs.
const MAX_UNCOUNTED: usize = 16 * 1024;

/// The budget of all answers. A cheap handle.
#[derive(Clone)]
pub struct Held(Arc<Inner>);

struct Inner {
    shares: Shares,
    readers: Readers,
    /// What counts already, by where it lies in memory. It lies there for as long as its charge lives.
    charges: Mutex<HashMap<Place, Charged>>,
}

struct Charged {
    charge: Weak<Charge>,
    peer: PeerPrefix,
}

/// Address and length.
type Place = (usize, usize);

struct Charge {
    place: Place,
    held: Held,
    _permit: Permit,
}

/// Bytes of one answer, with their charge, and who reads them: let go in this order.
struct Counted {
    bytes: Bytes,
    _charge: Arc<Charge>,
    _reading: Reading,
}

impl Held {
    pub fn new(trusted: TrustedNetworks, readers: Readers) -> Held {
        Held::of(MAX_HELD, trusted, readers)
    }

    fn of(total: u64, trusted: TrustedNetworks, readers: Readers) -> Held {
        Held(Arc::new(Inner { shares: Shares::new(total, trusted), readers, charges: Mutex::default() }))
    }

    /// Whether so many bytes count.
    pub fn counts(bytes: &Bytes) -> bool {
        bytes.len() > MAX_UNCOUNTED
    }

    /// The same bytes, which count, and are read, until they are dropped, wherever they go.
    ///
    /// # Errors
    /// The budget is used up, or this peer holds the largest share of it, and no reader is slow enough to go.
    pub async fn hold(&self, peer: IpAddr, taker: &Taker, bytes: Bytes) -> Result<Bytes, Refused> {
        let charge = match self.charge(peer, &bytes) {
            Err(why) if self.end_slow_readers(peer, bytes.len() as u64, why).await => self.charge(peer, &bytes),
            charge => charge,
        }?;
        let (address, len) = charge.place;
        let reading = self.0.readers.begin(peer.into(), taker, Holding::Bytes(address, len));
        Ok(Bytes::from_owner(Counted { bytes, _charge: charge, _reading: reading }))
    }

    fn charge(&self, peer: IpAddr, bytes: &Bytes) -> Result<Arc<Charge>, Refused> {
        let place = (bytes.as_ptr().addr(), bytes.len());
        let mut charges = self.charges();
        if let Some(charge) = charges.get(&place).and_then(|charged| charged.charge.upgrade()) {
            return Ok(charge);
        }
        let permit = self.0.shares.take(peer, bytes.len() as u64)?;
        let charge = Arc::new(Charge { place, held: self.clone(), _permit: permit });
        charges.insert(place, Charged { charge: Arc::downgrade(&charge), peer: peer.into() });
        Ok(charge)
    }

    /// Whether some were ended: of a peer that holds too much, its own.
    async fn end_slow_readers(&self, address: IpAddr, bytes: u64, why: Refused) -> bool {
        let peer = PeerPrefix::from(address);
        let frees = |holding: &Holding| match *holding {
            Holding::Bytes(place, len) => {
                let charges = self.charges();
                let charged = charges.get(&(place, len))?;
                (why == Refused::Full || charged.peer == peer).then_some(len as u64)
            }
            Holding::Blob(_) => None,
        };
        let missing = match why {
            Refused::Full => (self.0.shares.used().saturating_add(bytes)).saturating_sub(self.0.shares.total()),
            Refused::Share => self.0.shares.to_give_back(address, bytes),
        };
        self.0.readers.make_room(missing, frees).await
    }

    fn charges(&self) -> MutexGuard<'_, HashMap<Place, Charged>> {
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
        if charges.get(&self.place).is_some_and(|charged| charged.charge.strong_count() == 0) {
            charges.remove(&self.place);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{cache::readers::WINDOW, metrics::Metrics};

    const SIZE: usize = 2 * MAX_UNCOUNTED;

    fn address(n: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, n])
    }

    fn bytes() -> Bytes {
        Bytes::from(vec![7; SIZE])
    }

    fn held(answers: usize) -> Held {
        let readers = Readers::new(WINDOW, Metrics::new().unwrap());
        Held::of((answers * SIZE) as u64, TrustedNetworks::default(), readers)
    }

    async fn hold(held: &Held, peer: u8, bytes: Bytes) -> Result<Bytes, Refused> {
        held.hold(address(peer), &Taker::default(), bytes).await
    }

    #[tokio::test]
    async fn bytes_count_until_their_last_part_is_dropped() {
        let held = held(1);
        let mut whole = hold(&held, 1, bytes()).await.unwrap();
        assert_eq!(hold(&held, 2, bytes()).await.unwrap_err(), Refused::Full);
        let part = whole.split_to(10);
        drop(whole);
        assert_eq!(hold(&held, 2, bytes()).await.unwrap_err(), Refused::Full);
        drop(part);
        assert_eq!(hold(&held, 2, bytes()).await.unwrap(), vec![7; SIZE]);
        assert_eq!((held.0.shares.used(), held.charges().len()), (0, 0));
    }

    #[tokio::test]
    async fn bytes_that_answers_share_count_once() {
        let held = held(2);
        let shared = bytes();
        let mut answers = Vec::new();
        for n in 0..100 {
            answers.push(hold(&held, n, shared.clone()).await.unwrap());
        }
        assert_eq!(held.0.shares.used(), SIZE as u64);
        let other = hold(&held, 1, shared.slice(1..)).await.unwrap();
        assert_eq!(held.0.shares.used(), 2 * SIZE as u64 - 1);
        drop((answers, other));
        assert_eq!((held.0.shares.used(), held.charges().len()), (0, 0));
    }

    #[tokio::test]
    async fn one_peer_leaves_a_quarter_of_the_budget() {
        let held = held(8);
        let mut hog = Vec::new();
        let refused = loop {
            match hold(&held, 1, bytes()).await {
                Ok(bytes) => hog.push(bytes),
                Err(why) => break why,
            }
        };
        assert_eq!((hog.len(), refused), (6, Refused::Share));
        assert!(hold(&held, 2, bytes()).await.is_ok());
    }

    #[tokio::test]
    async fn a_budget_of_nothing_holds_nothing() {
        assert_eq!(hold(&held(0), 1, bytes()).await.unwrap_err(), Refused::Full);
    }

    /// A client that takes what it gets to the end of its connection.
    async fn take(taker: Taker, bytes: Bytes) {
        taker.end.cancelled().await;
        drop(bytes);
    }

    #[tokio::test(start_paused = true)]
    async fn slow_readers_of_the_peer_or_of_all_make_room() {
        // How many answers there is room for, the peers of those that read, which of them are slow, the peer that comes,
        // and who is ended for it.
        for (room, readers, slow, peer, expected) in [
            (4, &[1, 2, 3, 4][..], &[2, 3][..], 9, Ok(2)),
            (4, &[1, 2, 3, 4], &[], 9, Err(Refused::Full)),
            // It holds the largest share: its own slow reader goes, and no other's.
            (8, &[2, 1, 1, 1, 1, 1], &[0, 2], 1, Ok(2)),
            (8, &[2, 1, 1, 1, 1, 1], &[0], 1, Err(Refused::Share)),
        ] {
            let held = held(room);
            let mut takers = Vec::new();
            for peer in readers {
                let taker = Taker::default();
                let bytes = held.hold(address(*peer), &taker, bytes()).await.unwrap();
                tokio::spawn(take(taker.clone(), bytes));
                takers.push(taker);
            }
            slow.iter().for_each(|slow: &usize| takers[*slow].meter.waits());
            tokio::time::advance(WINDOW).await;
            let come = hold(&held, peer, bytes()).await;
            let ended: Vec<_> = (0..readers.len()).filter(|n| takers[*n].end.is_cancelled()).collect();
            assert_eq!(ended, Vec::from_iter(expected), "{readers:?} {slow:?}");
            assert_eq!(come.err(), expected.err(), "{readers:?} {slow:?}");
        }
    }
}
