//! How many changes were made through us: what was asked for before one is no answer after it.

use std::{
    hash::{BuildHasher, RandomState},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::oci::Repository;

/// Counters for all repositories: those that share one only ask once more than they have to.
const COUNTERS: usize = 1024;

/// Changes, counted for each repository, and for each upstream's list of repositories.
pub(super) struct Writes {
    counters: Vec<AtomicU64>,
    hasher: RandomState,
}

impl Default for Writes {
    fn default() -> Self {
        Self { counters: (0..COUNTERS).map(|_| AtomicU64::new(0)).collect(), hasher: RandomState::new() }
    }
}

impl Writes {
    /// How many there were in a repository; without one, in any of the upstream's.
    pub fn of(&self, upstream: &Arc<str>, repository: Option<&Repository>) -> u64 {
        self.counter(upstream, repository).map_or(0, |counter| counter.load(Ordering::SeqCst))
    }

    /// A change was made: to be called before anything is removed because of it.
    pub fn note(&self, upstream: &Arc<str>, repository: &Repository) {
        for of in [None, Some(repository)] {
            if let Some(counter) = self.counter(upstream, of) {
                counter.fetch_add(1, Ordering::SeqCst);
            }
        }
    }

    fn counter(&self, upstream: &Arc<str>, repository: Option<&Repository>) -> Option<&AtomicU64> {
        let hash = self.hasher.hash_one((upstream, repository));
        self.counters.get(usize::try_from(hash % COUNTERS as u64).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_seen_by_its_repository_and_its_upstream_and_by_few_others() {
        let writes = Writes::default();
        let (hub, other): (Arc<str>, Arc<str>) = ("hub".into(), "other".into());
        let name = |number: usize| format!("team/{number}").parse::<Repository>().unwrap();
        writes.note(&hub, &name(0));
        assert!(writes.of(&hub, Some(&name(0))) > 0 && writes.of(&hub, None) > 0);
        let seen = (1..100)
            .filter(|number| writes.of(&hub, Some(&name(*number))) + writes.of(&other, Some(&name(*number))) > 0);
        assert!(seen.count() < 20);
    }
}
