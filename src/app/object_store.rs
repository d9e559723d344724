//! The object store of the configuration, and what works with it.

use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::error::Error;
use crate::{
    cache::{BlobCache, DiskStore, Replication, Upkeep, UploadQueue},
    cluster::Cluster,
    config::Config,
    metrics::Metrics,
    store::{Direction, Presence, Store, StoreOperation, StoreResult, UploadResult},
    upstream,
};

/// The object store of the configuration. Sends no request.
///
/// # Errors
/// Its credentials or CAs cannot be read, or there are none.
pub(super) fn store(config: &Config, metrics: &Metrics) -> Result<Option<Store>, Error> {
    let Some(store) = &config.store else { return Ok(None) };
    let tls = upstream::store_tls(store.ca.as_deref()).map_err(Error::StoreTls)?;
    metrics.with_store::<StoreOperation, StoreResult, Direction, UploadResult>();
    Ok(Some(Store::new(store, config.state_directory.as_deref(), tls, metrics.clone())?))
}

/// What the store has for clients; `None`: none is sent there.
pub(super) fn presence(
    config: &Config,
    objects: Option<&Store>,
    (tasks, end): (&TaskTracker, &CancellationToken),
) -> Option<Presence> {
    let clients = &config.store.as_ref()?.redirect_clients;
    let objects = objects.filter(|_| !clients.is_empty())?;
    Some(Presence::new(objects.clone(), clients, tasks.clone(), end.clone()))
}

/// What is needed to keep the object store in order.
pub(super) struct Keeping<'a> {
    pub disk: &'a DiskStore,
    pub blobs: &'a BlobCache,
    pub cluster: Option<&'a Cluster>,
    pub metrics: &'a Metrics,
}

/// Begins uploads to the store, and its upkeep, as tasks of `tasks` that end with `end`. `None`: there is no store.
pub(super) fn keep(
    config: &Config,
    objects: Option<(Store, UploadQueue)>,
    with: Keeping<'_>,
    (tasks, end): (&TaskTracker, &CancellationToken),
) -> Option<Upkeep> {
    let ((objects, uploads), section) = objects.zip(config.store.as_ref())?;
    let Keeping { disk, blobs, cluster, metrics } = with;
    blobs.downloads().upload_by(uploads.clone());
    let upkeep = Upkeep::new(
        (disk.clone(), objects.clone()),
        uploads.clone(),
        cluster.cloned(),
        metrics.clone(),
        section,
        config.state_directory.as_deref(),
    );
    upkeep.set_upstreams(&config.upstreams);
    Replication::new(uploads, disk.clone(), objects, metrics.clone()).run(tasks, end);
    let (running, over) = (upkeep.clone(), end.clone());
    tasks.spawn(async move {
        over.run_until_cancelled(running.run()).await;
    });
    Some(upkeep)
}

/// Asks the object store whether it takes objects.
pub struct StorePing(Store);

impl StorePing {
    pub(super) fn new(store: Store) -> Self {
        Self(store)
    }

    /// Which store it is.
    pub fn name(&self) -> String {
        self.0.location().to_string()
    }

    /// # Errors
    /// Why it does not.
    pub async fn run(&self) -> Result<(), String> {
        self.0.ping().await.map_err(|error| error.to_string())
    }
}
