//! What clients got from the store itself: no disk of a forebay tells of it, and it must not count as unused.

use std::collections::HashSet;

use parking_lot::Mutex;

use super::Store;
use crate::oci::Digest;

/// So many contents are remembered, of 16 bytes each, until the next list of usage: as many as it has room for.
const MAX_USES: usize = 100_000;

/// The fronts of digests ([`Digest::front`]).
#[derive(Debug, Default)]
pub(super) struct DirectUses(Mutex<HashSet<u64>>);

impl DirectUses {
    fn add(&self, fronts: impl IntoIterator<Item = u64>) {
        let mut uses = self.0.lock();
        for front in fronts {
            if uses.len() >= MAX_USES {
                break;
            }
            uses.insert(front);
        }
    }
}

impl Store {
    /// A client gets this content from the store.
    pub(crate) fn note_direct_use(&self, digest: &Digest) {
        self.0.direct_uses.add([digest.front()]);
    }

    /// The fronts of the contents that clients got since this was called last.
    pub(crate) fn take_direct_uses(&self) -> HashSet<u64> {
        std::mem::take(&mut *self.0.direct_uses.0.lock())
    }

    /// They could not be told.
    pub(crate) fn put_back_direct_uses(&self, fronts: HashSet<u64>) {
        self.0.direct_uses.add(fronts);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_bounded() {
        let uses = DirectUses::default();
        uses.add(0..MAX_USES as u64 + 10);
        uses.add([u64::MAX]);
        assert_eq!(uses.0.lock().len(), MAX_USES);
    }
}
