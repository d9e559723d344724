//! Warnings about the cluster (pure).

use std::net::SocketAddr;

use super::{Facts, Warning};
use crate::{
    cluster::{self, Source},
    config::{Config, Key},
    upstream::Access,
};

pub(super) fn warnings(config: &Config, facts: &Facts) -> Vec<Warning> {
    // Without peers its key is for the object store alone.
    let Some(cluster) = config.cluster.as_ref().filter(|cluster| !cluster.peers.is_empty()) else { return Vec::new() };
    let section = Key::new("cluster");
    let of_peers = section.field("peers");
    let mut found = Vec::new();
    // Those of a DNS name are known at run time.
    let listed = || cluster.peers.iter().all(|peer| matches!(peer, Source::One(_)));
    let is_clear = !cluster.peers.iter().all(|peer| is_tls(cluster, peer));
    let of_client = config.upstreams.iter().find(|upstream| matches!(upstream.access, Access::Client { .. }));
    if let Some(upstream) = of_client.filter(|_| is_clear) {
        let name = &upstream.name;
        let problem = format!("a peer without TLS is not asked for images of {name}, which has access = \"client\"");
        found.push(Warning::new(of_peers.clone(), problem));
    }
    let own = own(cluster, facts);
    match own {
        Own::Unknown => {}
        Own::None => {
            let problem = "none is an address of this machine, and there is no cluster.advertise: this forebay asks the others \
                           and is asked by none";
            found.push(Warning::new(of_peers, problem));
        }
        Own::Member { is_tls } => {
            if cluster.peers.len() == 1 && listed() {
                found.push(Warning::new(of_peers, "has this forebay alone: it asks no peer"));
            }
            if is_tls && config.server.tls.is_none() {
                let problem = "the others reach this forebay over TLS, which it does not serve: add [server.tls]";
                found.push(Warning::new(section.clone(), problem));
            }
            if !is_tls && !config.server.clear_http {
                let problem = "the others reach this forebay over http, which server.clear_http = false refuses";
                found.push(Warning::new(section.clone(), problem));
            }
        }
    }
    if let Some(listener) = facts.listening.first()
        && facts.listening.iter().all(|listener| listener.ip().is_loopback())
        && !is_loopback(cluster)
        && !matches!(own, Own::None)
    {
        let problem =
            format!("no other machine reaches {listener}: this forebay is asked by no peer; set server.listen");
        found.push(Warning::new(section, problem));
    }
    found
}

/// What is known of this forebay among the peers.
enum Own {
    /// DNS will tell.
    Unknown,
    None,
    Member {
        is_tls: bool,
    },
}

fn own(cluster: &cluster::Config, facts: &Facts) -> Own {
    if let Some(own) = &cluster.advertise {
        return Own::Member { is_tls: own.is_tls() };
    }
    let is_own = |peer: &&Source| match peer {
        Source::One(peer) => peer.address().is_some_and(|address| is_reached(address, facts)),
        Source::Dns { .. } => false,
    };
    match cluster.peers.iter().find(is_own) {
        Some(peer) => Own::Member { is_tls: is_tls(cluster, peer) },
        None if facts.listening.is_empty() => Own::Unknown,
        None if cluster.peers.iter().any(|peer| matches!(peer, Source::Dns { .. })) => Own::Unknown,
        None => Own::None,
    }
}

fn is_reached(address: SocketAddr, facts: &Facts) -> bool {
    let is_own = |ip| facts.machine.has(ip) || facts.own_peers.contains(&ip);
    facts.listening.iter().any(|listener| cluster::is_reached(*listener, address, is_own))
}

fn is_tls(cluster: &cluster::Config, peer: &Source) -> bool {
    match peer {
        Source::One(peer) => peer.is_tls(),
        Source::Dns { .. } => cluster.server_name.is_some(),
    }
}

/// All members are on one machine.
fn is_loopback(cluster: &cluster::Config) -> bool {
    cluster.peers.iter().all(|peer| match peer {
        Source::One(peer) => peer.address().is_some_and(|address| address.ip().is_loopback()),
        Source::Dns { .. } => false,
    })
}
