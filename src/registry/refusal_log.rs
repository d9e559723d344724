//! What the log and the metrics say of requests that forebay refuses: wrong credentials, wrong proofs of members, and
//! upstreams that are not configured.
//!
//! What must hold: one client, or one name, gets one line per interval; memory and lines are bounded. No line has a
//! password, or a user name, which may be a password in the wrong field.

use std::{net::SocketAddr, time::Duration};

use tracing::{debug, warn};

use crate::{
    auth::LoginFailure,
    cluster::RefusedProof,
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
    proofs: LineLimit<PeerPrefix>,
    unconfigured: LineLimit<String>,
    metrics: Metrics,
}

impl RefusalLog {
    pub(super) fn new(metrics: Metrics) -> Self {
        let (logins, proofs) = (LineLimit::new(LINE_INTERVAL, MAX_PEERS), LineLimit::new(LINE_INTERVAL, MAX_PEERS));
        Self { logins, proofs, unconfigured: LineLimit::new(HOUR, MAX_NAMES), metrics }
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

    /// A request was said to be one of the cluster's, and is not taken for one.
    pub(super) fn proof_refused(&self, peer: SocketAddr, refused: RefusedProof) {
        self.metrics.peer_proof_refused(refused);
        if let Some(left_out) = self.proofs.admit(peer.ip().into()) {
            let skew_seconds = match refused {
                RefusedProof::Clock { skew_seconds } => Some(skew_seconds),
                _ => None,
            };
            let (reason, advice) = (refused.as_str(), refused.advice());
            warn!(%peer, reason, skew_seconds, left_out, "a member's request is not taken for one: {advice}");
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
