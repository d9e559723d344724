//! The file of `ca`: certificates that are trusted beside the system's.

use std::{path::Path, sync::Arc};

use reqwest::Url;
use rustls::pki_types::{CertificateDer, pem::PemObject};

use super::{
    super::{Config, setup_error::SetupError},
    ca_certificate,
};
use crate::small_file;

/// The longest file of a private CA's certificates, in bytes; a system's bundle has 200 KB.
const MAX_CA: u64 = 4 * 1024 * 1024;

/// What is wrong with the certificates of `ca`.
#[derive(Clone, Debug, Default)]
pub struct CaFlaws {
    /// One text for each certificate that cannot be used.
    pub texts: Vec<String>,
    /// Whether no certificate can be used.
    pub all: bool,
}

/// The certificates of `ca`; none where it is not configured.
pub(in crate::upstream) fn certificates(
    upstream: &Arc<str>,
    ca: Option<&Path>,
) -> Result<Vec<CertificateDer<'static>>, SetupError> {
    let Some(path) = ca else {
        return Ok(vec![]);
    };
    let (upstream, path) = (upstream.clone(), path.to_owned());
    let pem = small_file::read(&path, MAX_CA).map_err(|source| SetupError::ReadCa {
        upstream: upstream.clone(),
        path: path.clone(),
        source,
    })?;
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<_, _>>()
        .map_err(|source| SetupError::ParseCa { upstream: upstream.clone(), path: path.clone(), source })?;
    if certificates.is_empty() {
        return Err(SetupError::EmptyCa { upstream, path });
    }
    Ok(certificates)
}

pub(super) fn flaws(config: &Config, certificates: &[CertificateDer<'_>]) -> CaFlaws {
    let Some(path) = &config.ca else { return CaFlaws::default() };
    let hosts: Vec<&str> = config.urls.iter().filter_map(Url::host_str).collect();
    let texts: Vec<String> = (1..)
        .zip(certificates)
        .filter_map(|(number, certificate)| {
            let flaw = ca_certificate::flaw(certificate, &hosts)?;
            Some(format!("certificate {number} of {} cannot be used: {flaw}", path.display()))
        })
        .collect();
    let all = !texts.is_empty() && texts.len() == certificates.len();
    CaFlaws { texts, all }
}
