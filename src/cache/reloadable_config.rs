//! The configuration of the cache, which a reload replaces.
//!
//! What must hold: a part that decides by a key which a reload changes reads it here at each decision, and keeps no copy.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::{ArcSwap, Guard};

use super::Config;

/// The current configuration. A cheap handle; a reload replaces the configuration for all handles.
#[derive(Clone, Debug)]
pub(crate) struct ReloadableConfig(Arc<ArcSwap<Config>>);

impl ReloadableConfig {
    pub(crate) fn new(config: Config) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(config)))
    }

    /// The configuration now; not to be held across `.await`.
    pub(crate) fn load(&self) -> Guard<Arc<Config>> {
        self.0.load()
    }

    pub(crate) fn replace(&self, config: Config) {
        self.0.store(Arc::new(config));
    }
}

/// How long an entry of a cache of refusals lives: the `negative_ttl` of the time when it was noted, and no longer than
/// `most`.
pub(crate) struct NegativeTtl {
    pub config: ReloadableConfig,
    pub most: Duration,
}

impl NegativeTtl {
    fn now(&self) -> Option<Duration> {
        Some(self.config.load().negative_ttl.min(self.most))
    }
}

impl<K, V> moka::Expiry<K, V> for NegativeTtl {
    fn expire_after_create(&self, _: &K, _: &V, _: Instant) -> Option<Duration> {
        self.now()
    }

    fn expire_after_update(&self, _: &K, _: &V, _: Instant, _: Option<Duration>) -> Option<Duration> {
        self.now()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn an_entry_lives_as_long_as_the_ttl_of_its_time() {
        let with = |seconds| Config { negative_ttl: Duration::from_secs(seconds), ..Config::at(Path::new("")) };
        let config = ReloadableConfig::new(with(0));
        let expiry = NegativeTtl { config: config.clone(), most: Duration::from_secs(3600) };
        let cache = moka::sync::Cache::builder().expire_after(expiry).build();
        cache.insert("before", ());
        assert!(!cache.contains_key("before"));
        config.replace(with(60));
        cache.insert("after", ());
        assert!(cache.contains_key("after") && !cache.contains_key("before"));
        cache.insert("before", ());
        assert!(cache.contains_key("before"), "an update begins a new life");
    }
}
