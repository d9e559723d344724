//! Hosts that clients name, and the patterns of hosts that an upstream lists.

use std::{fmt, net::Ipv6Addr, str::FromStr};

use crate::oci::ParseError;

/// Which hosts belong to an upstream: `hub.mirror.lan`, `mirror.lan:5002`, `*:5002`, `[::1]:5000`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum HostPattern {
    /// This name, on any port.
    Name(String),
    /// This name on this port only.
    NamePort(String, u16),
    /// Any name, on this port.
    AnyPort(u16),
}

impl HostPattern {
    /// The pattern in lower case, for look-ups. A parsed pattern is in lower case already.
    pub(crate) fn lower_case(&self) -> Self {
        match self {
            Self::Name(name) => Self::Name(name.to_ascii_lowercase()),
            Self::NamePort(name, port) => Self::NamePort(name.to_ascii_lowercase(), *port),
            Self::AnyPort(port) => Self::AnyPort(*port),
        }
    }
}

impl FromStr for HostPattern {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        if let Some(port) = text.strip_prefix("*:") {
            return parse_port(port).map(Self::AnyPort).ok_or(ParseError::Host("the port must be 1 to 65535"));
        }
        let Authority { name, port } = Authority::parse(text)
            .ok_or(ParseError::Host("must be a name, name:port, [ipv6], [ipv6]:port or *:port"))?;
        Ok(match port {
            Some(port) => Self::NamePort(name, port),
            None => Self::Name(name),
        })
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::NamePort(name, port) => write!(f, "{name}:{port}"),
            Self::AnyPort(port) => write!(f, "*:{port}"),
        }
    }
}

/// A host as a client named it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Authority {
    /// In lower case, without the dot of an absolute name; an IPv6 address in brackets, in its shortest form.
    pub name: String,
    pub port: Option<u16>,
}

impl Authority {
    /// Parses the host of a request: RFC 3986 section 3.2.3 also allows an empty port.
    pub(crate) fn of_request(text: &str) -> Option<Self> {
        Self::parse(text.strip_suffix(':').unwrap_or(text))
    }

    /// `None` if the text is no `name[:port]`; no pattern matches such a text either.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        if let Some(rest) = text.strip_prefix('[') {
            let (address, port) = rest.split_once(']')?;
            let address: Ipv6Addr = address.parse().ok()?;
            let port = match port {
                "" => None,
                port => Some(parse_port(port.strip_prefix(':')?)?),
            };
            return Some(Self { name: format!("[{address}]"), port });
        }
        let (name, port) = match text.split_once(':') {
            Some((name, port)) => (name, Some(parse_port(port)?)),
            None => (text, None),
        };
        let name = name.strip_suffix('.').unwrap_or(name);
        let label = |label: &[u8]| {
            !label.is_empty() && label.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
        };
        name.as_bytes().split(|byte| *byte == b'.').all(label).then(|| Self { name: name.to_ascii_lowercase(), port })
    }
}

/// Whether a component of an image's name is a registry rather than a part of a repository.
///
/// Source: Docker's rule for image names (distribution/reference, `splitDockerDomain`).
pub(crate) fn looks_like_host(component: &str) -> bool {
    component.contains(['.', ':']) || component.eq_ignore_ascii_case("localhost")
}

/// The same registry's name with the port that https implies, or without it; `None` if the name has another port.
pub(crate) fn other_https_spelling(name: &str) -> Option<String> {
    match name.strip_suffix(":443") {
        Some(bare) => Some(bare.to_owned()),
        None if Authority::parse(name)?.port.is_none() => Some(format!("{name}:443")),
        None => None,
    }
}

/// Digits only (`str::parse` would take a sign), not 0.
fn parse_port(text: &str) -> Option<u16> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|&port| digits && port != 0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn patterns() {
        let name = |name: &str| HostPattern::Name(name.into());
        let name_port = |name: &str, port| HostPattern::NamePort(name.into(), port);
        for (text, pattern, printed) in [
            ("hub.mirror.lan", name("hub.mirror.lan"), "hub.mirror.lan"),
            ("Hub.Mirror.LAN.", name("hub.mirror.lan"), "hub.mirror.lan"),
            ("localhost", name("localhost"), "localhost"),
            ("10.0.0.1:5000", name_port("10.0.0.1", 5000), "10.0.0.1:5000"),
            ("mirror_1:65535", name_port("mirror_1", 65535), "mirror_1:65535"),
            ("*:5002", HostPattern::AnyPort(5002), "*:5002"),
            ("[::1]", name("[::1]"), "[::1]"),
            ("[0:0::1]:5000", name_port("[::1]", 5000), "[::1]:5000"),
            ("[FD00::A]:5000", name_port("[fd00::a]", 5000), "[fd00::a]:5000"),
        ] {
            let read: HostPattern = text.parse().unwrap();
            assert_eq!(read, pattern, "{text}");
            assert_eq!(read.to_string(), printed);
            assert_eq!(printed.parse(), Ok(read));
        }
    }

    #[test]
    fn what_is_no_pattern() {
        for bad in [
            "",
            ".",
            "..",
            "*",
            "*:",
            "*:0",
            "*:65536",
            "*:+1",
            "*.lan",
            "a..b",
            ".a",
            "a:",
            "a:0",
            "a:b",
            "a:+1",
            "a:1:2",
            "::1",
            "[::1",
            "::1]",
            "[::1]5000",
            "[::1]:",
            "[x]",
            "[10.0.0.1]",
            "a b",
            "a/b",
            "http://a",
            "user@a",
            "é.lan",
            "a\0",
            "a,b",
        ] {
            assert!(matches!(bad.parse::<HostPattern>(), Err(ParseError::Host(_))), "{bad:?}");
        }
    }

    #[test]
    fn the_port_that_https_implies() {
        for (name, other) in [
            ("docker.io", Some("docker.io:443")),
            ("docker.io:443", Some("docker.io")),
            ("harbor.lan:8443", None),
            ("team", Some("team:443")),
            ("[::1]", Some("[::1]:443")),
        ] {
            assert_eq!(other_https_spelling(name).as_deref(), other, "{name}");
        }
    }

    proptest! {
        #[test]
        fn patterns_print_as_they_are_read(text in "[a-zA-Z0-9.*:\\[\\]-]{0,16}|.{0,12}") {
            if let Ok(pattern) = text.parse::<HostPattern>() {
                prop_assert_eq!(&pattern.lower_case(), &pattern);
                prop_assert_eq!(pattern.to_string().parse::<HostPattern>(), Ok(pattern));
            }
        }
    }
}
