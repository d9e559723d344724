//! The nonces of proofs that were used: a proof counts once.
//!
//! What must hold: a nonce is known as long as its proof could be used again, unless more than [`MAX_NONCES`] come in that
//! time. Then new proofs are refused: their peer asks the registry.

use std::{
    collections::{BTreeMap, HashSet},
    time::Duration,
};

use parking_lot::Mutex;

use super::refused_proof::RefusedProof;

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
    /// Notes the nonce of a proof of this time, in seconds, unless it is known or there is no room.
    pub(super) fn note(&self, nonce: Nonce, time: u64, now: u64) -> Result<(), RefusedProof> {
        let mut seen = self.0.lock();
        // A proof of an earlier second is refused by its time.
        let kept = seen.by_time.split_off(&now.saturating_sub(MAX_SKEW.as_secs()));
        seen.count = kept.values().map(HashSet::len).sum();
        seen.by_time = kept;
        if seen.by_time.get(&time).is_some_and(|nonces| nonces.contains(&nonce)) {
            return Err(RefusedProof::Replayed);
        }
        if seen.count >= MAX_NONCES {
            return Err(RefusedProof::Full);
        }
        seen.by_time.entry(time).or_default().insert(nonce);
        seen.count += 1;
        Ok(())
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
        assert_eq!(nonces.note(nonce(1), 1000, 1000), Ok(()));
        assert_eq!(nonces.note(nonce(2), 1000 + skew, 1000), Ok(()));
        for now in [1000, 1000 + skew] {
            assert_eq!(nonces.note(nonce(1), 1000, now), Err(RefusedProof::Replayed), "{now}");
        }
        // The time alone refuses it from now on.
        assert_eq!(nonces.note(nonce(2), 1000 + skew, 1000 + 2 * skew), Err(RefusedProof::Replayed));
        assert_eq!(nonces.0.lock().by_time.len(), 1);
    }

    #[test]
    fn there_is_a_bound_and_time_frees_it() {
        let nonces = Nonces::default();
        for number in 0..MAX_NONCES as u64 {
            assert_eq!(nonces.note(nonce(number), 1000, 1000), Ok(()));
        }
        assert_eq!(nonces.note(nonce(u64::MAX), 1000, 1000), Err(RefusedProof::Full));
        assert_eq!(nonces.note(nonce(1), 1000, 1000), Err(RefusedProof::Replayed), "it is still known");
        let later = 1001 + MAX_SKEW.as_secs();
        assert_eq!(nonces.note(nonce(u64::MAX), later, later), Ok(()));
        assert_eq!(nonces.0.lock().count, 1);
    }
}
