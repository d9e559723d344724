//! The addresses of a DNS name.

use std::{collections::BTreeSet, io, net::SocketAddr, sync::Arc, time::Duration};

use parking_lot::Mutex;

use crate::line_limit::{LINE_INTERVAL, LineLimit};

/// How long a lookup may take.
const TIMEOUT: Duration = Duration::from_secs(5);
/// How many names of a configuration get lines: each `peers` may have.
const MAX_NAMES: usize = 256;

/// Looks a name up.
///
/// # Errors
/// DNS does not answer in time, or knows no such name, or no address of it.
pub(super) async fn lookup(name: Arc<str>, port: u16) -> io::Result<BTreeSet<SocketAddr>> {
    // All of them, which an answer of 64 KiB bounds: of too many, each member must leave out the same.
    Ok(tokio::time::timeout(TIMEOUT, tokio::net::lookup_host((&*name, port))).await??.collect())
}

/// Tells which names DNS does not answer.
pub(super) struct LookupLog {
    lines: LineLimit<Arc<str>>,
    failing: Mutex<BTreeSet<Arc<str>>>,
}

impl Default for LookupLog {
    fn default() -> Self {
        Self { lines: LineLimit::new(LINE_INTERVAL, MAX_NAMES), failing: Mutex::default() }
    }
}

impl LookupLog {
    pub(super) fn failed(&self, name: &Arc<str>, error: &io::Error) {
        self.failing.lock().insert(name.clone());
        if let Some(left_out) = self.lines.admit(name.clone()) {
            tracing::warn!(%name, %error, left_out, "the members of the cluster cannot be looked up: they stay as they were");
        }
    }

    pub(super) fn answered(&self, name: &Arc<str>) {
        if self.failing.lock().remove(name) {
            tracing::info!(%name, "the members of the cluster can be looked up again");
        }
    }

    /// Whether the last lookup of a name failed.
    pub(super) fn is_failing(&self) -> bool {
        !self.failing.lock().is_empty()
    }
}
