//! How a client reaches forebay: scheme, host and port.

use std::{
    fmt,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
};

use crate::oci::host::{Authority, looks_like_host};

/// A URL without a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    pub scheme: &'static str,
    /// A name or an address, with the port where it is not that of the scheme.
    pub host: String,
    pub is_loopback: bool,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme, self.host)
    }
}

impl Origin {
    /// The origin of a request: its host, or else the address that the client connected to. The host is spelled anew, so
    /// that it has no character that is special anywhere.
    pub fn of_request(tls: bool, host: Option<&str>, local: SocketAddr) -> Self {
        let (scheme, default_port) = if tls { ("https", 443) } else { ("http", 80) };
        // A command would take a word with a hyphen in front for a flag.
        let named = host.and_then(Authority::of_request).filter(|named| !named.name.starts_with('-'));
        let Some(Authority { name, port }) = named else {
            let local = SocketAddr::new(local.ip().to_canonical(), local.port());
            return Self { scheme, host: local.to_string(), is_loopback: local.ip().is_loopback() };
        };
        let is_loopback = is_loopback(&name);
        let host = match port {
            Some(port) => format!("{name}:{port}"),
            None if looks_like_host(&name) => name,
            // Clients would take a bare word for a part of the repository.
            None => format!("{name}:{default_port}"),
        };
        Self { scheme, host, is_loopback }
    }

    /// Whether the client has to be told that forebay speaks clear HTTP: clients take it from loopback addresses.
    pub fn is_insecure(&self) -> bool {
        self.is_clear() && !self.is_loopback
    }

    pub(super) fn is_clear(&self) -> bool {
        self.scheme == "http"
    }
}

/// Source for the names: RFC 6761 section 6.3.
fn is_loopback(name: &str) -> bool {
    let v6 = || name.strip_prefix('[')?.strip_suffix(']')?.parse::<Ipv6Addr>().ok();
    name == "localhost"
        || name.parse::<Ipv4Addr>().is_ok_and(|address| address.is_loopback())
        || v6().is_some_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_that_of_the_request() {
        let local = "10.0.4.17:5000";
        for (tls, host, local, expected, insecure) in [
            (false, Some("mirror.lan:5000"), local, "http://mirror.lan:5000", true),
            (true, Some("Mirror.LAN.:5000"), local, "https://mirror.lan:5000", false),
            (true, Some("mirror.lan"), local, "https://mirror.lan", false),
            (false, Some("mirror"), local, "http://mirror:80", true),
            (true, Some("mirror"), local, "https://mirror:443", false),
            (false, Some("localhost:5000"), local, "http://localhost:5000", false),
            (false, Some("127.1.2.3:5000"), local, "http://127.1.2.3:5000", false),
            (false, Some("[::1]:5000"), local, "http://[::1]:5000", false),
            (false, Some("[FD00::1]"), local, "http://[fd00::1]", true),
            (false, Some("mirror.lan:"), local, "http://mirror.lan", true),
            // HTTP/1.0 names no host.
            (false, None, local, "http://10.0.4.17:5000", true),
            (true, None, "[::ffff:10.0.4.17]:5000", "https://10.0.4.17:5000", false),
            (false, None, "[fd00::1]:5000", "http://[fd00::1]:5000", true),
            // What is no host gets the address of the listener.
            (false, Some("a\"b"), local, "http://10.0.4.17:5000", true),
            (false, Some("<script>"), local, "http://10.0.4.17:5000", true),
            (false, Some("-v.evil.example:5000"), local, "http://10.0.4.17:5000", true),
        ] {
            let origin = Origin::of_request(tls, host, local.parse().unwrap());
            assert_eq!((&*origin.to_string(), origin.is_insecure()), (expected, insecure), "{tls} {host:?} {local}");
        }
    }
}
