//! A list to send.

use bytes::Bytes;
use http::HeaderMap;

use crate::cache::Outcome;

#[derive(Clone, Debug)]
pub(crate) struct ServedList {
    /// The upstream's headers. The target of a `Link` is a path at the upstream.
    pub headers: HeaderMap,
    pub body: Bytes,
    pub outcome: Outcome,
}
