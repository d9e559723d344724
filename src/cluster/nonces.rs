//! The nonces of proofs that were used: a proof counts once.
//!
//! What must hold: a nonce is known as long as its proof could be used again, unless more than [`MAX_NONCES`] come in that
//! time. Then new proofs are refused: their peer asks the next one.

use std::{
    collections::{BTreeMap, HashSet},
    time::Duration,
};

use parking_lot::Mutex;

/// How far the clocks of two peers may be apart, the time on the way included.
pub(super) const MAX_SKEW: Duration = Duration::from_secs(60);

/// The length of a nonce in bytes.
pub(super) const NONCE_LEN: usize = 16;

pub(super) type Nonce = [u8; NONCE_LEN];

/// How many nonces are kept: 8 MiB at most. That is the requests of peers in two minutes at two thousand a second.
const MAX_NONCES: usize = 256 * 1024;

/// The nonces, by the second of their proofs.
#[derive(Default)]
pub(super) struct Nonces(Mutex<Seen>);

#[derive(Default)]
struct Seen {
    by_time: BTreeMap<u64, HashSet<Nonce>>,
    count: usize,
}

impl Nonces {
    /// Notes the nonce of a proof of this time, in seconds; whether it is new.
    pub(super) fn is_new(&self, nonce: Nonce, time: u64, now: u64) -> bool {
        let mut seen = self.0.lock();
        // A proof of an earlier second is refused by its time.
        let kept = seen.by_time.split_off(&now.saturating_sub(MAX_SKEW.as_secs()));
        seen.count = kept.values().map(HashSet::len).sum();
        seen.by_time = kept;
        if seen.count >= MAX_NONCES {
            return false;
        }
        let is_new = seen.by_time.entry(time).or_default().insert(nonce);
        seen.count += usize::from(is_new);
        is_new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nonce(number: u64) -> Nonce {
        let mut nonce = [0; NONCE_LEN];
        nonce[..8].copy_from_slice(&number.to_be_bytes());
        nonce
    }

    #[test]
    fn a_nonce_is_known_while_its_proof_is_good() {
        let nonces = Nonces::default();
        let skew = MAX_SKEW.as_secs();
        assert!(nonces.is_new(nonce(1), 1000, 1000));
        assert!(nonces.is_new(nonce(2), 1000 + skew, 1000));
        for now in [1000, 1000 + skew] {
            assert!(!nonces.is_new(nonce(1), 1000, now), "{now}");
        }
        // The time alone refuses it from now on.
        assert!(!nonces.is_new(nonce(2), 1000 + skew, 1000 + 2 * skew));
        assert_eq!(nonces.0.lock().by_time.len(), 1);
    }

    #[test]
    fn there_is_a_bound_and_time_frees_it() {
        let nonces = Nonces::default();
        for number in 0..MAX_NONCES as u64 {
            assert!(nonces.is_new(nonce(number), 1000, 1000));
        }
        assert!(!nonces.is_new(nonce(u64::MAX), 1000, 1000));
        let later = 1001 + MAX_SKEW.as_secs();
        assert!(nonces.is_new(nonce(u64::MAX), later, later));
        assert_eq!(nonces.0.lock().count, 1);
    }
}
