//! A manifest: its bytes, exactly as the upstream stores them, with the media type that the upstream gave them.

use bytes::Bytes;
use http::HeaderValue;

use super::error::ManifestError;
use crate::{
    cache::storage::recent_uses::LastUse,
    oci::{
        Algorithm, Content, Digest, DocumentType, Manifest, ManifestSigns, MediaType, MediaTypeKind, OtherType,
        Reference, etag, matches_manifest, schema1_payload,
    },
    upstream::ManifestBody,
};

/// Of how many manifests of an index forebay knows that a client was given them.
const MAX_CHILDREN: usize = 256;

/// A verified manifest.
#[derive(Debug)]
pub(crate) struct VerifiedManifest {
    pub digest: Digest,
    pub media_type: MediaType,
    pub bytes: Bytes,
    /// Whether the bytes say the media type, and the digest covers all of them: such content is good for the clients
    /// of every upstream. A document with signatures, which its digest does not cover, never says its type.
    pub is_self_described: bool,
    pub headers: Headers,
    /// Of an index, the fronts of the digests of its manifests: clients that read it request those next.
    pub children: Box<[u64]>,
    pub(super) used: LastUse,
}

/// The headers of every response with this manifest, made once.
#[derive(Debug)]
pub(crate) struct Headers {
    pub media_type: HeaderValue,
    pub digest: HeaderValue,
    pub etag: HeaderValue,
}

impl Headers {
    /// A digest consists of letters, digits and a colon, so it is always a valid header value.
    fn of(digest: &Digest, media_type: &MediaType) -> Option<Self> {
        Some(Self {
            media_type: media_type.into(),
            digest: HeaderValue::from_str(digest.as_str()).ok()?,
            etag: HeaderValue::from_str(&etag(digest)).ok()?,
        })
    }
}

impl VerifiedManifest {
    /// Whether an upstream's response for a tag is certainly a manifest. A proxy in front of an upstream that
    /// authorizes each client may send a page of its own with 200, and a record of it would count for all clients that
    /// may read the tag.
    pub(crate) fn is_proof(reference: &Reference, body: &ManifestBody) -> bool {
        match reference {
            Reference::Digest(_) => true,
            Reference::Tag(_) => ManifestSigns::of(&body.bytes, body.media_type.as_ref()).is_sure,
        }
    }

    /// Verifies an upstream's response against the requested digest, or the one that the upstream claims for the tag.
    pub(crate) fn verified(reference: &Reference, body: ManifestBody) -> Result<Self, ManifestError> {
        let ManifestBody { media_type: header, digest: claimed, bytes, .. } = body;
        let expected = match reference {
            Reference::Digest(digest) => Some(digest.clone()),
            Reference::Tag(_) => claimed,
        };
        let may_be_signed = header.as_ref().and_then(MediaType::kind).unwrap_or(MediaTypeKind::DockerV1Signed)
            == MediaTypeKind::DockerV1Signed;
        let digest = match expected {
            Some(expected) => {
                matches_manifest(&expected, &bytes).ok_or(ManifestError::Mismatch)?;
                expected
            }
            // The digest of a signed manifest is that of the signed payload.
            None => match may_be_signed.then(|| schema1_payload(&bytes)).flatten() {
                Some(payload) => Digest::of(Algorithm::Sha256, &payload),
                None => Digest::of(Algorithm::Sha256, &bytes),
            },
        };
        let document = DocumentType::of(&bytes);
        let settled = match (&document, reference) {
            // What has the requested digest is the content: its own type counts, whatever the header says.
            (DocumentType::Said(_), Reference::Digest(_)) => document.settle(None),
            _ => document.settle(header),
        };
        let (media_type, is_self_described) = settled.map_err(|OtherType| ManifestError::OtherType)?;
        Self::new(digest, media_type, bytes, is_self_described).ok_or(ManifestError::Mismatch)
    }

    pub(super) fn new(digest: Digest, media_type: MediaType, bytes: Bytes, is_self_described: bool) -> Option<Self> {
        let headers = Headers::of(&digest, &media_type)?;
        let children = match media_type.kind().is_some_and(MediaTypeKind::is_index) {
            true => children(&bytes),
            false => Box::default(),
        };
        Some(Self { digest, media_type, bytes, is_self_described, headers, children, used: LastUse::default() })
    }

    /// The same content under the media type that the upstream gave a tag.
    pub(super) fn typed(&self, media_type: &MediaType) -> Option<Self> {
        Self::new(self.digest.clone(), media_type.clone(), self.bytes.clone(), self.is_self_described)
    }

    /// Its memory, in KiB: the bytes, and 1 KiB for digest, type, headers and entry (700 bytes measured).
    pub(crate) fn weight(&self) -> usize {
        (self.bytes.len() + size_of_val(&*self.children)).div_ceil(1024) + 1
    }
}

/// The fronts of the digests of the manifests of an index.
fn children(index: &[u8]) -> Box<[u64]> {
    match Manifest::parse(index).map(|manifest| manifest.content) {
        Ok(Content::Index { manifests }) => {
            manifests.iter().take(MAX_CHILDREN).map(|child| child.digest.front()).collect()
        }
        Ok(Content::Image { .. }) | Err(_) => Box::default(),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::oci::signed_example;

    pub(in crate::cache::manifest) const INDEX: &[u8] = br#"{"schemaVersion":2,"manifests":[]}"#;

    /// A response of an upstream.
    pub(in crate::cache::manifest) fn body(
        media_type: Option<&str>,
        digest: Option<&Digest>,
        bytes: &[u8],
    ) -> ManifestBody {
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

    pub(in crate::cache::manifest) fn tag() -> Reference {
        "1".parse().unwrap()
    }

    #[test]
    fn a_reference_decides_which_digest_is_verified() {
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
            let content = VerifiedManifest::verified(&reference, body(Some("a/b"), claimed, INDEX));
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
            assert_eq!(VerifiedManifest::is_proof(&tag(), &body), is_proof, "{shown}");
            assert!(VerifiedManifest::is_proof(&Reference::Digest(digest.clone()), &body), "{shown}");
        }
    }

    #[test]
    fn a_manifest_without_a_type_gets_one() {
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
            let content = VerifiedManifest::verified(&tag(), body(None, None, bytes)).unwrap();
            assert_eq!(content.media_type, expected, "{}", String::from_utf8_lossy(bytes));
        }
    }

    #[test]
    fn a_signed_manifest_has_the_digest_of_its_payload() {
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
            let content = VerifiedManifest::verified(&tag(), body(header, claimed, document.as_bytes())).unwrap();
            assert_eq!((&content.digest, content.is_self_described), (named, false), "{header:?} {claimed:?}");
        }
    }
}
