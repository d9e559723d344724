//! What upstreams said of contents beside them: warnings for clients, and the type of a manifest that is asked for as a blob.
//!
//! What must hold: what was said is told again to those alone to whom it would be said, by registry, asker and repository. All of
//! it is in memory, and bounded.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use moka::{policy::EvictionPolicy, sync::Cache};

use crate::{
    oci::{Digest, Repository},
    upstream::{ContentNotes, Principal, Registry, Upstream},
};

/// How much memory all remarks may take, in bytes.
const MAX_MEMORY: u64 = 2 * 1024 * 1024;
/// What one takes beside its texts, in bytes.
const WEIGHT: usize = 512;

#[derive(Clone, PartialEq, Eq, Hash)]
struct Subject {
    registry: Registry,
    asker: Option<Principal>,
    repository: Repository,
    digest: Digest,
}

/// A cheap handle.
#[derive(Clone)]
pub(crate) struct Warnings {
    kept: Cache<Subject, ContentNotes>,
    /// Whether there was ever any: most upstreams make none, and a hit looks for none then.
    any: Arc<AtomicBool>,
}

impl Default for Warnings {
    fn default() -> Self {
        let kept = Cache::builder()
            .max_capacity(MAX_MEMORY)
            .weigher(|_, remark: &ContentNotes| u32::try_from(WEIGHT + remark.size()).unwrap_or(u32::MAX))
            .eviction_policy(EvictionPolicy::lru())
            .build();
        Self { kept, any: Arc::default() }
    }
}

impl Warnings {
    /// The upstream said this last; perhaps nothing.
    pub(crate) fn note(&self, upstream: &Upstream, repository: &Repository, digest: &Digest, remark: &ContentNotes) {
        if !remark.is_empty() {
            self.kept.insert(Subject::of(upstream, repository, digest), remark.clone());
            self.any.store(true, Ordering::Release);
        } else if self.any.load(Ordering::Acquire) {
            self.kept.invalidate(&Subject::of(upstream, repository, digest));
        }
    }

    pub(crate) fn of(&self, upstream: &Upstream, repository: &Repository, digest: &Digest) -> ContentNotes {
        let found = self.any.load(Ordering::Acquire).then(|| Subject::of(upstream, repository, digest));
        found.and_then(|subject| self.kept.get(&subject)).unwrap_or_default()
    }
}

impl Subject {
    fn of(upstream: &Upstream, repository: &Repository, digest: &Digest) -> Self {
        let (registry, asker) = (upstream.registry().clone(), upstream.principal());
        Self { registry, asker, repository: repository.clone(), digest: digest.clone() }
    }
}
