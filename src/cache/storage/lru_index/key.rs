//! The key of an object, and its compact form in the index.

use std::hash::{Hash, Hasher};

use crate::{
    cache::{ContentKey, ObjectKind, Visibility, storage::tag_record::TagKey},
    oci::{Algorithm, Digest, sha256_of_hex},
};

/// One object on disk.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum IndexKey {
    Blob(ContentKey),
    Manifest(ContentKey),
    Tag(TagKey),
    /// A broken download's file in `tmp/`, for the next download of this blob to resume.
    Partial(ContentKey),
}

impl IndexKey {
    pub fn kind(&self) -> ObjectKind {
        match self {
            Self::Blob(_) => ObjectKind::Blob,
            Self::Manifest(_) => ObjectKind::Manifest,
            Self::Tag(_) => ObjectKind::Tag,
            Self::Partial(_) => ObjectKind::Partial,
        }
    }
}

/// A key as the index stores it, possibly millions of times: a sha256 digest takes 32 bytes and no allocation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompactKey(Compact);

impl Hash for CompactKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        match &self.0 {
            // Sixteen bytes of a digest tell objects apart; the hasher has a random key.
            Compact::Blob(visibility, hash) => state.write_u128(front(hash) ^ *visibility as u128),
            Compact::Manifest(visibility, hash) => state.write_u128(front(hash) ^ (2 + *visibility as u128)),
            Compact::Partial(visibility, hash) => state.write_u128(front(hash) ^ (4 + *visibility as u128)),
            Compact::Other(key) => key.hash(state),
        }
    }
}

fn front(hash: &[u8; 32]) -> u128 {
    hash.first_chunk().map_or(0, |front| u128::from_le_bytes(*front))
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Compact {
    Blob(Visibility, [u8; 32]),
    Manifest(Visibility, [u8; 32]),
    Partial(Visibility, [u8; 32]),
    /// Tags, and digests of other algorithms: there are few of these.
    Other(Box<IndexKey>),
}

impl CompactKey {
    /// The key of a file below `blobs/` or `manifests/`, by its name; `None` if the name is no digest.
    pub fn of_file(visibility: Visibility, kind: ObjectKind, algorithm: Algorithm, name: &str) -> Option<Self> {
        if algorithm == Algorithm::Sha256 {
            let hash = sha256_of_hex(name)?;
            match kind {
                ObjectKind::Blob => return Some(Self(Compact::Blob(visibility, hash))),
                ObjectKind::Manifest => return Some(Self(Compact::Manifest(visibility, hash))),
                ObjectKind::Tag | ObjectKind::Partial => return None,
            }
        }
        let digest: Digest = format!("{}:{name}", algorithm.as_str()).parse().ok()?;
        match kind {
            ObjectKind::Blob => Some(Self::from(&IndexKey::Blob(visibility.key(&digest)))),
            ObjectKind::Manifest => Some(Self::from(&IndexKey::Manifest(visibility.key(&digest)))),
            ObjectKind::Tag | ObjectKind::Partial => None,
        }
    }

    pub(super) fn tag(&self) -> Option<&TagKey> {
        match &self.0 {
            Compact::Other(key) => match &**key {
                IndexKey::Tag(tag) => Some(tag),
                IndexKey::Blob(_) | IndexKey::Manifest(_) | IndexKey::Partial(_) => None,
            },
            Compact::Blob(..) | Compact::Manifest(..) | Compact::Partial(..) => None,
        }
    }

    /// Of a blob or a manifest: whose it is, its kind, and the algorithm and first byte of its digest.
    pub fn place(&self) -> Option<(Visibility, ObjectKind, Algorithm, u8)> {
        match &self.0 {
            Compact::Blob(visibility, [first, ..]) => Some((*visibility, ObjectKind::Blob, Algorithm::Sha256, *first)),
            Compact::Manifest(visibility, [first, ..]) => {
                Some((*visibility, ObjectKind::Manifest, Algorithm::Sha256, *first))
            }
            Compact::Partial(..) => None,
            Compact::Other(key) => match &**key {
                IndexKey::Blob(id) | IndexKey::Manifest(id) => {
                    let first = u8::from_str_radix(id.digest.hex().get(..2)?, 16).ok()?;
                    Some((id.visibility, key.kind(), id.digest.algorithm(), first))
                }
                IndexKey::Tag(_) | IndexKey::Partial(_) => None,
            },
        }
    }

    /// Of a blob or a manifest: the front of its digest.
    pub fn front(&self) -> Option<u64> {
        self.place()?;
        match self.key() {
            IndexKey::Blob(id) | IndexKey::Manifest(id) => Some(id.digest.front()),
            IndexKey::Tag(_) | IndexKey::Partial(_) => None,
        }
    }

    pub fn kind(&self) -> ObjectKind {
        match &self.0 {
            Compact::Blob(..) => ObjectKind::Blob,
            Compact::Manifest(..) => ObjectKind::Manifest,
            Compact::Partial(..) => ObjectKind::Partial,
            Compact::Other(key) => key.kind(),
        }
    }

    pub fn key(&self) -> IndexKey {
        match &self.0 {
            Compact::Blob(visibility, hash) => IndexKey::Blob(visibility.key(&Digest::from_sha256(hash))),
            Compact::Manifest(visibility, hash) => IndexKey::Manifest(visibility.key(&Digest::from_sha256(hash))),
            Compact::Partial(visibility, hash) => IndexKey::Partial(visibility.key(&Digest::from_sha256(hash))),
            Compact::Other(key) => IndexKey::clone(key),
        }
    }
}

impl From<&IndexKey> for CompactKey {
    fn from(key: &IndexKey) -> Self {
        let compact = match key {
            IndexKey::Blob(id) => id.digest.sha256().map(|hash| Compact::Blob(id.visibility, hash)),
            IndexKey::Manifest(id) => id.digest.sha256().map(|hash| Compact::Manifest(id.visibility, hash)),
            IndexKey::Partial(id) => id.digest.sha256().map(|hash| Compact::Partial(id.visibility, hash)),
            IndexKey::Tag(_) => None,
        };
        Self(compact.unwrap_or_else(|| Compact::Other(Box::new(key.clone()))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_held_as_it_is() {
        let tag = TagKey::from_path(Visibility::Shared, std::path::Path::new("docker.io/library/alpine/3@80")).unwrap();
        for (algorithm, visibility) in Algorithm::ALL.into_iter().zip(Visibility::ALL.into_iter().rev().cycle()) {
            let digest = Digest::of(algorithm, b"content");
            let id = visibility.key(&digest);
            let keys = [
                IndexKey::Blob(id.clone()),
                IndexKey::Manifest(id.clone()),
                IndexKey::Partial(id.clone()),
                IndexKey::Tag(tag.clone()),
            ];
            for key in keys {
                let compact = CompactKey::from(&key);
                assert_eq!((compact.key(), compact.kind()), (key.clone(), key.kind()));
            }
            for (kind, key) in
                [(ObjectKind::Blob, IndexKey::Blob(id.clone())), (ObjectKind::Manifest, IndexKey::Manifest(id.clone()))]
            {
                let of = |name: &str| CompactKey::of_file(visibility, kind, algorithm, name);
                assert_eq!(of(digest.hex()), Some(CompactKey::from(&key)));
                for name in
                    ["", "lock", &digest.hex()[1..], &digest.hex().to_uppercase(), &format!("{}0", digest.hex())]
                {
                    assert_eq!(of(name), None, "{name}");
                }
            }
        }
        assert!(size_of::<CompactKey>() <= 40, "the memory of a million blobs");
    }
}
