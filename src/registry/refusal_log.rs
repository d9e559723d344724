//! What the log and the metrics say of requests that forebay refuses: wrong credentials, and upstreams that are not
//! configured.
//!
//! What must hold: one client, or one name, gets one line per interval; memory and lines are bounded. No line has a
//! password, or a user name, which may be a password in the wrong field.

use std::{net::SocketAddr, time::Duration};

use tracing::{debug, warn};

use crate::{
    auth::LoginFailure,
    line_limit::{LINE_INTERVAL, LineLimit},
    metrics::{Label as _, Metrics},
    peer::PeerPrefix,
};

const HOUR: Duration = Duration::from_secs(60 * 60);
/// How many peers, and how many names, get a line within their interval.
const MAX_PEERS: usize = 256;
const MAX_NAMES: usize = 64;
/// The longest part of a name that is logged, in characters.
const MAX_NAME: usize = 255;

pub(super) struct RefusalLog {
    logins: LineLimit<PeerPrefix>,
    unconfigured: LineLimit<String>,
    metrics: Metrics,
}

impl RefusalLog {
    pub(super) fn new(metrics: Metrics) -> Self {
        let logins = LineLimit::new(LINE_INTERVAL, MAX_PEERS);
        Self { logins, unconfigured: LineLimit::new(HOUR, MAX_NAMES), metrics }
    }

    /// The credentials of a request were refused.
    pub(super) fn login_failed(&self, peer: SocketAddr, upstream: Option<&str>, failure: LoginFailure) {
        self.metrics.auth_failure(failure);
        let reason = failure.as_str();
        match self.logins.admit(peer.ip().into()) {
            Some(left_out) => warn!(%peer, upstream, reason, left_out, "a login failed"),
            None => debug!(%peer, upstream, reason, "a login failed"),
        }
    }

    /// A client requested an upstream that is not configured.
    pub(super) fn unconfigured(&self, peer: SocketAddr, name: &str) {
        self.metrics.unconfigured_upstream();
        let name: String = name.chars().take(MAX_NAME).collect();
        if let Some(left_out) = self.unconfigured.admit(name.to_ascii_lowercase()) {
            warn!(%peer, name, left_out, "clients request an upstream that is not configured");
        }
    }
}
