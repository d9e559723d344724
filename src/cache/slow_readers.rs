//! The readers of blobs and responses, of which forebay ends the slowest when others need space.
//!
//! What must hold: forebay ends only readers that keep it waiting and that were slow for a whole window of their own
//! time; it ends none in vain, that is, only if enough room is freed, counting the room of readers ended before. A
//! reader that forebay ended is gone with its connection at the latest, even if the request that needed its room is
//! gone.

mod choice;

use std::{collections::HashMap, sync::Arc, time::Duration};

use parking_lot::{Mutex, MutexGuard};

use futures_util::future::join_all;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use self::choice::{Candidate, Stand};
use crate::{cache::ContentKey, metrics::Metrics, peer::PeerPrefix, transport::Recipient};

/// How long ended readers may take to go before forebay ends their connections, and then how long these may take before
/// the download or response that waits for their room continues without it.
const ENDED_TIMEOUT: Duration = Duration::from_secs(2);
/// For each peer, one ended reader is logged per interval.
const TOLD_INTERVAL: Duration = Duration::from_secs(60);
/// For how many peers forebay remembers that a reader was logged.
const MAX_TOLD: u64 = 1024;

/// A resource that cannot be freed while a reader uses it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Holding {
    Blob(ContentKey),
    /// Bytes in memory, by their address and length.
    Bytes(usize, usize),
    /// A peer's place among the blobs that pass straight through, by a number.
    Through(PeerPrefix, u64),
}

/// All readers. A cheap handle.
#[derive(Clone)]
pub struct SlowReaders(Arc<ReadersInner>);

struct ReadersInner {
    /// The length of own time over which a reader is judged.
    window: Duration,
    metrics: Metrics,
    entries: Mutex<ReaderEntries>,
    told: moka::sync::Cache<PeerPrefix, ()>,
}

#[derive(Default)]
struct ReaderEntries {
    next: u64,
    by_id: HashMap<u64, ReaderEntry>,
}

struct ReaderEntry {
    holding: Holding,
    peer: PeerPrefix,
    recipient: Recipient,
    /// The recipient's own time when it began to read this.
    begun: Duration,
    /// Present once forebay has ended the reader.
    going: Option<Going>,
}

/// A reader that forebay has ended but that is not gone yet.
struct Going {
    /// Cancelled when the reader is gone.
    gone: CancellationToken,
    /// Until when reservations wait for it.
    until: Instant,
}

/// Readers that forebay has ended but that are not gone yet.
pub struct ReadersEnded(Vec<(Recipient, CancellationToken)>);

/// One reader, until this is dropped.
pub struct Reading {
    readers: SlowReaders,
    id: u64,
}

impl SlowReaders {
    pub fn new(window: Duration, metrics: Metrics) -> Self {
        let told = moka::sync::Cache::builder().max_capacity(MAX_TOLD).time_to_live(TOLD_INTERVAL).build();
        Self(Arc::new(ReadersInner { window, metrics, entries: Mutex::default(), told }))
    }

    /// Registers a reader. Drop the resource it holds before the result.
    pub fn begin(&self, peer: PeerPrefix, recipient: &Recipient, holding: Holding) -> Reading {
        let recipient = recipient.clone();
        let begun = recipient.meter.own(Instant::now());
        let mut entries = self.entries();
        let id = entries.next;
        entries.next += 1;
        entries.by_id.insert(id, ReaderEntry { holding, peer, recipient, begun, going: None });
        Reading { readers: self.clone(), id }
    }

    /// Ends the slowest readers, as many as are needed to free `missing` bytes together with readers that were ended
    /// before and are still going; `None` if there are none.
    ///
    /// `frees`: how many bytes are freed once a resource has no reader. If ending all slow readers would not free
    /// enough, none is ended.
    pub fn make_room(&self, missing: u64, frees: impl Fn(&Holding) -> Option<u64>) -> Option<ReadersEnded> {
        let now = Instant::now();
        let mut entries = self.entries();
        entries.by_id.values_mut().for_each(|entry| entry.end_overdue_connection(now));
        let chosen = choice::slowest(self.candidates(&entries, now, frees), missing);
        let (mut slow, mut ended) = (Vec::new(), Vec::new());
        for (id, stand) in chosen {
            let Some(entry) = entries.by_id.get_mut(&id) else { continue };
            if let Stand::Slow(rate) = stand {
                entry.recipient.end.cancel();
                slow.push((entry.peer, rate));
            }
            let until = now + ENDED_TIMEOUT + ENDED_TIMEOUT;
            let going = entry.going.get_or_insert_with(|| Going { gone: CancellationToken::new(), until });
            ended.push((entry.recipient.clone(), going.gone.clone()));
        }
        drop(entries);
        slow.into_iter().for_each(|(peer, rate)| self.tell(peer, rate));
        (!ended.is_empty()).then_some(ReadersEnded(ended))
    }

    /// How many bytes [`SlowReaders::make_room`] can free at most.
    pub fn most_room(&self, frees: impl Fn(&Holding) -> Option<u64>) -> u64 {
        let entries = self.entries();
        choice::most(&self.candidates(&entries, Instant::now(), frees))
    }

    fn candidates<'a>(
        &self,
        entries: &'a ReaderEntries,
        now: Instant,
        frees: impl Fn(&Holding) -> Option<u64>,
    ) -> Vec<Candidate<&'a Holding>> {
        let going_on = entries.by_id.values().filter(|entry| entry.going.is_none());
        let by_peer = choice::by_peer(going_on.map(|entry| {
            let lately = entry.recipient.meter.lately(now, self.0.window);
            (entry.peer, Arc::as_ptr(&entry.recipient), lately)
        }));
        let stand = |entry: &ReaderEntry| {
            if let Some(going) = &entry.going {
                // A reader that does not go in time is not counted on, nor waited for again.
                return if now < going.until || entry.has_connection() { Stand::Goes } else { Stand::Stays };
            }
            let rate = entry.recipient.meter.rate(now, entry.begun, self.0.window);
            let all = by_peer.get(&entry.peer).copied().unwrap_or_default();
            rate.filter(|rate| choice::is_slow(*rate, all)).map_or(Stand::Stays, Stand::Slow)
        };
        let candidate = |(id, entry): (&u64, &'a ReaderEntry)| {
            let bytes = frees(&entry.holding)?;
            Some(Candidate { id: *id, holding: &entry.holding, stand: stand(entry), bytes })
        };
        entries.by_id.iter().filter_map(candidate).collect()
    }

    fn tell(&self, peer: PeerPrefix, rate: u64) {
        self.0.metrics.stall("scarce");
        if self.0.told.contains_key(&peer) {
            return;
        }
        self.0.told.insert(peer, ());
        tracing::info!(%peer, bytes_per_second = rate, "a slow reader is ended: others need the room that it holds");
    }

    fn entries(&self) -> MutexGuard<'_, ReaderEntries> {
        // The entries stay consistent even if a thread panics while it holds the lock.
        self.0.entries.lock()
    }
}

impl ReadersEnded {
    /// Waits until the readers are gone, or the time for that is over.
    pub async fn gone(self) {
        let all_gone = async || timeout(ENDED_TIMEOUT, join_all(self.0.iter().map(|(_, gone)| gone.cancelled()))).await;
        if all_gone().await.is_err() {
            let stay = self.0.iter().filter(|(_, gone)| !gone.is_cancelled());
            stay.filter_map(|(recipient, _)| recipient.connection.as_ref())
                .for_each(|connection| connection.end.cancel());
            let _ = all_gone().await;
        }
    }
}

impl ReaderEntry {
    /// Whether its connection exists and was not ended.
    fn has_connection(&self) -> bool {
        self.recipient.connection.as_ref().is_some_and(|connection| !connection.end.is_cancelled())
    }

    /// Ends the connection of a reader that did not go in time, if the request that ended the reader is itself gone.
    fn end_overdue_connection(&mut self, now: Instant) {
        let has_connection = self.has_connection();
        if let (Some(going), Some(connection)) = (&mut self.going, &self.recipient.connection)
            && has_connection
            && going.until.saturating_duration_since(now) <= ENDED_TIMEOUT
        {
            connection.end.cancel();
            going.until = now + ENDED_TIMEOUT;
        }
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        let entry = self.readers.entries().by_id.remove(&self.id);
        if let Some(going) = entry.and_then(|entry| entry.going) {
            going.gone.cancel();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::transport::recipient::{RATE_WINDOW, RecipientState};

    #[tokio::test(start_paused = true)]
    async fn a_client_is_not_slow_for_taking_three_things_at_once() {
        let readers = SlowReaders::new(RATE_WINDOW, Metrics::new().unwrap());
        // The peer and the rate of each stream in KiB/s.
        let streams = [(1, 100), (1, 100), (1, 100), (2, 100), (1, 31)];
        let begin = |(number, (peer, _)): (usize, &(u8, u64))| {
            let recipient = Recipient::default();
            recipient.meter.waits();
            let peer = IpAddr::from([10, 0, 0, *peer]).into();
            (readers.begin(peer, &recipient, Holding::Bytes(number, 1)), recipient)
        };
        let begun: Vec<_> = streams.iter().enumerate().map(begin).collect();
        for _ in 0..=RATE_WINDOW.as_secs() {
            tokio::time::advance(Duration::from_secs(1)).await;
            for ((_, recipient), (_, rate)) in begun.iter().zip(&streams) {
                recipient.meter.goes_on();
                recipient.meter.took(rate * 1024);
                recipient.meter.waits();
            }
        }
        let ended = |missing| {
            let _ = readers.make_room(missing, |_| Some(1));
            begun.iter().map(|(_, recipient)| recipient.end.is_cancelled()).collect::<Vec<_>>()
        };
        assert_eq!(readers.most_room(|_| Some(1)), 2);
        assert_eq!(ended(3), [false; 5], "two are slow");
        assert_eq!(ended(2), [false, false, false, true, true]);
        // An ended reader is no candidate any more, even before it is gone.
        assert!(readers.make_room(3, |_| Some(1)).is_none());
        // But reservations wait for it, for no longer than its time to go.
        assert_eq!(readers.make_room(1, |_| Some(1)).map(|ended| ended.0.len()), Some(2));
        tokio::time::advance(2 * ENDED_TIMEOUT).await;
        let of_ended = |holding: &Holding| matches!(holding, Holding::Bytes(3 | 4, 1)).then_some(1);
        assert!(readers.make_room(1, of_ended).is_none());
        assert_eq!(readers.most_room(of_ended), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn connections_end_although_the_request_for_room_left() {
        let readers = SlowReaders::new(Duration::ZERO, Metrics::new().unwrap());
        let connection = Recipient::default();
        let stream =
            Recipient::new(RecipientState { connection: Some(connection.clone()), ..RecipientState::default() });
        stream.meter.waits();
        let reading = readers.begin(IpAddr::from([10, 0, 0, 1]).into(), &stream, Holding::Bytes(0, 1));
        let begun = Instant::now();
        let room = || readers.make_room(1, |_| Some(1));
        // The requests end one after the other, before the reader goes.
        for (after, connection_ended) in [(0, false), (1999, false), (2000, true)] {
            tokio::time::sleep_until(begun + Duration::from_millis(after)).await;
            assert!(room().is_some());
            assert_eq!(connection.end.is_cancelled(), connection_ended, "{after}");
        }
        assert!(stream.end.is_cancelled());
        // From then on the reader has its full time once more.
        tokio::time::sleep_until(begun + Duration::from_millis(3999)).await;
        let last = room().unwrap();
        drop(reading);
        last.gone().await;
        assert_eq!(begun.elapsed(), Duration::from_millis(3999));
        assert!(room().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_late_request_for_room_ends_the_connection_itself() {
        let readers = SlowReaders::new(Duration::ZERO, Metrics::new().unwrap());
        let connection = Recipient::default();
        let stream =
            Recipient::new(RecipientState { connection: Some(connection.clone()), ..RecipientState::default() });
        stream.meter.waits();
        let _reading = readers.begin(IpAddr::from([10, 0, 0, 1]).into(), &stream, Holding::Bytes(0, 1));
        let room = || readers.make_room(1, |_| Some(1));
        drop(room());
        tokio::time::advance(Duration::from_secs(3600)).await;
        assert_eq!(readers.most_room(|_| Some(1)), 1);
        room().unwrap().gone().await;
        assert!(connection.end.is_cancelled());
        assert!(room().is_none(), "it did not go in time");
    }
}
