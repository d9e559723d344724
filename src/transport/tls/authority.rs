//! Which certificate of the server's chain is a CA that clients have to be given.
//!
//! What must hold: it is the one that vouches for the server. Others of the file may have come there by mistake.

use rustls::{
    crypto::CryptoProvider,
    pki_types::{CertificateDer, UnixTime},
};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};

/// The certificate that signed itself and, directly or through others of the chain, the first one. Chains of public CAs
/// end before their root.
pub(super) fn authority<'a>(
    chain: &'a [CertificateDer<'static>],
    provider: &CryptoProvider,
) -> Option<&'a CertificateDer<'static>> {
    let (first, others) = chain.split_first()?;
    if is_self_signed(first) {
        return Some(first);
    }
    let leaf = EndEntityCert::try_from(first).ok()?;
    let vouches = |root: &&CertificateDer<'static>| {
        let Ok(anchor) = anchor_from_trusted_cert(root) else { return false };
        let (algorithms, usage) = (provider.signature_verification_algorithms.all, KeyUsage::server_auth());
        leaf.verify_for_usage(algorithms, &[anchor], others, UnixTime::now(), usage, None, None).is_ok()
    };
    others.iter().filter(|certificate| is_self_signed(certificate)).find(vouches)
}

fn is_self_signed(certificate: &CertificateDer<'_>) -> bool {
    EndEntityCert::try_from(certificate).is_ok_and(|certificate| certificate.issuer() == certificate.subject())
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, Certificate, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
    use rustls::crypto::aws_lc_rs;

    use super::*;

    fn ca(name: &str) -> CertifiedIssuer<'static, KeyPair> {
        CertifiedIssuer::self_signed(params(name, IsCa::Ca(BasicConstraints::Unconstrained)), key()).unwrap()
    }

    fn params(name: &str, is_ca: IsCa) -> CertificateParams {
        let mut params = CertificateParams::new(vec!["mirror.lan".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = is_ca;
        params
    }

    fn key() -> KeyPair {
        KeyPair::generate().unwrap()
    }

    fn found(chain: &[&Certificate]) -> Option<usize> {
        let chain: Vec<_> = chain.iter().map(|certificate| certificate.der().clone()).collect();
        let found = authority(&chain, &aws_lc_rs::default_provider())?.clone();
        chain.iter().position(|certificate| *certificate == found)
    }

    #[test]
    fn the_ca_is_the_one_that_vouches_for_the_server() {
        let (root, other) = (ca("root"), ca("other"));
        let between = params("between", IsCa::Ca(BasicConstraints::Unconstrained));
        let between = CertifiedIssuer::signed_by(between, key(), &root).unwrap();
        let leaf = params("leaf", IsCa::NoCa).signed_by(&key(), &root).unwrap();
        let far = params("far", IsCa::NoCa).signed_by(&key(), &between).unwrap();
        let own = params("own", IsCa::NoCa).self_signed(&key()).unwrap();
        for (chain, expected) in [
            (&[&leaf, root.as_ref()][..], Some(1)),
            (&[&leaf], None),
            (&[&leaf, other.as_ref()], None),
            (&[&leaf, other.as_ref(), root.as_ref()], Some(2)),
            (&[&far, between.as_ref(), root.as_ref()], Some(2)),
            (&[&far, between.as_ref()], None),
            (&[&far, root.as_ref()], None),
            (&[&own], Some(0)),
            (&[root.as_ref()], Some(0)),
            (&[], None),
        ] {
            assert_eq!(found(chain), expected);
        }
    }
}
