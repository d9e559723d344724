//! What a subscriber of a download needs of the blob.

use crate::oci::ByteRange;

/// What a subscriber needs of a blob.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Need {
    Whole,
    Range(ByteRange),
}

impl Need {
    /// Without a range: the whole blob.
    pub(crate) fn of(range: Option<ByteRange>) -> Self {
        range.map_or(Self::Whole, Self::Range)
    }

    pub(super) fn range(self) -> Option<ByteRange> {
        match self {
            Self::Whole => None,
            Self::Range(range) => Some(range),
        }
    }
}
