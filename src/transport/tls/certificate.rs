//! Certificate, key and client CA: read, checked, and made a `ServerConfig`.
//!
//! They are one value: read together, checked together and replaced together. So a handshake never sees half of a change, and
//! session tickets issued under an old client CA are invalid under a new one.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use rustls::{
    CertificateError, RootCertStore, ServerConfig,
    client::verify_server_cert_signed_by_trust_anchor,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{
        CertificateDer, PrivateKeyDer, UnixTime,
        pem::{self, PemObject},
    },
    server::{ParsedCertificate, WebPkiClientVerifier, danger::ClientCertVerifier},
    sign::{CertifiedKey, SigningKey, SingleCertAndKey},
};
use sha2::{Digest as _, Sha256};

use super::{super::TlsConfig, authority::authority, ktls};
use crate::{
    file_watch::{Changed, Fingerprint},
    small_file,
};

/// The longest file of a certificate, its chain, a key or a CA, in bytes.
const MAX_FILE: u64 = 4 * 1024 * 1024;

/// Why certificate files cannot be used. Each names the file.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("cannot read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} is not PEM", path.display())]
    Pem { path: PathBuf, source: pem::Error },
    #[error("{} contains no certificate", path.display())]
    NoCertificate { path: PathBuf },
    #[error("{} contains no private key that is PKCS#8, PKCS#1 or SEC1 and not encrypted", path.display())]
    NoKey { path: PathBuf, source: pem::Error },
    #[error("the key in {} is of no supported kind", path.display())]
    Key { path: PathBuf, source: rustls::Error },
    #[error("{} does not begin with a usable certificate", path.display())]
    Certificate { path: PathBuf, source: rustls::Error },
    #[error("the key in {} does not belong to the first certificate in {}", key.display(), certificate.display())]
    Mismatch { certificate: PathBuf, key: PathBuf },
    #[error("the certificate in {} has expired{}", path.display(), date(" on", *not_after))]
    Expired { path: PathBuf, not_after: Option<UnixTime> },
    #[error("the certificate in {} is not valid yet{}", path.display(), date(": it is from", *not_before))]
    NotYetValid { path: PathBuf, not_before: Option<UnixTime> },
    #[error("a certificate in {} cannot be a client CA", path.display())]
    ClientCa { path: PathBuf, source: rustls::Error },
    #[error("{} cannot verify clients", path.display())]
    Verifier { path: PathBuf, source: rustls::server::VerifierBuilderError },
    #[error("cannot set up TLS")]
    Setup { source: rustls::Error },
}

/// Certificate files that were read and found good.
pub(super) struct LoadedTls {
    /// Where the files are.
    pub(super) config: TlsConfig,
    pub(super) fingerprint: Fingerprint,
    /// The first certificate of the chain.
    pub(super) leaf: CertificateDer<'static>,
    /// The CA of the chain, if clients do not know it and the chain has it.
    pub(super) authority: Option<CertificateDer<'static>>,
    /// When the first certificate expires.
    pub(super) not_after: Option<UnixTime>,
    pub(super) server: Arc<ServerConfig>,
}

/// The files as they were at one time.
struct Files {
    certificate: Vec<u8>,
    key: Vec<u8>,
    client_ca: Option<Vec<u8>>,
}

impl LoadedTls {
    pub(super) fn load(config: &TlsConfig) -> Result<LoadedTls, TlsError> {
        Files::read(config)?.load(config)
    }

    /// All that is wrong with the files: what is wrong with each, else with them together. Blocks.
    pub(super) fn check(config: &TlsConfig) -> Vec<TlsError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let files = [
            read_certificates(&config.certificate).map(drop),
            read(&config.key).and_then(|pem| secret(&pem, &config.key, &provider)).map(drop),
            config.client_ca.as_deref().map_or(Ok(()), |path| verifier(&read(path)?, path, provider.clone()).map(drop)),
        ];
        let errors: Vec<TlsError> = files.into_iter().filter_map(Result::err).collect();
        if errors.is_empty() { Self::load(config).err().into_iter().collect() } else { errors }
    }

    /// Reads the files again; `None` if they are those in use. Blocks.
    pub(super) fn load_changed(&self) -> Result<Option<Changed<LoadedTls>>, TlsError> {
        let files = Files::read(&self.config)?;
        let fingerprint = files.fingerprint();
        if fingerprint == self.fingerprint {
            return Ok(None);
        }
        let loaded = files.load(&self.config)?;
        loaded.check_validity()?;
        Ok(Some(Changed { fingerprint, content: loaded }))
    }

    /// Checks that the certificate is valid at this time. The rest of its chain is not checked: it may end in a root that has
    /// expired and that no client needs.
    pub(super) fn check_validity(&self) -> Result<(), TlsError> {
        let path = || self.config.certificate.clone();
        let judged = date_error(&self.leaf, UnixTime::now());
        let Some(error) = judged.map_err(|source| TlsError::Certificate { path: path(), source })? else {
            return Ok(());
        };
        match error {
            CertificateError::ExpiredContext { not_after, .. } => {
                Err(TlsError::Expired { path: path(), not_after: Some(not_after) })
            }
            CertificateError::Expired => Err(TlsError::Expired { path: path(), not_after: None }),
            CertificateError::NotValidYetContext { not_before, .. } => {
                Err(TlsError::NotYetValid { path: path(), not_before: Some(not_before) })
            }
            CertificateError::NotValidYet => Err(TlsError::NotYetValid { path: path(), not_before: None }),
            // The issuer is for clients to verify.
            _ => Ok(()),
        }
    }
}

/// What is wrong with a certificate at this time, first of all with its dates: they are checked before its issuer, so that no
/// root is needed.
pub(super) fn date_error(leaf: &CertificateDer<'_>, time: UnixTime) -> Result<Option<CertificateError>, rustls::Error> {
    let leaf = ParsedCertificate::try_from(leaf)?;
    let (none, algorithms) = (RootCertStore::empty(), aws_lc_rs::default_provider().signature_verification_algorithms);
    match verify_server_cert_signed_by_trust_anchor(&leaf, &none, &[], time, algorithms.all) {
        Err(rustls::Error::InvalidCertificate(error)) => Ok(Some(error)),
        Ok(()) | Err(_) => Ok(None),
    }
}

/// When a certificate expires: at the end of time it has.
fn not_after(certificate: &CertificateDer<'_>) -> Option<UnixTime> {
    let end_of_time = UnixTime::since_unix_epoch(Duration::from_secs(u64::MAX));
    match date_error(certificate, end_of_time).ok()?? {
        CertificateError::ExpiredContext { not_after, .. } => Some(not_after),
        _ => None,
    }
}

/// The word and a date; empty if the date is not known.
fn date(word: &str, time: Option<UnixTime>) -> String {
    let date = time.and_then(|time| UNIX_EPOCH.checked_add(Duration::from_secs(time.as_secs())));
    // A date after the year 9999 has no HTTP form.
    let date = date.filter(|date| *date < UNIX_EPOCH + Duration::from_secs(253_402_300_800));
    date.map(|date| format!("{word} {}", httpdate::fmt_http_date(date))).unwrap_or_default()
}

impl Files {
    fn read(config: &TlsConfig) -> Result<Files, TlsError> {
        Ok(Files {
            certificate: read(&config.certificate)?,
            key: read(&config.key)?,
            client_ca: config.client_ca.as_deref().map(read).transpose()?,
        })
    }

    fn fingerprint(&self) -> Fingerprint {
        let mut hash = Sha256::new();
        for file in [Some(&self.certificate), Some(&self.key), self.client_ca.as_ref()].into_iter().flatten() {
            // Each with its own hash, so that moving bytes from one file to another is a change as well.
            hash.update(Sha256::digest(file));
        }
        hash.finalize().into()
    }

    fn load(&self, config: &TlsConfig) -> Result<LoadedTls, TlsError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let identity = self.identity(config, &provider)?;
        let leaf = identity.end_entity_cert().map(|leaf| leaf.clone().into_owned());
        let leaf = leaf.map_err(|source| TlsError::Certificate { path: config.certificate.clone(), source })?;
        let authority = authority(&identity.cert, &provider).cloned();
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|source| TlsError::Setup { source })?;
        let builder = match (&self.client_ca, &config.client_ca) {
            (Some(pem), Some(path)) => builder.with_client_cert_verifier(verifier(pem, path, provider)?),
            _ => builder.with_no_client_auth(),
        };
        let mut server = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(identity)));
        server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        // Only the kernel gets them.
        server.enable_secret_extraction = ktls::is_offered();
        server.ticketer = aws_lc_rs::Ticketer::new().map_err(|source| TlsError::Setup { source })?;
        let (config, fingerprint, not_after) = (config.clone(), self.fingerprint(), not_after(&leaf));
        Ok(LoadedTls { config, fingerprint, leaf, authority, not_after, server: Arc::new(server) })
    }

    fn identity(&self, config: &TlsConfig, provider: &CryptoProvider) -> Result<CertifiedKey, TlsError> {
        let (certificate, key) = (config.certificate.clone(), config.key.clone());
        let chain = certificates(&self.certificate, &certificate)?;
        let identity = CertifiedKey::new(chain, secret(&self.key, &key, provider)?);
        match identity.keys_match() {
            Ok(()) => Ok(identity),
            Err(rustls::Error::InconsistentKeys(_)) => Err(TlsError::Mismatch { certificate, key }),
            Err(source) => Err(TlsError::Certificate { path: certificate, source }),
        }
    }
}

/// Reads the certificates of a PEM file. Blocks.
pub(super) fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    certificates(&read(path)?, path)
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    small_file::read(path, MAX_FILE).map_err(|source| TlsError::Read { path: path.to_owned(), source })
}

fn certificates(pem: &[u8], path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|source| TlsError::Pem { path: path.to_owned(), source })?;
    if chain.is_empty() { Err(TlsError::NoCertificate { path: path.to_owned() }) } else { Ok(chain) }
}

/// The private key of a PEM file.
fn secret(pem: &[u8], path: &Path, provider: &CryptoProvider) -> Result<Arc<dyn SigningKey>, TlsError> {
    let secret =
        PrivateKeyDer::from_pem_slice(pem).map_err(|source| TlsError::NoKey { path: path.to_owned(), source })?;
    let loaded = provider.key_provider.load_private_key(secret);
    loaded.map_err(|source| TlsError::Key { path: path.to_owned(), source })
}

/// What verifies the certificates of clients by the client CAs of a PEM file.
fn verifier(pem: &[u8], path: &Path, provider: Arc<CryptoProvider>) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(pem, path)? {
        roots.add(certificate).map_err(|source| TlsError::ClientCa { path: path.to_owned(), source })?;
    }
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).allow_unauthenticated();
    builder.build().map_err(|source| TlsError::Verifier { path: path.to_owned(), source })
}
