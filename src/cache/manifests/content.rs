//! A manifest's bytes, exactly as the upstream stores them, with the type it gave them.

use bytes::Bytes;

use super::ManifestError;
use crate::{
    oci::{Algorithm, Digest, Manifest, MediaType, MediaTypeKind, Reference, schema1_payload},
    upstream::ManifestBody,
};

/// A verified manifest.
#[derive(Debug)]
pub struct Content {
    pub digest: Digest,
    pub media_type: MediaType,
    pub bytes: Bytes,
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
            _ => Ok(Self { digest, media_type, bytes: body.bytes }),
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
        (digest_of(digest.algorithm(), &media_type, &bytes) == *digest).then(|| Self {
            digest: digest.clone(),
            media_type,
            bytes,
        })
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

/// The type a manifest says it has, for an upstream that does not; only OCI's may leave it out.
fn declared_type(bytes: &[u8]) -> MediaType {
    Manifest::parse(bytes).ok().and_then(|manifest| manifest.media_type().cloned()).unwrap_or(MediaType::OCI_MANIFEST)
}
