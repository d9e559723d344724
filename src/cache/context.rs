//! What all caches share.

use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{Config, DiskStore, Inventory, ReloadableConfig};
use crate::{metrics::Metrics, peer::TrustedNetworks, rule::CurrentRules};

/// The configuration, the store, the metrics, and the tasks of all caches. Cheap to clone.
#[derive(Clone)]
pub(crate) struct CacheContext {
    pub config: ReloadableConfig,
    pub store: DiskStore,
    pub metrics: Metrics,
    /// The tasks that outlive the request that began them.
    pub tasks: TaskTracker,
    /// Cancelled when these tasks are to end.
    pub end: CancellationToken,
    pub trusted: TrustedNetworks,
    pub rules: CurrentRules,
    pub inventory: Inventory,
}

impl CacheContext {
    /// The context of a process: nothing runs yet.
    pub(crate) fn new(config: &Config, store: DiskStore, metrics: Metrics, trusted: TrustedNetworks) -> Self {
        let config = ReloadableConfig::new(config.clone());
        let (tasks, end, rules) = Default::default();
        let inventory = Inventory::new(store.clone());
        Self { config, store, metrics, tasks, end, trusted, rules, inventory }
    }
}
