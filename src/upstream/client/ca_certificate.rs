//! Flaws that make a certificate of `ca` useless (pure). They are reported when the file is read, since a failed
//! handshake does not tell the operator what to do.

use std::fmt;

use rustls::{RootCertStore, pki_types::CertificateDer};

use super::der::{OBJECT, SEQUENCE, element, find};

/// The shortest RSA key that verifies signatures, in bits.
const MIN_RSA_BITS: usize = 2048;

/// Tags of DER.
const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;

/// Object identifiers, in DER without tag and length.
const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
const ALTERNATIVE_NAME: &[u8] = &[0x55, 0x1d, 0x11];

/// Why a certificate cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::upstream) enum Flaw {
    ShortKey {
        bits: usize,
    },
    /// It is the certificate of this host, and has its name only as the common name.
    NoAlternativeName {
        host: String,
    },
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ShortKey { bits } => {
                write!(f, "its RSA key has {bits} bits, and at least {MIN_RSA_BITS} are needed: make a new one")
            }
            Self::NoAlternativeName { host } => write!(
                f,
                "it names {host} as its common name (CN) alone: make one with a subject alternative name (SAN), as by openssl's \
                 -addext subjectAltName"
            ),
        }
    }
}

/// The flaw of a certificate, for an upstream at these hosts.
pub(in crate::upstream) fn flaw(certificate: &CertificateDer<'_>, hosts: &[&str]) -> Option<Flaw> {
    let mut store = RootCertStore::empty();
    store.add(certificate.clone()).ok()?;
    let anchor = store.roots.first()?;
    if let Some(bits) = rsa_bits(&anchor.subject_public_key_info).filter(|bits| *bits < MIN_RSA_BITS) {
        return Some(Flaw::ShortKey { bits });
    }
    let has_alternative = find(certificate, ALTERNATIVE_NAME).is_some();
    let host = hosts.iter().find(|host| common_name(&anchor.subject).is_some_and(|name| is_name(name, host)))?;
    (!has_alternative).then(|| Flaw::NoAlternativeName { host: (*host).to_owned() })
}

fn is_name(name: &[u8], host: &str) -> bool {
    name.eq_ignore_ascii_case(host.trim_matches(['[', ']']).as_bytes())
}

/// The length of the key, if it is one of RSA, in a SubjectPublicKeyInfo without its own tag.
///
/// Source: RFC 5280 section 4.1, RFC 8017 appendix A.1.1.
fn rsa_bits(key_info: &[u8]) -> Option<usize> {
    let (algorithm, rest) = element(SEQUENCE, key_info)?;
    let (object, _) = element(OBJECT, algorithm)?;
    if object != RSA {
        return None;
    }
    let (key, _) = element(BIT_STRING, rest)?;
    let (key, _) = element(SEQUENCE, key.strip_prefix(&[0])?)?;
    let (modulus, _) = element(INTEGER, key)?;
    let zeroes = modulus.iter().take_while(|byte| **byte == 0).count();
    let first = modulus.get(zeroes)?;
    Some((modulus.len() - zeroes) * 8 - first.leading_zeros() as usize)
}

/// The value of the first common name in a Name.
fn common_name(name: &[u8]) -> Option<&[u8]> {
    let rest = find(name, COMMON_NAME)?;
    let (&tag, _) = rest.split_first()?;
    element(tag, rest).map(|(value, _)| value)
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair};

    use super::*;

    fn certificate(common_name: &str, names: &[&str]) -> CertificateDer<'static> {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
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
            let found = flaw(&certificate(common_name, names), hosts);
            assert_eq!(found.is_some(), flawed, "{common_name} {names:?} {hosts:?}: {found:?}");
            assert!(found.is_none_or(|flaw| flaw.to_string().contains("SAN")));
        }
    }

    #[test]
    fn the_length_of_an_rsa_key_is_that_of_its_modulus() {
        let key_info = |modulus: &[u8]| {
            let of = |tag: u8, content: &[u8]| {
                let len = u16::try_from(content.len()).unwrap().to_be_bytes();
                [&[tag, 0x82][..], &len, content].concat()
            };
            let key = of(SEQUENCE, &[of(INTEGER, modulus), of(INTEGER, &[1, 0, 1])].concat());
            [of(SEQUENCE, &of(OBJECT, RSA)), of(BIT_STRING, &[&[0][..], &key].concat())].concat()
        };
        let modulus = |len: usize, first: u8| [&[0, first][..], &vec![0xff; len - 1]].concat();
        for (modulus, bits) in [
            (modulus(128, 0x80), 1024),
            (modulus(256, 0x80), 2048),
            (modulus(256, 0x7f), 2047),
            (modulus(64, 0xff), 512),
        ] {
            assert_eq!(rsa_bits(&key_info(&modulus)), Some(bits));
        }
        // An elliptic curve's, and nonsense.
        let mut store = RootCertStore::empty();
        store.add(certificate("a", &[])).unwrap();
        assert_eq!(rsa_bits(&store.roots[0].subject_public_key_info), None);
        for bytes in [&[][..], &[SEQUENCE], &[SEQUENCE, 0x84, 0xff, 0xff, 0xff, 0xff], &[SEQUENCE, 0x80, 0, 0]] {
            assert_eq!(rsa_bits(bytes), None);
        }
    }
}
