//! A request as the HTTP clients send it, and why it got no response.

use std::{error::Error, io};

use http::{HeaderMap, Method};
use hyper_util::client::legacy;
use reqwest::Url;

use crate::error_chain::sources;

/// A request that may be sent several times.
pub(super) struct HttpRequest {
    pub method: Method,
    pub url: Url,
    pub headers: HeaderMap,
    pub body: Option<String>,
}

/// Why a request got no response, or a body broke off.
#[derive(Debug, thiserror::Error)]
pub(in crate::upstream) enum TransportError {
    #[error(transparent)]
    Reqwest(reqwest::Error),
    #[error(transparent)]
    Hyper(#[from] legacy::Error),
    #[error(transparent)]
    Uri(#[from] http::uri::InvalidUri),
}

impl From<reqwest::Error> for TransportError {
    /// reqwest's text ends with the URL, and a redirect's URL may be signed.
    fn from(error: reqwest::Error) -> Self {
        Self::Reqwest(error.without_url())
    }
}

impl TransportError {
    /// Whether no connection could be made.
    pub(in crate::upstream) fn is_connect(&self) -> bool {
        match self {
            Self::Reqwest(error) => error.is_connect(),
            Self::Hyper(error) => error.is_connect(),
            Self::Uri(_) => false,
        }
    }

    pub(in crate::upstream) fn is_timeout(&self) -> bool {
        let is_late = |source: &(dyn Error + 'static)| {
            source.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_timeout)
                || source.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::TimedOut)
        };
        match self {
            Self::Reqwest(error) => error.is_timeout(),
            Self::Hyper(error) => sources(error).any(is_late),
            Self::Uri(_) => false,
        }
    }
}
