//! Which addresses a URL that an upstream named may lead to.
//!
//! A redirect or a token realm is the upstream's word, not the operator's. It must not lead into
//! this machine or to the link-local network, where cloud metadata services hand out credentials,
//! unless the upstream itself is there. Names are checked after they are resolved and by the
//! resolver that the connection uses, so a name that changes its mind is caught too; addresses
//! written in the URL never reach a resolver and are checked before the request.

use std::{
    error::Error as StdError,
    fmt, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs},
    sync::Arc,
    time::Duration,
};

use reqwest::{
    Url,
    dns::{Addrs, Name, Resolve, Resolving},
};
use tokio::sync::Semaphore;
use url::Host;

use super::proxy;

/// How many lookups may run at a time, over all upstreams: each takes a thread of the blocking pool,
/// which the disk needs as well, and a resolver that is away holds it for long.
static LOOKUPS: Semaphore = Semaphore::const_new(32);
/// How many of them may be one upstream's: the names that it leads to may hang.
const MAX_LOOKUPS_OF_UPSTREAM: usize = 8;
/// How long a name is waited for, its turn included.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(10);

/// Metadata services of clouds outside of the link-local range: those of Aliyun, Azure and Oracle, and those of AWS
/// (for instances and for pods), Google, Oracle and Scaleway over IPv6.
const METADATA: [IpAddr; 8] = [
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x0ec2, 0, 0, 0, 0, 0, 0x0254)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x0ec2, 0, 0, 0, 0, 0, 0x0023)),
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0x00ce, 0, 0, 0, 0, 0, 0x0254)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x00c1, 0, 0, 0, 0, 0xa9fe, 0xa9fe)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x0042, 0, 0, 0, 0, 0, 0x0042)),
];

/// Names by which clouds know their metadata services, alone or before `.internal`.
const METADATA_NAMES: [&str; 2] = ["metadata", "instance-data"];

/// A redirect or a realm may not lead to this host.
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

/// Judges addresses on behalf of one upstream.
#[derive(Clone, Debug)]
pub(in crate::upstream) struct AddressFilter(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// The hosts of the upstream's own URLs.
    home: Vec<Host>,
    /// Names that the operator chose: the upstream's own, and those of listed realms.
    chosen: Vec<String>,
    /// Hosts of the proxies in the environment: the operator's word too, but dialled in place of a
    /// target, never as one.
    proxies: Vec<String>,
    /// How names are resolved, and the turns for that.
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
        Self(Arc::new(Inner { home, chosen, proxies, resolve: resolve_by_system, lookups: lookups() }))
    }

    /// Refuses what can be judged without resolving: a literal address, and the names of this machine.
    pub(in crate::upstream) async fn check(&self, url: &Url) -> Result<(), AddressRefused> {
        let host = url.host_str().unwrap_or_default();
        if is_among(&self.0.chosen, host) {
            return Ok(());
        }
        let refused = AddressRefused { host: host.to_owned(), why: Why::Address };
        let addresses = match url.host() {
            Some(Host::Ipv4(address)) => vec![address.into()],
            Some(Host::Ipv6(address)) => vec![address.into()],
            // The resolver lets a proxy's name pass; as a target of its own it gets no such favour.
            Some(Host::Domain(name)) if is_among(&self.0.proxies, name) => {
                self.lookup(name).await.unwrap_or_default().into_iter().map(|found| found.ip()).collect()
            }
            // A proxy resolves names where forebay cannot see it, so those that are known to lead here, or to a
            // metadata service, are judged as they are written; private ones by what they resolve to here.
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
            if home.into_iter().any(|home| is_neighbour(home, address)) {
                return true;
            }
        }
        false
    }
}

impl Resolve for AddressFilter {
    fn resolve(&self, name: Name) -> Resolving {
        let filter = self.clone();
        Box::pin(async move {
            let found = filter.lookup(name.as_str()).await?;
            if is_among(&filter.0.chosen, name.as_str()) || is_among(&filter.0.proxies, name.as_str()) {
                return Ok(Box::new(found.into_iter()) as Addrs);
            }
            // One bad address spoils the name: choosing among the rest would help only the deceiver.
            for address in &found {
                if !filter.check_address(address.ip()).await {
                    let refused = AddressRefused { host: name.as_str().to_owned(), why: Why::Address };
                    return Err(Box::new(refused) as Box<dyn StdError + Send + Sync>);
                }
            }
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

/// Where a name leads by its looks alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AddressKind {
    Usual,
    /// Source: RFC 6761 §6.3.
    Loopback,
    /// The top-level domain that is kept for private networks; clouds have services there, and companies registries.
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

fn resolve_by_system(name: &str) -> io::Result<Vec<SocketAddr>> {
    Ok((name, 0).to_socket_addrs()?.collect())
}

/// The turns of one upstream.
fn lookups() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(MAX_LOOKUPS_OF_UPSTREAM))
}

/// Runs a lookup on the blocking pool. Its turns, of the upstream and of all, are given back when the lookup ends, which for
/// one that hangs is after it has been given up: no limit in time can end a thread.
async fn in_turn<T: Send + 'static>(
    of_upstream: &Arc<Semaphore>,
    of_all: &'static Semaphore,
    lookup: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let run = async {
        // The upstream's comes first: what waits for it is in no other upstream's way.
        let turn = of_upstream.clone().acquire_owned().await.map_err(io::Error::other)?;
        let turn_of_all = of_all.acquire().await.map_err(io::Error::other)?;
        let lookup = tokio::task::spawn_blocking(move || {
            let _turns = (turn, turn_of_all);
            lookup()
        });
        lookup.await.map_err(io::Error::other)?
    };
    let late = || io::Error::new(io::ErrorKind::TimedOut, "the name could not be resolved in time");
    tokio::time::timeout(LOOKUP_TIMEOUT, run).await.unwrap_or_else(|_| Err(late()))
}

/// An upstream on loopback may lead to any port and address of loopback; every other special
/// address must be the upstream's very own.
fn is_neighbour(home: IpAddr, address: IpAddr) -> bool {
    let (home, address) = (plain(home), plain(address));
    home == address || (home.is_loopback() && address.is_loopback())
}

/// Loopback, link-local, unspecified, multicast, broadcast, a cloud's metadata service, or an address
/// that a translator of the local network makes into any of them.
fn is_special(address: IpAddr) -> bool {
    if METADATA.contains(&address) || tunnelled(address).into_iter().flatten().any(|end| is_special(end.into())) {
        return true;
    }
    match plain(address) {
        IpAddr::V4(address) => {
            // All of 0.0.0.0/8 is "this host" (RFC 1122 §3.2.1.3).
            address.octets()[0] == 0
                || address.is_loopback()
                || address.is_link_local()
                || address.is_multicast()
                || address.is_broadcast()
                || METADATA.contains(&address.into())
        }
        IpAddr::V6(address) => {
            address.is_unspecified()
                || address.is_loopback()
                || address.is_unicast_link_local()
                || address.is_multicast()
                // RFC 8215: where in it the IPv4 address stands is known to the local network alone.
                || matches!(address.segments(), [0x64, 0xff9b, 1, ..])
        }
    }
}

/// The IPv4 address inside an IPv6 one: mapped, compatible, translated (SIIT, RFC 7915 and 2765), NAT64 (RFC 6052) and
/// 6to4 (RFC 3056).
fn plain(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else {
        return address;
    };
    match v6.segments() {
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => address,
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low]
        | [0, 0, 0, 0, 0xffff, 0, high, low]
        | [0x64, 0xff9b, 0, 0, 0, 0, high, low]
        | [0x2002, high, low, ..] => ipv4(high, low).into(),
        _ => address,
    }
}

/// The IPv4 addresses at which a tunnel ends that an IPv6 address stands for: Teredo's server and its client, whose bits
/// are inverted (RFC 4380), and an ISATAP host's (RFC 5214), which is the same under any prefix.
fn tunnelled(address: IpAddr) -> [Option<Ipv4Addr>; 2] {
    let IpAddr::V6(v6) = address else {
        return [None; 2];
    };
    match v6.segments() {
        [0x2001, 0, server_high, server_low, _, _, high, low] => {
            [Some(ipv4(server_high, server_low)), Some(ipv4(!high, !low))]
        }
        [.., interface, 0x5efe, high, low] if interface & !0x0300 == 0 => [Some(ipv4(high, low)), None],
        _ => [None; 2],
    }
}

fn ipv4(high: u16, low: u16) -> Ipv4Addr {
    let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
    Ipv4Addr::new(a, b, c, d)
}

/// The hosts of the proxies that the usual variables name.
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
mod tests {
    use super::*;

    fn filter(home: &str) -> AddressFilter {
        AddressFilter::new(&[Url::parse(home).unwrap()], &["realm.lan:8443".to_owned()])
    }

    async fn allows(home: &str, target: &str) -> bool {
        filter(home).check(&Url::parse(target).unwrap()).await.is_ok()
    }

    const SPECIAL: &[&str] = &[
        "http://127.0.0.1/",
        "http://127.9.9.9:8080/",
        "http://2130706433/",
        "http://0x7f.1/",
        "http://0.0.0.0/",
        "http://0.1.2.3/",
        "http://169.254.169.254/latest/meta-data",
        "http://169.254.0.23/",
        "http://100.100.100.200/",
        "http://224.0.0.1/",
        "http://255.255.255.255/",
        "http://[::]/",
        "http://[::1]/",
        "http://[fe80::1]/",
        "http://[ff02::1]/",
        "http://[::ffff:127.0.0.1]/",
        "http://[::ffff:169.254.169.254]/",
        "http://[::127.0.0.1]/",
        "http://[64:ff9b::7f00:1]/",
        "http://[64:ff9b::169.254.169.254]/",
        "http://[2002:7f00:1::1]/",
        "http://[fd00:ec2::254]/",
        "http://[fd20:ce::254]/",
        "http://168.63.129.16/",
        "http://[::ffff:168.63.129.16]/",
        "http://[64:ff9b:1::7f00:1]/",
        "http://[64:ff9b:1:7f00:0:100::]/",
        "http://localhost/",
        "http://LOCALHOST.:8080/",
        "http://a.localhost/",
        "http://a.localhost./",
        "http://metadata/computeMetadata/v1/",
        "http://metadata.google.internal/",
        "http://metadata.google.internal./",
        "http://instance-data.ec2.internal/",
        // SIIT.
        "http://[::ffff:0:7f00:1]/",
        "http://[::ffff:0:169.254.169.254]/",
        "http://[::ffff:0:0:0]/",
        // Teredo: the client's address is inverted; the server's is not.
        "http://[2001:0:cb00:7107:0:0:80ff:fffe]/",
        "http://[2001:0:cb00:7107:8000:63bf:5601:5601]/",
        "http://[2001:0:7f00:1::1]/",
        "http://[2001:0:cb00:7107:0:0:9b9b:9b37]/",
        // ISATAP.
        "http://[2001:db8::5efe:127.0.0.1]/",
        "http://[2001:db8::200:5efe:169.254.169.254]/",
        // 6to4 and NAT64.
        "http://[2002:a9fe:a9fe::1]/",
        "http://[2002:6464:64c8::]/",
        "http://[64:ff9b::100.100.100.200]/",
        "http://[64:ff9b::]/",
        "http://192.0.0.192/",
        "http://[::ffff:192.0.0.192]/",
        "http://[fd00:ec2::23]/",
        "http://[fd00:c1::a9fe:a9fe]/",
        "http://[fd00:42::42]/",
    ];

    #[tokio::test]
    async fn an_upstream_elsewhere_may_not_lead_into_this_machine() {
        for target in SPECIAL {
            assert!(!allows("https://203.0.113.7", target).await, "{target}");
        }
        for target in [
            "https://203.0.113.8/",
            "https://10.0.0.5:9000/",
            "https://[2001:db8::1]/",
            "https://cdn.example/",
            "https://metadata.example/",
            "https://internal.example/",
            "https://localhost.example/",
            // The resolver judges it by its addresses.
            "http://minio.corp.internal/",
            "http://internal/",
            // What translators make of an address elsewhere.
            "https://[::ffff:0:203.0.113.8]/",
            "https://[64:ff9b::203.0.113.8]/",
            "https://[2002:cb00:7108::1]/",
            "https://[2001:0:cb00:7107:0:0:34ff:8ef7]/",
            "https://[2001:db8::5efe:203.0.113.8]/",
            // It has the middle of an ISATAP address alone.
            "https://[2001:db8::1:5efe:127.0.0.1]/",
        ] {
            assert!(allows("https://203.0.113.7", target).await, "{target}");
        }
    }

    #[tokio::test]
    async fn an_upstream_on_loopback_may_lead_to_loopback_and_no_further() {
        for (home, target, allowed) in [
            ("http://127.0.0.1:5000", "http://127.0.0.2:80/", true),
            ("http://127.0.0.1:5000", "http://[::1]/", true),
            ("http://localhost:5000", "http://127.0.0.1/", true),
            ("http://127.0.0.1:5000", "http://169.254.169.254/", false),
            ("http://169.254.7.7", "http://169.254.7.7:81/", true),
            ("http://169.254.7.7", "http://169.254.169.254/", false),
            ("http://127.0.0.1:5000", "http://0.0.0.0/", false),
            ("http://127.0.0.1:5000", "http://localhost/", true),
            ("http://localhost.:5000", "http://a.localhost/", true),
            ("http://127.0.0.1:5000", "http://metadata/", false),
            ("http://127.0.0.1:5000", "http://[::ffff:0:7f00:1]/", true),
            ("http://127.0.0.1:5000", "http://[2001:0:7f00:1::1]/", false),
            ("http://registry.corp.internal", "http://minio.corp.internal/", true),
            ("http://registry.corp.internal", "http://metadata.google.internal/", false),
            ("http://metadata", "http://metadata/", true),
        ] {
            assert_eq!(allows(home, target).await, allowed, "{home} {target}");
        }
    }

    #[tokio::test]
    async fn the_resolver_judges_names_by_their_addresses() {
        let resolve = async |home: &str| filter(home).resolve("localhost".parse().unwrap()).await;
        let Err(error) = resolve("https://203.0.113.7").await else { panic!("localhost was not refused") };
        assert!(error.is::<AddressRefused>());
        assert!(resolve("http://127.0.0.1:5000").await.is_ok());
    }

    #[tokio::test]
    async fn a_proxy_on_this_machine_is_dialled_but_is_no_target() {
        let home = vec![Host::Ipv4(Ipv4Addr::new(203, 0, 113, 7))];
        let (proxies, resolve) = (vec!["localhost".into()], resolve_by_system);
        let inner = Inner { home, chosen: vec![], proxies, resolve, lookups: lookups() };
        let filter = AddressFilter(Arc::new(inner));
        assert!(filter.resolve("localhost".parse().unwrap()).await.is_ok());
        assert!(filter.check(&Url::parse("http://localhost:3128/").unwrap()).await.is_err());
    }

    #[tokio::test]
    async fn a_name_is_judged_by_where_it_leads_when_resolved_here() {
        fn resolve(name: &str) -> io::Result<Vec<SocketAddr>> {
            Ok(vec![if name.starts_with("here.") { ([127, 0, 0, 1], 0) } else { ([203, 0, 113, 7], 0) }.into()])
        }
        for (home, proxy, target, allowed) in [
            ("there.example", Some("here.example"), "http://here.example/", false),
            ("there.example", Some("there.example"), "http://here.example/", true),
            ("there.example", Some("there.example"), "http://here.internal/", false),
            ("there.example", Some("there.example"), "http://there.internal/", true),
            // It is judged when it is resolved to be dialled.
            ("there.example", None, "http://here.internal/", true),
            ("there.example", None, "http://127.0.0.1/", false),
            ("here.example", None, "http://127.0.0.1/", true),
        ] {
            let proxies = proxy.into_iter().map(str::to_owned).collect();
            let home = vec![Host::Domain(home.to_owned())];
            let filter = AddressFilter(Arc::new(Inner { home, chosen: vec![], proxies, resolve, lookups: lookups() }));
            assert_eq!(filter.check(&Url::parse(target).unwrap()).await.is_ok(), allowed, "{proxy:?} {target}");
        }
    }

    #[tokio::test]
    async fn a_refusal_says_what_is_true_of_the_host() {
        let refusal = async |target: &str| {
            let refused = filter("https://203.0.113.7").check(&Url::parse(target).unwrap()).await;
            refused.unwrap_err().to_string()
        };
        assert!(refusal("http://metadata.google.internal/").await.contains("is a name of a cloud's metadata service"));
        assert!(refusal("http://169.254.169.254/").await.contains("leads to a loopback, link-local"));
    }

    #[tokio::test]
    async fn what_the_operator_listed_is_dialled() {
        let listed = ["localhost:8443".to_owned()];
        let filter = AddressFilter::new(&[Url::parse("https://203.0.113.7").unwrap()], &listed);
        assert!(filter.resolve("localhost".parse().unwrap()).await.is_ok());
    }

    #[tokio::test]
    async fn a_lookup_that_hangs_is_given_up_and_keeps_its_turn() {
        static ALL: Semaphore = Semaphore::const_new(2);
        let (one, other) = (Arc::new(Semaphore::new(1)), Arc::new(Semaphore::new(1)));
        let (end, ends) = std::sync::mpsc::channel::<()>();
        tokio::time::pause();
        let hung = in_turn(&one, &ALL, move || {
            let _ = ends.recv();
            Ok(1)
        });
        let (given_up, ()) = tokio::join!(hung, tokio::time::advance(2 * LOOKUP_TIMEOUT));
        assert_eq!(given_up.unwrap_err().kind(), io::ErrorKind::TimedOut);
        // There is no second thread for it.
        let (waited, ()) = tokio::join!(in_turn(&one, &ALL, || Ok(2)), tokio::time::advance(2 * LOOKUP_TIMEOUT));
        assert_eq!(waited.unwrap_err().kind(), io::ErrorKind::TimedOut);
        tokio::time::resume();
        assert_eq!(in_turn(&other, &ALL, || Ok(4)).await.unwrap(), 4, "another upstream's names");
        end.send(()).unwrap();
        assert_eq!(in_turn(&one, &ALL, || Ok(3)).await.unwrap(), 3);
    }

    #[test]
    fn hosts_of_authorities() {
        for (authority, host) in [
            ("auth.lan", "auth.lan"),
            ("auth.lan:5001", "auth.lan"),
            ("[::1]:80", "[::1]"),
            ("[::1]", "[::1]"),
            ("::1", "::1"),
        ] {
            assert_eq!(host_of(authority), host);
        }
    }

    #[test]
    fn names_that_lead_to_a_private_network_or_this_machine() {
        for (name, kind) in [
            ("registry.example", AddressKind::Usual),
            ("internal.example", AddressKind::Usual),
            ("minio.corp.internal", AddressKind::Internal),
            ("MINIO.INTERNAL.", AddressKind::Internal),
            ("a.localhost", AddressKind::Loopback),
            ("metadata.google.internal", AddressKind::Metadata),
            ("metadata.example", AddressKind::Usual),
        ] {
            assert_eq!(AddressKind::of(name), kind, "{name}");
        }
    }

    #[test]
    fn proxies_are_written_in_several_ways() {
        for value in ["http://proxy.lan:3128", "proxy.lan:3128", "socks5://user:pw@proxy.lan", "proxy.lan"] {
            assert_eq!(proxy_host(value).as_deref(), Some("proxy.lan"), "{value}");
        }
    }
}
