//! How many blobs stream through at a time: each takes a connection to its upstream, and an HTTP/2 client may request
//! hundreds.
//!
//! What must hold: a blob has a place before it opens a connection of its own, until it is sent or given up; peers
//! share the places, and if none is free, forebay first ends clients that are slow enough. A reader of a download that
//! continues without the cache in mid-body can no longer be refused, and needs no place.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use super::super::{Holding, Reading, SlowReaders};
use crate::{
    peer::{PeerPrefix, Permit, Refused, Shares, TrustedNetworks},
    transport::Recipient,
};

/// The maximum number of places, however many descriptors there are: as many clients that just do not count as slow
/// (256 KiB/s) download 2 Gbit/s.
pub(crate) const MAX_THROUGH: u64 = 1024;

/// The client that downloads a blob.
#[derive(Clone, Copy)]
pub(crate) struct Client<'a> {
    pub address: IpAddr,
    pub recipient: &'a Recipient,
}

/// All places. A cheap handle.
#[derive(Clone)]
pub(crate) struct UncachedLimit(Arc<Inner>);

struct Inner {
    shares: Shares,
    readers: SlowReaders,
    next: AtomicU64,
}

/// The place and the reader of one blob, released in this order.
pub(crate) struct Place {
    _permit: Permit,
    _reading: Reading,
}

impl UncachedLimit {
    pub(crate) fn new(total: u64, trusted: TrustedNetworks, readers: SlowReaders) -> Self {
        Self(Arc::new(Inner { shares: Shares::new(total, trusted), readers, next: AtomicU64::default() }))
    }

    /// Takes a place, until it is dropped.
    ///
    /// # Errors
    /// All places are taken, or the client's peer has the largest share of them, and no reader is slow enough to be
    /// ended.
    pub(crate) async fn begin(&self, client: Client<'_>) -> Result<Place, Refused> {
        let Inner { shares, readers, next } = &*self.0;
        let permit = match shares.take(client.address, 1) {
            Ok(permit) => permit,
            Err(why) => {
                self.end_slow_readers(client.address, why).await;
                shares.take(client.address, 1)?
            }
        };
        let peer = PeerPrefix::from(client.address);
        let holding = Holding::Through(peer, next.fetch_add(1, Ordering::Relaxed));
        Ok(Place { _permit: permit, _reading: readers.begin(peer, client.recipient, holding) })
    }

    async fn end_slow_readers(&self, address: IpAddr, why: Refused) {
        let Inner { shares, readers, .. } = &*self.0;
        let own = PeerPrefix::from(address);
        let frees = |holding: &Holding| match holding {
            Holding::Through(peer, _) => (why == Refused::Full || *peer == own).then_some(1),
            Holding::Blob(_) | Holding::Bytes(..) => None,
        };
        let missing = match why {
            Refused::Full => shares.used().saturating_add(1).saturating_sub(shares.total()),
            Refused::Share => shares.to_give_back(address, 1),
        };
        if let Some(ended) = readers.make_room(missing, frees) {
            ended.gone().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{metrics::Metrics, transport::recipient::RATE_WINDOW};

    fn uncached(total: u64) -> UncachedLimit {
        let readers = SlowReaders::new(RATE_WINDOW, Metrics::new().unwrap());
        UncachedLimit::new(total, TrustedNetworks::new(vec!["10.0.0.100".parse().unwrap()]), readers)
    }

    async fn begin(uncached: &UncachedLimit, peer: u8, recipient: &Recipient) -> Result<Place, Refused> {
        uncached.begin(Client { address: IpAddr::from([10, 0, 0, peer]), recipient }).await
    }

    #[tokio::test]
    async fn one_peer_leaves_a_quarter_of_the_places() {
        for (peer, most, refused) in [(1, 6, Refused::Share), (100, 8, Refused::Full)] {
            let uncached = uncached(8);
            let mut places = Vec::new();
            for _ in 0..most {
                places.push(begin(&uncached, peer, &Recipient::default()).await.unwrap());
            }
            assert_eq!(begin(&uncached, peer, &Recipient::default()).await.err(), Some(refused));
            assert_eq!(begin(&uncached, 2, &Recipient::default()).await.is_ok(), most < 8);
            drop(places);
            assert_eq!(uncached.0.shares.used(), 0);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn slow_clients_of_the_peer_or_of_all_give_their_places() {
        // The number of places, the peers that have one, the slow ones among them, the new peer, and the reader that is
        // ended.
        for (total, peers, slow, peer, expected) in [
            (4, &[1, 2, 3, 4][..], &[2, 3][..], 9, Ok(2)),
            (4, &[1, 2, 3, 4], &[2], 100, Ok(2)),
            (4, &[1, 2, 3, 4], &[], 9, Err(Refused::Full)),
            // The new peer has the largest share: its own slow client is ended, and no other's.
            (8, &[2, 1, 1, 1, 1, 1], &[0, 2], 1, Ok(2)),
            (8, &[2, 1, 1, 1, 1, 1], &[0], 1, Err(Refused::Share)),
            (8, &[1, 1, 1, 1, 1, 1], &[0, 1, 2, 3, 4, 5], 2, Ok(9)),
        ] {
            let uncached = uncached(total);
            let mut recipients = Vec::new();
            for peer in peers {
                let recipient = Recipient::default();
                let place = begin(&uncached, *peer, &recipient).await.unwrap();
                tokio::spawn({
                    let recipient = recipient.clone();
                    async move {
                        recipient.end.cancelled().await;
                        drop(place);
                    }
                });
                recipients.push(recipient);
            }
            slow.iter().for_each(|slow: &usize| recipients[*slow].meter.waits());
            tokio::time::advance(RATE_WINDOW).await;
            let come = begin(&uncached, peer, &Recipient::default()).await;
            let ended: Vec<_> = (0..peers.len()).filter(|n| recipients[*n].end.is_cancelled()).collect();
            let expected_ended = expected.into_iter().filter(|n| *n < peers.len()).collect::<Vec<_>>();
            assert_eq!(ended, expected_ended, "{peers:?} {slow:?}");
            assert_eq!(come.err(), expected.err(), "{peers:?} {slow:?}");
        }
    }
}
