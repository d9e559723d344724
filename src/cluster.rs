//! The forebays of a cluster: which there are, which of them owns what, and how they know one another.
//!
//! A forebay asks the *owner* of a key before it asks the registry, so that the registry sends everything once. The key of
//! a blob is its digest; that of manifests and tags is the repository. See docs/decisions/0035-peers.md.
//!
//! What must hold: all members that see the same peers name the same owner; a request counts as a peer's only with a
//! [`Proof`] that was made with the key of the cluster, for just this request, and not used before.

mod authority;
mod check;
mod config;
mod confirmation;
mod key;
mod labels;
mod liveness;
mod lookup;
mod membership;
mod nonces;
mod peer;
mod peer_clients;
mod proof;
mod refused_proof;
mod rendezvous;
mod report;

use std::{net::SocketAddr, sync::Arc};

use http::{HeaderMap, HeaderValue};

pub use self::{
    authority::{Authority, NoAuthority},
    config::{Config, DEFAULT_TIMEOUT, MAX_ZONE, NoSource, Source},
    key::{ClusterKey, KeyError},
    peer_clients::NoClient,
};
pub(crate) use self::{
    confirmation::Confirmation,
    labels::{PeerPlace, PeerResult},
    membership::is_reached,
    peer::{Death, Peer},
    proof::{HEADER, Proof, ProofParts},
    refused_proof::RefusedProof,
    rendezvous::{Key, order},
    report::{Health, MemberReport},
};
use self::{
    membership::{Member, Membership},
    nonces::Nonces,
    peer_clients::PeerClients,
    report::KnownShares,
};

/// How many peers are asked before the registry: the owner, and the next one if it is gone.
const MAX_ASKED: usize = 2;

/// A cheap handle on the cluster, as this forebay sees it.
#[derive(Clone)]
pub struct Cluster(Arc<ClusterInner>);

struct ClusterInner {
    key: ClusterKey,
    zone: Option<Arc<str>>,
    membership: Membership,
    nonces: Nonces,
    shares: KnownShares,
}

impl Cluster {
    /// Knows the peers that the configuration lists; those of DNS names are found by [`Cluster::watch`]. `listeners`: where
    /// this forebay listens; `tls`: which certificates of peers it believes.
    ///
    /// # Errors
    /// A peer's name is no name of a host.
    pub(crate) fn new(
        config: &Config,
        key: ClusterKey,
        listeners: Vec<SocketAddr>,
        tls: rustls::ClientConfig,
    ) -> Result<Self, NoClient> {
        let clients = PeerClients {
            tls,
            server_name: config.server_name.clone(),
            zone: config.zone.clone(),
            timeout: config.timeout,
        };
        Ok(Self(Arc::new(ClusterInner {
            key,
            zone: config.zone.clone(),
            membership: Membership::new(config, listeners, clients)?,
            nonces: Nonces::default(),
            shares: KnownShares::default(),
        })))
    }

    /// Whether peers are configured: without them the key is for records in the object store alone.
    pub(crate) fn has_peers(&self) -> bool {
        self.0.membership.has_sources()
    }

    /// Looks the DNS names up, again and again. Never returns.
    pub(crate) async fn watch(&self) -> std::convert::Infallible {
        self.0.membership.watch().await
    }

    /// The peers to ask for a key of an upstream before the registry, in their order: none if this forebay owns it.
    pub(crate) fn ahead(&self, upstream: &str, key: &Key) -> Vec<Arc<Peer>> {
        let members = self.0.membership.members();
        let mut ahead = Vec::new();
        for member in order(&members.all, Member::name, upstream, key) {
            match member {
                Member::This(_) => break,
                Member::Other(peer) if peer.is_alive() => ahead.push(peer.clone()),
                Member::Other(_) => {}
            }
            if ahead.len() == MAX_ASKED {
                break;
            }
        }
        ahead
    }

    /// The key that all members share.
    pub(crate) fn key(&self) -> &ClusterKey {
        &self.0.key
    }

    /// Where this forebay is, if the operator says so.
    pub(crate) fn zone(&self) -> Option<&Arc<str>> {
        self.0.zone.as_ref()
    }

    /// What a request to a peer has to carry.
    pub(crate) fn prove(&self, parts: &ProofParts<'_>) -> Option<Proof> {
        Proof::make(&self.0.key, parts)
    }

    /// The code of a record that this forebay leaves for the others: see [`Cluster::is_record_code`].
    pub(crate) fn record_code(&self, parts: &[&[u8]]) -> String {
        self.0.key.record_code(parts)
    }

    /// Whether a member of the cluster made a record with these parts, and this code.
    pub(crate) fn is_record_code(&self, parts: &[&[u8]], code: &str) -> bool {
        self.0.key.is_record_code(parts, code)
    }

    /// Whether this forebay owns a blob, or a task that has its digest as a name: the only one does.
    pub(crate) fn owns(&self, digest: &crate::oci::Digest) -> bool {
        self.ahead("", &Key::Blob(digest.clone())).is_empty()
    }

    /// How many members there are, this forebay among them.
    pub(crate) fn len(&self) -> usize {
        self.0.membership.members().all.len()
    }

    /// Checks that a request that came to the address `local` is a peer's. `parts.target` is what the header says.
    pub(crate) fn check_proof(
        &self,
        header: &HeaderValue,
        parts: &ProofParts<'_>,
        local: SocketAddr,
    ) -> Result<(), RefusedProof> {
        let is_own = self.0.membership.is_own(parts.target, local);
        Proof::check(header, &self.0.key, parts, is_own, &self.0.nonces)
    }

    /// Confirms to a peer that its request with the proof `sent` was taken for one, and proves the response.
    /// `is_own_error`: as in [`Confirmation`].
    pub(crate) fn confirm(&self, sent: &HeaderValue, is_own_error: bool, status: u16, headers: &mut HeaderMap) {
        let confirmation = Confirmation { zone: self.0.zone.as_deref(), is_own_error };
        if let Some(header) = confirmation.make(&self.0.key, sent, status, headers) {
            headers.insert(HEADER, header);
        }
    }

    /// What a peer confirms in its response to the request with the proof `sent`; `None`: nothing.
    pub(crate) fn confirmed<'a>(
        &self,
        sent: &HeaderValue,
        status: u16,
        headers: &'a HeaderMap,
    ) -> Option<Confirmation<'a>> {
        Confirmation::check(&self.0.key, sent, status, headers)
    }
}
