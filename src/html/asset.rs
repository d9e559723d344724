//! The files that pages load. They are part of the program.

use std::sync::OnceLock;

use http::{HeaderMap, HeaderValue, header};

use crate::oci::{Algorithm, Digest, etag, matches_if_none_match};

/// The style of all pages.
pub(crate) static STYLE: Asset = Asset::new("text/css; charset=utf-8", include_bytes!("style.css"));

/// What keeps parts of pages up to date.
pub(crate) static LIVE: Asset = Asset::script(include_bytes!("live.js"));

/// A file that a page loads.
#[derive(Debug)]
pub(crate) struct Asset {
    content_type: &'static str,
    content: &'static [u8],
    digest: OnceLock<Digest>,
}

impl Asset {
    pub(crate) const fn script(content: &'static [u8]) -> Self {
        Self::new("text/javascript; charset=utf-8", content)
    }

    const fn new(content_type: &'static str, content: &'static [u8]) -> Self {
        Self { content_type, content, digest: OnceLock::new() }
    }

    pub(crate) fn content_type(&self) -> &'static str {
        self.content_type
    }

    /// The content for a browser that sent these headers; `None`: it has the content already.
    pub(crate) fn content_for(&self, headers: &HeaderMap) -> Option<&'static [u8]> {
        (!matches_if_none_match(headers, self.digest())).then_some(self.content)
    }

    /// Has a browser keep the content, and ask each time whether it is still the same.
    pub(crate) fn mark(&self, headers: &mut HeaderMap) {
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        headers.extend(HeaderValue::from_str(&etag(self.digest())).ok().map(|etag| (header::ETAG, etag)));
    }

    /// Computed once.
    fn digest(&self) -> &Digest {
        self.digest.get_or_init(|| Digest::of(Algorithm::Sha256, self.content))
    }
}
