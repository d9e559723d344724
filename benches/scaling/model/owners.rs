//! Which member owns a blob: the order of `src/cluster/rendezvous.rs`.

use sha2::{Digest as _, Sha256};

/// The first of so many members for a blob, or for a slice of it.
pub fn owner(members: usize, blob: usize, slice: usize) -> usize {
    let content = blob * 1_000_000 + slice;
    let digest = format!("sha256:{}", hex::encode(Sha256::digest(content.to_be_bytes())));
    let key = Sha256::new().chain_update("blob\0").chain_update(digest).finalize();
    let weight = |member: &usize| {
        let name = format!("http://10.0.0.{member}:5000");
        let hash = Sha256::new().chain_update(key).chain_update(name).finalize();
        hash.first_chunk().copied().map_or(0, u64::from_be_bytes)
    };
    (0..members).max_by_key(weight).unwrap_or_default()
}

/// Which part of the bytes each of so many members owns. Each of `pieces` is a blob and a slice with its bytes.
pub fn parts(pieces: &[((usize, usize), f64)], members: usize) -> Vec<f64> {
    let all: f64 = pieces.iter().map(|(_, bytes)| bytes).sum();
    let mut parts = vec![0.0; members];
    for ((blob, slice), bytes) in pieces {
        parts[owner(members, *blob, *slice)] += bytes / all;
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `the_order_of_a_known_key_does_not_change` of the program pins the same.
    #[test]
    fn owners_are_those_of_the_program() {
        assert_eq!(owner(3, 0, 0), 2);
    }

    #[test]
    fn parts_are_those_of_the_owners() {
        let pieces = [((0, 0), 30.0), ((1, 0), 10.0)];
        let found = parts(&pieces, 3);
        assert!((found.iter().sum::<f64>() - 1.0).abs() < 1e-9, "{found:?}");
        assert!(found[owner(3, 0, 0)] >= 0.75, "{found:?}");
    }
}
