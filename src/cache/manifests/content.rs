//! A manifest's bytes, exactly as the upstream stores them, with the type it gave them.

use bytes::Bytes;
use http::HeaderValue;

use super::ManifestError;
use crate::{
    cache::recency::LastUse,
    oci::{
        Algorithm, Content as ManifestContent, Digest, Manifest, MediaType, MediaTypeKind, Reference, etag,
        schema1_payload,
    },
    upstream::ManifestBody,
};

/// A verified manifest.
#[derive(Debug)]
pub struct Content {
    pub digest: Digest,
    pub media_type: MediaType,
    pub bytes: Bytes,
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
    pub const MAX_FILE_LEN: u64 = 16 * 1024 * 1024 + 1024;

    /// Checks what an upstream sent against the digest that was asked for, or that it claims for the tag.
    pub fn verified(reference: &Reference, body: ManifestBody) -> Result<Self, ManifestError> {
        let media_type = body.media_type.unwrap_or_else(|| declared_type(&body.bytes));
        let expected = match reference {
            Reference::Digest(digest) => Some(digest.clone()),
            Reference::Tag(_) => body.digest,
        };
        let algorithm = expected.as_ref().map_or(Algorithm::Sha256, Digest::algorithm);
        let digest = digest_of(algorithm, &media_type, &body.bytes);
        match expected {
            Some(expected) if expected != digest => Err(ManifestError::Mismatch),
            _ => Self::new(digest, media_type, body.bytes).ok_or(ManifestError::Mismatch),
        }
    }

    /// The file's form: the media type, a line end, the bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut file = Vec::with_capacity(self.bytes.len() + 128);
        file.extend_from_slice(self.media_type.as_str().as_bytes());
        file.push(b'\n');
        file.extend_from_slice(&self.bytes);
        file
    }

    /// Reads a file; `None` unless it is whole and has this digest.
    pub fn decode(digest: &Digest, file: Vec<u8>) -> Option<Self> {
        let line_end = file.iter().position(|&byte| byte == b'\n')?;
        let media_type: MediaType = std::str::from_utf8(&file[..line_end]).ok()?.parse().ok()?;
        let bytes = Bytes::from(file).slice(line_end + 1..);
        if digest_of(digest.algorithm(), &media_type, &bytes) != *digest {
            return None;
        }
        Self::new(digest.clone(), media_type, bytes)
    }

    fn new(digest: Digest, media_type: MediaType, bytes: Bytes) -> Option<Self> {
        let headers = Headers::of(&digest, &media_type)?;
        Some(Self { digest, media_type, bytes, headers, used: LastUse::default() })
    }

    /// What it weighs in memory, in KiB.
    pub fn weight(&self) -> u32 {
        u32::try_from(self.bytes.len() / 1024 + 1).unwrap_or(u32::MAX)
    }
}

/// A signed schema 1 manifest is named by the digest of what is signed, without the signatures.
fn digest_of(algorithm: Algorithm, media_type: &MediaType, bytes: &[u8]) -> Digest {
    match (media_type.kind() == Some(MediaTypeKind::DockerV1Signed)).then(|| schema1_payload(bytes)).flatten() {
        Some(payload) => Digest::of(algorithm, &payload),
        None => Digest::of(algorithm, bytes),
    }
}

/// The type a manifest has by its content, for an upstream that does not say it.
///
/// Only OCI's formats may leave it out, and those two are told apart by what is in them.
fn declared_type(bytes: &[u8]) -> MediaType {
    match Manifest::parse(bytes) {
        Ok(manifest) => match (manifest.media_type(), &manifest.content) {
            (Some(declared), _) => declared.clone(),
            (None, ManifestContent::Index { .. }) => MediaType::OCI_INDEX,
            (None, ManifestContent::Image { .. }) => MediaType::OCI_MANIFEST,
        },
        Err(_) if schema1_payload(bytes).is_some() => MediaType::DOCKER_V1_SIGNED,
        Err(_) => MediaType::OCI_MANIFEST,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const INDEX: &[u8] = br#"{"schemaVersion":2,"manifests":[]}"#;

    fn body(media_type: Option<&str>, digest: Option<&Digest>, bytes: &[u8]) -> ManifestBody {
        let media_type = media_type.map(|text| text.parse().unwrap());
        ManifestBody { media_type, digest: digest.cloned(), bytes: Bytes::copy_from_slice(bytes) }
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
        let file = content.encode();
        let other = Digest::of(Algorithm::Sha256, b"other");
        assert!(Content::decode(&other, file.clone()).is_none());
        for at in "a/b; c=d".len()..file.len() {
            let mut spoiled = file.clone();
            spoiled[at] ^= 1;
            assert!(Content::decode(&content.digest, spoiled).is_none(), "byte {at}");
            assert!(Content::decode(&content.digest, file[..at].to_vec()).is_none(), "cut at {at}");
        }
        assert!(Content::decode(&content.digest, [&file[..], b" "].concat()).is_none());
    }

    #[test]
    fn the_largest_manifest_fits_its_file_and_the_weight() {
        let bytes = vec![b'x'; 16 * 1024 * 1024];
        let longest = format!("a/{}", "b".repeat(253));
        let content = Content::verified(&tag(), body(Some(&longest), None, &bytes)).unwrap();
        assert!(content.encode().len() as u64 <= Content::MAX_FILE_LEN);
        assert_eq!(content.weight(), 16 * 1024 + 1);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(bytes in prop::collection::vec(any::<u8>(), 0..200), parameter in "(; [a-z]=\"[ -!#-~&&[^\\\\]]{0,9}\")?") {
            let content = Content::verified(&tag(), body(Some(&format!("a/b{parameter}")), None, &bytes)).unwrap();
            let read = Content::decode(&content.digest, content.encode()).unwrap();
            prop_assert_eq!(&read.bytes[..], &bytes[..]);
            prop_assert_eq!(read.media_type, content.media_type);
        }

        #[test]
        fn any_file_is_read_without_a_panic(file in prop::collection::vec(any::<u8>(), 0..80)) {
            prop_assert!(Content::decode(&Digest::of(Algorithm::Sha256, b"other"), file).is_none());
        }
    }
}
