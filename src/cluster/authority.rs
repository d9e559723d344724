//! Where a peer is: scheme, host and port.

use std::{fmt, net::SocketAddr, str::FromStr, sync::Arc};

use reqwest::Url;

/// The place of a peer, by which all members name it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Authority {
    is_tls: bool,
    /// `host:port`; an IPv6 address is in brackets.
    host_and_port: Arc<str>,
}

/// A text names no peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be like \"https://node2:5000\", without path, user or query")]
pub struct NoAuthority;

impl Authority {
    /// The peer at an address that DNS gave.
    pub(super) fn of_address(is_tls: bool, address: SocketAddr) -> Self {
        let address = SocketAddr::new(address.ip().to_canonical(), address.port());
        Self { is_tls, host_and_port: address.to_string().into() }
    }

    pub(crate) fn is_tls(&self) -> bool {
        self.is_tls
    }

    pub(crate) fn host_and_port(&self) -> &str {
        &self.host_and_port
    }

    /// The address, where the host is one.
    pub(crate) fn address(&self) -> Option<SocketAddr> {
        self.host_and_port.parse().ok()
    }
}

impl FromStr for Authority {
    type Err = NoAuthority;

    fn from_str(text: &str) -> Result<Self, NoAuthority> {
        let url = Url::parse(text).map_err(|_| NoAuthority)?;
        let is_tls = match url.scheme() {
            "https" => true,
            "http" => false,
            _ => return Err(NoAuthority),
        };
        let is_bare = url.path() == "/" && url.query().is_none() && url.fragment().is_none();
        let has_user = !url.username().is_empty() || url.password().is_some();
        let (Some(host), Some(port)) = (url.host_str(), url.port_or_known_default()) else { return Err(NoAuthority) };
        if !is_bare || has_user {
            return Err(NoAuthority);
        }
        Ok(Self { is_tls, host_and_port: format!("{host}:{port}").into() })
    }
}

impl fmt::Display for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_tls { "https" } else { "http" };
        write!(f, "{scheme}://{}", self.host_and_port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_of_peers_have_one_form() {
        for (text, expected) in [
            ("https://node2:5000", Some("https://node2:5000")),
            ("https://Node2:5000/", Some("https://node2:5000")),
            ("https://node2", Some("https://node2:443")),
            ("http://10.0.0.7", Some("http://10.0.0.7:80")),
            ("http://[2001:db8::1]:5000", Some("http://[2001:db8::1]:5000")),
            ("node2:5000", None),
            ("ftp://node2:5000", None),
            ("https://node2:5000/v2/", None),
            ("https://node2:5000?x", None),
            ("https://ann:secret@node2:5000", None),
            ("", None),
        ] {
            let parsed = text.parse::<Authority>().map(|authority| authority.to_string());
            assert_eq!(parsed.ok().as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn an_address_has_the_form_of_its_url() {
        for (address, expected) in [
            ("10.0.0.7:5000", "http://10.0.0.7:5000"),
            ("[2001:db8::1]:5000", "http://[2001:db8::1]:5000"),
            ("[::ffff:10.0.0.7]:5000", "http://10.0.0.7:5000"),
        ] {
            let authority = Authority::of_address(false, address.parse().unwrap());
            assert_eq!(authority.to_string(), expected);
            assert_eq!(expected.parse::<Authority>(), Ok(authority.clone()), "{address}");
            assert_eq!(
                authority.address().map(|at| at.ip()),
                address.parse().ok().map(|at: SocketAddr| at.ip().to_canonical())
            );
        }
    }
}
