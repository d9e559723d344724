//! What all caches share.

use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{Config, DiskStore, Inventory, Pins, ReloadableConfig};
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
    pub pins: Pins,
}

impl CacheContext {
    /// The context of a process: nothing runs yet.
    pub(crate) fn new(
        config: &Config,
        (store, metrics): (DiskStore, Metrics),
        trusted: TrustedNetworks,
        (inventory, pins): (Inventory, Pins),
    ) -> Self {
        let config = ReloadableConfig::new(config.clone());
        let (tasks, end, rules) = Default::default();
        Self { config, store, metrics, tasks, end, trusted, rules, inventory, pins }
    }

    /// An empty cache of 1 GiB in this directory, with a place for pins.
    #[cfg(test)]
    pub(crate) async fn of_test(directory: &std::path::Path) -> Self {
        let config = Config { max_size: 1 << 30, ..Config::at(&directory.join("cache")) };
        let metrics = Metrics::new().unwrap();
        let store = DiskStore::open(&config, metrics.clone()).unwrap();
        store.scan().await;
        let inventory = Inventory::new(store.clone());
        let pins = Pins::load(Some(&directory.join("state")), store.clone(), inventory.clone()).unwrap();
        Self::new(&config, (store, metrics), TrustedNetworks::default(), (inventory, pins))
    }
}
