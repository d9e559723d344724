//! The TLS configuration in use, and its replacement.
//!
//! What must hold: bad new files keep the old value, and are reported once. A certificate that has expired, or is not valid
//! yet, is a bad new file. At the start there is no old value: then it is used, and warned of, since the clock may be wrong, and
//! clear HTTP and clients that do not verify are still served.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use bytes::Bytes;
use rustls::ServerConfig;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use super::{
    super::TlsConfig,
    certificate::{LoadedTls, TlsError},
};
use crate::{
    file_watch::{self, Changed, POLL_INTERVAL},
    metrics::Metrics,
};

/// The TLS configuration in use. A cheap handle.
#[derive(Clone)]
pub struct ReloadableTls(Arc<ArcSwap<LoadedTls>>);

/// Files that were read and found good, for [`ReloadableTls::replace`].
pub struct PreparedTls(LoadedTls);

impl ReloadableTls {
    /// # Errors
    /// When a file cannot be read or understood, or the key is not the certificate's.
    pub fn load(config: &TlsConfig) -> Result<Self, TlsError> {
        let PreparedTls(loaded) = Self::prepare(config)?;
        Ok(ReloadableTls(Arc::new(ArcSwap::from_pointee(loaded))))
    }

    /// Reads files, which may be others than those in use, and changes nothing yet. Blocks.
    ///
    /// # Errors
    /// As [`ReloadableTls::load`].
    pub fn prepare(config: &TlsConfig) -> Result<PreparedTls, TlsError> {
        LoadedTls::load(config).map(PreparedTls)
    }

    /// All that is wrong with the files: what is wrong with each, else with them together. Blocks.
    pub fn check(config: &TlsConfig) -> Vec<TlsError> {
        LoadedTls::check(config)
    }

    /// Checks that `prepared` may replace the files in use. The same files may, also if they have expired since.
    ///
    /// # Errors
    /// When the certificate is a new one and not valid now.
    pub fn may_become(&self, PreparedTls(loaded): &PreparedTls) -> Result<(), TlsError> {
        if loaded.fingerprint == self.0.load().fingerprint { Ok(()) } else { loaded.check_validity() }
    }

    /// Uses the prepared files from now on, and has [`ReloadableTls::watch`] watch them.
    pub fn replace(&self, PreparedTls(mut loaded): PreparedTls) {
        let current = self.0.load();
        if loaded.fingerprint == current.fingerprint {
            // The session tickets that were issued stay valid.
            loaded.server = current.server.clone();
        }
        self.0.store(Arc::new(loaded));
    }

    /// The files in use.
    pub fn files(&self) -> TlsConfig {
        self.0.load().config.clone()
    }

    /// Until when the certificate in use is valid, in seconds since 1970; `None` if it does not say.
    pub fn expiry(&self) -> Option<u64> {
        self.0.load().not_after.map(|time| time.as_secs())
    }

    /// The CA that clients have to trust, in DER; `None`: the files have none.
    pub fn authority(&self) -> Option<Bytes> {
        self.0.load().authority.as_ref().map(|authority| Bytes::copy_from_slice(authority))
    }

    /// The configuration for the next handshake.
    pub fn acceptor_config(&self) -> Arc<ServerConfig> {
        self.0.load().server.clone()
    }

    /// Uses new files when they change, until `shutdown`. Handshakes that begin afterwards use them; connections stay.
    pub async fn watch(self, metrics: Metrics, shutdown: CancellationToken) {
        self.watch_every(POLL_INTERVAL, metrics, shutdown).await;
    }

    /// As [`ReloadableTls::watch`], with another interval.
    pub async fn watch_every(self, interval: Duration, metrics: Metrics, shutdown: CancellationToken) {
        let watched = self.clone();
        let read = move || {
            let current = watched.0.load_full();
            let changed = current.load_changed()?;
            Ok(changed.map(|Changed { fingerprint, content }| Changed {
                fingerprint,
                content: (Arc::new(content), current.clone()),
            }))
        };
        file_watch::watch(interval, shutdown, read, |read: Result<_, TlsError>| match read {
            Ok((changed, current)) => {
                // A reload of the configuration that came between has read the files itself.
                let replaced = self.0.compare_and_swap(&current, changed);
                if Arc::ptr_eq(&replaced, &current) {
                    metrics.reload("tls", true);
                    info!(certificate = %current.config.certificate.display(), "the new certificate is in use");
                }
            }
            Err(failure) => {
                metrics.reload("tls", false);
                error!(
                    error = &failure as &dyn std::error::Error,
                    "the new certificate is not usable; the old one stays in use"
                );
            }
        })
        .await;
    }
}
