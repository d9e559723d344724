//! Requests to peers: the forebays of the same cluster, which are asked before the registry.
//!
//! What must hold: a request that serves a peer is sent to no peer, and neither is any part of a download after
//! [`PeerUse::leave`]; a client's credentials go to a peer over TLS only; a peer that does not confirm the proof is not
//! believed. See docs/decisions/0035-peers.md.

use std::{borrow::Cow, path::Path, sync::Arc};

use http::{HeaderValue, header};
use reqwest::Url;
use rustls::ClientConfig;

use super::{
    client::{body::with_idle_timeout, follow_redirects::FinalResponse, http_request::TransportError, trust},
    endpoint::Endpoint,
    error::{Error, ErrorKind},
    peer_use::PeerUse,
    read_request::ReadRequest,
    redacted_url::RedactedUrl,
    response,
    setup_error::SetupError,
    state::UpstreamState,
};
use crate::{
    cluster::{self, Cluster, Death, Key, Peer, PeerResult, ProofParts},
    error_chain::ErrorChain,
    oci::query,
};

/// Which certificates of peers are believed: those that the system's CAs, or those of this file, have signed.
///
/// # Errors
/// The file has no usable certificate.
pub(crate) fn peer_tls(ca: Option<&Path>) -> Result<ClientConfig, SetupError> {
    let mut tls = trust::of_section("cluster", ca)?;
    tls.alpn_protocols = vec![b"h2".to_vec()];
    Ok(tls)
}

impl UpstreamState {
    /// The endpoints of a request, in their order: the peers that may have the content, the store, then those of the
    /// registry.
    pub(super) fn endpoints_of(&self, request: &ReadRequest) -> Cow<'_, [Arc<Endpoint>]> {
        let peers = match &request.key {
            Some(key) => self.peers_ahead(key, &request.peers),
            None => Vec::new(),
        };
        let object = self.object_ahead(request);
        if peers.is_empty() && object.is_none() {
            return Cow::Borrowed(&self.endpoints);
        }
        let peers = peers.into_iter().map(Endpoint::of_peer).map(Arc::new);
        let object = object.and_then(Endpoint::of_store).map(Arc::new);
        Cow::Owned(peers.chain(object).chain(self.endpoints.iter().cloned()).collect())
    }

    /// The peers that are asked before the registry.
    pub(super) fn peers_ahead(&self, key: &Key, peers: &PeerUse) -> Vec<Arc<Peer>> {
        let Some(cluster) = self.cluster.as_ref().filter(|_| peers.is_allowed()) else { return Vec::new() };
        // A peer knows nothing of what is pushed through this forebay.
        if let Key::Repository(repository) = key
            && (self.allows_push() || self.repositories_of_registry.has(repository))
        {
            return Vec::new();
        }
        let mut ahead = cluster.ahead(self.name(), key);
        if let Key::Blob(digest) = key {
            ahead.retain(|peer| !self.wrong_peers.has(digest, peer));
        }
        // The client's credentials, and what they open, go over TLS alone.
        ahead.retain(|peer| peer.authority().is_tls() || !self.uses_client_credentials());
        ahead
    }

    /// Asks a peer. Its response means what the registry's would.
    pub(super) async fn read_of_peer(
        &self,
        endpoint: &Endpoint,
        peer: &Peer,
        request: &ReadRequest,
    ) -> Result<FinalResponse, Error> {
        let Some(cluster) = self.cluster.as_ref().filter(|_| request.peers.is_allowed()) else {
            return Err(left());
        };
        let url = self.url_at_peer(endpoint, request)?;
        let headers = self.headers_for_peer(cluster, peer, &url, request)?;
        let proof = headers.get(cluster::HEADER).cloned();
        let (client, carried) = peer.client();
        let sent = client.request(request.method.clone(), url.clone()).headers(headers).send();
        let answered = tokio::select! {
            answered = tokio::time::timeout(self.peer_timeout(), sent) => answered,
            () = request.peers.left() => return Err(left()),
        };
        let response = match answered {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => {
                let error = TransportError::from(error);
                let why = ErrorChain(&error).to_string();
                let error = Error::from_transport("asking the peer", &url, error);
                // A lack of descriptors is this forebay's.
                if error.kind != ErrorKind::Exhausted {
                    peer.died(Death::Unreachable, &why);
                    self.metrics().peer_request(peer.place(), PeerResult::Dead);
                }
                return Err(error);
            }
            // A registry that does not answer is told by the peer before that.
            Err(_) => {
                peer.died(Death::Silent, &"no response");
                self.metrics().peer_request(peer.place(), PeerResult::Dead);
                return Err(Error::timed_out("asking the peer", &url, self.peer_timeout()));
            }
        };
        let confirmed =
            proof.and_then(|proof| cluster.confirmed(&proof, response.status().as_u16(), response.headers()));
        let Some(confirmed) = confirmed else {
            // The peer may be well: something between both may have answered.
            cluster.check_peer(peer).await;
            self.metrics().peer_request(peer.place(), PeerResult::Refused);
            let why = format!("{} does not take this forebay for a peer", RedactedUrl(&url));
            return Err(Error::new(ErrorKind::Unavailable, why));
        };
        peer.answered(confirmed.zone);
        tracing::debug!(member = %peer.name(), status = response.status().as_u16(), path = url.path(), "a peer answered");
        if confirmed.is_own_error {
            self.metrics().peer_request(peer.place(), PeerResult::Failed);
            let why = format!("{} cannot answer for the registry: {}", RedactedUrl(&url), response.status());
            return Err(Error::new(ErrorKind::Unavailable, why));
        }
        let mut response = with_idle_timeout(response, self.sender.timeouts.idle);
        response.extensions_mut().insert(carried);
        let followed = FinalResponse::direct(response, url);
        let checked = response::check(followed, self.request_kind(request)).await;
        let result = match &checked {
            Ok(_) => PeerResult::Answered,
            Err(error) if error.kind.is_outage() => PeerResult::Failed,
            Err(_) => PeerResult::Answered,
        };
        self.metrics().peer_request(peer.place(), result);
        checked
    }

    /// The URL names the upstream, since the peer's other names for it may differ.
    fn url_at_peer(&self, endpoint: &Endpoint, request: &ReadRequest) -> Result<Url, Error> {
        let mut url = endpoint.url(&request.path_and_query)?;
        url.query_pairs_mut().append_pair(query::NAMESPACE, self.name());
        Ok(url)
    }

    fn headers_for_peer(
        &self,
        cluster: &Cluster,
        peer: &Peer,
        url: &Url,
        request: &ReadRequest,
    ) -> Result<http::HeaderMap, Error> {
        let mut headers = request.headers.clone();
        headers.entry(header::VIA).or_insert_with(|| self.via().clone());
        headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        let authorization = request.client.as_ref().and_then(|client| client.authorization());
        if let Some(authorization) = &authorization {
            headers.insert(header::AUTHORIZATION, authorization.clone());
        }
        let path_and_query = match url.query() {
            Some(query) => format!("{}?{query}", url.path()),
            None => url.path().to_owned(),
        };
        let proof = cluster.prove(&ProofParts {
            method: &request.method,
            path_and_query: &path_and_query,
            authorization: authorization.as_ref(),
            target: peer.authority().host_and_port(),
        });
        let no_proof = || Error::new(ErrorKind::Exhausted, "the system has no randomness for a proof to a peer");
        headers.insert(cluster::HEADER, proof.ok_or_else(no_proof)?.into_header());
        Ok(headers)
    }
}

/// The peers are left: the next endpoint is the registry's.
pub(super) fn left() -> Error {
    Error::new(ErrorKind::Unavailable, "a request of a peer waits for this one, which goes on at the registry")
}
