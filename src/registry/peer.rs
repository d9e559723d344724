//! Requests of the other forebays of a cluster.
//!
//! What must hold: only a request with a proof counts as a peer's; what serves a peer waits for no peer; a peer gets of an
//! upstream with `access = "client"` only what the client whose credentials it passes on may have. See
//! docs/decisions/0035-peers.md.

use http::{HeaderMap, HeaderValue, Method, header};

use super::{exchange::Exchange, service::Service};
use crate::cluster::{self, Cluster, Confirmation, Proof, ProofParts};

impl Service {
    /// Whether a request that is said to be a peer's is one; `None`: it is not said to be.
    pub(super) fn claim_of_peer(&self, exchange: &Exchange<'_>) -> Option<bool> {
        let (cluster, proof) = (self.cluster.as_ref()?, exchange.head.headers.get(cluster::HEADER)?);
        Some(Self::is_proven(cluster, proof, exchange))
    }

    fn is_proven(cluster: &Cluster, proof: &HeaderValue, exchange: &Exchange<'_>) -> bool {
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
    /// `is_own_error`: the response is an error of this forebay, and says nothing of what the registry would answer.
    pub(super) fn confirm_peer(&self, headers: &mut HeaderMap, is_own_error: bool) {
        let zone = self.cluster.as_ref().and_then(Cluster::zone).map(|zone| &**zone);
        headers.extend(Confirmation { zone, is_own_error }.to_header().map(|header| (cluster::HEADER, header)));
    }
}
