//! The kinds of objects in the cache.

use crate::metrics::Label;

/// The kind of a cached object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ObjectKind {
    Blob,
    Manifest,
    Tag,
    /// A broken download's file, for the next download to resume.
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
