//! Which server certificates are trusted: one TLS configuration for all clients of an upstream.
//!
//! What must hold: name and dates are checked for every certificate. The system's CAs and those of `ca` are trusted,
//! and so is a server whose certificate is in `ca` byte for byte, whatever its extensions: Docker's documentation has
//! an operator make one with the CA flag, and other clients accept it.

use std::{path::Path, sync::Arc};

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error as TlsError, OtherError, RootCertStore,
    SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_name,
    },
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::ParsedCertificate,
};

use super::ca_file;
use crate::upstream::setup_error::SetupError;

/// The TLS configuration of connections to `upstream`, whose `ca` has these certificates.
///
/// # Errors
/// One of them is no X.509 certificate.
pub(in crate::upstream) fn configuration(
    upstream: &str,
    own: Vec<CertificateDer<'static>>,
) -> Result<ClientConfig, TlsError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    own.iter().try_for_each(|certificate| roots.add(certificate.clone()))?;
    let system = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(system.certs);
    let builder = ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions()?;
    if roots.is_empty() {
        // A minimal container has no system CAs. forebay starts all the same: an upstream over plain HTTP, or with a
        // private CA, needs none.
        let error = system.errors.first().map(tracing::field::display);
        tracing::warn!(%upstream, error, "the system has no usable CA certificates");
        return Ok(builder.with_root_certificates(roots).with_no_client_auth());
    }
    let of_roots = WebPkiServerVerifier::builder_with_provider(roots.into(), provider)
        .build()
        .map_err(|error| TlsError::Other(OtherError(Arc::new(error))))?;
    let verifier = Arc::new(Verifier { of_roots, own });
    Ok(builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth())
}

/// The TLS configuration of connections that a section of the configuration is about, with its own `ca`.
///
/// # Errors
/// The file has no usable certificate.
pub(in crate::upstream) fn of_section(section: &str, ca: Option<&Path>) -> Result<ClientConfig, SetupError> {
    let name: Arc<str> = section.into();
    let tls = configuration(&name, ca_file::certificates(&name, ca)?);
    tls.map_err(|source| SetupError::Tls { upstream: name, source })
}

#[derive(Debug)]
struct Verifier {
    of_roots: Arc<WebPkiServerVerifier>,
    /// The certificates of `ca`.
    own: Vec<CertificateDer<'static>>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        match self.of_roots.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            Err(error) if self.own.contains(end_entity) && is_about_issuer(&error) => {
                verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
                Ok(ServerCertVerified::assertion())
            }
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        self.of_roots.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        self.of_roots.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.of_roots.supported_verify_schemes()
    }
}

/// Whether only the issuer or the purpose of a certificate is wrong. webpki checks its dates before these, and its name
/// after them.
fn is_about_issuer(error: &TlsError) -> bool {
    match error {
        TlsError::InvalidCertificate(
            CertificateError::UnknownIssuer
            | CertificateError::BadSignature
            | CertificateError::InvalidPurpose
            | CertificateError::InvalidPurposeContext { .. }
            | CertificateError::UnsupportedSignatureAlgorithmContext { .. }
            | CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. },
        ) => true,
        TlsError::InvalidCertificate(CertificateError::Other(OtherError(source))) => {
            matches!(source.downcast_ref(), Some(webpki::Error::CaUsedAsEndEntity))
        }
        _ => false,
    }
}
