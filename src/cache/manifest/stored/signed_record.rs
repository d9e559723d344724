//! The record of a tag in the object store: that of the disk, and a code by the key of the cluster (pure).
//!
//! What must hold: a record counts for its own tag, class of clients and pool alone, and only as a member of the cluster wrote it:
//! a bucket may have other writers. One from the future would count for longer than it may.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Deserialize;

use crate::{
    cache::{
        ContentKey, Visibility,
        storage::tag_record::{TagKey, TagRecord},
    },
    cluster::Cluster,
    metrics::Label,
    oci::Repository,
    store::{ObjectName, Pool},
};

/// The longest record that is read, in bytes.
pub(super) const MAX_LEN: usize = 20 * 1024;
/// How far the clock of the forebay that wrote a record may be ahead of this one's.
pub(super) const MAX_SKEW: Duration = Duration::from_secs(60);

/// Why a record does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Refusal {
    /// It is no record.
    Malformed,
    /// Its code does not fit: another key, another tag, or other words.
    Code,
    /// It was confirmed in the future.
    Future,
}

impl Refusal {
    pub(super) const COUNT: usize = Self::ALL.len();
}

impl Label for Refusal {
    const ALL: &'static [Self] = &[Self::Malformed, Self::Code, Self::Future];

    fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Code => "code",
            Self::Future => "future",
        }
    }

    fn index(self) -> usize {
        self as usize
    }
}

/// Makes codes, and checks them.
pub(super) trait Signer {
    fn code(&self, parts: &[&[u8]]) -> String;
    fn is_code(&self, parts: &[&[u8]], code: &str) -> bool;
}

impl Signer for Cluster {
    fn code(&self, parts: &[&[u8]]) -> String {
        self.record_code(parts)
    }

    fn is_code(&self, parts: &[&[u8]], code: &str) -> bool {
        self.is_record_code(parts, code)
    }
}

/// The pool of a tag or manifest in the store.
pub(super) fn pool(visibility: Visibility) -> Pool {
    match visibility {
        Visibility::Shared => Pool::Shared,
        Visibility::PerClient => Pool::Clients,
    }
}

/// The name of a tag's record.
pub(super) fn name(key: &TagKey) -> ObjectName {
    ObjectName::new(format!("{}tags/{}", pool(key.visibility).prefix(), key.path().display()))
}

/// The name of a manifest.
pub(super) fn manifest_name(id: &ContentKey) -> ObjectName {
    ObjectName::manifest(pool(id.visibility), &id.digest)
}

/// What the names of the records of a repository's tags begin with, and those of repositories below it.
pub(super) fn prefix_of_repository(visibility: Visibility, upstream: &str, repository: &Repository) -> String {
    format!("{}tags/{upstream}/{repository}/", pool(visibility).prefix())
}

/// What the names of a tag's records begin with, for all classes.
pub(super) fn prefix_of_tag(key: &TagKey) -> String {
    let TagKey { visibility, upstream, repository, tag, .. } = key;
    format!("{}tags/{upstream}/{repository}/{tag}@", pool(*visibility).prefix())
}

/// The tag whose record has this name.
pub(super) fn tag_of(name: &ObjectName) -> Option<TagKey> {
    let (visibility, rest) = match name.as_str().strip_prefix(Pool::Clients.prefix()) {
        Some(rest) => (Visibility::PerClient, rest),
        None => (Visibility::Shared, name.as_str()),
    };
    TagKey::from_path(visibility, rest.strip_prefix("tags/")?.as_ref())
}

pub(super) fn encode(signer: &impl Signer, key: &TagKey, record: &TagRecord) -> Vec<u8> {
    let code = with_parts(key, record, |parts| signer.code(parts));
    [record.encode(), format!("code = \"{code}\"\n").into_bytes()].concat()
}

#[derive(Deserialize)]
struct Code {
    code: String,
}

/// The record of a tag out of its object.
///
/// # Errors
/// It does not count.
pub(super) fn decode(signer: &impl Signer, key: &TagKey, bytes: &[u8], now: SystemTime) -> Result<TagRecord, Refusal> {
    let text = std::str::from_utf8(bytes).map_err(|_| Refusal::Malformed)?;
    let record = TagRecord::decode(bytes).ok_or(Refusal::Malformed)?;
    let Code { code } = toml::from_str(text).map_err(|_| Refusal::Malformed)?;
    if !with_parts(key, &record, |parts| signer.is_code(parts, &code)) {
        return Err(Refusal::Code);
    }
    match record.confirmed.duration_since(now) {
        Ok(ahead) if ahead > MAX_SKEW => Err(Refusal::Future),
        Ok(_) | Err(_) => Ok(record),
    }
}

/// All that a record says, and of which tag.
fn with_parts<T>(key: &TagKey, record: &TagRecord, act: impl FnOnce(&[&[u8]]) -> T) -> T {
    let TagKey { visibility, upstream, repository, tag, class } = key;
    let TagRecord { digest, media_type, size, confirmed, urls } = record;
    let seconds = confirmed.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let urls: Vec<u8> = urls.iter().flat_map(|url| url.to_be_bytes()).collect();
    act(&[
        b"tag",
        match visibility {
            Visibility::Shared => b"shared",
            Visibility::PerClient => b"clients",
        },
        upstream.as_bytes(),
        repository.as_str().as_bytes(),
        tag.as_str().as_bytes(),
        class.to_string().as_bytes(),
        digest.as_str().as_bytes(),
        media_type.as_str().as_bytes(),
        &size.to_be_bytes(),
        &seconds.to_be_bytes(),
        &urls,
    ])
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use aws_lc_rs::hmac;

    use super::*;
    use crate::oci::{Accept, Algorithm, Digest};

    struct Key(hmac::Key);

    impl Key {
        fn of(text: &str) -> Self {
            Self(hmac::Key::new(hmac::HMAC_SHA256, text.as_bytes()))
        }
    }

    impl Signer for Key {
        fn code(&self, parts: &[&[u8]]) -> String {
            hex::encode(hmac::sign(&self.0, &parts.join(&b"\0\0"[..])))
        }

        fn is_code(&self, parts: &[&[u8]], code: &str) -> bool {
            self.code(parts) == code
        }
    }

    fn tag(text: &str) -> TagKey {
        TagKey {
            visibility: Visibility::Shared,
            upstream: "docker.io".into(),
            repository: "library/alpine".parse().unwrap(),
            tag: text.parse().unwrap(),
            class: Accept::default().class(),
        }
    }

    fn record() -> TagRecord {
        TagRecord {
            digest: Digest::of(Algorithm::Sha256, b"x"),
            media_type: "application/vnd.oci.image.index.v1+json".parse().unwrap(),
            size: 7,
            confirmed: UNIX_EPOCH + Duration::from_secs(1_800_000_000),
            urls: Arc::from([1, u64::MAX]),
        }
    }

    #[test]
    fn a_record_counts_for_its_own_tag_alone() {
        let (key, record) = (Key::of("a"), record());
        let (own, now) = (tag("3.20"), record.confirmed);
        let object = encode(&key, &own, &record);
        assert!(object.len() <= MAX_LEN);
        assert_eq!(decode(&key, &own, &object, now), Ok(record));
        assert_eq!(decode(&Key::of("b"), &own, &object, now), Err(Refusal::Code), "another key");
        let class = Accept::of_images().class();
        for (what, other) in [
            ("tag", tag("3.21")),
            ("repository", TagKey { repository: "library/debian".parse().unwrap(), ..own.clone() }),
            ("upstream", TagKey { upstream: "ghcr.io".into(), ..own.clone() }),
            ("class", TagKey { class, ..own.clone() }),
            ("pool", TagKey { visibility: Visibility::PerClient, ..own.clone() }),
        ] {
            assert_eq!(decode(&key, &other, &object, now), Err(Refusal::Code), "another {what}");
            assert_ne!(name(&other), name(&own), "{what}");
        }
    }

    #[test]
    fn no_word_of_a_record_can_be_changed() {
        let (key, own, record) = (Key::of("a"), tag("3.20"), record());
        let now = record.confirmed;
        let object = String::from_utf8(encode(&key, &own, &record)).unwrap();
        let other = Digest::of(Algorithm::Sha256, b"y");
        for (what, forged, refusal) in [
            ("digest", object.replace(record.digest.as_str(), other.as_str()), Refusal::Code),
            ("time", object.replace("1800000000", "1800000001"), Refusal::Code),
            ("size", object.replace("size = 7", "size = 8"), Refusal::Code),
            ("type", object.replace("index.v1", "manifest.v1"), Refusal::Code),
            ("urls", object.replace("0000000000000001", "0000000000000002"), Refusal::Code),
            ("no code", object.split("code").next().unwrap().to_owned(), Refusal::Malformed),
            ("no record", "code = \"00\"".to_owned(), Refusal::Malformed),
            ("nothing", String::new(), Refusal::Malformed),
        ] {
            assert_ne!(forged, object, "{what}");
            assert_eq!(decode(&key, &own, forged.as_bytes(), now), Err(refusal), "{what}");
        }
    }

    #[test]
    fn a_record_from_the_future_does_not_count() {
        let (key, own, record) = (Key::of("a"), tag("1"), record());
        let object = encode(&key, &own, &record);
        for (ahead, expected) in [(0, None), (59, None), (61, Some(Refusal::Future)), (90_000, Some(Refusal::Future))] {
            let now = record.confirmed - Duration::from_secs(ahead);
            assert_eq!(decode(&key, &own, &object, now).err(), expected, "{ahead} s");
        }
        let later = record.confirmed + Duration::from_secs(90_000);
        assert_eq!(decode(&key, &own, &object, later), Ok(record));
    }

    #[test]
    fn names_are_read_back() {
        for key in [tag("3.20"), TagKey { visibility: Visibility::PerClient, ..tag("latest") }] {
            assert_eq!(tag_of(&name(&key)), Some(key.clone()));
            assert!(name(&key).as_str().starts_with(&prefix_of_tag(&key)));
        }
        for other in ["tags/docker.io/a", "blobs/sha256/ab/cd", "clients/", "tags/docker.io/a/1@zz"] {
            assert_eq!(tag_of(&ObjectName::new(other)), None, "{other}");
        }
    }
}
