//! Which addresses may be dialled for a URL that an upstream named.
//!
//! A redirect or a token realm is chosen by the upstream, not by the operator. What must hold: it does not lead to this
//! machine or to the link-local network, where cloud metadata services hand out credentials, unless the upstream itself
//! is there. A name is checked by the resolver that the connection uses, so that a name with changing addresses is
//! caught, too; an address in the URL never reaches a resolver and is checked before the request.

mod lookup;
mod special_address;

use std::{
    error::Error as StdError,
    fmt, io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
};

use reqwest::{
    Url,
    dns::{Addrs, Name, Resolve, Resolving},
};
use tokio::sync::Semaphore;
use url::Host;

use self::{
    lookup::{LOOKUPS, in_turn, resolve_by_system, turns_of_upstream},
    special_address::{is_special, may_redirect},
};
use super::proxy;

/// Names by which clouds know their metadata services, alone or before `.internal`.
const METADATA_NAMES: [&str; 2] = ["metadata", "instance-data"];

/// A redirect or a realm must not lead to this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::upstream) struct AddressRefused {
    host: String,
    why: Why,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Why {
    /// The address is in a range that is refused.
    Address,
    /// The name alone is enough.
    MetadataName,
}

impl fmt::Display for AddressRefused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = &self.host;
        match self.why {
            Why::Address => write!(
                f,
                "{host} leads to a loopback, link-local, unspecified or metadata address, and the upstream is not there"
            ),
            Why::MetadataName => write!(f, "{host} is a name of a cloud's metadata service"),
        }
    }
}

impl StdError for AddressRefused {}

/// No address of a name was found.
#[derive(Debug, thiserror::Error)]
#[error("the name {name:?} cannot be resolved")]
pub(in crate::upstream) struct LookupFailed {
    name: String,
    source: io::Error,
}

impl LookupFailed {
    pub(in crate::upstream) fn new(name: &str, source: io::Error) -> Self {
        Self { name: name.to_owned(), source }
    }
}

/// The filter of one upstream.
#[derive(Clone, Debug)]
pub(in crate::upstream) struct AddressFilter(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// The hosts of the upstream's own URLs.
    home: Vec<Host>,
    /// Names that the operator chose: the upstream's own, and those of listed realms.
    chosen: Vec<String>,
    /// Hosts of the proxies in the environment: chosen by the operator, too, but never as the target of a redirect.
    proxies: Vec<String>,
    resolve: fn(&str) -> io::Result<Vec<SocketAddr>>,
    lookups: Arc<Semaphore>,
}

impl AddressFilter {
    /// `urls` are the upstream's own; `realms` are the hosts, or `host:port`s, of listed realms.
    pub(in crate::upstream) fn new(urls: &[Url], realms: &[String]) -> Self {
        let home = urls.iter().filter_map(|url| url.host().map(|host| host.to_owned())).collect();
        let own = urls.iter().filter_map(|url| url.host_str().map(str::to_owned));
        let realms = realms.iter().map(|realm| host_of(realm).to_owned());
        let (chosen, proxies) = (own.chain(realms).collect(), proxies_of_environment());
        Self(Arc::new(Inner { home, chosen, proxies, resolve: resolve_by_system, lookups: turns_of_upstream() }))
    }

    /// Refuses addresses, names of this machine and of metadata services. Other names are checked when they are
    /// resolved.
    pub(in crate::upstream) async fn check(&self, url: &Url) -> Result<(), AddressRefused> {
        let host = url.host_str().unwrap_or_default();
        if is_among(&self.0.chosen, host) {
            return Ok(());
        }
        let refused = AddressRefused { host: host.to_owned(), why: Why::Address };
        let addresses = match url.host() {
            Some(Host::Ipv4(address)) => vec![address.into()],
            Some(Host::Ipv6(address)) => vec![address.into()],
            // The resolver lets a proxy's name pass, so it is checked here as a target.
            Some(Host::Domain(name)) if is_among(&self.0.proxies, name) => {
                self.lookup(name).await.unwrap_or_default().into_iter().map(|found| found.ip()).collect()
            }
            // A proxy resolves names where forebay cannot check it, so names of this machine and of metadata services
            // are refused as they are written, and names of private networks are resolved here.
            Some(Host::Domain(name)) => match AddressKind::of(name) {
                AddressKind::Internal if !self.0.proxies.is_empty() => {
                    self.lookup(name).await.unwrap_or_default().into_iter().map(|found| found.ip()).collect()
                }
                AddressKind::Usual | AddressKind::Internal => vec![],
                AddressKind::Loopback => vec![Ipv4Addr::LOCALHOST.into()],
                AddressKind::Metadata => return Err(AddressRefused { why: Why::MetadataName, ..refused }),
            },
            None => return Err(refused),
        };
        for address in addresses {
            if !self.check_address(address).await {
                return Err(refused);
            }
        }
        Ok(())
    }

    async fn lookup(&self, name: &str) -> io::Result<Vec<SocketAddr>> {
        let (name, resolve) = (name.to_owned(), self.0.resolve);
        in_turn(&self.0.lookups, &LOOKUPS, move || resolve(&name)).await
    }

    /// The addresses of a name, all of which may be dialled.
    pub(super) async fn resolve_name(&self, name: &str) -> Result<Vec<SocketAddr>, Box<dyn StdError + Send + Sync>> {
        let found = self.lookup(name).await.map_err(|source| LookupFailed::new(name, source))?;
        if is_among(&self.0.chosen, name) || is_among(&self.0.proxies, name) {
            return Ok(found);
        }
        // One refused address refuses the name.
        for address in &found {
            if !self.check_address(address.ip()).await {
                return Err(AddressRefused { host: name.to_owned(), why: Why::Address }.into());
            }
        }
        Ok(found)
    }

    async fn check_address(&self, address: IpAddr) -> bool {
        if !is_special(address) {
            return true;
        }
        for host in &self.0.home {
            let home = match host {
                Host::Ipv4(home) => vec![IpAddr::from(*home)],
                Host::Ipv6(home) => vec![IpAddr::from(*home)],
                Host::Domain(name) if AddressKind::of(name) == AddressKind::Loopback => {
                    vec![Ipv4Addr::LOCALHOST.into()]
                }
                Host::Domain(name) => {
                    self.lookup(name).await.unwrap_or_default().into_iter().map(|home| home.ip()).collect()
                }
            };
            if home.into_iter().any(|home| may_redirect(home, address)) {
                return true;
            }
        }
        false
    }
}

impl Resolve for AddressFilter {
    fn resolve(&self, name: Name) -> Resolving {
        let filter = self.clone();
        Box::pin(async move { Ok(Box::new(filter.resolve_name(name.as_str()).await?.into_iter()) as Addrs) })
    }
}

/// Where a name leads, by the name alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AddressKind {
    Usual,
    /// Source: RFC 6761 section 6.3.
    Loopback,
    /// The top-level domain of private networks, where clouds have services, and companies registries.
    Internal,
    Metadata,
}

impl AddressKind {
    fn of(name: &str) -> Self {
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        let host = name.split('.').next().unwrap_or_default();
        match name.rsplit('.').next().unwrap_or_default() {
            "localhost" => Self::Loopback,
            top if (top == host || top == "internal") && METADATA_NAMES.contains(&host) => Self::Metadata,
            "internal" => Self::Internal,
            _ => Self::Usual,
        }
    }
}

fn is_among(names: &[String], name: &str) -> bool {
    names.iter().any(|known| known.eq_ignore_ascii_case(name))
}

/// The host of `host` or `host:port`; brackets of an IPv6 address stay, as in a URL's host.
fn host_of(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) && !host.ends_with(':') => host,
        _ => authority,
    }
}

/// The hosts of the proxies in the usual variables.
fn proxies_of_environment() -> Vec<String> {
    proxy::VARIABLES
        .into_iter()
        .filter_map(|name| std::env::var(name).ok())
        .filter_map(|value| proxy_host(&value))
        .collect()
}

/// A proxy may be written with or without a scheme.
fn proxy_host(value: &str) -> Option<String> {
    let with_scheme = if value.contains("://") { value.to_owned() } else { format!("http://{value}") };
    Url::parse(&with_scheme).ok()?.host_str().map(str::to_owned)
}

#[cfg(test)]
mod tests;
