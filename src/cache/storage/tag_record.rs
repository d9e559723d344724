//! The record of a tag: the manifest it pointed to, and when the upstream last confirmed that.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};

use super::super::visibility::Visibility;
use crate::{
    oci::{Accept, AcceptClass, Digest, MediaType, Repository, Tag},
    upstream::{Registry, UrlHashes},
};

/// A tag of one upstream for one class of clients: an old registry converts manifests to a type that the client
/// accepts, so one tag can mean several manifests.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TagKey {
    pub visibility: Visibility,
    pub upstream: Arc<str>,
    pub repository: Repository,
    pub tag: Tag,
    pub class: AcceptClass,
}

impl TagKey {
    /// The key of the tag itself: equal for the keys of all classes.
    pub fn of_all_classes(&self) -> Self {
        Self { class: Accept::default().class(), ..self.clone() }
    }

    /// The path below the pool's `tags/`. No name contains `@`, so a tag's file never collides with a repository's
    /// directory.
    pub fn path(&self) -> PathBuf {
        let mut path = PathBuf::from(&*self.upstream);
        path.push(self.repository.as_str());
        path.push(format!("{}@{}", self.tag, self.class));
        path
    }

    /// The tag whose file has this path below the `tags/` of a pool.
    pub fn from_path(visibility: Visibility, path: &Path) -> Option<Self> {
        let (upstream, rest) = path.to_str()?.split_once('/')?;
        let (repository, file) = rest.rsplit_once('/')?;
        let (tag, class) = file.split_once('@')?;
        Some(Self {
            visibility,
            upstream: upstream.into(),
            repository: repository.parse().ok()?,
            tag: tag.parse().ok()?,
            class: class.parse().ok()?,
        })
    }
}

/// An upstream's response for a tag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TagRecord {
    pub digest: Digest,
    pub media_type: MediaType,
    /// The manifest's size in bytes.
    pub size: u64,
    pub confirmed: SystemTime,
    /// The URLs of the upstream at the time of the response: under the same name, other URLs may lead to another
    /// registry. Empty in the records of earlier versions.
    pub urls: UrlHashes,
}

/// The format of the file: TOML, readable by operators.
#[derive(Serialize, Deserialize)]
struct Text {
    digest: String,
    media_type: String,
    size: u64,
    /// Seconds since 1970.
    confirmed: u64,
    /// Hashes in hexadecimal, separated by spaces.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    urls: String,
}

impl TagRecord {
    /// The longest file that forebay reads, in bytes.
    pub const MAX_LEN: u64 = 16 * 1024;

    /// Whether the record counts for this registry.
    pub fn is_of(&self, registry: &Registry, visibility: Visibility) -> bool {
        visibility.is_of(&self.urls, registry)
    }

    pub fn encode(&self) -> Vec<u8> {
        let confirmed = self.confirmed.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let text = Text {
            digest: self.digest.to_string(),
            media_type: self.media_type.to_string(),
            size: self.size,
            confirmed,
            urls: self.urls.iter().map(|url| format!("{url:016x}")).collect::<Vec<_>>().join(" "),
        };
        // Strings and numbers always have a TOML form; an empty file would be decoded as no record.
        toml::to_string(&text).unwrap_or_default().into_bytes()
    }

    /// `None` for anything that is not the complete output of [`TagRecord::encode`].
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let text: Text = toml::from_str(std::str::from_utf8(bytes).ok()?).ok()?;
        Some(Self {
            digest: text.digest.parse().ok()?,
            media_type: text.media_type.parse().ok()?,
            size: text.size,
            confirmed: UNIX_EPOCH.checked_add(Duration::from_secs(text.confirmed))?,
            urls: text.urls.split_whitespace().map(|url| u64::from_str_radix(url, 16).ok()).collect::<Option<_>>()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue, header};
    use proptest::prelude::*;

    use super::*;
    use crate::oci::Algorithm;

    fn class(accept: &str) -> AcceptClass {
        let value = HeaderValue::from_str(accept).unwrap();
        Accept::from_headers(&HeaderMap::from_iter([(header::ACCEPT, value)])).class()
    }

    fn key(upstream: &str, repository: &str, tag: &str, accept: &str) -> TagKey {
        TagKey {
            visibility: Visibility::Shared,
            upstream: upstream.into(),
            repository: repository.parse().unwrap(),
            tag: tag.parse().unwrap(),
            class: class(accept),
        }
    }

    #[test]
    fn paths_are_read_back() {
        for key in [
            key("docker.io", "library/alpine", "3.20", "*/*"),
            key("harbor.lan:8443", "a/b/c/d", "sha256-00.sig", "x/y, application/vnd.oci.image.index.v1+json"),
            key("[::1]:5000", "a", "_", "application/vnd.oci.image.index.v1+json"),
        ] {
            let path = key.path();
            assert_eq!(TagKey::from_path(Visibility::Shared, &path), Some(key), "{}", path.display());
        }
    }

    #[test]
    fn what_is_no_path_of_a_tag() {
        for path in [
            "",
            "docker.io",
            "docker.io/a",
            "docker.io/a/1",
            "docker.io/1@80",
            "docker.io/a/@80",
            "docker.io/a/1@",
            "docker.io/a/1@8",
            "docker.io/a/1@zz",
            "docker.io/A/1@80",
            "docker.io/../1@80",
            "docker.io/a//1@80",
            "docker.io/a/1@80@80",
            "docker.io/a/.1@80",
        ] {
            assert_eq!(TagKey::from_path(Visibility::Shared, Path::new(path)), None, "{path}");
        }
    }

    fn record(seconds: u64, size: u64) -> TagRecord {
        TagRecord {
            digest: Digest::of(Algorithm::Sha512, b"content"),
            media_type: "application/x; y=\"a\\\"b\"".parse().unwrap(),
            size,
            confirmed: UNIX_EPOCH + Duration::from_secs(seconds),
            urls: Arc::default(),
        }
    }

    fn registry(urls: &[&str]) -> Registry {
        let urls: Vec<_> = urls.iter().map(|url| url.parse().unwrap()).collect();
        Registry::new(&"name".into(), &urls)
    }

    #[test]
    fn a_record_is_of_the_registry_at_its_urls() {
        let (x, y, z) = ("https://x.example", "https://y.example", "https://z.example");
        for (then, now, open, clients) in [
            (&[x][..], &[x][..], true, true),
            (&[x], &[y], false, false),
            (&[x], &["https://x.example/path"], false, false),
            (&[x], &["https://x.example:8443"], false, false),
            (&[x, y], &[y, x], true, false),
            (&[x], &[x, y], true, false),
            (&[x, y], &[y], true, false),
            (&[x, y], &[z], false, false),
            // An earlier version of forebay wrote it.
            (&[], &[x], true, false),
        ] {
            let written = TagRecord { urls: registry(then).url_hashes().clone(), ..record(1, 1) };
            let record = TagRecord::decode(&written.encode()).unwrap();
            assert_eq!(record.is_of(&registry(now), Visibility::Shared), open, "{then:?} {now:?}");
            assert_eq!(record.is_of(&registry(now), Visibility::PerClient), clients, "{then:?} {now:?}");
        }
    }

    #[test]
    fn a_record_that_is_not_whole_is_none() {
        let whole = record(1_700_000_000, 42).encode();
        assert!(whole.len() as u64 <= TagRecord::MAX_LEN);
        for len in 0..whole.len() - 1 {
            let cut = TagRecord::decode(&whole[..len]);
            // A number that is cut in the middle is still a number; the confirmation is then older, never newer.
            if let Some(cut) = cut {
                assert_eq!((cut.digest, cut.size), (record(0, 42).digest, 42), "cut at {len}");
                assert!(cut.confirmed < UNIX_EPOCH + Duration::from_secs(1_700_000_000), "cut at {len}");
            }
        }
        for text in ["", "\0", "digest = 1", "size = -1", "confirmed = 1e400"] {
            assert_eq!(TagRecord::decode(text.as_bytes()), None, "{text:?}");
        }
        let far = String::from_utf8(whole).unwrap().replace("1700000000", &u64::MAX.to_string());
        assert_eq!(TagRecord::decode(far.as_bytes()), None, "no clock shows that");
    }

    proptest! {
        #[test]
        fn records_are_read_back(seconds in 0u64..1 << 40, size in 0u64..1 << 62) {
            let record = record(seconds, size);
            prop_assert_eq!(TagRecord::decode(&record.encode()), Some(record));
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..120)) {
            prop_assert_eq!(TagRecord::decode(&bytes), None);
        }

        #[test]
        fn two_tags_never_share_a_file(
            one in "[ab]{1,2}(/[ab]{1,2}){0,2}", other in "[ab]{1,2}(/[ab]{1,2}){0,2}", tag in "[ab_]{1,3}", second in "[ab_]{1,3}",
        ) {
            let (one, other) = (key("r", &one, &tag, "*/*"), key("r", &other, &second, "*/*"));
            prop_assert_eq!(one == other, one.path() == other.path());
            // Nor does the file of one collide with the directory of the other.
            prop_assert!(one == other || !other.path().starts_with(one.path()));
        }
    }
}
