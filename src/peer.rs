//! Clients by their addresses: which of them count as one, and which networks the operator trusts.
//!
//! A client with an IPv6 network has 2^64 addresses, so a /64 counts as one peer. [`shares`] bounds how much of a limited resource
//! one peer may hold.

pub mod shares;

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    str::FromStr,
    sync::Arc,
};

use arc_swap::ArcSwap;

pub use self::shares::{Permit, Refused, Shares};

/// How many bits of an IPv6 address distinguish peers.
const PEER_BITS: u8 = 64;

/// All addresses that count as one peer: an IPv4 address, or the /64 of an IPv6 address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerPrefix(IpAddr);

impl From<IpAddr> for PeerPrefix {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self(IpAddr::V4(address)),
            IpAddr::V6(address) => Self(IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & mask(PEER_BITS, 128)))),
        }
    }
}

impl fmt::Display for PeerPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            IpAddr::V4(address) => address.fmt(f),
            IpAddr::V6(address) => write!(f, "{address}/{PEER_BITS}"),
        }
    }
}

/// A network as operators write it: `10.0.0.0/8`, `fd00::/8`, or one address. IPv4-mapped addresses (`::ffff:10.0.0.0/104`) are
/// IPv4 addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

/// Why a text is no [`Network`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NetworkError {
    #[error("must be a network such as \"10.0.0.0/8\" or \"fd00::/8\", or an address, not {0:?}")]
    Form(String),
    #[error("the prefix of {text:?} must be 0 to {longest}")]
    Prefix { text: String, longest: u8 },
    #[error("{text:?} has bits set behind its prefix: write {network}")]
    HostBits { text: String, network: Network },
}

impl Network {
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_ipv4() == self.address.is_ipv4() && network_of(address, self.prefix) == self.address
    }
}

impl FromStr for Network {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let form = || NetworkError::Form(text.to_owned());
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let written: IpAddr = address.parse().map_err(|_| form())?;
        let longest = width(written);
        let prefix = match prefix {
            None => longest,
            // Rust parses `+8` as a number.
            Some(digits) if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) => {
                return Err(form());
            }
            Some(digits) => digits
                .parse()
                .ok()
                .filter(|prefix| *prefix <= longest)
                .ok_or_else(|| NetworkError::Prefix { text: text.to_owned(), longest })?,
        };
        let network = match (written, written.to_canonical()) {
            // All addresses in ::ffff:0:0/96 are IPv4-mapped; a shorter prefix contains others, too.
            (IpAddr::V6(_), address @ IpAddr::V4(_)) if prefix >= 96 => Network { address, prefix: prefix - 96 },
            _ => Network { address: written, prefix },
        };
        let masked = Network { address: network_of(network.address, network.prefix), ..network };
        if masked != network {
            return Err(NetworkError::HostBits { text: text.to_owned(), network: masked });
        }
        Ok(network)
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

fn width(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn network_of(address: IpAddr, prefix: u8) -> IpAddr {
    match address {
        IpAddr::V4(address) => {
            IpAddr::V4((address.to_bits() & u32::try_from(mask(prefix, 32)).unwrap_or(u32::MAX)).into())
        }
        IpAddr::V6(address) => IpAddr::V6((address.to_bits() & mask(prefix, 128)).into()),
    }
}

/// The first `prefix` of `width` bits.
fn mask(prefix: u8, width: u8) -> u128 {
    let all = u128::MAX >> (128 - u32::from(width));
    all & !all.checked_shr(prefix.into()).unwrap_or(0)
}

/// `server.trusted_networks`: peers without a limit of their own, since many clients are behind one address there. A cheap
/// handle; a reload sets it for all handles.
#[derive(Clone, Debug, Default)]
pub struct TrustedNetworks(Arc<ArcSwap<Vec<Network>>>);

impl TrustedNetworks {
    pub fn new(networks: Vec<Network>) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(networks)))
    }

    pub fn set(&self, networks: Vec<Network>) {
        self.0.store(Arc::new(networks));
    }

    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.load().iter().any(|network| network.contains(address))
    }
}

/// The address in the text of a socket address, as `2001:db8::1` of `[2001:db8::1]:5123`; the text itself if it is none.
pub fn address(text: &str) -> String {
    text.parse().map_or_else(|_| text.to_owned(), |peer: SocketAddr| peer.ip().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_neither_port_nor_brackets() {
        for (text, expected) in
            [("10.0.4.31:5123", "10.0.4.31"), ("[2001:db8::1]:5123", "2001:db8::1"), ("unix", "unix"), ("", "")]
        {
            assert_eq!(address(text), expected);
        }
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn addresses_of_one_network_are_one_peer() {
        for (address, peer) in [
            ("10.1.2.3", "10.1.2.3"),
            ("::ffff:10.1.2.3", "10.1.2.3"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
            ("2001:db8:1:2::", "2001:db8:1:2::/64"),
            ("::1", "::/64"),
        ] {
            assert_eq!(PeerPrefix::from(ip(address)).to_string(), peer, "{address}");
        }
    }

    #[test]
    fn networks_contain_what_they_say() {
        for (network, inside, outside) in [
            ("10.0.0.0/8", "10.255.0.1", "11.0.0.0"),
            ("10.0.0.0/8", "::ffff:10.0.0.1", "::10.0.0.1"),
            ("192.0.2.7", "192.0.2.7", "192.0.2.6"),
            ("192.0.2.128/25", "192.0.2.255", "192.0.2.127"),
            ("0.0.0.0/0", "8.8.8.8", "2001:db8::1"),
            ("::/0", "2001:db8::1", "8.8.8.8"),
            ("fd00::/8", "fdff::1", "fe00::1"),
            ("2001:db8::1", "2001:db8::1", "2001:db8::2"),
            ("::ffff:10.0.0.0/104", "10.9.9.9", "11.0.0.0"),
        ] {
            let network: Network = network.parse().unwrap();
            assert!(network.contains(ip(inside)), "{network} {inside}");
            assert!(!network.contains(ip(outside)), "{network} {outside}");
            assert_eq!(network.to_string().parse(), Ok(network));
        }
    }

    #[test]
    fn a_malformed_network_is_refused_with_a_reason() {
        for (text, reason) in [
            ("", "must be a network such as"),
            ("10.0.0.0/", "must be a network such as"),
            ("10.0.0.0/+8", "must be a network such as"),
            ("10.0.0.0/8/8", "must be a network such as"),
            ("10.0.0/8", "must be a network such as"),
            ("10.0.0.0/255.0.0.0", "must be a network such as"),
            ("cluster.local", "must be a network such as"),
            ("[fd00::]/8", "must be a network such as"),
            (" 10.0.0.0/8", "must be a network such as"),
            ("10.0.0.0/33", "must be 0 to 32"),
            ("10.0.0.0/4294967304", "must be 0 to 32"),
            ("fd00::/129", "must be 0 to 128"),
            ("10.0.0.1/8", "write 10.0.0.0/8"),
            ("fd00::1/8", "write fd00::/8"),
            ("::ffff:10.0.0.1/104", "write 10.0.0.0/8"),
            ("::ffff:10.0.0.0/95", "write ::fffe:0:0/95"),
        ] {
            let error = text.parse::<Network>().unwrap_err().to_string();
            assert!(error.contains(reason), "{text:?}: {error}");
        }
    }

    #[test]
    fn a_reload_sets_the_networks_for_every_handle() {
        let networks = TrustedNetworks::default();
        let handle = networks.clone();
        assert!(!handle.contains(ip("10.0.0.1")));
        networks.set(vec!["10.0.0.0/8".parse().unwrap()]);
        assert!(handle.contains(ip("10.0.0.1")));
    }
}
