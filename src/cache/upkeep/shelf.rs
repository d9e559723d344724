//! The parts in which the object store is listed and compared with the disk (pure).

use crate::{
    cache::{
        ObjectKind, Visibility,
        replicate::pool_of,
        storage::lru_index::{CompactKey, IndexKey},
    },
    oci::Algorithm,
    store::{ObjectName, Pool},
};

/// Of hexadecimal numbers.
pub(super) const DIGITS: &str = "0123456789abcdef";

/// The objects whose digests begin with one digit: what is compared at a time has to be in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shelf {
    pub visibility: Visibility,
    pub kind: ObjectKind,
    pub algorithm: Algorithm,
    digit: char,
}

impl Shelf {
    /// All of them: each object is in one.
    pub(super) fn all() -> impl Iterator<Item = Self> {
        let kinds = || [ObjectKind::Blob, ObjectKind::Manifest].into_iter();
        Visibility::ALL.into_iter().flat_map(move |visibility| {
            kinds().flat_map(move |kind| {
                Algorithm::ALL.into_iter().flat_map(move |algorithm| {
                    DIGITS.chars().map(move |digit| Self { visibility, kind, algorithm, digit })
                })
            })
        })
    }

    pub(super) fn pool(self) -> Pool {
        pool_of(self.visibility)
    }

    /// What the names of its objects in the store begin with.
    pub(super) fn prefix(self) -> String {
        let kind = if self.kind == ObjectKind::Blob { "blobs" } else { "manifests" };
        format!("{}{kind}/{}/{}", self.pool().prefix(), self.algorithm.as_str(), self.digit)
    }

    /// Whether an object on disk belongs to it.
    pub(super) fn has(self, key: &CompactKey) -> bool {
        let Some((visibility, kind, algorithm, first)) = key.place() else { return false };
        let is_digit = self.digit.to_digit(16) == Some(u32::from(first >> 4));
        visibility == self.visibility && kind == self.kind && algorithm == self.algorithm && is_digit
    }
}

/// The content that has this name in the store; `None` for what is no content.
pub(super) fn key_of(name: &ObjectName) -> Option<CompactKey> {
    let visibility = |pool| if pool == Pool::Shared { Visibility::Shared } else { Visibility::PerClient };
    if let Some((pool, digest)) = name.as_blob() {
        return Some(CompactKey::from(&IndexKey::Blob(visibility(pool).key(&digest))));
    }
    let (pool, digest) = name.as_manifest()?;
    Some(CompactKey::from(&IndexKey::Manifest(visibility(pool).key(&digest))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{cache::replicate::object_of, oci::Digest};

    #[test]
    fn each_object_is_on_one_shelf_by_its_name_and_its_key() {
        assert_eq!(Shelf::all().count(), 128);
        for number in 0..50_u8 {
            for algorithm in Algorithm::ALL {
                let digest = Digest::of(algorithm, &[number]);
                for visibility in Visibility::ALL {
                    let id = visibility.key(&digest);
                    for key in [IndexKey::Blob(id.clone()), IndexKey::Manifest(id)] {
                        let (name, compact) = (object_of(&key).unwrap(), CompactKey::from(&key));
                        let by_key: Vec<Shelf> = Shelf::all().filter(|shelf| shelf.has(&compact)).collect();
                        let by_name: Vec<Shelf> =
                            Shelf::all().filter(|shelf| name.as_str().starts_with(&shelf.prefix())).collect();
                        assert_eq!((by_key.len(), &by_key), (1, &by_name), "{name}");
                        assert!(key_of(&name) == Some(compact));
                    }
                }
            }
        }
        for other in ["tags/docker.io/a/1@80", "usage/x/1", "blobs/sha256/ab", "probes/1"] {
            assert!(key_of(&ObjectName::new(other)).is_none(), "{other}");
        }
    }
}
