//! The memory of responses until their clients have taken them: one budget in bytes, shared by peers.
//!
//! What must hold: bytes count from the moment a response has them until the last of them is sent or its connection
//! ends, wherever they wait: they own the permit. Bytes that several responses share, such as those of a cached
//! manifest, count once, for one peer that reads them; when that peer has left, for another. When the budget is used
//! up, forebay first ends readers that are slow enough. Parts of blobs have a budget of their own.

use std::{
    collections::{BTreeMap, HashMap, HashSet, hash_map::Entry},
    net::IpAddr,
    sync::Arc,
};

use parking_lot::{Mutex, MutexGuard};

use bytes::Bytes;

use crate::{
    cache::{Holding, ReadersEnded, Reading, SlowReaders},
    peer::{PeerPrefix, Permit, Refused, Shares, TrustedNetworks},
    transport::Recipient,
};

/// The memory of all responses together, in bytes.
const MAX_HELD: u64 = 256 * 1024 * 1024;
/// A response of no more bytes than this is not counted: every request costs as much.
const MAX_UNCOUNTED: usize = 16 * 1024;

/// The budget of all responses. A cheap handle.
#[derive(Clone)]
pub(crate) struct ResponseMemory(Arc<Inner>);

struct Inner {
    shares: Shares,
    readers: SlowReaders,
    /// The bodies that count, by their place in memory.
    charges: Mutex<HashMap<Place, ChargedBody>>,
    /// The bodies that wait for the memory of ended readers, with the peers of those bodies.
    waiting: Mutex<Vec<(Place, PeerPrefix)>>,
}

/// The bytes of one or several responses.
struct ChargedBody {
    permit: Permit,
    /// The reader to which they are charged.
    payer: IpAddr,
    /// The number of responses of each reader.
    answers: BTreeMap<IpAddr, usize>,
}

/// Address and length.
type Place = (usize, usize);

/// One response's share of a charged body.
struct Charge {
    place: Place,
    address: IpAddr,
    held: ResponseMemory,
}

/// The bytes of one response wait for memory until this is dropped.
struct Waiting {
    place: Place,
    peer: PeerPrefix,
    held: ResponseMemory,
}

/// The bytes of one response, their charge, and their reading; dropped in this order.
struct Counted {
    bytes: Bytes,
    _charge: Charge,
    _reading: Reading,
}

impl ResponseMemory {
    pub(crate) fn new(trusted: TrustedNetworks, readers: SlowReaders) -> ResponseMemory {
        ResponseMemory::of(MAX_HELD, trusted, readers)
    }

    fn of(total: u64, trusted: TrustedNetworks, readers: SlowReaders) -> ResponseMemory {
        ResponseMemory(Arc::new(Inner {
            shares: Shares::new(total, trusted),
            readers,
            charges: Mutex::default(),
            waiting: Mutex::default(),
        }))
    }

    /// The readers of all responses.
    pub(crate) fn readers(&self) -> &SlowReaders {
        &self.0.readers
    }

    /// Whether a body of this length counts.
    pub(crate) fn counts(bytes: &Bytes) -> bool {
        bytes.len() > MAX_UNCOUNTED
    }

    /// The same bytes, which count and have a reader until they are dropped.
    ///
    /// # Errors
    /// The budget is used up, or this peer has the largest share of it, and no reader is slow enough to be ended.
    pub(crate) async fn hold(&self, peer: IpAddr, recipient: &Recipient, bytes: Bytes) -> Result<Bytes, Refused> {
        let charge = match self.charge(peer, &bytes) {
            Err(why) => {
                let (ended, _waiting) = self.end_slow_readers(peer, place(&bytes), why).ok_or(why)?;
                ended.gone().await;
                self.charge(peer, &bytes)
            }
            charge => charge,
        }?;
        let (place, len) = charge.place;
        let reading = self.0.readers.begin(peer.into(), recipient, Holding::Bytes(place, len));
        Ok(Bytes::from_owner(Counted { bytes, _charge: charge, _reading: reading }))
    }

    fn charge(&self, address: IpAddr, bytes: &Bytes) -> Result<Charge, Refused> {
        let place = place(bytes);
        let mut charges = self.charges();
        match charges.entry(place) {
            Entry::Occupied(mut charged) => *charged.get_mut().answers.entry(address).or_default() += 1,
            Entry::Vacant(vacant) => {
                let permit = self.0.shares.take(address, bytes.len() as u64)?;
                vacant.insert(ChargedBody { permit, payer: address, answers: BTreeMap::from([(address, 1)]) });
            }
        }
        Ok(Charge { place, address, held: self.clone() })
    }

    /// Ends slow readers for these bytes; if the peer has too large a share, only readers of bytes that this peer alone
    /// reads. It ends as many as all waiting bodies need; a body that waits in several responses counts once.
    fn end_slow_readers(&self, address: IpAddr, place: Place, why: Refused) -> Option<(ReadersEnded, Waiting)> {
        let peer = PeerPrefix::from(address);
        let frees = |holding: &Holding| match *holding {
            Holding::Bytes(place, len) => {
                let charges = self.charges();
                let mut readers = charges.get(&(place, len))?.answers.keys();
                (why == Refused::Full || readers.all(|reader| PeerPrefix::from(*reader) == peer)).then_some(len as u64)
            }
            Holding::Blob(_) | Holding::Through(..) => None,
        };
        // The lock is held until readers are found: a body that gets no memory does not count among those that wait.
        let mut waiting = self.waiting();
        waiting.push((place, peer));
        let of_peer = waiting.iter().filter(|(_, other)| why == Refused::Full || *other == peer);
        let places: HashSet<Place> = of_peer.map(|(place, _)| *place).collect();
        let bytes = places.iter().fold(0_u64, |sum, (_, len)| sum.saturating_add(*len as u64));
        let missing = match why {
            Refused::Full => (self.0.shares.used().saturating_add(bytes)).saturating_sub(self.0.shares.total()),
            Refused::Share => self.0.shares.to_give_back(address, bytes),
        };
        let ended = self.0.readers.make_room(missing, frees);
        if ended.is_none() {
            waiting.pop();
        }
        Some((ended?, Waiting { place, peer, held: self.clone() }))
    }

    fn waiting(&self) -> MutexGuard<'_, Vec<(Place, PeerPrefix)>> {
        // An entry is whole even if another thread has panicked.
        self.0.waiting.lock()
    }

    fn charges(&self) -> MutexGuard<'_, HashMap<Place, ChargedBody>> {
        // An entry is whole even if another thread has panicked.
        self.0.charges.lock()
    }
}

fn place(bytes: &Bytes) -> Place {
    (bytes.as_ptr().addr(), bytes.len())
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl ChargedBody {
    /// Ends a response. Returns whether it was the last one of these bytes.
    fn leave(&mut self, address: IpAddr) -> bool {
        if let Some(answers) = self.answers.get_mut(&address) {
            *answers -= 1;
            if *answers == 0 {
                self.answers.remove(&address);
            }
        }
        let Some((other, _)) = self.answers.first_key_value() else { return true };
        if !self.answers.contains_key(&self.payer) {
            self.payer = *other;
            self.permit.pass_to(self.payer);
        }
        false
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut waiting = self.held.waiting();
        if let Some(own) = waiting.iter().position(|entry| *entry == (self.place, self.peer)) {
            waiting.swap_remove(own);
        }
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        if let Entry::Occupied(mut charged) = self.held.charges().entry(self.place)
            && charged.get_mut().leave(self.address)
        {
            charged.remove();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::future::join_all;

    use super::*;
    use crate::{metrics::Metrics, transport::recipient::RATE_WINDOW};

    const SIZE: usize = 2 * MAX_UNCOUNTED;

    fn address(n: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, n])
    }

    fn bytes() -> Bytes {
        Bytes::from(vec![7; SIZE])
    }

    fn held(answers: usize) -> ResponseMemory {
        let readers = SlowReaders::new(RATE_WINDOW, Metrics::new().unwrap());
        ResponseMemory::of((answers * SIZE) as u64, TrustedNetworks::default(), readers)
    }

    async fn hold(held: &ResponseMemory, peer: u8, bytes: Bytes) -> Result<Bytes, Refused> {
        held.hold(address(peer), &Recipient::default(), bytes).await
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

    /// A client that reads all bytes until its connection ends.
    async fn take(recipient: Recipient, bytes: Bytes) {
        recipient.end.cancelled().await;
        drop(bytes);
    }

    #[tokio::test(start_paused = true)]
    async fn slow_readers_of_the_peer_or_of_all_make_room() {
        // How many responses fit, the peers of the readers, which readers are slow, the peer of the new response, and
        // which reader forebay ends for it.
        for (room, readers, slow, peer, expected) in [
            (4, &[1, 2, 3, 4][..], &[2, 3][..], 9, Ok(2)),
            (4, &[1, 2, 3, 4], &[], 9, Err(Refused::Full)),
            // The peer holds the largest share: forebay ends this peer's own slow reader, and no other's.
            (8, &[2, 1, 1, 1, 1, 1], &[0, 2], 1, Ok(2)),
            (8, &[2, 1, 1, 1, 1, 1], &[0], 1, Err(Refused::Share)),
        ] {
            let held = held(room);
            let mut recipients = Vec::new();
            for peer in readers {
                let recipient = Recipient::default();
                let bytes = held.hold(address(*peer), &recipient, bytes()).await.unwrap();
                tokio::spawn(take(recipient.clone(), bytes));
                recipients.push(recipient);
            }
            slow.iter().for_each(|slow: &usize| recipients[*slow].meter.waits());
            tokio::time::advance(RATE_WINDOW).await;
            let come = hold(&held, peer, bytes()).await;
            let ended: Vec<_> = (0..readers.len()).filter(|n| recipients[*n].end.is_cancelled()).collect();
            assert_eq!(ended, Vec::from_iter(expected), "{readers:?} {slow:?}");
            assert_eq!(come.err(), expected.err(), "{readers:?} {slow:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn answers_at_once_end_no_more_readers_than_they_need() {
        // Four slow readers of eight parts each: how many parts the responses need, how many responses have the same
        // bytes, and how many readers forebay ends.
        for (answers, copies, expected) in [
            (&[1; 8][..], 1, 1),
            (&[1; 9], 1, 2),
            (&[8, 8], 1, 2),
            (&[8], 10, 1),
            (&[1, 8, 1], 1, 2),
            // The other responses do not wait for one that is too large.
            (&[33, 8], 1, 1),
        ] {
            let held = held(32);
            let mut recipients = Vec::new();
            for peer in 0..4 {
                let recipient = Recipient::default();
                let bytes = held.hold(address(peer), &recipient, vec![7; 8 * SIZE].into()).await.unwrap();
                tokio::spawn(take(recipient.clone(), bytes));
                recipient.meter.waits();
                recipients.push(recipient);
            }
            tokio::time::advance(RATE_WINDOW).await;
            let answers: Vec<_> = answers.iter().map(|parts| Bytes::from(vec![7; parts * SIZE])).collect();
            let come = answers.iter().flat_map(|bytes| vec![bytes; copies]).enumerate();
            let come = join_all(come.map(|(n, bytes)| hold(&held, 10 + n as u8, bytes.clone()))).await;
            let refused = come.iter().filter(|come| come.is_err()).count();
            assert_eq!(refused, usize::from(answers[0].len() > 32 * SIZE), "{expected}");
            let ended = recipients.iter().filter(|recipient| recipient.end.is_cancelled()).count();
            assert_eq!((ended, held.waiting().len()), (expected, 0));
        }
    }

    #[tokio::test]
    async fn a_charge_passes_to_a_peer_that_still_reads() {
        let held = held(8);
        let shared = bytes();
        let [first, second, third] = [1, 2, 3].map(|peer| hold(&held, peer, shared.clone()));
        let (first, second, third) = (first.await.unwrap(), second.await.unwrap(), third.await.unwrap());
        let payer = || held.0.shares.largest().map(|(peer, units)| (peer.to_string(), units));
        let pays = |peer: &str| Some((peer.to_owned(), SIZE as u64));
        assert_eq!(payer(), pays("10.0.0.1"));
        drop(third);
        assert_eq!(payer(), pays("10.0.0.1"));
        let again = hold(&held, 1, shared.clone()).await.unwrap();
        drop(first);
        assert_eq!(payer(), pays("10.0.0.1"), "it has another answer");
        drop(again);
        assert_eq!(payer(), pays("10.0.0.2"));
        drop(second);
        assert_eq!((held.0.shares.used(), held.charges().len(), payer()), (0, 0, None));
    }

    #[tokio::test(start_paused = true)]
    async fn no_reader_of_another_peer_goes_for_a_share() {
        let held = held(8);
        let answers: Vec<_> = (0..5).map(|_| bytes()).collect();
        // Peer 1 pays for all five, and peer 2 reads the first three, too.
        let mut recipients = Vec::new();
        for (peer, answers) in [(1, &answers[..]), (2, &answers[..3])] {
            for answer in answers {
                let recipient = Recipient::default();
                let bytes = held.hold(address(peer), &recipient, answer.clone()).await.unwrap();
                tokio::spawn(take(recipient.clone(), bytes));
                recipients.push(recipient);
            }
        }
        let _other = hold(&held, 3, bytes()).await.unwrap();
        for (slow, expected) in [
            // The bytes that the other peer reads still count, whichever reader forebay ends.
            (&[0, 1, 2, 5, 6, 7][..], Err(Refused::Share)),
            (&[4], Ok(4)),
        ] {
            slow.iter().for_each(|slow: &usize| recipients[*slow].meter.waits());
            tokio::time::advance(RATE_WINDOW).await;
            let come = hold(&held, 1, bytes()).await;
            let ended: Vec<_> = (0..recipients.len()).filter(|n| recipients[*n].end.is_cancelled()).collect();
            assert_eq!((come.err(), ended), (expected.err(), Vec::from_iter(expected)), "{slow:?}");
        }
    }
}
