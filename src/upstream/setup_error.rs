//! Why an [`Upstream`](super::Upstream) could not be set up from its configuration.

use std::sync::Arc;

use rustls::pki_types::pem;

#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    #[error("upstream {upstream}: cannot read the CA file {path}")]
    ReadCa { upstream: Arc<str>, path: std::path::PathBuf, source: std::io::Error },
    #[error("upstream {upstream}: {path} is not a PEM file of certificates")]
    ParseCa { upstream: Arc<str>, path: std::path::PathBuf, source: pem::Error },
    #[error("upstream {upstream}: {path} has no certificate in it")]
    EmptyCa { upstream: Arc<str>, path: std::path::PathBuf },
    #[error("upstream {upstream}: cannot use the credentials in {path}")]
    Credentials { upstream: Arc<str>, path: std::path::PathBuf, source: std::io::Error },
    #[error("upstream {upstream}: cannot set up TLS; each certificate of `ca` must be one of X.509")]
    Tls { upstream: Arc<str>, source: rustls::Error },
    #[error("upstream {upstream}: cannot set up the HTTP client")]
    Client { upstream: Arc<str>, source: reqwest::Error },
    #[error("upstream {upstream}: no URL is given")]
    NoUrl { upstream: Arc<str> },
    #[error("upstream {upstream}: a credential helper is named by letters, digits, '.', '_' and '-': not {helper:?}")]
    Helper { upstream: Arc<str>, helper: String },
    #[error("the Via value is not a header value")]
    Via,
}
