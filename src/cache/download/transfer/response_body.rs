//! The body that a transfer reads now.

use bytes::Bytes;

use crate::upstream::{BlobStream, Error};

/// The body of the last response.
#[derive(Default)]
pub(super) struct ResponseBody {
    /// `None` once it is over or broken.
    pub(super) stream: Option<BlobStream>,
    /// How many bytes to discard: the upstream began before the requested position.
    pub(super) skip: u64,
    /// What [`Transfer::ready`](super::Transfer::ready) encountered and [`Transfer::next`](super::Transfer::next) has to
    /// handle.
    pub(super) seen: Option<Result<Option<Bytes>, Error>>,
    /// It is the whole blob instead of a part.
    pub(super) is_whole: bool,
    /// It answers a request for a part, whatever it contains.
    pub(super) asked_part: bool,
    /// How many useful bytes it has brought.
    pub(super) brought: u64,
}
