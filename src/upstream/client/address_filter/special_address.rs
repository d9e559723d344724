//! Addresses that a URL named by an upstream must not lead to (pure).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

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

/// Whether an upstream at `home` may redirect to a special address: one on loopback to all of loopback, another one
/// only to its own address.
pub(super) fn may_redirect(home: IpAddr, address: IpAddr) -> bool {
    let (home, address) = (embedded_ipv4(home), embedded_ipv4(address));
    home == address || (home.is_loopback() && address.is_loopback())
}

/// Loopback, link-local, unspecified, multicast, broadcast, a cloud's metadata service, or an address
/// that a translator of the local network turns into one of them.
pub(super) fn is_special(address: IpAddr) -> bool {
    if METADATA.contains(&address) || tunnelled(address).into_iter().flatten().any(|end| is_special(end.into())) {
        return true;
    }
    match embedded_ipv4(address) {
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
                // RFC 8215: only the local network knows where in it the IPv4 address stands.
                || matches!(address.segments(), [0x64, 0xff9b, 1, ..])
        }
    }
}

/// The IPv4 address inside an IPv6 one: mapped, compatible, translated (SIIT, RFC 7915 and 2765), NAT64 (RFC 6052) and
/// 6to4 (RFC 3056).
fn embedded_ipv4(address: IpAddr) -> IpAddr {
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

/// The IPv4 endpoints of the tunnel that an IPv6 address stands for: Teredo's server and its client, whose bits
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
