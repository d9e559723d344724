//! Requests of the other forebays of a cluster.
//!
//! What must hold: only a request with a proof counts as a peer's; what serves a peer waits for no peer; a peer gets of an
//! upstream with `access = "client"` only what the client whose credentials it passes on may have. See
//! docs/decisions/0035-peers.md.

use http::{HeaderMap, HeaderValue, Method, header};

use super::{exchange::Exchange, service::Service};
use crate::cluster::{self, Proof, ProofParts};

/// The value of the header in responses of a forebay that says no zone.
const NO_ZONE: HeaderValue = HeaderValue::from_static("-");

impl Service {
    /// Whether a request is a peer's.
    pub(super) fn is_of_peer(&self, exchange: &Exchange<'_>) -> bool {
        let (Some(cluster), Some(proof)) = (&self.cluster, exchange.head.headers.get(cluster::HEADER)) else {
            return false;
        };
        let head = exchange.head;
        if !matches!(head.method, Method::GET | Method::HEAD) {
            return false;
        }
        let (Some(target), Some(path_and_query)) = (Proof::target(proof), head.uri.path_and_query()) else {
            return false;
        };
        let parts = ProofParts {
            method: &head.method,
            path_and_query: path_and_query.as_str(),
            authorization: head.headers.get(header::AUTHORIZATION),
            target,
        };
        cluster.is_proven(proof, &parts, exchange.connection.local)
    }

    /// Confirms to a peer that its request was taken for one.
    pub(super) fn confirm_peer(&self, headers: &mut HeaderMap) {
        let Some(cluster) = &self.cluster else { return };
        let zone = cluster.zone().and_then(|zone| HeaderValue::try_from(format!("zone={zone}")).ok());
        headers.insert(cluster::HEADER, zone.unwrap_or(NO_ZONE));
    }
}
