//! Warnings about `server.listen`, `admin.listen` and the hosts of upstreams (pure).

use super::{Facts, PortUse, Warning, hosts};
use crate::{config::Config, oci::HostPattern};

pub(super) fn warnings(config: &Config, facts: &Facts) -> Vec<Warning> {
    let ports = facts.ports.iter().filter_map(|(key, address, port_use)| {
        let problem = match port_use {
            PortUse::Free | PortUse::Ours => return None,
            PortUse::Taken => format!("another program listens on {address}: end it, or choose another port"),
            PortUse::Forbidden => format!(
                "this user may not listen on port {}: use a socket unit of systemd, or a port from 1024 on",
                address.port()
            ),
            PortUse::Elsewhere => format!("{} is no address of this machine", address.ip()),
        };
        Some(Warning::new(key.clone(), problem))
    });
    ports.chain(unheard_hosts(config, facts)).collect()
}

/// The hosts of upstreams on ports without a listener.
fn unheard_hosts<'a>(config: &'a Config, facts: &'a Facts) -> impl Iterator<Item = Warning> + 'a {
    hosts(config).filter_map(|(key, host)| {
        let (HostPattern::NamePort(_, port) | HostPattern::AnyPort(port)) = host else { return None };
        let is_heard = facts.listening.is_empty() || facts.listening.iter().any(|address| address.port() == *port);
        let problem = || {
            format!(
                "no listener has port {port}, so no client comes in by {host}: add the port to server.listen, or leave \
                 it out here if a proxy stands before forebay"
            )
        };
        (!is_heard).then(|| Warning::new(key, problem()))
    })
}
