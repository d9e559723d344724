//! What keeps a certificate of `ca` from being of any use: said where the file is looked at, since a failed handshake does not
//! tell the operator what to do (pure).

use std::{
    fmt,
    time::{Duration, UNIX_EPOCH},
};

use rustls::{
    CertificateError, Error as TlsError, RootCertStore,
    client::{verify_server_cert_signed_by_trust_anchor, verify_server_name},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::ParsedCertificate,
};

use super::x509;

/// The fewest bits of an RSA key by which anything is verified.
const MIN_RSA_BITS: usize = 2048;
/// How many of its names are shown, of which it may have hundreds.
const MAX_SHOWN: usize = 4;
/// The last second that has a date of the usual form.
const MAX_DATE: u64 = 253_402_300_799;

/// Why a certificate cannot be used.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Flaw {
    ShortKey {
        bits: usize,
    },
    /// It is the one of this host, which it calls by its common name alone.
    NoAlternativeName {
        host: String,
    },
    /// It is that of a server, and of none of these hosts.
    OfAnother {
        names: Vec<String>,
        hosts: Vec<String>,
    },
    Expired {
        not_after: UnixTime,
    },
    /// A CA that no host shows as its own is used all the same, by forebay.
    ExpiredCa {
        not_after: UnixTime,
    },
    NotYetValid {
        not_before: UnixTime,
    },
    /// What the TLS library has against it as a server's.
    Unreadable(TlsError),
}

impl Flaw {
    /// Whether that leaves no use for it.
    pub(super) fn is_fatal(&self) -> bool {
        !matches!(self, Self::ExpiredCa { .. })
    }
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const ADVICE: &str = "make one with a subject alternative name (SAN), as by openssl's -addext subjectAltName";
        match self {
            Self::ShortKey { bits } => {
                write!(f, "its RSA key has {bits} bits, and at least {MIN_RSA_BITS} are needed: make a new one")
            }
            Self::NoAlternativeName { host } => write!(f, "it names {host} as its common name (CN) alone: {ADVICE}"),
            Self::OfAnother { names, .. } if names.is_empty() => {
                write!(f, "it is not a CA's, and names no host: {ADVICE}")
            }
            Self::OfAnother { names, hosts } => {
                let more = if names.len() > MAX_SHOWN { ", …" } else { "" };
                let names = names.iter().take(MAX_SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
                write!(f, "it is not a CA's, and names {names}{more}, not {}", hosts.join(" or "))
            }
            Self::Expired { not_after } => write!(f, "it has expired on {}", date(*not_after)),
            Self::ExpiredCa { not_after } => {
                write!(f, "it is a CA's that has expired on {}, which other clients take ill", date(*not_after))
            }
            Self::NotYetValid { not_before } => write!(f, "it is valid from {} only", date(*not_before)),
            Self::Unreadable(error) => write!(f, "it is not a CA's, and no server's: {error}"),
        }
    }
}

fn date(time: UnixTime) -> impl fmt::Display {
    httpdate::HttpDate::from(UNIX_EPOCH + Duration::from_secs(time.as_secs().min(MAX_DATE)))
}

/// What is wrong at this time with a certificate, for an upstream at these hosts.
pub(super) fn flaw(certificate: &CertificateDer<'_>, hosts: &[&str], now: UnixTime) -> Option<Flaw> {
    let mut store = RootCertStore::empty();
    store.add(certificate.clone()).ok()?;
    let anchor = store.roots.first()?;
    if let Some(bits) = x509::rsa_bits(&anchor.subject_public_key_info).filter(|bits| *bits < MIN_RSA_BITS) {
        return Some(Flaw::ShortKey { bits });
    }
    let is_ca = x509::is_ca(certificate);
    let parsed = ParsedCertificate::try_from(certificate);
    let is_of = |host: &&str| parsed.as_ref().is_ok_and(|parsed| names(parsed, host));
    let is_named = hosts.iter().any(is_of);
    if !is_named {
        let alternatives = x509::host_names(certificate);
        let is_called = |host: &&&str| x509::common_names(&anchor.subject).any(|name| is_name(name, host));
        if let Some(host) = hosts.iter().find(is_called).filter(|_| alternatives.is_empty()) {
            return Some(Flaw::NoAlternativeName { host: (*host).to_owned() });
        }
        if !is_ca {
            let hosts = hosts.iter().map(|&host| host.to_owned()).collect();
            return Some(match parsed {
                Ok(_) => Flaw::OfAnother { names: alternatives, hosts },
                Err(error) => Flaw::Unreadable(error),
            });
        }
    }
    // The dates come before anything else, so that no root is needed for them.
    let judged = verify_server_cert_signed_by_trust_anchor(&parsed.ok()?, &RootCertStore::empty(), &[], now, &[]);
    match judged {
        Err(TlsError::InvalidCertificate(CertificateError::ExpiredContext { not_after, .. })) => {
            Some(if is_named { Flaw::Expired { not_after } } else { Flaw::ExpiredCa { not_after } })
        }
        Err(TlsError::InvalidCertificate(CertificateError::NotValidYetContext { not_before, .. })) if is_named => {
            Some(Flaw::NotYetValid { not_before })
        }
        _ => None,
    }
}

/// Whether a server of this host may show it.
fn names(certificate: &ParsedCertificate<'_>, host: &str) -> bool {
    ServerName::try_from(bare(host)).is_ok_and(|host| verify_server_name(certificate, &host).is_ok())
}

fn is_name(name: &[u8], host: &str) -> bool {
    name.eq_ignore_ascii_case(bare(host).as_bytes())
}

/// A host as names have it: an IPv6 address without its brackets.
fn bare(host: &str) -> &str {
    host.trim_matches(['[', ']'])
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, CustomExtension, DnType, IsCa, KeyPair, SanType, date_time_ymd};

    use super::*;

    fn made(change: impl FnOnce(&mut CertificateParams)) -> CertificateDer<'static> {
        let mut params = CertificateParams::new(vec![]).unwrap();
        change(&mut params);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
    }

    fn certificate(common_name: &str, names: &[&str], is_ca: IsCa) -> CertificateDer<'static> {
        made(|params| {
            params.subject_alt_names = names
                .iter()
                .map(|name| match name.parse() {
                    Ok(address) => SanType::IpAddress(address),
                    Err(_) if name.contains('@') => SanType::Rfc822Name((*name).try_into().unwrap()),
                    Err(_) => SanType::DnsName((*name).try_into().unwrap()),
                })
                .collect();
            params.is_ca = is_ca;
            params.distinguished_name.push(DnType::CommonName, common_name);
        })
    }

    fn ca() -> IsCa {
        IsCa::Ca(BasicConstraints::Unconstrained)
    }

    #[test]
    fn a_host_needs_an_alternative_name_and_a_ca_needs_none() {
        for (common_name, names, hosts, flawed) in [
            ("registry.lan", &[][..], &["registry.lan"][..], true),
            ("Registry.LAN", &[], &["other.lan", "registry.lan"], true),
            ("10.1.2.3", &[], &["10.1.2.3"], true),
            ("fd00::1", &[], &["[fd00::1]"], true),
            ("registry.lan", &["registry.lan"], &["registry.lan"], false),
            ("registry.lan", &["other.lan"], &["registry.lan"], false),
            ("our CA", &[], &["registry.lan"], false),
            ("registry.lan", &[], &["registry.lan.example"], false),
        ] {
            let found = flaw(&certificate(common_name, names, ca()), hosts, UnixTime::now());
            assert_eq!(found.is_some(), flawed, "{common_name} {names:?} {hosts:?}: {found:?}");
            assert!(found.is_none_or(|flaw| flaw.is_fatal() && flaw.to_string().contains("SAN")));
        }
    }

    #[test]
    fn what_is_no_cas_names_a_host_of_the_upstream() {
        let hosts = ["registry.lan", "[fd00::1]", "10.1.2.4", "hub.team.lan"];
        for is_ca in [IsCa::NoCa, IsCa::ExplicitNoCa] {
            for (common_name, names, said) in [
                ("x", &["registry.lan"][..], None),
                ("x", &["other.lan", "*.team.lan"], None),
                // The TLS library takes no pattern of a whole top level.
                ("x", &["*.lan"], Some("names *.lan, not registry.lan")),
                ("x", &["fd00::1"], None),
                ("registry.lan", &[], Some("it names registry.lan as its common name (CN) alone: make one with a")),
                ("*.lan", &[], Some("it is not a CA's, and names no host: make one with a subject alternative name")),
                ("x", &[], Some("it is not a CA's, and names no host")),
                ("x", &["me@registry.lan"], Some("it is not a CA's, and names no host")),
                ("registry.lan", &["me@registry.lan"], Some("it names registry.lan as its common name (CN) alone")),
                (
                    "registry.lan",
                    &["other.lan", "10.1.2.3"],
                    Some("it is not a CA's, and names other.lan, 10.1.2.3, not registry.lan or [fd00::1] or "),
                ),
                ("x", &["a", "b", "c", "d", "e"], Some("names a, b, c, d, …, not registry.lan")),
            ] {
                let found = flaw(&certificate(common_name, names, is_ca), &hosts, UnixTime::now());
                let text = found.as_ref().map(ToString::to_string);
                let is_said = match said {
                    Some(said) => text.as_ref().is_some_and(|text| text.contains(said)),
                    None => text.is_none(),
                };
                assert!(is_said, "{common_name} {names:?}: {text:?}");
                assert!(found.is_none_or(|flaw| flaw.is_fatal()));
            }
        }
    }

    #[test]
    fn what_has_expired_is_of_no_use_but_to_a_ca() {
        let hosts = ["registry.lan"];
        let at = |year: i32| UnixTime::since_unix_epoch(Duration::from_secs((year as u64 - 1970) * 31_557_600));
        for (names, is_ca, early, late, is_fatal) in [
            (&["registry.lan"][..], IsCa::NoCa, true, true, true),
            (&["registry.lan"], ca(), true, true, true),
            (&[], ca(), false, true, false),
        ] {
            let certificate = made(|params| {
                params.subject_alt_names =
                    names.iter().map(|&name| SanType::DnsName(name.try_into().unwrap())).collect();
                params.is_ca = is_ca;
                params.not_before = date_time_ymd(2020, 1, 1);
                params.not_after = date_time_ymd(2030, 12, 31);
            });
            assert_eq!(flaw(&certificate, &hosts, at(2025)), None);
            for (year, flawed, said) in
                [(2019, early, "Wed, 01 Jan 2020 00:00:00 GMT"), (2032, late, "Tue, 31 Dec 2030 00:00:00 GMT")]
            {
                let found = flaw(&certificate, &hosts, at(year));
                assert_eq!(found.is_some(), flawed, "{names:?} {year}: {found:?}");
                if let Some(flaw) = found {
                    assert_eq!(flaw.is_fatal(), is_fatal, "{flaw:?}");
                    assert!(flaw.to_string().contains(said), "{flaw}");
                }
            }
        }
    }

    #[test]
    fn what_the_tls_library_takes_for_no_servers_is_told() {
        let certificate = made(|params| {
            params.subject_alt_names = vec![SanType::DnsName("registry.lan".try_into().unwrap())];
            let mut unknown = CustomExtension::from_oid_content(&[1, 2, 3, 4, 5], vec![5, 0]);
            unknown.set_criticality(true);
            params.custom_extensions.push(unknown);
        });
        let found = flaw(&certificate, &["registry.lan"], UnixTime::now());
        assert!(matches!(found, Some(Flaw::Unreadable(_))), "{found:?}");
    }
}
