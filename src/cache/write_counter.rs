//! How many changes were made through us: what was asked for before one is no answer after it, in memory or on disk.

use std::{
    hash::{BuildHasher, RandomState},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use parking_lot::Mutex;

use crate::oci::Repository;

/// Counters for all repositories: those that share one only ask once more than they have to.
const COUNTERS: usize = 1024;

/// Changes, counted for each repository, and for each upstream's list of repositories.
pub(crate) struct WriteCounters {
    counters: Vec<Counter>,
    hasher: RandomState,
}

#[derive(Default)]
struct Counter {
    count: AtomicU64,
    /// Held while something that was made at a count comes to be on disk.
    landing: Mutex<()>,
}

impl Default for WriteCounters {
    fn default() -> Self {
        Self { counters: (0..COUNTERS).map(|_| Counter::default()).collect(), hasher: RandomState::new() }
    }
}

impl WriteCounters {
    /// How many there were in a repository; without one, in any of the upstream's.
    pub(crate) fn of(&self, upstream: &Arc<str>, repository: Option<&Repository>) -> u64 {
        self.counter(upstream, repository).map_or(0, |counter| counter.count.load(Ordering::SeqCst))
    }

    /// A change was made: to be called before anything is removed because of it.
    pub(crate) fn note(&self, upstream: &Arc<str>, repository: &Repository) {
        for of in [None, Some(repository)] {
            if let Some(counter) = self.counter(upstream, of) {
                counter.count.fetch_add(1, Ordering::SeqCst);
            }
        }
    }

    /// A change was made in a repository, unless another was since there were `from`; how many there are with it.
    pub(crate) fn advance(&self, upstream: &Arc<str>, repository: &Repository, from: u64) -> Option<u64> {
        let counter = self.counter(upstream, Some(repository))?;
        let advanced = counter.count.compare_exchange(from, from + 1, Ordering::SeqCst, Ordering::SeqCst);
        advanced.ok().map(|_| from + 1)
    }

    /// Puts something on disk by `land`, unless a change was made since it was asked for, at `writes` changes. Blocks.
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

    /// After [`WriteCounters::note`]: whatever was asked for before is on disk now, or never will be. Blocks.
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
    fn a_change_is_seen_by_its_repository_and_its_upstream_and_by_few_others() {
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
    fn a_change_waits_for_what_lands_and_stops_what_comes_late() {
        let (writes, hub) = (WriteCounters::default(), Arc::<str>::from("hub"));
        let name: Repository = "team/app".parse().unwrap();
        let made_at = writes.of(&hub, Some(&name));
        let settled = AtomicU64::new(0);
        std::thread::scope(|scope| {
            let landed = writes.land(&hub, &name, made_at, || {
                scope.spawn(|| {
                    writes.note(&hub, &name);
                    writes.settle(&hub, &name);
                    settled.store(1, Ordering::SeqCst);
                });
                // The change is made while this one lands.
                while writes.of(&hub, Some(&name)) == made_at {
                    std::thread::yield_now();
                }
                settled.load(Ordering::SeqCst)
            });
            assert_eq!(landed, Some(0), "the change went on before what it outdates was on disk");
        });
        assert_eq!(settled.load(Ordering::SeqCst), 1);
        assert_eq!(writes.land(&hub, &name, made_at, || ()), None, "it was made before the change");
        assert_eq!(writes.land(&hub, &name, writes.of(&hub, Some(&name)), || ()), Some(()));
        assert_eq!(writes.advance(&hub, &name, made_at), None, "it would hide the change that was made");
        assert_eq!(writes.advance(&hub, &name, made_at + 1), Some(made_at + 2));
        assert_eq!(writes.of(&hub, Some(&name)), made_at + 2);
    }
}
