//! The values of the configuration that a reload changes in parts of the mirror that run.
//!
//! What must hold: nothing here fails, so that a reload changes all or nothing.

use tokio_util::task::TaskTracker;

use crate::{
    cache::{DiskStore, ReloadableConfig, Scrub},
    config::Config,
    push::Caches,
    transport::ConnectionLimit,
};

/// The parts that take new values of `[cache]` and `server.max_connections` while they run.
pub(super) struct Reloadable {
    pub cache: ReloadableConfig,
    pub store: DiskStore,
    pub scrub: Scrub,
    pub connections: ConnectionLimit,
}

impl Reloadable {
    /// Takes over the values of `config`. What a lower `max_size` leaves no room for is evicted by a task.
    pub(super) fn take(&self, config: &Config, caches: &Caches, tasks: &TaskTracker) {
        let cache = &config.cache;
        let (negative_ttl, max_size) = {
            let before = self.cache.load();
            (before.negative_ttl, before.max_size)
        };
        self.cache.replace(cache.clone());
        if cache.negative_ttl != negative_ttl {
            caches.manifests.forget_not_found();
        }
        self.store.set_limits(cache);
        caches.blobs.set_max_size(cache.max_size);
        if cache.max_size < max_size {
            tasks.spawn(self.store.clone().shrink_to_limits());
        }
        self.scrub.set_verify_every(cache.verify_every);
        self.connections.set(config.server.max_connections);
    }
}
