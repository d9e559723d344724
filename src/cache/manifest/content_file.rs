//! The file of a manifest: its media type, a newline, its bytes.
//!
//! If the document does not say its type, the upstream that gave it precedes it, with hashes of the URLs that the
//! upstream had then: `@NAME@HASH,HASH TYPE`. A file may hold several such records ([`file_records`]).

use std::sync::Arc;

use bytes::Bytes;

use super::{content::VerifiedManifest, file_records};
use crate::{
    cache::{ContentKey, Visibility},
    oci::{Digest, DocumentType, MediaType, matches_manifest},
    upstream::Registry,
};

/// What a file is to the clients of an upstream.
#[derive(Debug)]
pub(crate) enum StoredManifest {
    Whole(Arc<VerifiedManifest>),
    /// The digest is right, but another registry gave the media type, or the signatures.
    OfOtherRegistry,
    Damaged,
}

/// The first line of a record.
struct FirstLine {
    /// Where the manifest begins.
    end: usize,
    /// `None`: the document says its type.
    registry: Option<RecordedRegistry>,
    media_type: MediaType,
}

/// The registry that gave what the digest does not cover.
struct RecordedRegistry {
    name: String,
    /// Hashes of its URLs, in their order. Earlier versions wrote none.
    url_hashes: Vec<u64>,
}

impl VerifiedManifest {
    /// The longest file of a manifest, its media type included, in bytes.
    pub(crate) const MAX_FILE_LEN: u64 = file_records::MAX_FILE_LEN;

    pub(crate) fn encode(&self, registry: &Registry) -> Vec<u8> {
        let mut file = Vec::with_capacity(self.bytes.len() + 512);
        if !self.is_self_described {
            let urls: Vec<_> = registry.url_hashes().iter().map(|url| format!("{url:016x}")).collect();
            file.extend_from_slice(format!("@{}@{} ", registry.name(), urls.join(",")).as_bytes());
        }
        file.extend_from_slice(self.media_type.as_str().as_bytes());
        file.push(b'\n');
        file.extend_from_slice(&self.bytes);
        file
    }

    /// Reads a file for the clients of a registry. `tag_type`: the media type that it gave the requested tag.
    pub(crate) fn decode(
        key: &ContentKey,
        file: Vec<u8>,
        registry: &Registry,
        tag_type: Option<&MediaType>,
    ) -> StoredManifest {
        let file = Bytes::from(file);
        let mut found = StoredManifest::Damaged;
        for record in file_records::records(&file) {
            match Self::decode_record(key, &file.slice(record), registry, tag_type) {
                StoredManifest::Damaged => {}
                StoredManifest::OfOtherRegistry => found = StoredManifest::OfOtherRegistry,
                whole @ StoredManifest::Whole(_) => return whole,
            }
        }
        found
    }

    fn decode_record(
        key: &ContentKey,
        file: &Bytes,
        registry: &Registry,
        tag_type: Option<&MediaType>,
    ) -> StoredManifest {
        let Some(line) = FirstLine::parse(file) else { return StoredManifest::Damaged };
        let bytes = file.slice(line.end..);
        let Some(is_signed) = matches_manifest(&key.digest, &bytes) else { return StoredManifest::Damaged };
        let is_own = line.registry.as_ref().is_some_and(|recorded| recorded.is(registry, key.visibility));
        // Earlier versions recorded no registry for signed manifests.
        if is_signed && !is_own && line.registry.is_some() {
            return StoredManifest::OfOtherRegistry;
        }
        let document = DocumentType::of(&bytes);
        let header = match (&document, tag_type) {
            // The type in the file cannot contradict the type in the document.
            (DocumentType::Said(_), _) => None,
            (_, Some(tag_type)) => Some(tag_type.clone()),
            (_, None) if is_own || is_signed => Some(line.media_type),
            // Which type this registry gives is not known.
            (_, None) => return StoredManifest::OfOtherRegistry,
        };
        let Ok((media_type, is_self_described)) = document.settle(header) else {
            return StoredManifest::OfOtherRegistry;
        };
        match Self::new(key.digest.clone(), media_type, bytes, is_self_described) {
            Some(content) => StoredManifest::Whole(Arc::new(content)),
            None => StoredManifest::Damaged,
        }
    }

    /// The document in a file: the same in all of its records.
    pub(crate) fn document_in(file: &[u8]) -> Option<&[u8]> {
        let record = file.get(file_records::records(file).into_iter().next()?)?;
        record.get(FirstLine::parse(record)?.end..)
    }

    /// The media type that stands before the first of them.
    pub(crate) fn type_in(file: &[u8]) -> Option<MediaType> {
        let record = file.get(file_records::records(file).into_iter().next()?)?;
        Some(FirstLine::parse(record)?.media_type)
    }

    /// Where the document of a file begins, if it has this digest and tells its own type.
    pub(crate) fn self_described_in(digest: &Digest, file: &[u8]) -> Option<usize> {
        let line = FirstLine::parse(file).filter(|line| line.registry.is_none())?;
        let document = file.get(line.end..)?;
        let is_right = matches_manifest(digest, document) == Some(false);
        (is_right && matches!(DocumentType::of(document), DocumentType::Said(_))).then_some(line.end)
    }

    /// Whether a file is well-formed and its manifests have this digest.
    pub(crate) fn is_whole(digest: &Digest, file: &[u8]) -> bool {
        let is_whole = |record: &[u8]| {
            let bytes = FirstLine::parse(record).and_then(|line| record.get(line.end..));
            bytes.is_some_and(|bytes| matches_manifest(digest, bytes).is_some())
        };
        let records = file_records::records(file);
        !records.is_empty() && records.into_iter().all(|record| file.get(record).is_some_and(is_whole))
    }
}

impl FirstLine {
    fn parse(record: &[u8]) -> Option<Self> {
        let end = record.iter().position(|&byte| byte == b'\n')?;
        let line = std::str::from_utf8(&record[..end]).ok()?;
        let (registry, media_type) = match line.strip_prefix('@') {
            Some(line) => {
                let (registry, media_type) = line.split_once(' ')?;
                (Some(RecordedRegistry::parse(registry)?), media_type)
            }
            None => (None, line),
        };
        Some(Self { end: end + 1, registry, media_type: media_type.parse().ok()? })
    }
}

impl RecordedRegistry {
    fn parse(text: &str) -> Option<Self> {
        let (name, urls) = text.split_once('@').unwrap_or((text, ""));
        let urls = urls.split(',').filter(|url| !url.is_empty());
        let url_hashes = urls.map(|url| u64::from_str_radix(url, 16).ok()).collect::<Option<_>>()?;
        Some(Self { name: name.to_owned(), url_hashes })
    }

    fn is(&self, registry: &Registry, visibility: Visibility) -> bool {
        self.name == **registry.name() && visibility.is_of(&self.url_hashes, registry)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        cache::manifest::content::tests::{INDEX, body, tag},
        oci::{Algorithm, signed_example},
    };

    fn registry(name: &str) -> Registry {
        at(name, &[name])
    }

    fn at(name: &str, hosts: &[&str]) -> Registry {
        let urls: Vec<url::Url> = hosts.iter().map(|host| format!("https://{host}").parse().unwrap()).collect();
        Registry::new(&name.into(), &urls)
    }

    fn decode(digest: &Digest, file: Vec<u8>, upstream: &str, tag_type: Option<&MediaType>) -> StoredManifest {
        VerifiedManifest::decode(&Visibility::Shared.key(digest), file, &registry(upstream), tag_type)
    }

    #[test]
    fn only_what_says_its_own_type_goes_into_the_object_store() {
        let said = br#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#;
        let unsaid = br#"{"schemaVersion":2,"layers":[]}"#;
        for (bytes, media_type, is_described) in [
            (&said[..], None, true),
            (&unsaid[..], Some("application/vnd.oci.image.manifest.v1+json"), false),
            (b"{}", Some("application/x"), false),
        ] {
            let content = VerifiedManifest::verified(&tag(), body(media_type, None, bytes)).unwrap();
            let file = content.encode(&registry("a.example"));
            let begin = VerifiedManifest::self_described_in(&content.digest, &file);
            assert_eq!((begin.is_some(), content.is_self_described), (is_described, is_described), "{media_type:?}");
            assert!(begin.is_none_or(|begin| file[begin..] == *bytes));
            let other = Digest::of(Algorithm::Sha256, b"other");
            assert_eq!(VerifiedManifest::self_described_in(&other, &file), None, "damaged");
        }
    }

    #[test]
    fn a_changed_file_is_damaged() {
        let content = VerifiedManifest::verified(&tag(), body(Some("a/b; c=d"), None, INDEX)).unwrap();
        let file = content.encode(&registry("u"));
        let other = Digest::of(Algorithm::Sha256, b"other");
        let decode = |digest: &Digest, file: Vec<u8>| decode(digest, file, "u", None);
        assert!(matches!(decode(&content.digest, file.clone()), StoredManifest::Whole(_)));
        assert!(matches!(decode(&other, file.clone()), StoredManifest::Damaged));
        for at in MediaType::OCI_INDEX.as_str().len()..file.len() {
            let mut spoiled = file.clone();
            spoiled[at] ^= 1;
            assert!(matches!(decode(&content.digest, spoiled), StoredManifest::Damaged), "byte {at}");
            assert!(matches!(decode(&content.digest, file[..at].to_vec()), StoredManifest::Damaged), "cut at {at}");
        }
        assert!(matches!(decode(&content.digest, [&file[..], b" "].concat()), StoredManifest::Damaged));
    }

    #[test]
    fn a_file_with_a_hostile_type_is_read_by_its_document() {
        let digest = Digest::of(Algorithm::Sha256, INDEX);
        for line in [MediaType::DOCKER_V1_SIGNED.as_str(), MediaType::OCI_MANIFEST.as_str(), "@evil.example a/b"] {
            let file = [line.as_bytes(), b"\n", INDEX].concat();
            let StoredManifest::Whole(content) = decode(&digest, file, "u", Some(&MediaType::OCI_MANIFEST)) else {
                panic!("{line}")
            };
            assert_eq!((&content.media_type, content.is_self_described), (&MediaType::OCI_INDEX, true), "{line}");
        }
    }

    #[test]
    fn signatures_are_for_clients_of_their_upstream() {
        let (document, _) = signed_example();
        let content = VerifiedManifest::verified(&tag(), body(None, None, document.as_bytes())).unwrap();
        let whole = |file: &[u8], upstream: &str, tag_type: Option<&MediaType>| match decode(
            &content.digest,
            file.to_vec(),
            upstream,
            tag_type,
        ) {
            StoredManifest::Whole(read) => Some((read.media_type.clone(), read.is_self_described)),
            StoredManifest::OfOtherRegistry => None,
            StoredManifest::Damaged => panic!("it is whole"),
        };
        let file = content.encode(&registry("u"));
        assert!(VerifiedManifest::is_whole(&content.digest, &file));
        assert!(!VerifiedManifest::is_whole(&content.digest, &file[..file.len() - 1]));
        for tag_type in [None, Some(&MediaType::DOCKER_V1_SIGNED), Some(&MediaType::DOCKER_V1)] {
            let media_type = tag_type.unwrap_or(&MediaType::DOCKER_V1_SIGNED).clone();
            assert_eq!(whole(&file, "u", tag_type), Some((media_type, false)), "{tag_type:?}");
            assert_eq!(whole(&file, "v", tag_type), None, "{tag_type:?}");
        }
        // Earlier versions recorded no registry.
        let without_registry = [MediaType::DOCKER_V1_SIGNED.as_str().as_bytes(), b"\n", document.as_bytes()].concat();
        assert_eq!(whole(&without_registry, "v", None), Some((MediaType::DOCKER_V1_SIGNED, false)));
    }

    #[test]
    fn a_recorded_type_counts_for_its_registry_and_urls() {
        for (then, now, open, clients) in [
            (Some(at("u", &["x"])), at("u", &["x"]), true, true),
            (Some(at("u", &["x"])), at("u", &["y"]), false, false),
            (Some(at("u", &["x"])), at("v", &["x"]), false, false),
            (Some(at("u", &["x"])), at("u", &["y", "x"]), true, false),
            (Some(at("u", &["x", "y"])), at("u", &["y"]), true, false),
            (Some(at("u", &["x", "y"])), at("u", &["z"]), false, false),
            // An earlier version wrote it.
            (None, at("u", &["x"]), true, false),
            (None, at("v", &["x"]), false, false),
        ] {
            let content = VerifiedManifest::verified(&tag(), body(Some("a/b"), None, b"{}")).unwrap();
            let file = match &then {
                Some(then) => content.encode(then),
                None => b"@u a/b\n{}".to_vec(),
            };
            for (visibility, expected) in [(Visibility::Shared, open), (Visibility::PerClient, clients)] {
                let found = VerifiedManifest::decode(&visibility.key(&content.digest), file.clone(), &now, None);
                assert_eq!(matches!(found, StoredManifest::Whole(_)), expected, "{then:?} {now:?} {visibility:?}");
                assert!(!matches!(found, StoredManifest::Damaged), "{then:?} {now:?} {visibility:?}");
            }
        }
        for by in ["@u@x", "@u@1,g", "@u@11112222333344445"] {
            let file = format!("{by} a/b\n{{}}").into_bytes();
            assert!(
                matches!(decode(&Digest::of(Algorithm::Sha256, b"{}"), file, "u", None), StoredManifest::Damaged),
                "{by}"
            );
        }
    }

    #[test]
    fn the_largest_manifest_fits_its_file() {
        let bytes = vec![b'x'; 16 * 1024 * 1024];
        let longest = format!("a/{}", "b".repeat(253));
        let many: Vec<url::Url> = (0..500).map(|number| format!("https://{number}").parse().unwrap()).collect();
        let content = VerifiedManifest::verified(&tag(), body(Some(&longest), None, &bytes)).unwrap();
        assert!(
            content.encode(&Registry::new(&"u".repeat(255).into(), &many)).len() as u64
                <= VerifiedManifest::MAX_FILE_LEN
        );
        assert_eq!(content.weight(), 16 * 1024 + 1);
    }

    proptest! {
        #[test]
        fn an_encoded_manifest_decodes_to_itself(bytes in prop::collection::vec(any::<u8>(), 0..200), parameter in "(; [a-z]=\"[ -!#-~&&[^\\\\]]{0,9}\")?") {
            let content = VerifiedManifest::verified(&tag(), body(Some(&format!("a/b{parameter}")), None, &bytes)).unwrap();
            let StoredManifest::Whole(read) = decode(&content.digest, content.encode(&registry("u")), "u", None) else {
                return Err(TestCaseError::fail("it is whole"));
            };
            if !content.is_self_described {
                let other = decode(&content.digest, content.encode(&registry("u")), "v", None);
                prop_assert!(matches!(other, StoredManifest::OfOtherRegistry));
            }
            prop_assert_eq!(&read.bytes[..], &bytes[..]);
            prop_assert_eq!(&read.media_type, &content.media_type);
        }

        #[test]
        fn any_file_is_read_without_a_panic(file in prop::collection::vec(any::<u8>(), 0..80)) {
            let found = decode(&Digest::of(Algorithm::Sha256, b"other"), file, "u", None);
            prop_assert!(matches!(found, StoredManifest::Damaged));
        }
    }
}
