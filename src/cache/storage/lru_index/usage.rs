//! What is on disk, by kind, and what counts against the limit.

use crate::cache::ObjectKind;

/// An object on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OnDisk {
    /// In bytes.
    pub len: u64,
    /// When it was last used, in minutes since 1970.
    pub minute: u32,
}

/// Bytes on disk and number of the objects of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub bytes: u64,
    pub objects: u64,
}

/// All that counts against `max_size`, in bytes on disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// By [`ObjectKind`], in the order of [`ObjectKind::EVERY`].
    pub totals: [Totals; ObjectKind::EVERY.len()],
    /// Directories, and files that are no objects.
    pub overhead: u64,
    /// What is reserved, without what is yet to be evicted for it, and what was evicted and is not unlinked yet.
    pub in_flight: u64,
}

impl Usage {
    /// The sum of all parts: what eviction compares with `max_size`.
    pub fn total(&self) -> u64 {
        self.totals.iter().map(|totals| totals.bytes).sum::<u64>() + self.overhead + self.in_flight
    }
}
