//! What the certificate of a server says of itself: who issued it, and until when it is valid (pure).

use std::ops::RangeInclusive;

use rustls::pki_types::CertificateDer;

use super::{
    super::response::refusal::printable,
    der::{SEQUENCE, element, find},
};

const INTEGER: u8 = 0x02;
/// `[0] EXPLICIT`, before the version.
const VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
/// Object identifiers, in DER without tag and length.
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
const ORGANIZATION: &[u8] = &[0x55, 0x04, 0x0a];
/// A longer name is cut, in characters.
const MAX_NAME: usize = 100;

/// What operators are told of a server's certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerCertificate {
    /// The common name of the issuer, else its organization.
    pub issuer: Option<String>,
    /// As RFC 3339 has it.
    pub not_after: Option<String>,
}

impl PeerCertificate {
    /// Source: RFC 5280 section 4.1.
    pub(super) fn of(certificate: &CertificateDer<'_>) -> Self {
        let parts = parts(certificate);
        let name = |object| parts.and_then(|(issuer, _)| name(issuer, object));
        Self {
            issuer: name(COMMON_NAME).or_else(|| name(ORGANIZATION)),
            not_after: parts.and_then(|(_, validity)| not_after(validity)),
        }
    }
}

/// The issuer and the validity of a certificate.
fn parts(certificate: &[u8]) -> Option<(&[u8], &[u8])> {
    let (certificate, _) = element(SEQUENCE, certificate)?;
    let (signed, _) = element(SEQUENCE, certificate)?;
    let rest = element(VERSION, signed).map_or(signed, |(_, rest)| rest);
    let (_serial, rest) = element(INTEGER, rest)?;
    let (_algorithm, rest) = element(SEQUENCE, rest)?;
    let (issuer, rest) = element(SEQUENCE, rest)?;
    let (validity, _) = element(SEQUENCE, rest)?;
    Some((issuer, validity))
}

/// The first value of an attribute of a Name.
fn name(names: &[u8], object: &[u8]) -> Option<String> {
    let rest = find(names, object)?;
    let (&tag, _) = rest.split_first()?;
    let (value, _) = element(tag, rest)?;
    let text: String = printable(&String::from_utf8_lossy(value)).chars().take(MAX_NAME).collect();
    (!text.is_empty()).then_some(text)
}

fn not_after(validity: &[u8]) -> Option<String> {
    let (_not_before, rest) = element(UTC_TIME, validity).or_else(|| element(GENERALIZED_TIME, validity))?;
    match element(UTC_TIME, rest) {
        Some((time, _)) => {
            let short = std::str::from_utf8(time).ok()?;
            // Source: RFC 5280 section 4.1.2.5.1.
            let century = if number(short, 0..=1)? < 50 { "20" } else { "19" };
            rfc3339(&format!("{century}{short}"))
        }
        None => rfc3339(std::str::from_utf8(element(GENERALIZED_TIME, rest)?.0).ok()?),
    }
}

/// `YYYYMMDDHHMMSSZ` as RFC 3339 has it.
fn rfc3339(time: &str) -> Option<String> {
    let digits = time.strip_suffix('Z').filter(|digits| digits.len() == 14)?;
    let [year, month, day, hour, minute, second] =
        [0..=3, 4..=5, 6..=7, 8..=9, 10..=11, 12..=13].map(|place| number(digits, place));
    Some(format!("{:04}-{:02}-{:02}T{:02}:{:02}:{:02}Z", year?, month?, day?, hour?, minute?, second?))
}

fn number(digits: &str, place: RangeInclusive<usize>) -> Option<u32> {
    digits.get(place).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))?.parse().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rcgen::{CertificateParams, DnType, KeyPair, date_time_ymd};

    use super::*;

    fn certificate(names: &[(DnType, &str)], year: i32) -> CertificateDer<'static> {
        let mut params = CertificateParams::new(vec!["a.test".to_owned()]).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        names.iter().for_each(|(name, value)| params.distinguished_name.push(name.clone(), *value));
        (params.not_before, params.not_after) = (date_time_ymd(2001, 1, 1), date_time_ymd(year, 2, 3));
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
    }

    #[test]
    fn a_certificate_tells_its_issuer_and_its_end() {
        let long = "x".repeat(300);
        for (names, year, issuer, not_after) in [
            (&[(DnType::CommonName, "Test CA")][..], 2027, Some("Test CA"), "2027-02-03T00:00:00Z"),
            (&[(DnType::OrganizationName, "A Company")], 2049, Some("A Company"), "2049-02-03T00:00:00Z"),
            (
                &[(DnType::OrganizationName, "A Company"), (DnType::CommonName, "CA 7")],
                2050,
                Some("CA 7"),
                "2050-02-03T00:00:00Z",
            ),
            (&[(DnType::CommonName, &long)], 4000, Some(&long[..100]), "4000-02-03T00:00:00Z"),
            (&[], 2027, None, "2027-02-03T00:00:00Z"),
        ] {
            let told = PeerCertificate::of(&certificate(names, year));
            assert_eq!((told.issuer.as_deref(), told.not_after.as_deref()), (issuer, Some(not_after)), "{names:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = PeerCertificate::of(&CertificateDer::from(bytes));
        }

        #[test]
        fn a_damaged_certificate_is_read_without_a_panic(at in 0usize..300, byte: u8) {
            let mut bytes = certificate(&[(DnType::CommonName, "Test CA")], 2027).to_vec();
            if let Some(damaged) = bytes.get_mut(at) {
                *damaged = byte;
            }
            let _ = PeerCertificate::of(&CertificateDer::from(bytes));
        }
    }
}
