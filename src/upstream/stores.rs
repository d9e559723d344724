//! Blobs of the object store, which is asked before the registry and after peers.
//!
//! What must hold: what the store does says nothing about the upstream, its rates and its counters; the store is asked for what
//! may be in it alone. See docs/decisions/0036-store.md.

use std::path::Path;

use rustls::ClientConfig;

use super::{client::trust, setup_error::SetupError};

/// Which certificates of the store are believed: those that the system's CAs, or those of this file, have signed.
///
/// # Errors
/// The file has no usable certificate.
pub(crate) fn store_tls(ca: Option<&Path>) -> Result<ClientConfig, SetupError> {
    trust::of_section("store", ca)
}
