//! What the server's certificate says: from when until when it is valid, and for which names.

use std::{
    net::IpAddr,
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rustls::{
    CertificateError,
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use webpki::EndEntityCert;

use super::{
    super::TlsConfig,
    certificate::{LoadedTls, TlsError, date_error, read_certificates},
};

/// The last second that a date of X.509 can express: a certificate until then never expires (RFC 5280 section 4.1.2.5).
const NEVER: Duration = Duration::from_secs(253_402_300_799);
/// No certificate has this name (RFC 6761 section 6.4).
const NO_NAME: &str = "forebay.invalid";

/// The dates and names of the first certificate of a chain.
#[derive(Clone, Debug)]
pub struct CertificateFacts {
    leaf: CertificateDer<'static>,
    /// `None`: it is valid since ever.
    pub not_before: Option<SystemTime>,
    /// `None`: it never expires.
    pub not_after: Option<SystemTime>,
    /// DNS names, also with a wildcard, and IP addresses.
    pub names: Vec<String>,
}

impl CertificateFacts {
    /// Reads the files of `[server.tls]`. Blocks.
    ///
    /// # Errors
    /// As [`ReloadableTls::load`](super::ReloadableTls::load).
    pub fn read(config: &TlsConfig) -> Result<Self, TlsError> {
        Self::of(LoadedTls::load(config)?.leaf, &config.certificate)
    }

    /// Reads all certificates of a PEM file, leaving out what is no certificate that can be read. Blocks.
    ///
    /// # Errors
    /// The file cannot be read, or is no PEM of certificates.
    pub fn read_all(path: &Path) -> Result<Vec<Self>, TlsError> {
        let certificates = read_certificates(path)?;
        Ok(certificates.into_iter().filter_map(|certificate| Self::of(certificate, path).ok()).collect())
    }

    fn of(leaf: CertificateDer<'static>, path: &Path) -> Result<Self, TlsError> {
        let error_at = |time| {
            date_error(&leaf, UnixTime::since_unix_epoch(time))
                .map_err(|source| TlsError::Certificate { path: path.to_owned(), source })
        };
        let not_before = match error_at(Duration::ZERO)? {
            Some(CertificateError::NotValidYetContext { not_before, .. }) => system_time(not_before),
            _ => None,
        };
        let not_after = match error_at(NEVER)? {
            Some(CertificateError::ExpiredContext { not_after, .. }) => system_time(not_after),
            _ => None,
        };
        let names = names(&leaf);
        Ok(Self { leaf, not_before, not_after, names })
    }

    /// Whether a client that connects to this name or address accepts the certificate's names.
    pub fn covers(&self, host: &str) -> bool {
        let host = host.trim_matches(['[', ']']);
        // Some clients accept a wildcard before a single label, such as `*.lan`, and rustls does not.
        let parent = host.split_once('.').map(|(_, parent)| parent);
        let has_wildcard = self.names.iter().filter_map(|name| name.strip_prefix("*.")).any(|of| Some(of) == parent);
        let Ok(name) = ServerName::try_from(host) else { return false };
        let leaf = EndEntityCert::try_from(&self.leaf);
        has_wildcard || leaf.is_ok_and(|leaf| leaf.verify_is_valid_for_subject_name(&name).is_ok())
    }
}

fn names(leaf: &CertificateDer<'_>) -> Vec<String> {
    let (Ok(leaf), Ok(none)) = (EndEntityCert::try_from(leaf), ServerName::try_from(NO_NAME)) else {
        return Vec::new();
    };
    // The error lists all names; the other way leaves out what rustls does not accept.
    let Err(webpki::Error::CertNotValidForName(context)) = leaf.verify_is_valid_for_subject_name(&none) else {
        return Vec::new();
    };
    let name_of = |name: &String| {
        let dns = name.strip_prefix("DnsName(\"").and_then(|rest| rest.strip_suffix("\")"));
        let ip = name.strip_prefix("IpAddress(").and_then(|rest| rest.strip_suffix(')'));
        dns.or(ip.filter(|text| text.parse::<IpAddr>().is_ok())).map(str::to_owned)
    };
    context.presented.iter().filter_map(name_of).collect()
}

fn system_time(time: UnixTime) -> Option<SystemTime> {
    UNIX_EPOCH.checked_add(Duration::from_secs(time.as_secs()))
}

/// The facts of a new certificate for these names.
#[cfg(test)]
pub(crate) fn certificate_for_tests(names: &[&str]) -> CertificateFacts {
    tests::facts(names, (2001, 4001))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    use super::*;

    pub(super) fn facts(names: &[&str], years: (i32, i32)) -> CertificateFacts {
        let directory = tempfile::tempdir().unwrap();
        let (certificate, key) = (directory.path().join("tls.crt"), directory.path().join("tls.key"));
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        (params.not_before, params.not_after) = (date_time_ymd(years.0, 1, 1), date_time_ymd(years.1, 1, 1));
        let pair = KeyPair::generate().unwrap();
        fs::write(&certificate, params.self_signed(&pair).unwrap().pem()).unwrap();
        fs::write(&key, pair.serialize_pem()).unwrap();
        CertificateFacts::read(&TlsConfig { certificate, key, client_ca: None }).unwrap()
    }

    fn year(time: Option<SystemTime>) -> String {
        humantime::format_rfc3339_seconds(time.unwrap()).to_string()
    }

    #[test]
    fn a_certificate_tells_its_dates_whenever_it_is_read() {
        for years in [(2001, 2002), (2001, 4001), (4001, 4002)] {
            let facts = facts(&["mirror.lan"], years);
            let expected = [years.0, years.1].map(|year| format!("{year}-01-01T00:00:00Z"));
            assert_eq!([year(facts.not_before), year(facts.not_after)], expected);
        }
    }

    #[test]
    fn a_certificate_tells_the_hosts_that_it_is_for() {
        let mirror = facts(&["mirror.lan", "*.hub.lan", "*.test", "10.0.4.17", "2001:db8::17"], (2001, 4001));
        assert_eq!(mirror.names, ["mirror.lan", "*.hub.lan", "*.test", "10.0.4.17", "2001:db8::17"]);
        for (host, expected) in [
            ("mirror.lan", true),
            ("MIRROR.lan", true),
            ("a.hub.lan", true),
            ("hub.lan", false),
            ("a.test", true),
            ("a.b.test", false),
            ("test", false),
            ("10.0.4.17", true),
            ("10.0.4.18", false),
            ("[2001:db8::17]", true),
            ("not a name", false),
        ] {
            assert_eq!(mirror.covers(host), expected, "{host}");
        }
        assert!(facts(&[], (2001, 4001)).names.is_empty());
    }
}
