//! Who is in the cluster, as this forebay sees it.
//!
//! What must hold: a peer keeps its connections and what is known of it as long as it is listed; what DNS said last counts
//! while DNS does not answer.

use std::{
    collections::{BTreeSet, HashMap},
    convert::Infallible,
    io,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use super::{
    authority::Authority,
    config::{Config, Source},
    lookup::{LookupLog, lookup},
    peer::Peer,
    peer_clients::{NoClient, PeerClients},
};
use crate::machine::{Machine, is_own_address};

/// How often DNS names are looked up.
const LOOKUP_INTERVAL: Duration = Duration::from_secs(5);
/// How many members a cluster may have: more are left out, those with the greatest names.
const MAX_MEMBERS: usize = 1024;
/// How many names of members that joined, or left, a line of the log has.
const MAX_TOLD: usize = 16;

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

impl Members {
    /// Whether this forebay is one of them.
    pub(crate) fn has_this(&self) -> bool {
        self.all.iter().any(|member| matches!(member, Member::This(_)))
    }

    fn log_changes(&self, new: &Self) {
        let names = |members: &Self| members.all.iter().map(|member| member.name().to_owned()).collect::<BTreeSet<_>>();
        let (before, after) = (names(self), names(new));
        let (joined, left) = (some_of(after.difference(&before)), some_of(before.difference(&after)));
        let (members, is_member) = (new.all.len(), new.has_this());
        tracing::info!(members, is_member, joined, left, "the members of the cluster");
    }
}

/// The first names, and how many more there are.
fn some_of<'a>(names: impl Iterator<Item = &'a String>) -> String {
    let names: Vec<&str> = names.map(String::as_str).collect();
    let told = names[..names.len().min(MAX_TOLD)].join(" ");
    match names.len() - names.len().min(MAX_TOLD) {
        0 => told,
        more => format!("{told} and {more} more"),
    }
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
    /// Whether the members are to be built anew from that.
    is_stale: AtomicBool,
    log: LookupLog,
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
            // The scheme of those that DNS lists is a guess.
            (Some(own), _) => own.host_and_port() == authority.host_and_port(),
            (None, Some(address)) => {
                let is_own = |ip| is_own_address(ip).unwrap_or_else(|| self.machine.has(ip));
                self.listeners.iter().any(|listener| is_reached(*listener, address, is_own))
            }
            (None, None) => false,
        }
    }
}

/// Whether a connection to the address comes to this listener. `is_own`: whether an address is one of this machine.
pub(crate) fn is_reached(listener: SocketAddr, address: SocketAddr, is_own: impl FnOnce(IpAddr) -> bool) -> bool {
    let ip = listener.ip().to_canonical();
    listener.port() == address.port()
        && if ip.is_unspecified() { is_own(address.ip()) } else { ip == address.ip().to_canonical() }
}

impl Membership {
    /// `listeners`: where this forebay listens.
    /// Whether there are names or lists of members.
    pub(super) fn has_sources(&self) -> bool {
        !self.sources.is_empty()
    }

    pub(super) fn new(config: &Config, listeners: Vec<SocketAddr>, clients: PeerClients) -> Result<Self, NoClient> {
        let own = Own { advertise: config.advertise.clone(), listeners, machine: Machine::find() };
        let sources = config.peers.clone();
        let (members, found) = (ArcSwap::default(), Mutex::default());
        // Certificates have a name where there is TLS.
        let is_tls = config.server_name.is_some();
        let (is_stale, log) = (AtomicBool::new(false), LookupLog::default());
        let membership = Self { sources, own, is_tls, clients, members, found, is_stale, log };
        membership.renew()?;
        Ok(membership)
    }

    pub(crate) fn members(&self) -> arc_swap::Guard<Arc<Members>> {
        self.members.load()
    }

    /// Whether the last lookup of a DNS name failed.
    pub(super) fn is_lookup_failing(&self) -> bool {
        self.log.is_failing()
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
            self.look_up(lookup).await;
            tokio::time::sleep(LOOKUP_INTERVAL).await;
        }
    }

    /// Looks each DNS name up once.
    async fn look_up<F>(&self, lookup: impl Fn(Arc<str>, u16) -> F)
    where
        F: Future<Output = io::Result<BTreeSet<SocketAddr>>>,
    {
        for (place, source) in self.sources.iter().enumerate() {
            let Source::Dns { name, port } = source else { continue };
            match lookup(name.clone(), *port).await {
                // It would leave this forebay alone, and is more likely to be an error.
                Ok(addresses) if addresses.is_empty() => {
                    self.log.failed(name, &io::Error::other("DNS gives no address"));
                }
                Ok(addresses) => {
                    self.log.answered(name);
                    self.note(place, addresses);
                }
                Err(error) => self.log.failed(name, &error),
            }
        }
        if self.is_stale.load(Ordering::Relaxed) {
            match self.renew() {
                Ok(()) => self.is_stale.store(false, Ordering::Relaxed),
                Err(error) => tracing::error!(%error, "the cluster keeps its members: a new one has no usable name"),
            }
        }
    }

    /// Notes the addresses of a name.
    fn note(&self, place: usize, addresses: BTreeSet<SocketAddr>) {
        let mut found = self.found.lock();
        if found.get(&place) != Some(&addresses) {
            found.insert(place, addresses);
            self.is_stale.store(true, Ordering::Relaxed);
        }
    }

    /// Builds the members from the file and from DNS.
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
        let members = Members { all };
        self.members().log_changes(&members);
        self.members.store(Arc::new(members));
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

#[cfg(test)]
mod tests;
