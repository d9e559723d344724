//! What was used from memory, told to the index later.
//!
//! A hit in memory costs one look at a flag of its own object. Only the first use since the index was last told takes
//! a lock; before anything is evicted, and now and then, the index is told. So its order is that of use to within
//! the interval, and whatever was used since goes last.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use parking_lot::Mutex;

use super::index::IndexKey;

/// Whether an object in memory was used since the index was told.
#[derive(Clone, Debug, Default)]
pub struct LastUse(Arc<AtomicBool>);

/// What the index has not been told yet: each object in memory is in it once at most.
#[derive(Default)]
pub struct Uses(Mutex<Vec<(IndexKey, LastUse)>>);

impl Uses {
    /// Notes a use; the key, when it is the first since [`Uses::take`].
    pub fn note(&self, used: &LastUse, key: impl FnOnce() -> IndexKey) -> Option<IndexKey> {
        // A plain look first, so that the cores of busy clients share the flag's cache line.
        if used.0.load(Ordering::Relaxed) || used.0.swap(true, Ordering::AcqRel) {
            return None;
        }
        let key = key();
        self.list().push((key.clone(), used.clone()));
        Some(key)
    }

    /// All that was used, in the order of first use; from here on a use is a first one again.
    pub fn take(&self) -> Vec<IndexKey> {
        let taken = std::mem::take(&mut *self.list());
        let again = |(key, used): (IndexKey, LastUse)| {
            used.0.store(false, Ordering::Release);
            key
        };
        taken.into_iter().map(again).collect()
    }

    fn list(&self) -> parking_lot::MutexGuard<'_, Vec<(IndexKey, LastUse)>> {
        self.0.lock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cache::Visibility,
        oci::{Algorithm, Digest},
    };

    #[test]
    fn each_is_told_once_between_two_tellings() {
        let key = |number: u8| IndexKey::Manifest(Visibility::Shared.key(&Digest::of(Algorithm::Sha256, &[number])));
        let (uses, first, second) = (Uses::default(), LastUse::default(), LastUse::default());
        for _ in 0..2 {
            assert_eq!(uses.note(&second, || key(2)), Some(key(2)));
            assert_eq!(uses.note(&first, || key(1)), Some(key(1)));
            assert_eq!(uses.note(&second, || key(2)), None);
            assert_eq!(uses.note(&first.clone(), || key(1)), None, "a copy is the same object");
            assert_eq!(uses.take(), [key(2), key(1)]);
            assert_eq!(uses.take(), []);
        }
    }
}
