//! Which hosts are never reached by a proxy: the services that give an instance or a container its credentials (pure).
//!
//! What must hold: such credentials are sent in the clear, so that no machine but this one sees them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use url::Url;

/// The variables that say where such a service is, as a URL or a host.
const VARIABLES: [&str; 4] =
    ["AWS_CONTAINER_CREDENTIALS_FULL_URI", "GCE_METADATA_HOST", "GCE_METADATA_ROOT", "GCE_METADATA_IP"];
/// Google's.
const GOOGLE: &str = "metadata.google.internal";
/// The first two groups of the IPv6 addresses of Amazon's.
const AMAZON: [u16; 2] = [0xfd00, 0x0ec2];

/// The hosts that are never reached by a proxy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct DirectHosts(Vec<String>);

impl DirectHosts {
    /// Those that the environment names, beside the usual ones.
    pub(super) fn of_environment(lookup: impl Fn(&str) -> Option<String>) -> Self {
        let host = |value: String| {
            // A host with a port parses as a URL with a scheme.
            let url = if value.contains("://") { value } else { format!("http://{value}") };
            Some(Url::parse(&url).ok()?.host_str()?.to_owned())
        };
        Self(VARIABLES.iter().filter_map(|variable| host(lookup(variable)?)).collect())
    }

    /// `host`: as a URL has it, an IPv6 address in brackets.
    pub(super) fn has(&self, host: &str) -> bool {
        let host = host.trim_end_matches('.');
        let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let is_usual = match address.parse() {
            Ok(IpAddr::V4(address)) => is_of_link(address),
            Ok(IpAddr::V6(address)) => is_of_link_or_amazon(address),
            Err(_) => host.eq_ignore_ascii_case(GOOGLE),
        };
        is_usual || self.0.iter().any(|known| known.eq_ignore_ascii_case(host))
    }
}

fn is_of_link(address: Ipv4Addr) -> bool {
    address.is_link_local()
}

fn is_of_link_or_amazon(address: Ipv6Addr) -> bool {
    let [first, second, ..] = address.segments();
    address.is_unicast_link_local() || [first, second] == AMAZON || address.to_ipv4_mapped().is_some_and(is_of_link)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_for_credentials_are_reached_directly() {
        let lookup = |name: &str| match name {
            "AWS_CONTAINER_CREDENTIALS_FULL_URI" => Some("http://Keys.lan:8080/v1/credentials?x=1".to_owned()),
            "GCE_METADATA_HOST" => Some("meta.lan:80".to_owned()),
            "GCE_METADATA_IP" => Some("192.0.2.7".to_owned()),
            "GCE_METADATA_ROOT" => Some(String::new()),
            _ => None,
        };
        let hosts = DirectHosts::of_environment(lookup);
        for (host, expected) in [
            ("169.254.169.254", true),
            ("169.254.170.2", true),
            ("169.254.170.23", true),
            ("[fd00:ec2::254]", true),
            ("[fd00:ec2::23]", true),
            ("[fe80::1]", true),
            ("[::ffff:169.254.169.254]", true),
            ("metadata.google.internal", true),
            ("Metadata.Google.Internal.", true),
            ("keys.lan", true),
            ("KEYS.lan", true),
            ("meta.lan", true),
            ("192.0.2.7", true),
            ("192.0.2.8", false),
            ("127.0.0.1", false),
            ("169.255.0.1", false),
            ("[fd00:ec3::1]", false),
            ("bucket.s3.eu-central-1.amazonaws.com", false),
            ("metadata.google.internal.example.com", false),
            ("", false),
        ] {
            assert_eq!(hosts.has(host), expected, "{host}");
        }
        assert!(!DirectHosts::default().has("keys.lan"));
    }
}
