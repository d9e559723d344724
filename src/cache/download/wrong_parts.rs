//! Blobs whose parts proved wrong.
//!
//! A blob that was assembled from several responses and proved wrong may be right when it is read in one response: some
//! upstreams answer ranges with the right headers and the wrong bytes. The two cases look the same, so for a while the
//! blob is read by one request from its start. If that breaks, it is still resumed, since the digest decides.

use std::time::Duration;

use crate::cache::{ContentKey, Origin};

/// How long a blob is suspected.
const SPAN: Duration = Duration::from_secs(600);
/// How many blobs are suspected at most.
const MAX_BLOBS: u64 = 10_000;

/// The blobs whose parts proved wrong, by the origin of their bytes.
pub(super) struct WrongParts(moka::sync::Cache<(ContentKey, Origin), ()>);

impl Default for WrongParts {
    fn default() -> Self {
        Self(moka::sync::Cache::builder().max_capacity(MAX_BLOBS).time_to_live(SPAN).build())
    }
}

impl WrongParts {
    /// Notes that this blob was assembled from parts and was wrong.
    pub(super) fn note(&self, blob: (ContentKey, Origin)) {
        self.0.insert(blob, ());
    }

    /// Whether the blob is to be read in one response.
    pub(super) fn include(&self, blob: &(ContentKey, Origin)) -> bool {
        self.0.contains_key(blob)
    }
}
