//! What the log and the metrics say of clients that are not served: failed handshakes, and refused connections.
//!
//! What must hold: one client, however often it connects, gets one line per minute for failed handshakes, and one for
//! each kind of refusal; memory and lines are bounded. A Docker daemon with `insecure-registries` speaks TLS first on each pull, before it goes on with clear HTTP:
//! that gets one line a day.

use std::{io, net::SocketAddr, time::Duration};

use http::StatusCode;
use tracing::{debug, info, warn};

use super::{Refusal, handshake_failure::HandshakeFailure};
use crate::{
    error_chain::ErrorChain,
    line_limit::{LINE_INTERVAL, LineLimit},
    metrics::{Label as _, Metrics},
    peer::PeerPrefix,
};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// How many peers get a line within its interval.
const MAX_PEERS: usize = 256;

/// Of one listener.
pub(super) struct ClientLog {
    handshakes: LineLimit<PeerPrefix>,
    refusals: LineLimit<(PeerPrefix, Refusal)>,
    /// Clients that speak TLS where none is served.
    without_tls: LineLimit<PeerPrefix>,
    metrics: Option<Metrics>,
}

impl ClientLog {
    pub(super) fn new(metrics: Option<Metrics>) -> Self {
        Self {
            handshakes: LineLimit::new(LINE_INTERVAL, MAX_PEERS),
            refusals: LineLimit::new(LINE_INTERVAL, MAX_PEERS),
            without_tls: LineLimit::new(DAY, MAX_PEERS),
            metrics,
        }
    }

    /// The TLS handshake failed.
    pub(super) fn handshake_failed(&self, peer: SocketAddr, error: &io::Error) {
        self.note_handshake(peer, HandshakeFailure::of(error), error);
    }

    /// The TLS handshake took too long.
    pub(super) fn handshake_timed_out(&self, peer: SocketAddr) {
        self.note_handshake(peer, HandshakeFailure::Timeout, &io::ErrorKind::TimedOut.into());
    }

    fn note_handshake(&self, peer: SocketAddr, failure: HandshakeFailure, error: &io::Error) {
        self.count(failure);
        let (reason, error) = (failure.as_str(), ErrorChain(error));
        match self.handshakes.admit(peer.ip().into()) {
            Some(left_out) => warn!(%peer, reason, %error, left_out, "a TLS handshake failed"),
            None => debug!(%peer, reason, %error, "a TLS handshake failed"),
        }
    }

    /// The client was not served; the handler logs its own responses, but not these.
    pub(super) fn refused(&self, peer: SocketAddr, status: StatusCode, refusal: Refusal) {
        let prefix = peer.ip().into();
        let left_out = match refusal {
            Refusal::ClearOnly => {
                self.count(HandshakeFailure::NotServed);
                self.without_tls.admit(prefix)
            }
            Refusal::Full | Refusal::Share | Refusal::TlsOnly => self.refusals.admit((prefix, refusal)),
        };
        let Some(left_out) = left_out else { return };
        let why = match refusal {
            Refusal::Full => "there are too many connections",
            Refusal::Share => "its address holds the largest share of the connections",
            Refusal::TlsOnly => "it speaks clear HTTP, and only TLS is served",
            Refusal::ClearOnly => "it speaks TLS, and none is served",
        };
        info!(%peer, status = status.as_u16(), why, left_out, "a client was sent away");
    }

    fn count(&self, failure: HandshakeFailure) {
        if let Some(metrics) = &self.metrics {
            metrics.handshake_failure(failure);
        }
    }
}
