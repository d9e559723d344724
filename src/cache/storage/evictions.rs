//! How much was evicted since the start.

use std::sync::atomic::{AtomicU64, Ordering};

use super::DiskStore;

/// Counts what is evicted.
#[derive(Debug, Default)]
pub(super) struct Evictions {
    bytes: AtomicU64,
    objects: AtomicU64,
}

/// What was evicted in some time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EvictionTotals {
    pub bytes: u64,
    pub objects: u64,
}

impl EvictionTotals {
    /// What was evicted since an earlier time.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        Self { bytes: self.bytes.saturating_sub(earlier.bytes), objects: self.objects.saturating_sub(earlier.objects) }
    }
}

impl Evictions {
    /// An object of `len` bytes is evicted.
    pub(super) fn add(&self, len: u64) {
        self.bytes.fetch_add(len, Ordering::Relaxed);
        self.objects.fetch_add(1, Ordering::Relaxed);
    }
}

impl DiskStore {
    /// What was evicted since the start.
    pub fn evicted(&self) -> EvictionTotals {
        let Evictions { bytes, objects } = &self.0.evictions;
        EvictionTotals { bytes: bytes.load(Ordering::Relaxed), objects: objects.load(Ordering::Relaxed) }
    }
}
