//! What indexes of referrers make, off the threads that serve: a few at a time, and kept.
//!
//! What must hold: a long index is read once for all who want the same of it, and no more than two are read at a time;
//! what is kept is bounded in bytes.

use std::sync::Arc;

use moka::policy::EvictionPolicy;
use tokio::sync::Semaphore;

use crate::{
    cache::manifest::Content,
    oci::{Digest, Referrers},
};

/// How many indexes are read at a time.
const MAX_READERS: usize = 2;
/// How much memory all results may take, in bytes; one of 4 MiB, the longest that registries take, fits.
const MAX_MEMORY: u64 = 8 * 1024 * 1024;
/// What is shorter, in bytes, is read at once: to hand it over costs more.
const MAX_AT_ONCE: usize = 16 * 1024;
/// What a result weighs beside what is in it, in bytes.
const WEIGHT: usize = 256;

/// An index, by its digest, and the types that are wanted of it.
type FilterKey = (Digest, Arc<[String]>);

pub(super) struct Filter {
    kept: moka::sync::Cache<FilterKey, Referrers>,
    readers: Arc<Semaphore>,
}

impl Default for Filter {
    fn default() -> Self {
        let kept = moka::sync::Cache::builder()
            .max_capacity(MAX_MEMORY)
            .weigher(|(_, types): &FilterKey, made: &Referrers| {
                let types: usize = types.iter().map(|one| size_of::<String>() + one.len()).sum();
                let made = if let Referrers::Filtered(bytes) = made { bytes.len() } else { 0 };
                u32::try_from(WEIGHT + types + made).unwrap_or(u32::MAX)
            })
            .eviction_policy(EvictionPolicy::lru())
            .build();
        Self { kept, readers: Arc::new(Semaphore::new(MAX_READERS)) }
    }
}

impl Filter {
    /// What of an index is of these types; `None` when the process ends.
    pub(super) async fn of(&self, content: Arc<Content>, artifact_types: &Arc<[String]>) -> Option<Referrers> {
        if content.bytes.len() <= MAX_AT_ONCE {
            return Some(Referrers::of(&content.bytes, artifact_types));
        }
        let key = (content.digest.clone(), artifact_types.clone());
        if let Some(made) = self.kept.get(&key) {
            return Some(made);
        }
        let turn = self.readers.clone().acquire_owned().await.ok()?;
        // Meanwhile another request may have had it made.
        if let Some(made) = self.kept.get(&key) {
            return Some(made);
        }
        let (kept, types) = (self.kept.clone(), artifact_types.clone());
        // It ends on its own, and what it made is kept although its client left.
        let reading = tokio::task::spawn_blocking(move || {
            let made = Referrers::of(&content.bytes, &types);
            kept.insert(key, made.clone());
            drop(turn);
            made
        });
        reading.await.ok()
    }
}
