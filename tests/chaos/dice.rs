//! Choices that are the same for the same seed.

use std::hash::{Hash, Hasher};

/// SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014).
pub struct Dice {
    state: u64,
}

impl Dice {
    /// Each use has dice of its own, so that what happens in one task does not change what another one draws.
    pub fn new(seed: u64, what_for: impl Hash) -> Dice {
        // SipHash with fixed keys: the same in every run.
        #[allow(deprecated, reason = "the standard library's only hash with fixed keys")]
        let mut hasher = std::hash::SipHasher::new();
        (seed, what_for).hash(&mut hasher);
        Dice { state: hasher.finish() }
    }

    pub fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.state;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    /// One of 0 to `n` - 1.
    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n.max(1)
    }

    pub fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    pub fn one_of<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        let at = self.below(items.len() as u64) as usize;
        items.get(at).expect("there is something to choose from")
    }
}
