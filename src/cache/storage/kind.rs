//! What kind of object a file of the cache is.

use crate::metrics::Label;

/// What the cache keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ObjectKind {
    Blob,
    Manifest,
    Tag,
    /// What broken downloads left, for the next to go on with.
    Partial,
}

impl ObjectKind {
    pub const EVERY: [Self; 4] = [Self::Blob, Self::Manifest, Self::Tag, Self::Partial];
}

impl Label for ObjectKind {
    const ALL: &'static [Self] = &ObjectKind::EVERY;

    fn as_str(self) -> &'static str {
        match self {
            ObjectKind::Blob => "blob",
            ObjectKind::Manifest => "manifest",
            ObjectKind::Tag => "tag",
            ObjectKind::Partial => "partial",
        }
    }

    fn index(self) -> usize {
        self as usize
    }
}
