//! Which member owns a key, by rendezvous hashing (pure).
//!
//! Each member's weight for a key is a hash of both; the highest owns it. When a member leaves, only its keys move, and
//! each to the member that was next.
//!
//! Source: Thaler and Ravishankar, "Using name-based mappings to increase hit rates", IEEE/ACM Transactions on Networking
//! 6(1), 1998.

use sha2::{Digest as _, Sha256};

use crate::oci;

/// What is owned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Key {
    /// A blob, whatever upstream and repository it is requested of.
    Blob(oci::Digest),
    /// The manifests and tags of a repository of an upstream.
    Repository(oci::Repository),
}

impl Key {
    fn hash(&self, upstream: &str) -> Sha256 {
        match self {
            Self::Blob(digest) => Sha256::new().chain_update("blob\0").chain_update(digest.to_string()),
            Self::Repository(repository) => Sha256::new()
                .chain_update("repository\0")
                .chain_update(upstream)
                .chain_update("\0")
                .chain_update(repository.as_str()),
        }
    }
}

/// The members in the order in which they are asked for a key of an upstream. All machines and versions find the same
/// order.
pub(crate) fn order<'a, M>(members: &'a [M], name: impl Fn(&M) -> &str, upstream: &str, key: &Key) -> Vec<&'a M> {
    let key = key.hash(upstream).finalize();
    let weight = |member: &M| {
        let hash = Sha256::new().chain_update(key).chain_update(name(member)).finalize();
        hash.first_chunk().copied().map_or(0, u64::from_be_bytes)
    };
    let mut weighed: Vec<(u64, &M)> = members.iter().map(|member| (weight(member), member)).collect();
    // Equal weights are as good as impossible, but the order must not depend on that of the list.
    weighed.sort_by(|(one, this), (other, that)| other.cmp(one).then_with(|| name(this).cmp(name(that))));
    weighed.into_iter().map(|(_, member)| member).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn digest(number: usize) -> oci::Digest {
        oci::Digest::of(oci::Algorithm::Sha256, &number.to_be_bytes())
    }

    fn names(count: usize) -> Vec<String> {
        (0..count).map(|number| format!("http://10.0.0.{number}:5000")).collect()
    }

    fn owner(members: &[String], number: usize) -> &str {
        order(members, |member| member, "docker.io", &Key::Blob(digest(number)))[0]
    }

    #[test]
    fn the_order_is_the_same_for_any_list_of_the_same_members() {
        let members = names(7);
        let mut turned = members.clone();
        turned.reverse();
        for number in 0..100 {
            let key = Key::Blob(digest(number));
            let order_of = |members: &[String]| -> Vec<String> {
                order(members, |member| member, "docker.io", &key).into_iter().cloned().collect()
            };
            assert_eq!(order_of(&members), order_of(&turned), "{number}");
        }
    }

    /// What the order is must not change between versions: peers of two versions would disagree.
    #[test]
    fn the_order_of_a_known_key_does_not_change() {
        let members = names(3);
        let of = |key: Key| order(&members, |member| member, "docker.io", &key);
        let by_blob = of(Key::Blob(digest(0)));
        let by_name = of(Key::Repository("library/alpine".parse().unwrap()));
        let at = |indexes: [usize; 3]| indexes.map(|index| &members[index]).to_vec();
        assert_eq!((by_blob, by_name), (at([2, 0, 1]), at([2, 1, 0])));
    }

    #[test]
    fn one_that_leaves_moves_only_its_own_keys() {
        let before = names(5);
        let after: Vec<String> = before.iter().filter(|name| !name.contains(".3:")).cloned().collect();
        for number in 0..500 {
            let owned = owner(&before, number);
            if owned != before[3] {
                assert_eq!(owner(&after, number), owned, "{number}");
            } else {
                let next = order(&before, |member| member, "docker.io", &Key::Blob(digest(number)))[1];
                assert_eq!(owner(&after, number), next, "{number}");
            }
        }
    }

    #[test]
    fn members_own_about_as_much_as_one_another() {
        let members = names(10);
        let mut owned: HashMap<&str, usize> = HashMap::new();
        for number in 0..10_000 {
            *owned.entry(owner(&members, number)).or_default() += 1;
        }
        assert!(owned.len() == 10 && owned.values().all(|count| (850..1150).contains(count)), "{owned:?}");
    }
}
