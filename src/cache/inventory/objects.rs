//! The manifests and blobs that images consist of, each once, with a number (pure).
//!
//! What must hold: an object takes at most 64 bytes of memory, the share of the hash table included.

use std::hash::{BuildHasher as _, RandomState};

use hashbrown::{HashTable, hash_table::Entry};

use crate::cache::storage::lru_index::CompactKey;

/// How many keys are allocated at a time: a vector that doubles copies all of them, and is half empty then.
const CHUNK: usize = 1024;

/// The number of an object; that of a removed one is given again.
pub(super) type Number = u32;

#[derive(Default)]
pub(super) struct Objects {
    hasher: RandomState,
    numbers: HashTable<Number>,
    chunks: Vec<Vec<CompactKey>>,
    free: Vec<Number>,
    /// All numbers that were given are less than this.
    end: Number,
}

impl Objects {
    pub(super) fn key(&self, number: Number) -> Option<&CompactKey> {
        key(&self.chunks, number)
    }

    pub(super) fn number(&self, of: &CompactKey) -> Option<Number> {
        let is_it = |number: &Number| self.key(*number) == Some(of);
        self.numbers.find(self.hasher.hash_one(of), is_it).copied()
    }

    /// The number of an object, which gets one if it has none; `None` if there are no more.
    pub(super) fn add(&mut self, of: CompactKey) -> Option<Number> {
        let Self { hasher, numbers, chunks, free, end } = self;
        let hash = hasher.hash_one(&of);
        let is_it = |number: &Number| key(chunks, *number) == Some(&of);
        let rehash = |number: &Number| key(chunks, *number).map_or(0, |key| hasher.hash_one(key));
        let entry = match numbers.entry(hash, is_it, rehash) {
            Entry::Occupied(entry) => return Some(*entry.get()),
            Entry::Vacant(entry) => entry,
        };
        let number = match free.pop() {
            Some(number) => number,
            None => {
                let next = end.checked_add(1)?;
                std::mem::replace(end, next)
            }
        };
        entry.insert(number);
        let place = number as usize;
        if place / CHUNK == chunks.len() {
            chunks.push(Vec::with_capacity(CHUNK));
        }
        if let Some(chunk) = chunks.get_mut(place / CHUNK) {
            match chunk.get_mut(place % CHUNK) {
                Some(slot) => *slot = of,
                None => chunk.push(of),
            }
        }
        Some(number)
    }

    /// Removes the objects that are not in use.
    pub(super) fn retain(&mut self, is_used: impl Fn(Number) -> bool) {
        let Self { hasher, numbers, chunks, free, .. } = self;
        numbers.retain(|number| {
            let stays = is_used(*number);
            if !stays {
                free.push(*number);
            }
            stays
        });
        if numbers.capacity() > 2 * numbers.len() {
            numbers.shrink_to_fit(|number| key(chunks, *number).map_or(0, |key| hasher.hash_one(key)));
        }
    }

    /// One more than the highest number.
    pub(super) fn end(&self) -> usize {
        self.end as usize
    }

    pub(super) fn len(&self) -> usize {
        self.numbers.len()
    }

    /// The bytes in memory, as far as they are in use: what was removed makes room for others.
    pub(super) fn memory(&self) -> usize {
        self.numbers.allocation_size() + self.len() * size_of::<CompactKey>()
    }
}

fn key(chunks: &[Vec<CompactKey>], number: Number) -> Option<&CompactKey> {
    let place = number as usize;
    chunks.get(place / CHUNK)?.get(place % CHUNK)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;
    use crate::{
        cache::{Visibility, storage::lru_index::IndexKey},
        oci::{Algorithm, Digest},
    };

    fn object(number: u16) -> CompactKey {
        let id = Visibility::Shared.key(&Digest::of(Algorithm::Sha256, &number.to_le_bytes()));
        CompactKey::from(&IndexKey::Blob(id))
    }

    proptest! {
        #[test]
        fn each_object_has_one_number(steps in prop::collection::vec((any::<bool>(), 0u16..3000), 0..4000)) {
            let (mut objects, mut model) = (Objects::default(), HashMap::new());
            for (is_added, of) in steps {
                if is_added || of % 97 != 0 {
                    let number = objects.add(object(of)).unwrap();
                    prop_assert_eq!(*model.entry(of).or_insert(number), number);
                } else {
                    // All but every third go.
                    model.retain(|_, number| *number % 3 == 0);
                    objects.retain(|number| number % 3 == 0);
                }
                prop_assert_eq!(objects.len(), model.len());
            }
            for (of, number) in &model {
                prop_assert_eq!(objects.number(&object(*of)), Some(*number));
                prop_assert_eq!(objects.key(*number), Some(&object(*of)));
                prop_assert!((*number as usize) < objects.end());
            }
            prop_assert!(objects.end() <= 3000, "numbers are given again");
        }
    }

    #[test]
    fn an_object_takes_little_memory() {
        let mut objects = Objects::default();
        for number in 0..60_000 {
            objects.add(object(number)).unwrap();
        }
        assert!(objects.memory() <= 64 * objects.len(), "{}", objects.memory() / objects.len());
    }
}
