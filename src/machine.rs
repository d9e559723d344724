//! The addresses by which other machines reach this one.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

/// Addresses of documentation (RFC 5737, RFC 3849): the kernel routes to them as to any address far away.
const FAR: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1))];

/// The address that this machine has in its network, for each family; none without a route.
#[derive(Clone, Copy, Debug, Default)]
pub struct Machine {
    pub v4: Option<IpAddr>,
    pub v6: Option<IpAddr>,
}

impl Machine {
    /// Asks the kernel from which address it would send to a machine far away. Sends nothing.
    pub fn find() -> Self {
        let [v4, v6] = FAR.map(source_of_route);
        Self { v4, v6 }
    }

    /// Whether an address is one of this machine's.
    pub fn has(self, address: IpAddr) -> bool {
        address.is_loopback() || address.is_unspecified() || self.v4 == Some(address) || self.v6 == Some(address)
    }

    /// An address at which clients reach a listener: a wildcard is none. A listener on `[::]` takes IPv4, too.
    pub fn reach(self, listener: SocketAddr) -> SocketAddr {
        let ip = match listener.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => self.v4.unwrap_or(Ipv4Addr::LOCALHOST.into()),
            IpAddr::V6(ip) if ip.is_unspecified() => self.v4.or(self.v6).unwrap_or(Ipv6Addr::LOCALHOST.into()),
            ip => ip.to_canonical(),
        };
        SocketAddr::new(ip, listener.port())
    }
}

/// Whether an address is one of this machine's, of whichever interface: only to such a one can a socket be bound. `None`: the
/// kernel binds to any (`ip_nonlocal_bind`), or does not have the family.
pub fn is_own_address(address: IpAddr) -> Option<bool> {
    let binds = |ip: IpAddr| UdpSocket::bind((ip, 0)).is_ok();
    let far = FAR.into_iter().find(|far| far.is_ipv4() == address.is_ipv4())?;
    if binds(far) { None } else { Some(binds(address)) }
}

fn source_of_route(far: IpAddr) -> Option<IpAddr> {
    let any: SocketAddr = match far {
        IpAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        IpAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any).ok()?;
    // Any port: connecting a datagram socket sends nothing (connect(2)).
    socket.connect((far, 9)).ok()?;
    socket.local_addr().ok().map(|address| address.ip()).filter(|ip| !ip.is_unspecified())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_of_this_machine_are_its_own() {
        for (address, expected) in [("127.0.0.1", true), ("127.9.9.9", true), ("198.51.100.7", false)] {
            let found = is_own_address(address.parse().unwrap());
            assert!(found.is_none_or(|found| found == expected), "{address}: {found:?}");
        }
    }

    #[test]
    fn a_wildcard_is_reached_at_the_machines_address() {
        let (v4, v6): (IpAddr, IpAddr) = ("10.0.4.17".parse().unwrap(), "2001:db8::17".parse().unwrap());
        let both = Machine { v4: Some(v4), v6: Some(v6) };
        for (machine, listener, expected) in [
            (both, "0.0.0.0:5000", "10.0.4.17:5000"),
            (both, "[::]:5000", "10.0.4.17:5000"),
            (Machine { v4: None, ..both }, "[::]:5000", "[2001:db8::17]:5000"),
            (Machine { v4: None, ..both }, "0.0.0.0:5000", "127.0.0.1:5000"),
            (Machine::default(), "0.0.0.0:5000", "127.0.0.1:5000"),
            (Machine::default(), "[::]:5000", "[::1]:5000"),
            (both, "127.0.0.1:7", "127.0.0.1:7"),
            (both, "192.0.2.7:7", "192.0.2.7:7"),
            (both, "[::ffff:192.0.2.7]:7", "192.0.2.7:7"),
        ] {
            assert_eq!(machine.reach(listener.parse().unwrap()).to_string(), expected, "{machine:?} {listener}");
        }
    }
}
