//! Repositories whose manifests are requested of the registry, and of no peer, for a while.
//!
//! What must hold: once this forebay knows that what the registry says has changed, no peer that does not know it yet is asked.

use std::time::Duration;

use tokio::time::Instant;

use crate::oci::Repository;

/// How many are remembered. Beyond that, the ones that were used least are forgotten.
const MAX_REPOSITORIES: u64 = 10_000;

/// The repositories, each until when.
#[derive(Debug)]
pub(super) struct RepositoriesOfRegistry(moka::sync::Cache<Repository, Instant>);

impl Default for RepositoriesOfRegistry {
    fn default() -> Self {
        Self(moka::sync::Cache::new(MAX_REPOSITORIES))
    }
}

impl RepositoriesOfRegistry {
    pub(super) fn add(&self, repository: &Repository, time: Duration) {
        if let Some(until) = Instant::now().checked_add(time) {
            self.0.insert(repository.clone(), until);
        }
    }

    pub(super) fn has(&self, repository: &Repository) -> bool {
        self.0.get(repository).is_some_and(|until| Instant::now() < until)
    }
}
