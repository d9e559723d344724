//! Who reads what, so that the slowest go first while there is no room for others.
//!
//! What must hold: only readers that keep forebay waiting are ended, and of those none that was not slow for a whole window of
//! its own time; nothing is ended in vain, that is, unless room comes of it.

mod choice;
mod meter;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::future::join_all;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use self::choice::Candidate;
pub use self::meter::{Meter, WINDOW};
use crate::{cache::ContentId, metrics::Metrics, peer::PeerPrefix};

/// How long readers that are ended may take to go, until their connections are ended; and then those, until the fill or answer
/// that waits for their room does without.
const ENDED_TIMEOUT: Duration = Duration::from_secs(2);
/// A reader is told of in the log once in so long for each peer.
const TOLD_INTERVAL: Duration = Duration::from_secs(60);
/// How many peers are remembered as told of.
const MAX_TOLD: u64 = 1024;

/// What takes: a connection of HTTP/1, or a stream of HTTP/2. A cheap handle.
pub type Taker = Arc<Taking>;

#[derive(Debug, Default)]
pub struct Taking {
    pub meter: Meter,
    /// Ends it, in the middle of what it takes.
    pub end: CancellationToken,
    /// What a stream is part of. What is queued for a stream goes with its end only once something is written for the
    /// connection: never, where the client does not read.
    pub connection: Option<Taker>,
}

/// What cannot be given to others while it is read.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Holding {
    Blob(ContentId),
    /// Bytes in memory, by their address and length.
    Bytes(usize, usize),
}

/// All readers. A cheap handle.
#[derive(Clone)]
pub struct Readers(Arc<Shared>);

struct Shared {
    /// How much of its own time a reader is judged by.
    window: Duration,
    metrics: Metrics,
    entries: Mutex<Entries>,
    told: moka::sync::Cache<PeerPrefix, ()>,
}

#[derive(Default)]
struct Entries {
    next: u64,
    by_id: HashMap<u64, Entry>,
}

struct Entry {
    holding: Holding,
    peer: PeerPrefix,
    taker: Taker,
    /// How much of the taker's own time was over when it began to read this.
    begun: Duration,
    /// Present once it was ended: cancelled when it is gone.
    gone: Option<CancellationToken>,
}

/// One that was told to go.
struct Ended {
    taker: Taker,
    gone: CancellationToken,
}

/// One reader, until this is dropped.
pub struct Reading {
    readers: Readers,
    id: u64,
}

impl Readers {
    pub fn new(window: Duration, metrics: Metrics) -> Self {
        let told = moka::sync::Cache::builder().max_capacity(MAX_TOLD).time_to_live(TOLD_INTERVAL).build();
        Self(Arc::new(Shared { window, metrics, entries: Mutex::default(), told }))
    }

    /// A reader begins. Drop what it holds before the result.
    pub fn begin(&self, peer: PeerPrefix, taker: &Taker, holding: Holding) -> Reading {
        let taker = taker.clone();
        let begun = taker.meter.own(Instant::now());
        let mut entries = self.entries();
        let id = entries.next;
        entries.next += 1;
        entries.by_id.insert(id, Entry { holding, peer, taker, begun, gone: None });
        Reading { readers: self.clone(), id }
    }

    /// Ends the slowest readers, as many as hold `missing` bytes, and waits until they are gone; whether there were any.
    ///
    /// `frees`: how many bytes are free once no reader holds something. Where ending all that are slow would not do, all go on.
    pub async fn make_room(&self, missing: u64, frees: impl Fn(&Holding) -> Option<u64>) -> bool {
        let ended = self.end_slowest(missing, frees);
        let all_gone =
            async || timeout(ENDED_TIMEOUT, join_all(ended.iter().map(|ended| ended.gone.cancelled()))).await;
        if all_gone().await.is_err() {
            let stay = ended.iter().filter(|ended| !ended.gone.is_cancelled());
            stay.filter_map(|ended| ended.taker.connection.as_ref()).for_each(|connection| connection.end.cancel());
            // One that does not go in time is not waited for again.
            let _ = all_gone().await;
        }
        !ended.is_empty()
    }

    fn end_slowest(&self, missing: u64, frees: impl Fn(&Holding) -> Option<u64>) -> Vec<Ended> {
        let now = Instant::now();
        let mut entries = self.entries();
        let going_on = entries.by_id.values().filter(|entry| entry.gone.is_none());
        let by_peer = choice::by_peer(going_on.map(|entry| {
            let lately = entry.taker.meter.lately(now, self.0.window);
            (entry.peer, Arc::as_ptr(&entry.taker), lately)
        }));
        let slow = |entry: &Entry| {
            let rate = entry.taker.meter.rate(now, entry.begun, self.0.window).filter(|_| entry.gone.is_none())?;
            choice::is_slow(rate, *by_peer.get(&entry.peer)?).then_some(rate)
        };
        let candidates = entries.by_id.iter().filter_map(|(id, entry)| {
            let bytes = frees(&entry.holding)?;
            Some(Candidate { id: *id, holding: &entry.holding, rate: slow(entry), bytes })
        });
        let chosen = choice::slowest(candidates.collect(), missing);
        let end = |(id, rate): (u64, u64)| {
            let entry = entries.by_id.get_mut(&id)?;
            let gone = entry.gone.insert(CancellationToken::new()).clone();
            entry.taker.end.cancel();
            Some((entry.peer, rate, Ended { taker: entry.taker.clone(), gone }))
        };
        let ended: Vec<_> = chosen.into_iter().filter_map(end).collect();
        drop(entries);
        ended
            .into_iter()
            .map(|(peer, rate, ended)| {
                self.tell(peer, rate);
                ended
            })
            .collect()
    }

    fn tell(&self, peer: PeerPrefix, rate: u64) {
        self.0.metrics.stall("scarce");
        if self.0.told.contains_key(&peer) {
            return;
        }
        self.0.told.insert(peer, ());
        tracing::info!(%peer, bytes_per_second = rate, "a slow reader is ended: others need the room that it holds");
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        // An entry is whole even if a thread panicked beside it.
        self.0.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        let entry = self.readers.entries().by_id.remove(&self.id);
        if let Some(gone) = entry.and_then(|entry| entry.gone) {
            gone.cancel();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_client_is_not_slow_for_taking_three_things_at_once() {
        let readers = Readers::new(WINDOW, Metrics::new().unwrap());
        // The peer and the KiB/s of each.
        let streams = [(1, 100), (1, 100), (1, 100), (2, 100), (1, 31)];
        let begin = |(number, (peer, _)): (usize, &(u8, u64))| {
            let taker = Taker::default();
            taker.meter.waits();
            let peer = IpAddr::from([10, 0, 0, *peer]).into();
            (readers.begin(peer, &taker, Holding::Bytes(number, 1)), taker)
        };
        let begun: Vec<_> = streams.iter().enumerate().map(begin).collect();
        for _ in 0..=WINDOW.as_secs() {
            tokio::time::advance(Duration::from_secs(1)).await;
            for ((_, taker), (_, rate)) in begun.iter().zip(&streams) {
                taker.meter.goes_on();
                taker.meter.took(rate * 1024);
                taker.meter.waits();
            }
        }
        let ended = |missing| {
            readers.end_slowest(missing, |_| Some(1));
            begun.iter().map(|(_, taker)| taker.end.is_cancelled()).collect::<Vec<_>>()
        };
        assert_eq!(ended(3), [false; 5], "two are slow");
        assert_eq!(ended(2), [false, false, false, true, true]);
        // What is ended is no candidate any more, though it is not gone.
        assert!(readers.end_slowest(1, |_| Some(1)).is_empty());
    }
}
