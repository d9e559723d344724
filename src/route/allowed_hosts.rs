//! Which hosts a listener on a loopback address answers to (pure).
//!
//! What must hold: a name that only the DNS knows opens nothing. A page in a browser of this machine can have its own name
//! resolved to 127.0.0.1 (DNS rebinding) and then reads, as its own origin, whatever is answered to that name.

use std::{collections::HashSet, net::Ipv4Addr};

use crate::oci::host::{Authority, HostPattern};

/// Names beside localhost and addresses: those that upstreams list as `hosts`, and `allowed_hosts`. Made anew on reload.
#[derive(Clone, Debug, Default)]
pub struct AllowedHosts(HashSet<String>);

impl AllowedHosts {
    /// Of a name with a port the name counts: it is the operator's on any port. A port of any name (`*:5002`) names none.
    pub fn new<'a>(patterns: impl Iterator<Item = &'a HostPattern>) -> Self {
        let name = |pattern: &HostPattern| match pattern.lower_case() {
            HostPattern::Name(name) | HostPattern::NamePort(name, _) => Some(name),
            HostPattern::AnyPort(_) => None,
        };
        Self(patterns.filter_map(name).collect())
    }

    /// Whether a request for this host is answered. A browser always names one; HTTP/1.0 may name none.
    pub fn allow(&self, host: Option<&str>) -> bool {
        let Some(host) = host else { return true };
        let Some(Authority { name, .. }) = Authority::of_request(host) else { return false };
        // Only addresses have brackets.
        let is_address = name.starts_with('[') || name.parse::<Ipv4Addr>().is_ok();
        let is_local = name == "localhost" || name.ends_with(".localhost");
        is_address || is_local || self.0.contains(&name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_only_the_dns_knows_are_not_answered() {
        let patterns: Vec<HostPattern> =
            ["Mirror.lan.", "hub.lan:5002", "*:5003", "[fd00::1]"].map(|text| text.parse().unwrap()).into();
        let hosts = AllowedHosts::new(patterns.iter());
        for (host, expected) in [
            ("localhost", true),
            ("LocalHost:5000", true),
            ("localhost.", true),
            ("a.localhost", true),
            ("A.b.LOCALHOST.:1", true),
            ("127.0.0.1", true),
            ("127.0.0.1:5000", true),
            ("10.1.2.3", true),
            ("[::1]:5000", true),
            ("[2001:DB8::1]", true),
            ("mirror.lan", true),
            ("MIRROR.LAN.:80", true),
            ("hub.lan:5002", true),
            ("hub.lan:5001", true),
            ("hub.lan", true),
            ("evil.example", false),
            ("evil.example:5003", false),
            ("x.mirror.lan", false),
            ("mirror.lan.evil.example", false),
            ("evillocalhost", false),
            ("localhost.evil.example", false),
            ("127.0.0.1.evil.example", false),
            ("127.0.0.1.nip.io:5000", false),
            ("127.1", false),
            ("2130706433", false),
            ("0x7f000001", false),
            ("", false),
            ("::1", false),
        ] {
            assert_eq!(hosts.allow(Some(host)), expected, "{host}");
        }
        assert!(hosts.allow(None), "HTTP/1.0");
        assert!(!AllowedHosts::default().allow(Some("mirror.lan")));
    }
}
