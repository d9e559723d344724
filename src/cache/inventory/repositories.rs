//! The repositories of which names are known, and the texts that these names share (pure).
//!
//! What must hold: a repository is here as long as one of its names is; its texts are in memory once, however many
//! names it has.

use std::{
    collections::HashSet,
    hash::{BuildHasher as _, RandomState},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use hashbrown::{HashTable, hash_table::Entry};
use parking_lot::Mutex;

use crate::{cache::Visibility, oci::Repository};

const SHARDS: usize = 64;

/// A repository of an upstream, and how many names it has.
struct Counted {
    visibility: Visibility,
    upstream: Arc<str>,
    repository: Repository,
    names: u32,
}

pub(super) struct Repositories {
    shards: Box<[Mutex<HashTable<Counted>>]>,
    hasher: RandomState,
    upstreams: Mutex<HashSet<Arc<str>>>,
    /// The bytes of the texts.
    texts: AtomicUsize,
}

impl Default for Repositories {
    fn default() -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            hasher: RandomState::new(),
            upstreams: Mutex::default(),
            texts: AtomicUsize::new(0),
        }
    }
}

impl Repositories {
    /// Counts one more name of a repository, and gives the texts that all of its names share.
    pub(super) fn add(
        &self,
        visibility: Visibility,
        upstream: &Arc<str>,
        repository: &Repository,
    ) -> (Arc<str>, Repository) {
        let hash = self.hash(visibility, upstream, repository);
        let mut table = self.shard(hash).lock();
        let is_it = |it: &Counted| it.is(visibility, upstream, repository);
        let mut entry = match table.entry(hash, is_it, |it| self.hash(it.visibility, &it.upstream, &it.repository)) {
            Entry::Occupied(entry) => entry,
            Entry::Vacant(entry) => {
                self.texts.fetch_add(text_memory(repository.as_str()), Ordering::Relaxed);
                let (upstream, repository) = (self.share(upstream), repository.clone());
                entry.insert(Counted { visibility, upstream, repository, names: 0 })
            }
        };
        let counted = entry.get_mut();
        counted.names = counted.names.saturating_add(1);
        (counted.upstream.clone(), counted.repository.clone())
    }

    /// Counts one name less.
    pub(super) fn remove(&self, visibility: Visibility, upstream: &str, repository: &Repository) {
        let hash = self.hash(visibility, upstream, repository);
        let mut table = self.shard(hash).lock();
        let Ok(mut entry) = table.find_entry(hash, |it| it.is(visibility, upstream, repository)) else { return };
        entry.get_mut().names -= 1;
        if entry.get().names == 0 {
            self.texts.fetch_sub(text_memory(repository.as_str()), Ordering::Relaxed);
            entry.remove();
        }
    }

    /// Whether a repository has a name.
    pub(super) fn has(&self, visibility: Visibility, upstream: &str, repository: &Repository) -> bool {
        let hash = self.hash(visibility, upstream, repository);
        self.shard(hash).lock().find(hash, |it| it.is(visibility, upstream, repository)).is_some()
    }

    /// Forgets the upstreams of which there is no repository any more.
    pub(super) fn prune(&self) {
        self.upstreams.lock().retain(|upstream| Arc::strong_count(upstream) > 1);
    }

    /// The bytes in memory.
    pub(super) fn memory(&self) -> usize {
        let tables: usize = self.shards.iter().map(|shard| shard.lock().allocation_size()).sum();
        let upstreams = self.upstreams.lock();
        let of_upstreams = upstreams.iter().map(|upstream| text_memory(upstream)).sum::<usize>();
        tables + self.texts() + of_upstreams + upstreams.capacity() * size_of::<Arc<str>>()
    }

    /// The bytes of the texts of repositories.
    pub(super) fn texts(&self) -> usize {
        self.texts.load(Ordering::Relaxed)
    }

    fn share(&self, upstream: &Arc<str>) -> Arc<str> {
        let mut upstreams = self.upstreams.lock();
        match upstreams.get(upstream) {
            Some(known) => known.clone(),
            None => {
                upstreams.insert(upstream.clone());
                upstream.clone()
            }
        }
    }

    fn hash(&self, visibility: Visibility, upstream: &str, repository: &Repository) -> u64 {
        self.hasher.hash_one((visibility, upstream, repository.as_str()))
    }

    /// The table uses the lowest and the highest bits.
    fn shard(&self, hash: u64) -> &Mutex<HashTable<Counted>> {
        &self.shards[(hash >> 32) as usize % SHARDS]
    }
}

impl Counted {
    fn is(&self, visibility: Visibility, upstream: &str, repository: &Repository) -> bool {
        self.visibility == visibility && self.repository == *repository && *self.upstream == *upstream
    }
}

/// What a shared text takes in memory: the text behind two counters, in the sizes that allocators have.
pub(super) fn text_memory(text: &str) -> usize {
    (2 * size_of::<usize>() + text.len()).next_multiple_of(16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repository_is_known_while_it_has_a_name() {
        let repositories = Repositories::default();
        let (visibility, upstream): (_, Arc<str>) = (Visibility::Shared, "hub".into());
        let (app, other): (Repository, Repository) = ("team/app".parse().unwrap(), "team/other".parse().unwrap());
        repositories.add(visibility, &upstream, &app);
        let (shared, _) = repositories.add(visibility, &"hub".into(), &"team/app".parse().unwrap());
        assert!(Arc::ptr_eq(&shared, &upstream), "the text is there once");
        assert!(!repositories.has(visibility, "hub", &other) && !repositories.has(visibility, "quay.io", &app));
        assert!(!repositories.has(Visibility::PerClient, "hub", &app));
        repositories.remove(visibility, "hub", &app);
        assert!(repositories.has(visibility, "hub", &app));
        repositories.remove(visibility, "hub", &app);
        // One that is not there changes nothing.
        repositories.remove(visibility, "hub", &app);
        assert!(!repositories.has(visibility, "hub", &app));
        assert_eq!(repositories.texts(), 0);
        drop((upstream, shared));
        repositories.prune();
        assert!(repositories.upstreams.lock().is_empty());
    }
}
