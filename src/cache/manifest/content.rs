//! A manifest's bytes, exactly as the upstream stores them, with the type it gave them.

use std::sync::Arc;

use bytes::Bytes;
use http::HeaderValue;

use super::{ManifestError, file_records};
use crate::{
    cache::{ContentKey, Visibility, storage::recency::LastUse},
    oci::{
        Algorithm, Digest, DocumentType, ManifestSigns, MediaType, MediaTypeKind, OtherType, Reference, etag,
        matches_manifest, schema1_payload,
    },
    upstream::{ManifestBody, Registry},
};

/// A verified manifest.
#[derive(Debug)]
pub struct Content {
    pub digest: Digest,
    pub media_type: MediaType,
    pub bytes: Bytes,
    /// Whether the bytes say the type, and all of them are covered by the digest: good for every upstream's clients. A
    /// document with signatures, which its digest does not cover, never says its type.
    pub own: bool,
    pub headers: Headers,
    pub(super) used: LastUse,
}

/// What every answer with this manifest says of it, made once.
#[derive(Debug)]
pub struct Headers {
    pub media_type: HeaderValue,
    pub digest: HeaderValue,
    pub etag: HeaderValue,
}

impl Headers {
    /// A digest is of letters, digits and a colon: it is always a header's value.
    fn of(digest: &Digest, media_type: &MediaType) -> Option<Self> {
        Some(Self {
            media_type: media_type.into(),
            digest: HeaderValue::from_str(digest.as_str()).ok()?,
            etag: HeaderValue::from_str(&etag(digest)).ok()?,
        })
    }
}

impl Content {
    /// The longest file of a manifest, its media type included, in bytes.
    pub const MAX_FILE_LEN: u64 = 16 * 1024 * 1024 + 16 * 1024;

    /// Whether what an upstream that decides by its clients sent for a tag is surely a manifest: a proxy in front of it may send a
    /// page of its own with 200, and what it tells one client is for all that may read the tag.
    pub fn is_proof(reference: &Reference, body: &ManifestBody) -> bool {
        match reference {
            Reference::Digest(_) => true,
            Reference::Tag(_) => ManifestSigns::of(&body.bytes, body.media_type.as_ref()).is_sure,
        }
    }

    /// Checks what an upstream sent against the digest that was asked for, or that it claims for the tag.
    pub fn verified(reference: &Reference, body: ManifestBody) -> Result<Self, ManifestError> {
        let ManifestBody { media_type: header, digest: claimed, bytes, .. } = body;
        let expected = match reference {
            Reference::Digest(digest) => Some(digest.clone()),
            Reference::Tag(_) => claimed,
        };
        let names_signed = header.as_ref().and_then(MediaType::kind).unwrap_or(MediaTypeKind::DockerV1Signed)
            == MediaTypeKind::DockerV1Signed;
        let digest = match expected {
            Some(expected) => {
                matches_manifest(&expected, &bytes).ok_or(ManifestError::Mismatch)?;
                expected
            }
            // A signed manifest is named by what is signed.
            None => match names_signed.then(|| schema1_payload(&bytes)).flatten() {
                Some(payload) => Digest::of(Algorithm::Sha256, &payload),
                None => Digest::of(Algorithm::Sha256, &bytes),
            },
        };
        let document = DocumentType::of(&bytes);
        let settled = match (&document, reference) {
            // What has the digest is the content, and says its own type, whatever its head says of it.
            (DocumentType::Said(_), Reference::Digest(_)) => document.settle(None),
            _ => document.settle(header),
        };
        let (media_type, own) = settled.map_err(|OtherType| ManifestError::OtherType)?;
        Self::new(digest, media_type, bytes, own).ok_or(ManifestError::Mismatch)
    }

    /// The file's form: the media type, a line end, the bytes. Before a type that is not the document's own stands the
    /// upstream that said it, and (by hashes) the URLs that it had then: `@NAME@HASH,HASH TYPE`.
    pub fn encode(&self, registry: &Registry) -> Vec<u8> {
        let mut file = Vec::with_capacity(self.bytes.len() + 512);
        if !self.own {
            let urls: Vec<_> = registry.url_hashes().iter().map(|url| format!("{url:016x}")).collect();
            file.extend_from_slice(format!("@{}@{} ", registry.name(), urls.join(",")).as_bytes());
        }
        file.extend_from_slice(self.media_type.as_str().as_bytes());
        file.push(b'\n');
        file.extend_from_slice(&self.bytes);
        file
    }

    /// Reads a file for clients of an upstream; `said` is the type that it gave a tag, if it is read for one.
    pub fn decode(id: &ContentKey, file: Vec<u8>, registry: &Registry, said: Option<&MediaType>) -> ManifestFound {
        let file = Bytes::from(file);
        let mut found = ManifestFound::Damaged;
        for record in file_records::records(&file) {
            match Self::decode_record(id, &file.slice(record), registry, said) {
                ManifestFound::Damaged => {}
                ManifestFound::OfOthers => found = ManifestFound::OfOthers,
                whole @ ManifestFound::Whole(_) => return whole,
            }
        }
        found
    }

    fn decode_record(id: &ContentKey, file: &Bytes, registry: &Registry, said: Option<&MediaType>) -> ManifestFound {
        let ContentKey { visibility, digest } = id;
        let Some((start, by, written)) = first_line(file) else { return ManifestFound::Damaged };
        let bytes = file.slice(start..);
        let Some(signed) = matches_manifest(digest, &bytes) else { return ManifestFound::Damaged };
        let by_this = by.as_ref().is_some_and(|by| by.is(registry, *visibility));
        // A signed one from before upstreams were noted is as good as it was.
        if signed && !by_this && by.is_some() {
            return ManifestFound::OfOthers;
        }
        let document = DocumentType::of(&bytes);
        let header = match (&document, said) {
            // What stands in the file cannot refuse what the document itself says.
            (DocumentType::Said(_), _) => None,
            (_, Some(said)) => Some(said.clone()),
            (_, None) if by_this || signed => Some(written),
            // Nothing tells what this upstream says.
            (_, None) => return ManifestFound::OfOthers,
        };
        let Ok((media_type, own)) = document.settle(header) else { return ManifestFound::OfOthers };
        match Self::new(digest.clone(), media_type, bytes, own) {
            Some(content) => ManifestFound::Whole(Arc::new(content)),
            None => ManifestFound::Damaged,
        }
    }

    /// Whether a file has the form, and the bytes in it the digest.
    pub fn is_whole(digest: &Digest, file: &[u8]) -> bool {
        let is_whole = |record: &[u8]| {
            let bytes = first_line(record).and_then(|(start, ..)| record.get(start..));
            bytes.is_some_and(|bytes| matches_manifest(digest, bytes).is_some())
        };
        let records = file_records::records(file);
        !records.is_empty() && records.into_iter().all(|record| file.get(record).is_some_and(is_whole))
    }

    fn new(digest: Digest, media_type: MediaType, bytes: Bytes, own: bool) -> Option<Self> {
        let headers = Headers::of(&digest, &media_type)?;
        Some(Self { digest, media_type, bytes, own, headers, used: LastUse::default() })
    }

    /// The same under the type that the upstream gave a tag.
    pub(super) fn typed(&self, media_type: &MediaType) -> Option<Self> {
        Self::new(self.digest.clone(), media_type.clone(), self.bytes.clone(), self.own)
    }

    /// What it weighs in memory, in KiB: its bytes, and 1 KiB for its digest, type, headers and place (700 bytes measured).
    pub fn weight(&self) -> u32 {
        u32::try_from(self.bytes.len().div_ceil(1024) + 1).unwrap_or(u32::MAX)
    }
}

/// What a file is to the clients of an upstream.
#[derive(Debug)]
pub enum ManifestFound {
    Whole(Arc<Content>),
    /// It has this digest, and a type, or signatures, that another upstream gave.
    OfOthers,
    Damaged,
}

/// The upstream that said what the digest does not cover.
struct By {
    name: String,
    /// Those of its URLs, in their order; none in the files of earlier versions.
    url_hashes: Vec<u64>,
}

impl By {
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

/// Where the bytes begin behind the type, who said it unless the document does, and the type.
fn first_line(file: &[u8]) -> Option<(usize, Option<By>, MediaType)> {
    let line_end = file.iter().position(|&byte| byte == b'\n')?;
    let line = std::str::from_utf8(&file[..line_end]).ok()?;
    let (by, media_type) = match line.strip_prefix('@') {
        Some(line) => line.split_once(' ').and_then(|(by, media_type)| Some((Some(By::parse(by)?), media_type)))?,
        None => (None, line),
    };
    Some((line_end + 1, by, media_type.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::oci::signed_example;

    const INDEX: &[u8] = br#"{"schemaVersion":2,"manifests":[]}"#;

    fn body(media_type: Option<&str>, digest: Option<&Digest>, bytes: &[u8]) -> ManifestBody {
        let media_type = media_type.map(|text| text.parse().unwrap());
        let (digest, bytes) = (digest.cloned(), Bytes::copy_from_slice(bytes));
        let (age, resident_time) = Default::default();
        ManifestBody {
            media_type,
            digest,
            bytes,
            age,
            resident_time,
            notes: Default::default(),
            room: Default::default(),
        }
    }

    fn registry(name: &str) -> Registry {
        at(name, &[name])
    }

    fn at(name: &str, hosts: &[&str]) -> Registry {
        let urls: Vec<url::Url> = hosts.iter().map(|host| format!("https://{host}").parse().unwrap()).collect();
        Registry::new(&name.into(), &urls)
    }

    fn decode(digest: &Digest, file: Vec<u8>, upstream: &str, said: Option<&MediaType>) -> ManifestFound {
        Content::decode(&Visibility::Shared.key(digest), file, &registry(upstream), said)
    }

    fn tag() -> Reference {
        "1".parse().unwrap()
    }

    #[test]
    fn what_is_asked_for_decides_which_digest_counts() {
        let right = Digest::of(Algorithm::Sha256, INDEX);
        let long = Digest::of(Algorithm::Sha512, INDEX);
        let wrong = Digest::of(Algorithm::Sha256, b"other");
        let by_digest = |digest: &Digest| Reference::Digest(digest.clone());
        for (reference, claimed, verified) in [
            (by_digest(&right), None, Some(&right)),
            (by_digest(&right), Some(&wrong), Some(&right)),
            (by_digest(&long), Some(&right), Some(&long)),
            (by_digest(&wrong), Some(&wrong), None),
            (by_digest(&wrong), Some(&right), None),
            (tag(), None, Some(&right)),
            (tag(), Some(&right), Some(&right)),
            (tag(), Some(&long), Some(&long)),
            (tag(), Some(&wrong), None),
        ] {
            let content = Content::verified(&reference, body(Some("a/b"), claimed, INDEX));
            assert_eq!(content.ok().map(|content| content.digest).as_ref(), verified, "{reference} {claimed:?}");
        }
    }

    #[test]
    fn only_a_manifest_proves_a_tag() {
        let digest = Digest::of(Algorithm::Sha256, INDEX);
        let login = br#"{"login":"https://sso.example/"}"#;
        for (bytes, claimed, is_proof) in [
            (INDEX, None, true),
            (INDEX, Some(&digest), true),
            (br#"{"schemaVersion":2,"error":"login"}"#, None, false),
            (login, None, false),
            (login, Some(&digest), false),
            (b"{}", None, false),
            (b"", None, false),
        ] {
            let body = body(Some("application/json"), claimed, bytes);
            let shown = String::from_utf8_lossy(bytes);
            assert_eq!(Content::is_proof(&tag(), &body), is_proof, "{shown}");
            assert!(Content::is_proof(&Reference::Digest(digest.clone()), &body), "{shown}");
        }
    }

    #[test]
    fn the_type_that_nobody_said() {
        let image = format!(
            r#"{{"schemaVersion":2,"config":{{"mediaType":"a/b","size":1,"digest":"{}"}}}}"#,
            Digest::of(Algorithm::Sha256, b"")
        );
        let docker =
            format!(r#"{{"schemaVersion":2,"mediaType":"{}","manifests":[]}}"#, MediaType::DOCKER_LIST.as_str());
        for (bytes, expected) in [
            (INDEX, MediaType::OCI_INDEX),
            (image.as_bytes(), MediaType::OCI_MANIFEST),
            (docker.as_bytes(), MediaType::DOCKER_LIST),
            (b"{}", MediaType::OCI_MANIFEST),
            (b"", MediaType::OCI_MANIFEST),
        ] {
            let content = Content::verified(&tag(), body(None, None, bytes)).unwrap();
            assert_eq!(content.media_type, expected, "{}", String::from_utf8_lossy(bytes));
        }
    }

    #[test]
    fn a_file_that_was_changed_is_no_content() {
        let content = Content::verified(&tag(), body(Some("a/b; c=d"), None, INDEX)).unwrap();
        let file = content.encode(&registry("u"));
        let other = Digest::of(Algorithm::Sha256, b"other");
        let decode = |digest: &Digest, file: Vec<u8>| decode(digest, file, "u", None);
        assert!(matches!(decode(&content.digest, file.clone()), ManifestFound::Whole(_)));
        assert!(matches!(decode(&other, file.clone()), ManifestFound::Damaged));
        for at in MediaType::OCI_INDEX.as_str().len()..file.len() {
            let mut spoiled = file.clone();
            spoiled[at] ^= 1;
            assert!(matches!(decode(&content.digest, spoiled), ManifestFound::Damaged), "byte {at}");
            assert!(matches!(decode(&content.digest, file[..at].to_vec()), ManifestFound::Damaged), "cut at {at}");
        }
        assert!(matches!(decode(&content.digest, [&file[..], b" "].concat()), ManifestFound::Damaged));
    }

    #[test]
    fn a_file_with_a_hostile_type_is_read_by_its_document() {
        let digest = Digest::of(Algorithm::Sha256, INDEX);
        for line in [MediaType::DOCKER_V1_SIGNED.as_str(), MediaType::OCI_MANIFEST.as_str(), "@evil.example a/b"] {
            let file = [line.as_bytes(), b"\n", INDEX].concat();
            let ManifestFound::Whole(content) = decode(&digest, file, "u", Some(&MediaType::OCI_MANIFEST)) else {
                panic!("{line}")
            };
            assert_eq!((&content.media_type, content.own), (&MediaType::OCI_INDEX, true), "{line}");
        }
    }

    #[test]
    fn a_signed_manifest_is_named_by_what_is_signed() {
        let (document, payload) = signed_example();
        let (of_payload, of_bytes) =
            (Digest::of(Algorithm::Sha256, payload.as_bytes()), Digest::of(Algorithm::Sha256, document.as_bytes()));
        for (header, claimed, named) in [
            (Some(MediaType::DOCKER_V1_SIGNED.as_str()), None, &of_payload),
            (None, None, &of_payload),
            (Some("application/json"), None, &of_payload),
            (Some(MediaType::DOCKER_V1.as_str()), None, &of_bytes),
            (Some(MediaType::DOCKER_V1.as_str()), Some(&of_payload), &of_payload),
            (None, Some(&of_bytes), &of_bytes),
        ] {
            let content = Content::verified(&tag(), body(header, claimed, document.as_bytes())).unwrap();
            assert_eq!((&content.digest, content.own), (named, false), "{header:?} {claimed:?}");
        }
    }

    #[test]
    fn signatures_are_read_for_clients_of_their_upstream() {
        let (document, _) = signed_example();
        let content = Content::verified(&tag(), body(None, None, document.as_bytes())).unwrap();
        let whole = |file: &[u8], upstream: &str, said: Option<&MediaType>| match decode(
            &content.digest,
            file.to_vec(),
            upstream,
            said,
        ) {
            ManifestFound::Whole(read) => Some((read.media_type.clone(), read.own)),
            ManifestFound::OfOthers => None,
            ManifestFound::Damaged => panic!("it is whole"),
        };
        let file = content.encode(&registry("u"));
        assert!(Content::is_whole(&content.digest, &file));
        assert!(!Content::is_whole(&content.digest, &file[..file.len() - 1]));
        for said in [None, Some(&MediaType::DOCKER_V1_SIGNED), Some(&MediaType::DOCKER_V1)] {
            let media_type = said.unwrap_or(&MediaType::DOCKER_V1_SIGNED).clone();
            assert_eq!(whole(&file, "u", said), Some((media_type, false)), "{said:?}");
            assert_eq!(whole(&file, "v", said), None, "{said:?}");
        }
        // From before upstreams were noted.
        let noted_by_none = [MediaType::DOCKER_V1_SIGNED.as_str().as_bytes(), b"\n", document.as_bytes()].concat();
        assert_eq!(whole(&noted_by_none, "v", None), Some((MediaType::DOCKER_V1_SIGNED, false)));
    }

    #[test]
    fn a_type_is_that_of_the_registry_at_its_urls() {
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
            let content = Content::verified(&tag(), body(Some("a/b"), None, b"{}")).unwrap();
            let file = match &then {
                Some(then) => content.encode(then),
                None => b"@u a/b\n{}".to_vec(),
            };
            for (visibility, expected) in [(Visibility::Shared, open), (Visibility::PerClient, clients)] {
                let found = Content::decode(&visibility.key(&content.digest), file.clone(), &now, None);
                assert_eq!(matches!(found, ManifestFound::Whole(_)), expected, "{then:?} {now:?} {visibility:?}");
                assert!(!matches!(found, ManifestFound::Damaged), "{then:?} {now:?} {visibility:?}");
            }
        }
        for by in ["@u@x", "@u@1,g", "@u@11112222333344445"] {
            let file = format!("{by} a/b\n{{}}").into_bytes();
            assert!(
                matches!(decode(&Digest::of(Algorithm::Sha256, b"{}"), file, "u", None), ManifestFound::Damaged),
                "{by}"
            );
        }
    }

    #[test]
    fn the_largest_manifest_fits_its_file_and_the_weight() {
        let bytes = vec![b'x'; 16 * 1024 * 1024];
        let longest = format!("a/{}", "b".repeat(253));
        let many: Vec<url::Url> = (0..500).map(|number| format!("https://{number}").parse().unwrap()).collect();
        let content = Content::verified(&tag(), body(Some(&longest), None, &bytes)).unwrap();
        assert!(content.encode(&Registry::new(&"u".repeat(255).into(), &many)).len() as u64 <= Content::MAX_FILE_LEN);
        assert_eq!(content.weight(), 16 * 1024 + 1);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(bytes in prop::collection::vec(any::<u8>(), 0..200), parameter in "(; [a-z]=\"[ -!#-~&&[^\\\\]]{0,9}\")?") {
            let content = Content::verified(&tag(), body(Some(&format!("a/b{parameter}")), None, &bytes)).unwrap();
            let ManifestFound::Whole(read) = decode(&content.digest, content.encode(&registry("u")), "u", None) else {
                return Err(TestCaseError::fail("it is whole"));
            };
            if !content.own {
                let other = decode(&content.digest, content.encode(&registry("u")), "v", None);
                prop_assert!(matches!(other, ManifestFound::OfOthers));
            }
            prop_assert_eq!(&read.bytes[..], &bytes[..]);
            prop_assert_eq!(&read.media_type, &content.media_type);
        }

        #[test]
        fn any_file_is_read_without_a_panic(file in prop::collection::vec(any::<u8>(), 0..80)) {
            let found = decode(&Digest::of(Algorithm::Sha256, b"other"), file, "u", None);
            prop_assert!(matches!(found, ManifestFound::Damaged));
        }
    }
}
