//! What all caches share.

use std::path::PathBuf;

use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{Config, DiskStore, Inventory, Pins, ReloadableConfig, UploadQueue};
use crate::{cluster::Cluster, metrics::Metrics, peer::TrustedNetworks, rule::CurrentRules, store::Store};

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
    pub objects: ObjectSources,
}

/// What is behind the disk, if anything is configured.
#[derive(Clone, Default)]
pub(crate) struct ObjectSources {
    pub store: Option<Store>,
    /// What is to be uploaded to the store.
    pub uploads: Option<UploadQueue>,
    /// Whose key signs the records of tags in the store, and which shares its upkeep.
    pub cluster: Option<Cluster>,
    /// Where it is noted what is still to be removed from the store.
    pub state: Option<PathBuf>,
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
        let (tasks, end, rules, objects) = Default::default();
        Self { config, store, metrics, tasks, end, trusted, rules, inventory, pins, objects }
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
