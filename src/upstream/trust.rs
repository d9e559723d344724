//! Which servers are believed to be the upstream's: one TLS configuration for all of its clients.
//!
//! What must hold: name and dates count for every certificate that a server shows. It is the system's CAs and those of `ca` that are
//! trusted, and a server that shows a certificate of `ca` byte for byte, whatever that, or what comes behind it, says of itself: Docker's
//! documentation has an operator make one that calls itself a CA, and other clients take it. A certificate of `ca` that is no CA's
//! vouches for nothing but itself, not even for another one of its own key.

use std::sync::Arc;

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error as TlsError, OtherError, RootCertStore,
    SignatureScheme,
    client::{
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor, verify_server_name,
    },
    crypto::{WebPkiSupportedAlgorithms, aws_lc_rs, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::ParsedCertificate,
};

use super::x509;

/// The TLS configuration of connections to `upstream`, whose `ca` has these certificates.
///
/// # Errors
/// One of them is no certificate.
pub(super) fn configuration(upstream: &str, own: Vec<CertificateDer<'static>>) -> Result<ClientConfig, TlsError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let algorithms = provider.signature_verification_algorithms;
    let (mut roots, mut others) = (RootCertStore::empty(), RootCertStore::empty());
    for certificate in &own {
        // What becomes a root is a CA to the TLS library, whatever it says.
        let store = if x509::is_ca(certificate) { &mut roots } else { &mut others };
        store.add(certificate.clone())?;
    }
    let system = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(system.certs);
    if roots.is_empty() && own.is_empty() {
        // A bare container has no system roots. That must not keep forebay from starting: an upstream over clear HTTP, or
        // under a private CA, needs none.
        let error = system.errors.first().map(tracing::field::display);
        tracing::warn!(%upstream, error, "the system has no usable CA certificates");
    }
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let verifier = Arc::new(Verifier { roots, own, algorithms });
    Ok(builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth())
}

#[derive(Debug)]
struct Verifier {
    /// The system's, and the CAs of `ca`.
    roots: RootCertStore,
    /// The certificates of `ca`.
    own: Vec<CertificateDer<'static>>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        let certificate = ParsedCertificate::try_from(end_entity)?;
        let verify = |roots: &RootCertStore, intermediates: &[CertificateDer<'_>]| {
            verify_server_cert_signed_by_trust_anchor(&certificate, roots, intermediates, now, self.algorithms.all)
        };
        if self.own.contains(end_entity) {
            // Nothing else says anything about it.
            match verify(&RootCertStore::empty(), &[]) {
                Err(error) if !is_of_the_issuer(&error) => return Err(error),
                Ok(()) | Err(_) => {}
            }
        } else {
            verify(&self.roots, intermediates)?;
        }
        verify_server_name(&certificate, server_name)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// Whether nothing but who issued it, and for what, is wrong with a certificate. Its dates are looked at before any of these is
/// found.
fn is_of_the_issuer(error: &TlsError) -> bool {
    match error {
        TlsError::InvalidCertificate(
            CertificateError::UnknownIssuer
            | CertificateError::InvalidPurpose
            | CertificateError::InvalidPurposeContext { .. },
        ) => true,
        TlsError::InvalidCertificate(CertificateError::Other(OtherError(source))) => {
            matches!(source.downcast_ref(), Some(webpki::Error::CaUsedAsEndEntity))
        }
        _ => false,
    }
}
