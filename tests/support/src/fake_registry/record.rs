//! A request as it came.

use forebay::oci::Digest;
use http::{HeaderMap, Method, request::Parts};

/// Which part of the registry was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Server {
    Api,
    /// The blob host that redirects lead to.
    Cdn,
    /// The token realm.
    Realm,
}

/// One request.
#[derive(Clone, Debug)]
pub struct Record {
    pub server: Server,
    pub method: Method,
    pub path: String,
    /// Without the question mark; empty if there is none.
    pub query: String,
    pub headers: HeaderMap,
    /// Of a POST.
    pub body: String,
}

impl Record {
    pub(super) fn new(server: Server, parts: &Parts, body: String) -> Self {
        Self {
            server: if parts.uri.path() == "/token" { Server::Realm } else { server },
            method: parts.method.clone(),
            path: parts.uri.path().to_owned(),
            query: parts.uri.query().unwrap_or_default().to_owned(),
            headers: parts.headers.clone(),
            body,
        }
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// Whether an `Accept` names a media type.
    pub(super) fn names(&self, media_type: &str) -> bool {
        let values = self.headers.get_all("accept").iter().filter_map(|value| value.to_str().ok());
        let mut ranges = values.flat_map(|value| value.split(','));
        ranges.any(|range| range.split(';').next().is_some_and(|name| name.trim() == media_type))
    }

    /// Whether the registry itself was asked for this blob.
    pub fn is_blob_get(&self, digest: &Digest) -> bool {
        self.server == Server::Api && self.method == Method::GET && self.path.ends_with(&format!("/blobs/{digest}"))
    }

    /// The values of a parameter of the query, or of the form in the body.
    pub fn parameter(&self, name: &str) -> Vec<String> {
        let text = if self.method == Method::POST && self.server == Server::Realm { &self.body } else { &self.query };
        let pairs = url::form_urlencoded::parse(text.as_bytes());
        pairs.filter(|(key, _)| key == name).map(|(_, value)| value.into_owned()).collect()
    }
}
