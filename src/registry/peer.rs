//! Requests of the other forebays of a cluster.
//!
//! What must hold: only a request with a proof counts as a peer's; what serves a peer waits for no peer; a peer gets of an
//! upstream with `access = "client"` only what the client whose credentials it passes on may have. See
//! docs/decisions/0035-peers.md.

use http::{HeaderMap, HeaderValue, Method, Response, header};

use super::{exchange::Exchange, service::Service};
use crate::cluster::{self, Cluster, Proof, ProofParts, RefusedProof};

impl Service {
    /// Whether a request that is said to be a peer's is one; `None`: it is not said to be.
    pub(super) fn claim_of_peer(&self, exchange: &Exchange<'_>) -> Option<Result<(), RefusedProof>> {
        let (cluster, proof) = (self.cluster.as_ref()?, exchange.head.headers.get(cluster::HEADER)?);
        let claim = Self::check_proof(cluster, proof, exchange);
        if let Err(refused) = claim {
            self.refusals.proof_refused(exchange.connection.peer, refused);
        }
        Some(claim)
    }

    fn check_proof(cluster: &Cluster, proof: &HeaderValue, exchange: &Exchange<'_>) -> Result<(), RefusedProof> {
        let head = exchange.head;
        if !matches!(head.method, Method::GET | Method::HEAD) {
            return Err(RefusedProof::Form);
        }
        let (Some(target), Some(path_and_query)) = (Proof::target(proof), head.uri.path_and_query()) else {
            return Err(RefusedProof::Form);
        };
        let parts = ProofParts {
            method: &head.method,
            path_and_query: path_and_query.as_str(),
            authorization: head.headers.get(header::AUTHORIZATION),
            target,
        };
        cluster.check_proof(proof, &parts, exchange.connection.local)
    }

    /// Confirms to a peer that its request was taken for one.
    /// `is_own_error`: the response is an error of this forebay, and says nothing of what the registry would answer.
    pub(super) fn confirm_peer<B>(&self, request: &HeaderMap, response: &mut Response<B>, is_own_error: bool) {
        let (Some(cluster), Some(proof)) = (&self.cluster, request.get(cluster::HEADER)) else { return };
        let status = response.status().as_u16();
        cluster.confirm(proof, is_own_error, status, response.headers_mut());
    }
}
