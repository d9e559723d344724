//! What the store is known to have, for clients that get blobs from it and not from here.
//!
//! What must hold: a caller waits no longer than [`PATIENCE`], however slow the store is; of callers that want to know of one
//! object, one request is sent; a store that does not answer any more has nothing; memory is bounded.

use std::{net::IpAddr, num::NonZeroUsize, sync::Arc, time::Duration};

use lru::LruCache;
use object_store::ObjectStoreExt as _;
use parking_lot::Mutex;
use tokio::time::{Instant, timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    Lane, Store, error::Error, error_kind::ErrorKind, get::FIRST_BYTE_TIMEOUT, labels::StoreOperation,
    names::ObjectName,
};
use crate::{peer::Network, single_flight::SingleFlight};

/// Smaller blobs come faster from here than by a second request to another server. In bytes.
const MIN_LEN: u64 = 1024 * 1024;
/// How long a client waits for the store before it is served from here.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long an object counts as there. Other forebays delete objects that no forebay has used for a day or longer.
const PRESENT_TTL: Duration = Duration::from_secs(5 * 60);
/// How long it counts as missing. Another forebay may be about to upload it.
const MISSING_TTL: Duration = Duration::from_secs(10);
/// What was seen counts only if the store has answered within this time: else it may be gone.
const ALIVE_TTL: Duration = Duration::from_secs(5);
/// So many objects are remembered: some 250 bytes each.
const MAX_KNOWN: NonZeroUsize = match NonZeroUsize::new(20_000) {
    Some(count) => count,
    None => NonZeroUsize::MIN,
};

/// What requests of this forebay have shown lately.
#[derive(Debug)]
pub(super) struct Known {
    objects: Mutex<LruCache<ObjectName, Sighting>>,
    /// When the store answered last.
    answered: Mutex<Option<Instant>>,
}

#[derive(Clone, Copy, Debug)]
struct Sighting {
    /// `None`: there is no such object.
    len: Option<u64>,
    until: Instant,
}

impl Default for Known {
    fn default() -> Self {
        Self { objects: Mutex::new(LruCache::new(MAX_KNOWN)), answered: Mutex::default() }
    }
}

impl Known {
    /// The store has so many bytes of an object, or has no such object.
    pub(super) fn note(&self, name: &ObjectName, len: Option<u64>, now: Instant) {
        let ttl = if len.is_some() { PRESENT_TTL } else { MISSING_TTL };
        self.objects.lock().put(name.clone(), Sighting { len, until: now + ttl });
    }

    pub(super) fn forget(&self, name: &ObjectName) {
        self.objects.lock().pop(name);
    }

    /// The store has answered a read.
    pub(super) fn note_answer(&self, now: Instant) {
        *self.answered.lock() = Some(now);
    }

    fn is_alive(&self, now: Instant) -> bool {
        self.answered.lock().is_some_and(|at| now < at + ALIVE_TTL)
    }

    /// How long the object is; the outer `None`: it is not known.
    fn get(&self, name: &ObjectName, now: Instant) -> Option<Option<u64>> {
        let mut objects = self.objects.lock();
        let Sighting { len, until } = *objects.get(name)?;
        if now >= until {
            objects.pop(name);
            return None;
        }
        (len.is_none() || self.is_alive(now)).then_some(len)
    }
}

/// Finds out what the store has. A cheap handle.
#[derive(Clone)]
pub(crate) struct Presence {
    store: Store,
    /// The networks whose clients reach it.
    clients: Arc<[Network]>,
    flights: Arc<SingleFlight<ObjectName, Option<u64>>>,
}

impl Presence {
    /// For clients of these networks. Requests run as tasks of `tasks` and end with `end`.
    pub(crate) fn new(store: Store, clients: &[Network], tasks: TaskTracker, end: CancellationToken) -> Self {
        Self { store, clients: clients.into(), flights: Arc::new(SingleFlight::new(tasks, end)) }
    }

    /// Whether the client at this address reaches the store.
    pub(crate) fn serves(&self, client: IpAddr) -> bool {
        self.clients.iter().any(|network| network.contains(client))
    }

    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    /// How long a blob is that clients may get from the store; `None`: it is too short, or the store does not have it, or does not
    /// say so in time.
    pub(crate) async fn len_for_clients(&self, name: &ObjectName) -> Option<u64> {
        self.len(name).await.filter(|len| Self::is_for_clients(*len))
    }

    /// Whether clients may get a blob of this length from the store.
    pub(crate) fn is_for_clients(len: u64) -> bool {
        len > MIN_LEN
    }

    async fn len(&self, name: &ObjectName) -> Option<u64> {
        if self.store.is_distrusted(name) {
            return None;
        }
        if let Some(known) = self.store.0.known.get(name, Instant::now()) {
            return known;
        }
        let (store, of) = (self.store.clone(), name.clone());
        // What comes too late for this caller is there for the next one.
        let asked = self.flights.run(name.clone(), false, || async move { store.len(&of).await.ok().flatten() });
        timeout(PATIENCE, asked).await.ok()?.ok()?.response.flatten()
    }
}

impl Store {
    /// How long an object is; `None`: there is none. A client waits for it.
    async fn len(&self, name: &ObjectName) -> Result<Option<u64>, Error> {
        let path = self.path(name);
        let request = self.0.engine.head(&path);
        let len = match self.call(Lane::Read, StoreOperation::Head, FIRST_BYTE_TIMEOUT, request).await {
            Ok(meta) => Some(meta.size),
            Err(error) if error.kind == ErrorKind::Missing => None,
            Err(error) => return Err(error),
        };
        self.0.known.note(name, len, Instant::now());
        Ok(len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        oci::{Algorithm, Digest},
        store::Pool,
    };

    fn name(content: &str) -> ObjectName {
        ObjectName::blob(Pool::Shared, &Digest::of(Algorithm::Sha256, content.as_bytes()))
    }

    #[test]
    fn what_was_seen_counts_for_a_while() {
        let (known, now) = (Known::default(), Instant::now());
        let (there, missing) = (name("there"), name("missing"));
        known.note(&there, Some(7), now);
        known.note(&missing, None, now);
        let second = Duration::from_secs(1);
        let get = |name: &ObjectName, age| {
            known.note_answer(now + age);
            known.get(name, now + age)
        };
        for (age, expected) in [
            (Duration::ZERO, (Some(Some(7)), Some(None))),
            (MISSING_TTL - second, (Some(Some(7)), Some(None))),
            (MISSING_TTL, (Some(Some(7)), None)),
            (PRESENT_TTL - second, (Some(Some(7)), None)),
            (PRESENT_TTL, (None, None)),
        ] {
            assert_eq!((get(&there, age), get(&missing, age)), expected, "{age:?}");
        }
        assert_eq!(known.get(&name("other"), now), None);
    }

    #[test]
    fn a_store_that_answers_no_more_has_nothing() {
        let (known, now, name) = (Known::default(), Instant::now(), name("a"));
        known.note(&name, Some(7), now);
        assert_eq!(known.get(&name, now), None, "it never answered");
        known.note_answer(now);
        let second = Duration::from_secs(1);
        assert_eq!(known.get(&name, now + ALIVE_TTL - second), Some(Some(7)));
        assert_eq!(known.get(&name, now + ALIVE_TTL), None);
        known.note_answer(now + ALIVE_TTL);
        assert_eq!(known.get(&name, now + ALIVE_TTL), Some(Some(7)));
    }

    #[test]
    fn an_upload_and_a_removal_replace_what_was_seen() {
        let (known, now, name) = (Known::default(), Instant::now(), name("a"));
        known.note_answer(now);
        known.note(&name, None, now);
        known.note(&name, Some(7), now);
        assert_eq!(known.get(&name, now), Some(Some(7)));
        known.forget(&name);
        assert_eq!(known.get(&name, now), None);
    }

    #[test]
    fn memory_is_bounded() {
        let (known, now) = (Known::default(), Instant::now());
        for number in 0..MAX_KNOWN.get() + 100 {
            known.note(&ObjectName::new(number.to_string()), Some(1), now);
        }
        assert_eq!(known.objects.lock().len(), MAX_KNOWN.get());
        assert_eq!(known.get(&ObjectName::new("0"), now), None);
    }
}
