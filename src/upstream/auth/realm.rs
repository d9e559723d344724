//! Decides whether the token realm of a challenge may see this upstream's credentials.
//!
//! The upstream names the realm, or an attacker on the connection does. So forebay sends long-lived credentials only to
//! a realm on the upstream's own host, under the same registrable domain, or in the operator's list; it requests an
//! anonymous token from any other realm. It sends no request over http to the realm of an https upstream, not even an
//! anonymous one.
//!
//! Source: the rule of distribution's client (`realmAllowed`); domains by the Public Suffix List.

use reqwest::Url;
use url::Host;

use super::super::{
    error::{Error, ErrorKind},
    redacted_url::RedactedUrl,
};

/// A realm from which forebay may request a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::upstream) struct Realm {
    pub url: Url,
    /// Whether it may see the credentials.
    pub trusted: bool,
}

/// Judges the realm of a challenge that came from `upstream`. `listed` is `realms` of the configuration.
pub(in crate::upstream) fn judge(upstream: &Url, realm: &str, listed: &[String]) -> Result<Realm, Error> {
    let nonsense = |why: &str| Err(Error::new(ErrorKind::Protocol, format!("the token realm {why}")));
    let Ok(mut url) = upstream.join(realm) else {
        return nonsense("is not a URL");
    };
    if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
        return nonsense("is not an http or https URL");
    }
    // A user name or a password in the URL would become an Authorization header that the upstream chooses.
    if !url.username().is_empty() || url.password().is_some() {
        return nonsense("has a user name or a password in it");
    }
    url.set_fragment(None);
    let own_host = url.host() == upstream.host();
    if upstream.scheme() == "https" && url.scheme() == "http" {
        // A registry behind a balancer that terminates TLS names its realm with http. The same host speaks TLS on the
        // upstream's port, so forebay uses that port.
        let same_port = url.port().is_none() || url.port_or_known_default() == upstream.port_or_known_default();
        let upgraded =
            own_host && same_port && url.set_scheme("https").is_ok() && url.set_port(upstream.port()).is_ok();
        if !upgraded {
            let why = format!("the token realm {} is http, the upstream is https: not asked", RedactedUrl(&url));
            return Err(Error::new(ErrorKind::Protocol, why));
        }
    }
    let listed = listed.iter().any(|entry| is_listed(&url, entry));
    let trusted = own_host || listed || same_registrable_domain(upstream, &url);
    Ok(Realm { url, trusted })
}

/// Whether `entry`, a `host` or a `host:port`, names the URL's host. Whole hosts are compared.
fn is_listed(url: &Url, entry: &str) -> bool {
    let Some(host) = url.host_str() else {
        return false;
    };
    if entry.eq_ignore_ascii_case(host) {
        return true;
    }
    let port = url.port_or_known_default().unwrap_or_default();
    entry
        .rsplit_once(':')
        .is_some_and(|(entry_host, entry_port)| entry_host.eq_ignore_ascii_case(host) && entry_port.parse() == Ok(port))
}

/// Whether both hosts are names under one registrable domain; IP addresses never are.
fn same_registrable_domain(a: &Url, b: &Url) -> bool {
    let (Some(Host::Domain(a)), Some(Host::Domain(b))) = (a.host(), b.host()) else {
        return false;
    };
    let (a, b) = (a.trim_end_matches('.'), b.trim_end_matches('.'));
    matches!((psl::domain_str(a), psl::domain_str(b)), (Some(a), Some(b)) if a.eq_ignore_ascii_case(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(upstream: &str, realm: &str, listed: &[&str]) -> Option<(String, bool)> {
        let listed: Vec<String> = listed.iter().map(|&entry| entry.to_owned()).collect();
        let realm = judge(&Url::parse(upstream).unwrap(), realm, &listed).ok()?;
        Some((realm.url.into(), realm.trusted))
    }

    #[test]
    fn real_registries() {
        for (upstream, realm, trusted) in [
            ("https://registry-1.docker.io", "https://auth.docker.io/token", true),
            ("https://ghcr.io", "https://ghcr.io/token", true),
            ("https://quay.io", "https://quay.io/v2/auth", true),
            ("https://ccr.ccs.tencentyun.com", "https://ccr.ccs.tencentyun.com/service/token", true),
            ("https://hkccr.ccs.tencentyun.com", "https://hkccr.ccs.tencentyun.com/service/token", true),
            ("https://nvcr.io", "https://authn.nvidia.com/token", false),
            ("https://registry.cn-hangzhou.aliyuncs.com", "https://dockerauth.cn-hangzhou.aliyuncs.com/auth", true),
            ("https://myregistry.azurecr.io", "https://myregistry.azurecr.io/oauth2/token", true),
        ] {
            assert_eq!(judged(upstream, realm, &[]), Some((realm.to_owned(), trusted)), "{realm}");
        }
    }

    #[test]
    fn a_dot_or_a_fragment_at_its_end_makes_no_other_realm() {
        for (realm, url) in [
            ("https://auth.example.com./token", "https://auth.example.com./token"),
            ("https://auth.example.com/token?a=b#c", "https://auth.example.com/token?a=b"),
        ] {
            for upstream in ["https://registry.example.com", "https://registry.example.com."] {
                assert_eq!(judged(upstream, realm, &[]), Some((url.to_owned(), true)), "{upstream} {realm}");
            }
        }
    }

    #[test]
    fn credentials_stay_at_home() {
        for (upstream, realm) in [
            ("https://registry.example.com", "https://example.com.evil.org/token"),
            ("https://ccr.example.com", "https://hkccr.example.org/token"),
            // A name that merely ends like the upstream's.
            ("https://ccr.io", "https://hkccr.io/token"),
            ("https://ccr.com", "https://hkccr.com/token"),
            // Neighbours under a public suffix belong to different owners.
            ("https://one.github.io", "https://two.github.io/token"),
            ("https://a.co.uk", "https://b.co.uk/token"),
            ("https://192.0.2.1", "https://192.0.2.2/token"),
            ("https://localhost", "https://other/token"),
            ("https://1.192.0.2", "https://2.192.0.2/token"),
        ] {
            assert_eq!(judged(upstream, realm, &[]).map(|(_, trusted)| trusted), Some(false), "{upstream} {realm}");
        }
    }

    #[test]
    fn the_operator_may_list_a_realm() {
        let upstream = "https://nvcr.io";
        for (listed, trusted) in [
            ("authn.nvidia.com", true),
            ("AUTHN.nvidia.com", true),
            ("authn.nvidia.com:443", true),
            ("authn.nvidia.com:8443", false),
            ("nvidia.com", false),
            ("n.nvidia.com", false),
        ] {
            let judged = judged(upstream, "https://authn.nvidia.com/token", &[listed]);
            assert_eq!(judged.map(|(_, trusted)| trusted), Some(trusted), "{listed}");
        }
    }

    #[test]
    fn an_https_upstream_never_has_an_http_realm() {
        assert_eq!(judged("https://registry.example", "http://auth.registry.example/token", &[]), None);
        assert_eq!(judged("https://registry.example", "http://listed.example/token", &["listed.example"]), None);
        assert_eq!(judged("https://registry.example", "http://registry.example:8080/token", &[]), None);
    }

    #[test]
    fn a_realm_behind_a_balancer_is_asked_over_tls() {
        for (upstream, realm, asked) in [
            ("https://harbor.lan", "http://harbor.lan/service/token", "https://harbor.lan/service/token"),
            ("https://harbor.lan:8443", "http://harbor.lan:8443/s", "https://harbor.lan:8443/s"),
            ("https://harbor.lan:8443", "http://harbor.lan/s", "https://harbor.lan:8443/s"),
        ] {
            assert_eq!(judged(upstream, realm, &[]), Some((asked.to_owned(), true)), "{realm}");
        }
    }

    #[test]
    fn a_clear_upstream_may_have_either() {
        for realm in ["http://registry.lan:5001/auth", "https://registry.lan/auth", "http://auth.registry.lan/auth"] {
            assert_eq!(judged("http://registry.lan:5000", realm, &[]), Some((realm.to_owned(), true)), "{realm}");
        }
    }

    proptest::proptest! {
        /// However a realm is written, forebay sends credentials over TLS to a host under the upstream's own domain.
        #[test]
        fn any_realm(realm in "(https?:)?(//|/|\\\\)?[a-z.@:]{0,8}(registry\\.example\\.com|example\\.com)?[ -~]{0,20}") {
            let upstream = Url::parse("https://registry.example.com").unwrap();
            if let Ok(judged) = judge(&upstream, &realm, &[]) {
                assert_eq!(judged.url.scheme(), "https");
                assert!(judged.url.username().is_empty() && judged.url.password().is_none());
                let host = judged.url.host_str().unwrap().trim_end_matches('.');
                assert_eq!(judged.trusted, host == "example.com" || host.ends_with(".example.com"), "{host}");
            }
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for realm in
            ["ftp://registry.lan/t", "https://me:pw@registry.lan/t", "https://", "file:///etc/passwd", "data:,x"]
        {
            assert_eq!(judged("https://registry.lan", realm, &[]), None, "{realm}");
        }
    }
}
