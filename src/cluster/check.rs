//! Asks each peer whether it is there, when an operator asks for the state of the cluster.

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt as _, stream};
use http::Method;

use super::{
    Cluster, Member,
    peer::{Death, Peer},
    proof::{HEADER, ProofParts},
};
use crate::error_chain::ErrorChain;

/// How many peers are asked at once.
const AT_ONCE: usize = 128;
/// How long one may take.
const TIMEOUT: Duration = Duration::from_secs(3);
const PATH: &str = "/v2/";

impl Cluster {
    /// Asks all peers, also those that count as dead, and notes what they answer.
    pub(crate) async fn check(&self) {
        let peers: Vec<Arc<Peer>> = self
            .0
            .membership
            .members()
            .all
            .iter()
            .filter_map(|member| match member {
                Member::This(_) => None,
                Member::Other(peer) => Some(peer.clone()),
            })
            .collect();
        stream::iter(peers).for_each_concurrent(AT_ONCE, |peer| async move { self.check_peer(&peer).await }).await;
    }

    /// Asks one, and notes what it answers.
    pub(crate) async fn check_peer(&self, peer: &Peer) {
        let mut url = peer.base().clone();
        url.set_path(PATH);
        let (method, target) = (Method::GET, peer.authority().host_and_port());
        let parts = ProofParts { method: &method, path_and_query: PATH, authorization: None, target };
        let Some(proof) = self.prove(&parts) else { return };
        let proof = proof.into_header();
        let (client, _carried) = peer.client();
        let sent = client.request(method.clone(), url).header(HEADER, &proof).timeout(TIMEOUT).send();
        match sent.await {
            Ok(response) => match self.confirmed(&proof, response.status().as_u16(), response.headers()) {
                Some(confirmed) => peer.answered(confirmed.zone),
                None => peer.died(Death::NoProof, &response.status()),
            },
            Err(error) => peer.died(Death::Unreachable, &ErrorChain(&error)),
        }
    }
}
