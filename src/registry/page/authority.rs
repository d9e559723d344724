//! The certificate of the CA that the page hands out.

use std::fmt::Write as _;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use sha2::{Digest as _, Sha256};

/// The length of a line of PEM, in characters (RFC 7468 section 2).
const PEM_LINE: usize = 64;

/// A certificate in DER.
pub(super) struct Authority(Bytes);

impl Authority {
    pub(super) fn new(der: Bytes) -> Self {
        Self(der)
    }

    pub(super) fn pem(&self) -> String {
        let base64 = STANDARD.encode(&self.0);
        let mut pem = "-----BEGIN CERTIFICATE-----\n".to_owned();
        for (index, character) in base64.chars().enumerate() {
            if index > 0 && index % PEM_LINE == 0 {
                pem.push('\n');
            }
            pem.push(character);
        }
        pem + "\n-----END CERTIFICATE-----\n"
    }

    /// The SHA-256 hash, as `openssl x509 -fingerprint -sha256` writes it.
    pub(super) fn fingerprint(&self) -> String {
        let mut text = String::new();
        for (index, byte) in Sha256::digest(&self.0).iter().enumerate() {
            // Writing to a String cannot fail.
            let _ = write!(text, "{}{byte:02X}", if index > 0 { ":" } else { "" });
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};
    use rustls::pki_types::{CertificateDer, pem::PemObject as _};

    use super::*;

    #[test]
    fn the_pem_is_that_of_the_certificate() {
        let certificate = CertificateParams::new(vec![]).unwrap().self_signed(&KeyPair::generate().unwrap()).unwrap();
        let authority = Authority::new(certificate.der().to_vec().into());
        let pem = authority.pem();
        assert_eq!(CertificateDer::from_pem_slice(pem.as_bytes()).unwrap(), *certificate.der());
        assert!(pem.lines().all(|line| line.len() <= PEM_LINE));
        assert_eq!(authority.fingerprint().split(':').filter(|byte| byte.len() == 2).count(), 32);
    }
}
