//! The readers of blobs and responses, so that the slowest are ended while there is no space for others.
//!
//! What must hold: only readers that keep forebay waiting are ended, and of those none that was not slow for a whole window of
//! its own time; nothing is ended in vain, that is, unless room comes of it: what comes of those that were ended before counts. One
//! that was ended goes with its connection at the latest, whatever became of the request for whose room it was ended.

mod choice;

use std::{collections::HashMap, sync::Arc, time::Duration};

use parking_lot::{Mutex, MutexGuard};

use futures_util::future::join_all;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use self::choice::{Candidate, Stand};
use crate::{cache::ContentKey, metrics::Metrics, peer::PeerPrefix, transport::Recipient};

/// How long readers that are ended may take to go, until their connections are ended; and then those, until the download or answer
/// that waits for their room does without.
const ENDED_TIMEOUT: Duration = Duration::from_secs(2);
/// A reader is told of in the log once in so long for each peer.
const TOLD_INTERVAL: Duration = Duration::from_secs(60);
/// How many peers are remembered as told of.
const MAX_TOLD: u64 = 1024;

/// What cannot be given to others while it is read.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Holding {
    Blob(ContentKey),
    /// Bytes in memory, by their address and length.
    Bytes(usize, usize),
    /// A place of a peer among the blobs that pass straight through, by a number.
    Through(PeerPrefix, u64),
}

/// All readers. A cheap handle.
#[derive(Clone)]
pub struct SlowReaders(Arc<ReadersInner>);

struct ReadersInner {
    /// How much of its own time a reader is judged by.
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
    /// How much of the recipient's own time was over when it began to read this.
    begun: Duration,
    /// Present once it was ended.
    going: Option<Going>,
}

/// One that was told to go.
struct Going {
    /// Cancelled when it is gone.
    gone: CancellationToken,
    /// Up to when it is waited for.
    until: Instant,
}

/// Readers that were told to go.
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

    /// A reader begins. Drop what it holds before the result.
    pub fn begin(&self, peer: PeerPrefix, recipient: &Recipient, holding: Holding) -> Reading {
        let recipient = recipient.clone();
        let begun = recipient.meter.own(Instant::now());
        let mut entries = self.entries();
        let id = entries.next;
        entries.next += 1;
        entries.by_id.insert(id, ReaderEntry { holding, peer, recipient, begun, going: None });
        Reading { readers: self.clone(), id }
    }

    /// Ends the slowest readers, as many as hold `missing` bytes beside those that were ended before and are about to go;
    /// `None` where there are none.
    ///
    /// `frees`: how many bytes are free once no reader holds something. Where ending all that are slow would not do, all go on.
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

    /// How many bytes [`SlowReaders::make_room`] can make free at most.
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
                // One that does not go in time is not counted on, nor waited for again.
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
        // An entry is whole even if a thread panicked beside it.
        self.0.entries.lock()
    }
}

impl ReadersEnded {
    /// Waits until they are gone, or have not gone in time.
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
    /// Whether it is part of a connection that goes on.
    fn has_connection(&self) -> bool {
        self.recipient.connection.as_ref().is_some_and(|connection| !connection.end.is_cancelled())
    }

    /// Ends the connection of one that did not go in time, where the request that ended it is gone itself.
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
        // The peer and the KiB/s of each.
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
        // What is ended is no candidate any more, though it is not gone.
        assert!(readers.make_room(3, |_| Some(1)).is_none());
        // But it is waited for, and for no longer than it has to go.
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
        // From then on it has its time once more.
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
