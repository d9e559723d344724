//! The running configuration: what the control API tells of it, and what the log warns of.

use std::{net::SocketAddr, path::Path, time::SystemTime};

use bytes::Bytes;
use parking_lot::Mutex;
use serde_json::{Map, Value, json};

use super::{
    check::{Facts, Ports, Warning, warnings},
    fixed_keys::is_fixed_at_start,
    warnings::{warn_of_open_content, warn_of_push_users},
};
use crate::{
    admin::api::ConfigDocument,
    config::{
        Config, Key, Loaded, Origins, Place,
        show::{self, Setting},
    },
};

/// Tells the configuration of this process to commands and to the log.
pub(super) struct Running {
    pub document: ConfigDocument,
    pub started: SystemTime,
    /// Where the keys that only a start changes come from.
    start_origins: Origins,
    /// Where the registry listens.
    pub registry: Vec<SocketAddr>,
    /// Where the admin listener is.
    pub admin: SocketAddr,
    /// The warnings that the log has already.
    told: Mutex<Vec<Warning>>,
}

impl Running {
    /// `registry` and `admin`: where this process listens.
    pub(super) fn new(loaded: &Loaded, registry: Vec<SocketAddr>, admin: SocketAddr) -> Self {
        let (document, told) = Default::default();
        let (started, start_origins) = (SystemTime::now(), loaded.origins.clone());
        let running = Self { document, started, start_origins, registry, admin, told };
        running.publish(&loaded.config, loaded, None);
        running
    }

    /// `config` is what runs: after a reload it may differ from what was `loaded`. `reloaded`: when it was reloaded last.
    pub(super) fn publish(&self, config: &Config, loaded: &Loaded, reloaded: Option<SystemTime>) {
        let time = |time: SystemTime| humantime::format_rfc3339_seconds(time).to_string();
        let document = |settings: &[Setting], not_shown: &[Key]| {
            let origins: Map<String, Value> = settings
                .iter()
                .map(|setting| {
                    let key = setting.key();
                    (key.as_str().to_owned(), show::place_to_json(&self.place(&key, config, loaded)))
                })
                .collect();
            let document = json!({
                "version": env!("CARGO_PKG_VERSION"),
                "file": loaded.file.as_deref().map(absolute),
                "started": time(self.started),
                "reloaded": reloaded.map(time),
                "listening": self.registry.iter().map(ToString::to_string).collect::<Vec<_>>(),
                "admin": self.admin.to_string(),
                "config": show::to_json(settings),
                "origins": origins,
                "not_shown": not_shown.iter().map(Key::as_str).collect::<Vec<_>>(),
            });
            Bytes::from(format!("{document}\n"))
        };
        let mut settings = show::settings(config);
        let whole = document(&settings, &[]);
        let private = show::private_keys(config);
        settings.retain(|setting| !private.contains(&setting.key()));
        self.document.set(whole, document(&settings, &private));
    }

    /// Where the running value of a key comes from.
    fn place(&self, key: &Key, config: &Config, loaded: &Loaded) -> Place {
        // Whether there is [server.tls] is fixed at the start; which files it has is not.
        let is_kept_tls = key.as_str().starts_with("server.tls.")
            && config.server.tls.is_some() != loaded.config.server.tls.is_some();
        let origins =
            if is_kept_tls || is_fixed_at_start(key.as_str()) { &self.start_origins } else { &loaded.origins };
        origins.of(key)
    }

    /// Logs what of the configuration cannot work, once for each warning. Blocks.
    pub(super) fn warn(&self, loaded: &Loaded, config: &Config) {
        warn_of_open_content(config);
        warn_of_push_users(config);
        let found = warnings(config, &Facts::gather(config, Ports::Bound(self.registry.clone())));
        let mut told = self.told.lock();
        for Warning { key, problem } in found.iter().filter(|warning| !told.contains(warning)) {
            let place = loaded.origins.mistake(key, "").place().clone();
            tracing::warn!(%key, %place, "{problem}");
        }
        // What was corrected and comes back is told again.
        *told = found;
    }
}

/// A command may run in another directory.
fn absolute(path: &Path) -> String {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned()).display().to_string()
}
