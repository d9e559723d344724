//! Keeps names and memory within their bounds.
//!
//! What must hold: the counts of pulls outlive what manifests name; an image of any size costs itself its sizes, and no
//! other image its name.

use std::sync::atomic::Ordering;

use super::Inventory;
use crate::cache::storage::lru_index::CompactKey;

/// How many bytes names and summaries may take in memory.
pub(super) const MAX_MEMORY: usize = 96 << 20;
/// One part in so many is free afterwards, so that little that comes next does not make for the same work.
const FREED_PART: usize = 16;

impl Inventory {
    /// Whether names and summaries take more memory than they may.
    pub(super) fn is_over_memory(&self) -> bool {
        self.memory().1 > self.0.max_memory
    }

    /// Drops names until there are few enough, and what the largest images consist of until the rest fits.
    pub(super) fn keep_bounds(&self) {
        while self.0.names.are_too_many() {
            self.0.names.trim();
            self.0.has_garbage.store(true, Ordering::Relaxed);
        }
        if self.is_over_memory() {
            self.drop_garbage();
        }
        let goal = self.0.max_memory - self.0.max_memory / FREED_PART;
        while self.is_over_memory() {
            let excess = self.memory().1.saturating_sub(goal);
            let roots = self.roots();
            if !self.0.summaries.write().leave_out_largest(roots, excess) {
                break;
            }
            self.0.has_garbage.store(true, Ordering::Relaxed);
            self.drop_garbage();
        }
    }

    /// Drops what belongs to no name.
    pub(super) fn drop_garbage(&self) {
        if self.0.has_garbage.swap(false, Ordering::Relaxed) {
            let roots = self.roots();
            self.0.summaries.write().retain(roots);
        }
    }

    /// The manifests that names lead to.
    fn roots(&self) -> impl Iterator<Item = CompactKey> + use<> {
        let named = self.0.names.list(|_, state| state.manifest.is_some());
        named.into_iter().filter_map(|named| named.state.manifest)
    }
}
