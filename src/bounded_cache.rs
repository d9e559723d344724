//! Caches in memory that are bounded by weight, or by the number of entries, and evict what was used least recently.
//!
//! moka's default policy rejects a key that it has not seen often enough. What forebay caches is requested again right
//! after its first request, so a new key must be kept.

use std::hash::Hash;

use moka::{policy::EvictionPolicy, sync::Cache};

/// A cache of at most this weight.
pub(crate) fn lru<K, V>(max_weight: u64, weigh: impl Fn(&K, &V) -> usize + Send + Sync + 'static) -> Cache<K, V>
where
    K: Hash + Eq + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    Cache::builder()
        .max_capacity(max_weight)
        .weigher(move |key, value| u32::try_from(weigh(key, value)).unwrap_or(u32::MAX))
        .eviction_policy(EvictionPolicy::lru())
        .build()
}

/// A cache of at most this many entries.
pub(crate) fn lru_of<K, V>(max_entries: u64) -> Cache<K, V>
where
    K: Hash + Eq + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    Cache::builder().max_capacity(max_entries).eviction_policy(EvictionPolicy::lru()).build()
}
