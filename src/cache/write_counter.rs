//! Counts the changes that forebay makes at upstreams.
//!
//! What must hold: the response to a request that forebay sent before a change is not cached after the change, in
//! memory or on disk. So a request carries the count of its repository, and its response is valid only while the count
//! is the same.

use std::{
    hash::{BuildHasher, RandomState},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use parking_lot::Mutex;

use crate::oci::Repository;

/// Counters for all repositories. A change in a repository costs the repositories that share its counter one more
/// upstream request.
const COUNTERS: usize = 1024;

/// Counters of changes, for each repository and for each upstream's catalog.
pub(crate) struct WriteCounters {
    counters: Vec<Counter>,
    hasher: RandomState,
}

#[derive(Default)]
struct Counter {
    count: AtomicU64,
    /// When it was last changed, in milliseconds since 1970; 0: not since the start.
    changed: AtomicU64,
    /// Held while a file for a request with this count gets its name.
    landing: Mutex<()>,
}

impl Counter {
    fn note_time(&self) {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.changed.fetch_max(u64::try_from(since.as_millis()).unwrap_or(u64::MAX), Ordering::SeqCst);
    }
}

impl Default for WriteCounters {
    fn default() -> Self {
        Self { counters: (0..COUNTERS).map(|_| Counter::default()).collect(), hasher: RandomState::new() }
    }
}

impl WriteCounters {
    /// How many changes were made in a repository, or in all repositories of the upstream.
    pub(crate) fn of(&self, upstream: &Arc<str>, repository: Option<&Repository>) -> u64 {
        self.counter(upstream, repository).map_or(0, |counter| counter.count.load(Ordering::SeqCst))
    }

    /// Counts a change. Call it before the change removes anything from the cache.
    pub(crate) fn note(&self, upstream: &Arc<str>, repository: &Repository) {
        for of in [None, Some(repository)] {
            if let Some(counter) = self.counter(upstream, of) {
                counter.note_time();
                counter.count.fetch_add(1, Ordering::SeqCst);
            }
        }
    }

    /// Counts a change if the count is still `from`; returns the new count.
    pub(crate) fn advance(&self, upstream: &Arc<str>, repository: &Repository, from: u64) -> Option<u64> {
        let counter = self.counter(upstream, Some(repository))?;
        counter.note_time();
        let advanced = counter.count.compare_exchange(from, from + 1, Ordering::SeqCst, Ordering::SeqCst);
        advanced.ok().map(|_| from + 1)
    }

    /// When the last change in a repository, or in one that shares its counter, was made since the start.
    pub(crate) fn changed(&self, upstream: &Arc<str>, repository: &Repository) -> Option<SystemTime> {
        let millis = self.counter(upstream, Some(repository))?.changed.load(Ordering::SeqCst);
        (millis > 0).then(|| UNIX_EPOCH.checked_add(Duration::from_millis(millis)))?
    }

    /// Runs `land`, which gives a file its name, unless a change was made after its request, which carried the count
    /// `writes`. Blocks.
    pub(crate) fn land<T>(
        &self,
        upstream: &Arc<str>,
        repository: &Repository,
        writes: u64,
        land: impl FnOnce() -> T,
    ) -> Option<T> {
        let counter = self.counter(upstream, Some(repository))?;
        let _landing = counter.landing.lock();
        (counter.count.load(Ordering::SeqCst) == writes).then(land)
    }

    /// Waits, after [`WriteCounters::note`], until each file of an earlier request is on disk or will never be. Blocks.
    pub(crate) fn settle(&self, upstream: &Arc<str>, repository: &Repository) {
        if let Some(counter) = self.counter(upstream, Some(repository)) {
            drop(counter.landing.lock());
        }
    }

    fn counter(&self, upstream: &Arc<str>, repository: Option<&Repository>) -> Option<&Counter> {
        let hash = self.hasher.hash_one((upstream, repository));
        self.counters.get(usize::try_from(hash % COUNTERS as u64).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_counts_for_its_repository_and_its_upstream() {
        let writes = WriteCounters::default();
        let (hub, other): (Arc<str>, Arc<str>) = ("hub".into(), "other".into());
        let name = |number: usize| format!("team/{number}").parse::<Repository>().unwrap();
        writes.note(&hub, &name(0));
        assert!(writes.of(&hub, Some(&name(0))) > 0 && writes.of(&hub, None) > 0);
        let seen = (1..100)
            .filter(|number| writes.of(&hub, Some(&name(*number))) + writes.of(&other, Some(&name(*number))) > 0);
        assert!(seen.count() < 20);
    }

    #[test]
    fn a_change_waits_for_files_in_flight_and_stops_later_ones() {
        let (writes, hub) = (WriteCounters::default(), Arc::<str>::from("hub"));
        let name: Repository = "team/app".parse().unwrap();
        let made_at = writes.of(&hub, Some(&name));
        assert_eq!(writes.changed(&hub, &name), None);
        let settled = AtomicU64::new(0);
        std::thread::scope(|scope| {
            let landed = writes.land(&hub, &name, made_at, || {
                scope.spawn(|| {
                    writes.note(&hub, &name);
                    writes.settle(&hub, &name);
                    settled.store(1, Ordering::SeqCst);
                });
                // The change is made while this file gets its name.
                while writes.of(&hub, Some(&name)) == made_at {
                    std::thread::yield_now();
                }
                settled.load(Ordering::SeqCst)
            });
            assert_eq!(landed, Some(0), "the change went on before the outdated file was on disk");
        });
        assert_eq!(settled.load(Ordering::SeqCst), 1);
        assert!(writes.changed(&hub, &name).unwrap() <= SystemTime::now());
        assert_eq!(writes.land(&hub, &name, made_at, || ()), None, "its request is from before the change");
        assert_eq!(writes.land(&hub, &name, writes.of(&hub, Some(&name)), || ()), Some(()));
        assert_eq!(writes.advance(&hub, &name, made_at), None, "it would hide the change");
        assert_eq!(writes.advance(&hub, &name, made_at + 1), Some(made_at + 2));
        assert_eq!(writes.of(&hub, Some(&name)), made_at + 2);
    }
}
