//! The cluster that a forebay belongs to, as it is configured.

use std::{fmt, path::PathBuf, str::FromStr, sync::Arc, time::Duration};

use super::authority::Authority;

/// The longest name of a zone, in bytes.
pub const MAX_ZONE: usize = 64;

/// How long a peer may take to show that it is alive, unless the configuration says otherwise.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(1);

/// The cluster that this forebay belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Where the members are named. None: the key is for the records in the object store alone.
    pub peers: Vec<Source>,
    /// Which member this forebay is; `None`: the one at an address of this machine.
    pub advertise: Option<Authority>,
    /// The file with the key that all members share.
    pub key_file: PathBuf,
    /// Where this forebay is: bytes between zones are counted apart.
    pub zone: Option<Arc<str>>,
    /// The name in the certificates of peers that a DNS name lists.
    pub server_name: Option<Arc<str>>,
    /// The file of the CAs that sign the certificates of peers, beside those of the system.
    pub ca: Option<PathBuf>,
    /// How long a peer may take to answer a PING; to accept a connection, a quarter of that.
    pub timeout: Duration,
}

impl Config {
    /// A forebay without peers, whose key is for the records in the object store.
    pub(crate) fn of_key(key_file: PathBuf) -> Self {
        Self {
            peers: Vec::new(),
            advertise: None,
            key_file,
            zone: None,
            server_name: None,
            ca: None,
            timeout: DEFAULT_TIMEOUT,
        }
    }
}

/// One entry of `peers`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    One(Authority),
    /// A DNS name; each of its addresses is a member.
    Dns {
        name: Arc<str>,
        port: u16,
    },
}

/// A text is no entry of `peers`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be like \"dns:forebay.mirror.svc:5000\" or \"https://node2:5000\"")]
pub struct NoSource;

impl FromStr for Source {
    type Err = NoSource;

    fn from_str(text: &str) -> Result<Self, NoSource> {
        let Some(name_and_port) = text.strip_prefix("dns:") else {
            return text.parse().map(Self::One).map_err(|_| NoSource);
        };
        let (name, port) = name_and_port.rsplit_once(':').ok_or(NoSource)?;
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
        match port.parse() {
            Ok(port) if port > 0 && !name.is_empty() && name.len() <= 253 && name.bytes().all(is_name) => {
                Ok(Self::Dns { name: name.into(), port })
            }
            _ => Err(NoSource),
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::One(authority) => authority.fmt(f),
            Self::Dns { name, port } => write!(f, "dns:{name}:{port}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_are_urls_or_dns_names() {
        for (text, expected) in [
            ("dns:forebay.mirror.svc:5000", Some("dns:forebay.mirror.svc:5000")),
            ("https://node2:5000", Some("https://node2:5000")),
            ("dns:forebay", None),
            ("dns::5000", None),
            ("dns:a b:5000", None),
            ("dns:forebay:0", None),
            ("dns:forebay:x", None),
            ("node2:5000", None),
            ("", None),
        ] {
            let parsed = text.parse::<Source>().ok();
            assert_eq!(parsed.map(|source| source.to_string()).as_deref(), expected, "{text}");
        }
    }
}
