//! Filters indexes of referrers by artifact type, off the async threads, and caches the results.
//!
//! What must hold: a long index is filtered once for equal requests; no more than [`MAX_READERS`] are filtered at a
//! time; the cached results are bounded in bytes.

use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::{
    bounded_cache,
    cache::manifest::VerifiedManifest,
    oci::{Digest, Referrers},
};

/// How many indexes are filtered at a time.
const MAX_READERS: usize = 2;
/// The memory of all results, in bytes. A result of 4 MiB, the longest index that registries take, fits.
const MAX_MEMORY: u64 = 8 * 1024 * 1024;
/// The longest index, in bytes, that is filtered in place: to hand it to another thread would cost more.
const MAX_IN_PLACE: usize = 16 * 1024;
/// The memory of a result beside its content, in bytes.
const WEIGHT: usize = 256;

/// The digest of an index, and the artifact types that the client requests.
type FilterKey = (Digest, Arc<[String]>);

pub(super) struct ReferrersFilter {
    results: moka::sync::Cache<FilterKey, Referrers>,
    readers: Arc<Semaphore>,
}

impl Default for ReferrersFilter {
    fn default() -> Self {
        let results = bounded_cache::lru(MAX_MEMORY, |(_, types): &FilterKey, result: &Referrers| {
            let types: usize = types.iter().map(|one| size_of::<String>() + one.len()).sum();
            let result = if let Referrers::Filtered(bytes) = result { bytes.len() } else { 0 };
            WEIGHT + types + result
        });
        Self { results, readers: Arc::new(Semaphore::new(MAX_READERS)) }
    }
}

impl ReferrersFilter {
    /// The entries of an index with these artifact types; `None` when the process ends.
    pub(super) async fn apply(
        &self,
        content: Arc<VerifiedManifest>,
        artifact_types: &Arc<[String]>,
    ) -> Option<Referrers> {
        if content.bytes.len() <= MAX_IN_PLACE {
            return Some(Referrers::of(&content.bytes, artifact_types));
        }
        let key = (content.digest.clone(), artifact_types.clone());
        if let Some(result) = self.results.get(&key) {
            return Some(result);
        }
        let permit = self.readers.clone().acquire_owned().await.ok()?;
        // An equal request may have had it filtered meanwhile.
        if let Some(result) = self.results.get(&key) {
            return Some(result);
        }
        let (results, types) = (self.results.clone(), artifact_types.clone());
        // The task ends on its own, and its result is cached even if the client disconnects.
        let filtering = tokio::task::spawn_blocking(move || {
            let result = Referrers::of(&content.bytes, &types);
            results.insert(key, result.clone());
            drop(permit);
            result
        });
        filtering.await.ok()
    }
}
