//! What a certificate says of itself, as far as the TLS library does not tell: read from its DER (pure).
//!
//! Source: RFC 5280 sections 4.1 and 4.2.1.

use std::{
    iter,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// Tags of DER.
const BOOLEAN: u8 = 0x01;
const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OBJECT: u8 = 0x06;
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const VERSION: u8 = 0xa0;
const EXTENSIONS: u8 = 0xa3;
/// Of general names, RFC 5280 section 4.2.1.6.
const DNS_NAME: u8 = 0x82;
const IP_ADDRESS: u8 = 0x87;

/// Object identifiers, in DER without tag and length.
const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
const KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x0f];
const ALTERNATIVE_NAME: &[u8] = &[0x55, 0x1d, 0x11];
const BASIC_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 0x13];

/// The bit of `keyCertSign` in the first byte of a key usage.
const KEY_CERT_SIGN: u8 = 0x04;

/// Whether what it has signed may be believed: it says so, or it is as old as CAs that could not (version 1, issued by itself).
pub(super) fn is_ca(certificate: &[u8]) -> bool {
    let Some(constraints) = extension(certificate, BASIC_CONSTRAINTS) else {
        return is_self_issued_v1(certificate).unwrap_or(false);
    };
    let is_ca = element(SEQUENCE, constraints).and_then(|(content, _)| element(BOOLEAN, content));
    let usage = extension(certificate, KEY_USAGE).and_then(|usage| element(BIT_STRING, usage));
    // The number of unused bits comes first.
    let signs = usage.is_none_or(|(bits, _)| bits.get(1).is_some_and(|bits| bits & KEY_CERT_SIGN != 0));
    signs && is_ca.is_some_and(|(is_ca, _)| is_ca != [0])
}

fn is_self_issued_v1(certificate: &[u8]) -> Option<bool> {
    // Serial number, algorithm, issuer, validity, subject.
    let mut fields = fields(certificate)?.peekable();
    let is_v1 = fields.peek()?.0 != VERSION;
    let (issuer, subject) = (fields.nth(2)?, fields.nth(1)?);
    Some(is_v1 && issuer == subject)
}

/// How long the key is, if it is one of RSA; of a SubjectPublicKeyInfo without its own tag.
///
/// Source: RFC 8017 appendix A.1.1.
pub(super) fn rsa_bits(key_info: &[u8]) -> Option<usize> {
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

/// The common names in a Name without its own tag.
pub(super) fn common_names(name: &[u8]) -> impl Iterator<Item = &[u8]> {
    let attributes = elements(name).filter(|(tag, _)| *tag == SET).flat_map(|(_, set)| elements(set));
    attributes.filter_map(|(_, attribute)| value(attribute, COMMON_NAME))
}

/// The hosts among the subject's alternative names, to be shown.
pub(super) fn host_names(certificate: &[u8]) -> Vec<String> {
    let names = extension(certificate, ALTERNATIVE_NAME).and_then(|names| element(SEQUENCE, names));
    elements(names.map_or(&[], |(names, _)| names))
        .filter_map(|(tag, name)| match tag {
            DNS_NAME => Some(name.escape_ascii().to_string()),
            IP_ADDRESS => address(name).map(|address| address.to_string()),
            _ => None,
        })
        .collect()
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = || Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?).into());
    v4().or_else(|| Some(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).into()))
}

/// The content of an extension.
fn extension<'a>(certificate: &'a [u8], object: &[u8]) -> Option<&'a [u8]> {
    let (_, extensions) = fields(certificate)?.find(|(tag, _)| *tag == EXTENSIONS)?;
    let (extensions, _) = element(SEQUENCE, extensions)?;
    elements(extensions).find_map(|(_, extension)| value(extension, object))
}

/// The fields of what is signed.
fn fields(certificate: &[u8]) -> Option<impl Iterator<Item = (u8, &[u8])>> {
    let (certificate, _) = element(SEQUENCE, certificate)?;
    let (signed, _) = element(SEQUENCE, certificate)?;
    Some(elements(signed))
}

/// The last of some elements that begin with this object identifier.
fn value<'a>(bytes: &'a [u8], object: &[u8]) -> Option<&'a [u8]> {
    let mut parts = elements(bytes);
    if parts.next()? != (OBJECT, object) {
        return None;
    }
    parts.last().map(|(_, value)| value)
}

/// The content of the element that `bytes` begin with, if it has this tag, and what follows it.
fn element(tag: u8, bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (found, content, rest) = first_element(bytes)?;
    (found == tag).then_some((content, rest))
}

/// Tag and content of each, up to what is none.
fn elements(mut bytes: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    iter::from_fn(move || {
        let (tag, content, rest) = first_element(bytes)?;
        bytes = rest;
        Some((tag, content))
    })
}

fn first_element(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = bytes.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (len, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81..=0x84 => {
            let (digits, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            (digits.iter().fold(0, |len, digit| (len << 8) | usize::from(*digit)), rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(len)?;
    Some((tag, content, rest))
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType};
    use rustls::RootCertStore;

    use super::*;

    fn of(tag: u8, content: &[u8]) -> Vec<u8> {
        let len = u16::try_from(content.len()).unwrap().to_be_bytes();
        [&[tag, 0x82][..], &len, content].concat()
    }

    fn params(is_ca: IsCa) -> CertificateParams {
        let mut params = CertificateParams::new(vec!["registry.lan".to_owned()]).unwrap();
        params.is_ca = is_ca;
        params
    }

    fn self_signed(params: &CertificateParams) -> Vec<u8> {
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    #[test]
    fn a_ca_is_what_says_so_and_may_sign() {
        let unconstrained = IsCa::Ca(BasicConstraints::Unconstrained);
        for (is_ca, expected) in [
            (unconstrained, true),
            (IsCa::Ca(BasicConstraints::Constrained(0)), true),
            (IsCa::NoCa, false),
            (IsCa::ExplicitNoCa, false),
        ] {
            let mut params = params(is_ca);
            assert_eq!(self::is_ca(&self_signed(&params)), expected, "{params:?}");
            params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
            assert!(!self::is_ca(&self_signed(&params)), "{params:?}");
            params.key_usages.push(KeyUsagePurpose::KeyCertSign);
            assert_eq!(self::is_ca(&self_signed(&params)), expected, "{params:?}");
        }
        for nonsense in [&[][..], &[SEQUENCE], &of(SEQUENCE, &[]), &of(SEQUENCE, &of(SEQUENCE, &[]))] {
            assert!(!self::is_ca(nonsense));
        }
        // An issuer that is a CA makes none of what it issues.
        let issuer = Issuer::new(params(unconstrained), KeyPair::generate().unwrap());
        let issued = params(IsCa::NoCa).signed_by(&KeyPair::generate().unwrap(), &issuer).unwrap();
        assert!(!self::is_ca(issued.der()));
    }

    #[test]
    fn of_version_1_what_issued_itself_is_a_ca() {
        let name = |name: &str| {
            of(SEQUENCE, &of(SET, &of(SEQUENCE, &[of(OBJECT, COMMON_NAME), of(0x0c, name.as_bytes())].concat())))
        };
        let with = |version: &[u8], issuer: &str, subject: &str| {
            let fields = [
                version.to_vec(),
                of(INTEGER, &[1]),
                of(SEQUENCE, &[]),
                name(issuer),
                of(SEQUENCE, &[]),
                name(subject),
            ];
            of(SEQUENCE, &of(SEQUENCE, &fields.concat()))
        };
        assert!(is_ca(&with(&[], "our CA", "our CA")));
        assert!(!is_ca(&with(&[], "our CA", "registry.lan")));
        // Version 3 can say so.
        assert!(!is_ca(&with(&of(VERSION, &of(INTEGER, &[2])), "our CA", "our CA")));
    }

    #[test]
    fn hosts_are_dns_names_and_addresses() {
        let names = ["registry.lan", "*.lan", "10.1.2.3", "fd00::1"].map(str::to_owned);
        let mut params = CertificateParams::new(names).unwrap();
        params.subject_alt_names.push(SanType::Rfc822Name("me@registry.lan".try_into().unwrap()));
        assert_eq!(host_names(&self_signed(&params)), ["registry.lan", "*.lan", "10.1.2.3", "fd00::1"]);
        assert_eq!(host_names(&self_signed(&CertificateParams::new([]).unwrap())), [""; 0]);
    }

    #[test]
    fn a_subject_has_the_common_names_in_it() {
        let mut params = params(IsCa::NoCa);
        params.distinguished_name.push(DnType::OrganizationName, "us");
        params.distinguished_name.push(DnType::CommonName, "registry.lan");
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let mut store = RootCertStore::empty();
        store.add(certificate.der().clone()).unwrap();
        let names: Vec<_> = common_names(&store.roots[0].subject).collect();
        assert_eq!(names, [b"registry.lan"]);
        assert_eq!(common_names(&[SET, 2, SEQUENCE, 0]).next(), None);
    }

    #[test]
    fn the_length_of_an_rsa_key_is_that_of_its_modulus() {
        let key_info = |modulus: &[u8]| {
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
        store.add(self_signed(&params(IsCa::NoCa)).into()).unwrap();
        assert_eq!(rsa_bits(&store.roots[0].subject_public_key_info), None);
        for bytes in [&[][..], &[SEQUENCE], &[SEQUENCE, 0x84, 0xff, 0xff, 0xff, 0xff], &[SEQUENCE, 0x80, 0, 0]] {
            assert_eq!(rsa_bits(bytes), None);
        }
    }
}
