//! Who is in the cluster, as this forebay sees it.
//!
//! What must hold: a peer keeps its connections and what is known of it as long as it is listed; what DNS said last counts
//! while DNS does not answer.

use std::{
    collections::{BTreeSet, HashMap},
    convert::Infallible,
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use super::{
    authority::Authority,
    config::{Config, Source},
    lookup::lookup,
    peer::{NoClient, Peer, PeerClients},
};
use crate::machine::Machine;

/// How often DNS names are looked up.
const LOOKUP_INTERVAL: Duration = Duration::from_secs(5);
/// How many members a cluster may have: more are left out, those with the greatest names.
const MAX_MEMBERS: usize = 1024;

/// One member.
#[derive(Clone, Debug)]
pub(crate) enum Member {
    /// This forebay.
    This(Arc<str>),
    Other(Arc<Peer>),
}

impl Member {
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::This(name) => name,
            Self::Other(peer) => peer.name(),
        }
    }

    pub(super) fn is_alive(&self) -> bool {
        match self {
            Self::This(_) => true,
            Self::Other(peer) => peer.is_alive(),
        }
    }
}

/// The members, in the order of their names.
#[derive(Debug, Default)]
pub(crate) struct Members {
    pub all: Vec<Member>,
}

/// Which members there are. DNS may change that.
pub(crate) struct Membership {
    sources: Vec<Source>,
    own: Own,
    /// Whether the peers of DNS names are reached over TLS.
    is_tls: bool,
    clients: PeerClients,
    members: ArcSwap<Members>,
    /// What each DNS name said last, by its place in `sources`.
    found: Mutex<HashMap<usize, BTreeSet<SocketAddr>>>,
}

/// By what this forebay knows itself among the members.
struct Own {
    advertise: Option<Authority>,
    listeners: Vec<SocketAddr>,
    machine: Machine,
}

impl Own {
    fn is(&self, authority: &Authority) -> bool {
        match (&self.advertise, authority.address()) {
            (Some(own), _) => own == authority,
            (None, Some(address)) => self.listeners.iter().any(|listener| self.is_reached(*listener, address)),
            (None, None) => false,
        }
    }

    /// Whether a connection to the address comes to this listener.
    fn is_reached(&self, listener: SocketAddr, address: SocketAddr) -> bool {
        let ip = listener.ip().to_canonical();
        listener.port() == address.port()
            && if ip.is_unspecified() { self.machine.has(address.ip()) } else { ip == address.ip().to_canonical() }
    }
}

impl Membership {
    /// `listeners`: where this forebay listens.
    pub(super) fn new(config: &Config, listeners: Vec<SocketAddr>, clients: PeerClients) -> Result<Self, NoClient> {
        let own = Own { advertise: config.advertise.clone(), listeners, machine: Machine::find() };
        let sources = config.peers.clone();
        let (members, found) = (ArcSwap::default(), Mutex::default());
        // Certificates have a name where there is TLS.
        let is_tls = config.server_name.is_some();
        let membership = Self { sources, own, is_tls, clients, members, found };
        membership.renew()?;
        Ok(membership)
    }

    pub(crate) fn members(&self) -> arc_swap::Guard<Arc<Members>> {
        self.members.load()
    }

    pub(super) fn all(&self) -> Arc<Members> {
        self.members.load_full()
    }

    /// Whether a request to this `host:port`, which came to this address, is for this forebay.
    pub(super) fn is_own(&self, target: &str, local: SocketAddr) -> bool {
        match &self.own.advertise {
            Some(own) => own.host_and_port() == target,
            None => target.parse().is_ok_and(|address: SocketAddr| {
                address.port() == local.port() && address.ip().to_canonical() == local.ip().to_canonical()
            }),
        }
    }

    /// Looks the DNS names up, again and again.
    pub(super) async fn watch(&self) -> Infallible {
        loop {
            let mut is_changed = false;
            for (place, source) in self.sources.iter().enumerate() {
                let Source::Dns { name, port, .. } = source else { continue };
                match lookup(name, *port).await {
                    Ok(addresses) => is_changed |= self.note(place, addresses),
                    Err(error) => tracing::debug!(%name, %error, "the peers of a cluster cannot be looked up"),
                }
            }
            if is_changed && let Err(error) = self.renew() {
                tracing::error!(%error, "the cluster keeps its members: a new one has no usable name");
            }
            tokio::time::sleep(LOOKUP_INTERVAL).await;
        }
    }

    /// Whether the name has other addresses than before. None at all is no answer.
    fn note(&self, place: usize, addresses: BTreeSet<SocketAddr>) -> bool {
        let mut found = self.found.lock();
        if addresses.is_empty() || found.get(&place) == Some(&addresses) {
            return false;
        }
        found.insert(place, addresses);
        true
    }

    /// Makes the members of what the file and DNS say.
    fn renew(&self) -> Result<(), NoClient> {
        let known: HashMap<Arc<str>, Arc<Peer>> = self
            .members()
            .all
            .iter()
            .filter_map(|member| match member {
                Member::Other(peer) => Some((peer.name().clone(), peer.clone())),
                Member::This(_) => None,
            })
            .collect();
        let mut all = Vec::new();
        for authority in self.listed() {
            let name: Arc<str> = authority.to_string().into();
            all.push(match known.get(&name) {
                _ if self.own.is(&authority) => Member::This(name),
                Some(peer) => Member::Other(peer.clone()),
                None => Member::Other(Arc::new(Peer::new(authority, &self.clients)?)),
            });
        }
        let names: Vec<&str> = all.iter().map(Member::name).collect();
        let is_member = all.iter().any(|member| matches!(member, Member::This(_)));
        tracing::info!(members = names.join(" "), is_member, "the members of the cluster");
        self.members.store(Arc::new(Members { all }));
        Ok(())
    }

    fn listed(&self) -> BTreeSet<Authority> {
        let found = self.found.lock();
        let mut listed = BTreeSet::new();
        for (place, source) in self.sources.iter().enumerate() {
            match source {
                Source::One(authority) => {
                    listed.insert(authority.clone());
                }
                Source::Dns { .. } => {
                    let addresses = found.get(&place).into_iter().flatten();
                    listed.extend(addresses.map(|address| Authority::of_address(self.is_tls, *address)));
                }
            }
        }
        while listed.len() > MAX_MEMBERS {
            listed.pop_last();
        }
        listed
    }
}
