//! What `--control` names: a control socket, or an admin listener (pure).

use std::{ffi::OsString, fmt, path::PathBuf};

use clap::builder::{OsStringValueParser, TypedValueParser};
use url::{Host, Url};

/// Where a running forebay is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ControlPlace {
    Socket(PathBuf),
    Listener(ListenerUrl),
}

/// The URL of an admin listener. Displayed without a slash at its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ListenerUrl {
    /// A name or an address, without brackets.
    pub host: String,
    pub port: u16,
    /// As requests name it: an IPv6 address has brackets, port 80 is left out.
    pub authority: String,
}

/// Why a text is no place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum PlaceError {
    #[error("must not be empty")]
    Empty,
    #[error(
        "the admin listener speaks clear HTTP: write http://HOST:PORT, such as the end of a tunnel (ssh -L) to its machine"
    )]
    Https,
    #[error("must be the path of a socket, or http://HOST:PORT")]
    NoUrl,
    #[error("write http://{0} for the admin listener there, or ./{0} for a socket of that name")]
    NoScheme(String),
}

impl ControlPlace {
    /// Reads the value of the flag, which may be a path that is no UTF-8.
    pub(super) fn parser() -> impl TypedValueParser<Value = Self> {
        OsStringValueParser::new().try_map(Self::parse)
    }

    fn parse(text: OsString) -> Result<Self, PlaceError> {
        match text.to_str() {
            Some("") => Err(PlaceError::Empty),
            Some(url) if url.contains("://") => ListenerUrl::parse(url).map(Self::Listener),
            Some(address) if has_port(address) => Err(PlaceError::NoScheme(address.to_owned())),
            _ => Ok(Self::Socket(text.into())),
        }
    }
}

/// Whether a text looks like `HOST:PORT`.
fn has_port(text: &str) -> bool {
    let port = text.rsplit_once(':').filter(|(host, _)| !host.is_empty() && !host.contains('/'));
    port.is_some_and(|(_, port)| port.parse::<u16>().is_ok())
}

impl ListenerUrl {
    fn parse(text: &str) -> Result<Self, PlaceError> {
        let url = Url::parse(text).map_err(|_| PlaceError::NoUrl)?;
        let has_more = url.path() != "/" || url.query().is_some() || url.fragment().is_some();
        let has_user = !url.username().is_empty() || url.password().is_some();
        let host = url.host().ok_or(PlaceError::NoUrl)?;
        match url.scheme() {
            "https" => return Err(PlaceError::Https),
            "http" if !has_more && !has_user => {}
            _ => return Err(PlaceError::NoUrl),
        }
        let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
        let authority = format!("{host}{port}");
        let host = match host {
            Host::Domain(name) => name.to_owned(),
            Host::Ipv4(address) => address.to_string(),
            Host::Ipv6(address) => address.to_string(),
        };
        Ok(Self { host, port: url.port().unwrap_or(80), authority })
    }
}

impl fmt::Display for ListenerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}", self.authority)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt as _;

    use super::*;

    #[test]
    fn a_url_is_an_admin_listener() {
        for (text, host, port, authority) in [
            ("http://127.0.0.1:5001", "127.0.0.1", 5001, "127.0.0.1:5001"),
            ("http://Mirror.LAN:5001/", "mirror.lan", 5001, "mirror.lan:5001"),
            ("HTTP://mirror", "mirror", 80, "mirror"),
            ("http://[::1]:5001", "::1", 5001, "[::1]:5001"),
        ] {
            let expected = ListenerUrl { host: host.to_owned(), port, authority: authority.to_owned() };
            assert_eq!(expected.to_string(), format!("http://{authority}"));
            assert_eq!(ControlPlace::parse(text.into()), Ok(ControlPlace::Listener(expected)), "{text}");
        }
    }

    #[test]
    fn anything_else_is_a_socket_or_a_mistake() {
        for path in [b"control.sock".to_vec(), b"/run/\xff/control.sock".to_vec(), b"./127.0.0.1:5001".to_vec()] {
            let path = OsString::from_vec(path);
            assert_eq!(ControlPlace::parse(path.clone()), Ok(ControlPlace::Socket(path.into())));
        }
        for (text, expected) in [
            ("", PlaceError::Empty),
            ("https://mirror.lan:5001", PlaceError::Https),
            ("unix:///run/control.sock", PlaceError::NoUrl),
            ("127.0.0.1:5001", PlaceError::NoScheme("127.0.0.1:5001".to_owned())),
            ("[::1]:5001", PlaceError::NoScheme("[::1]:5001".to_owned())),
            ("mirror.lan:5001", PlaceError::NoScheme("mirror.lan:5001".to_owned())),
            ("http://", PlaceError::NoUrl),
            ("http://mirror.lan:5001/metrics", PlaceError::NoUrl),
            ("http://mirror.lan:5001/?a", PlaceError::NoUrl),
            ("http://me:secret@mirror.lan:5001", PlaceError::NoUrl),
            ("http://mirror.lan:66000", PlaceError::NoUrl),
        ] {
            assert_eq!(ControlPlace::parse(text.into()), Err(expected), "{text}");
        }
    }
}
