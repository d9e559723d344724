//! What an upstream's response proves about a client's grant for a repository.
//!
//! What must hold: only a response for exactly the requested resource proves anything. A proxy in front of the registry
//! may answer a client that it refuses with 200 and a document of its own; that counts as an outage.

use std::time::Duration;

use bytes::Bytes;

use crate::{
    oci::{Accept, Algorithm, Digest, ManifestSigns, MediaType, Reference, Repository, schema1_payload},
    offload::Offload,
    upstream::{BlobHead, BlobRange, Error, ErrorKind, Upstream},
};

/// The longest blob, in bytes, that is fetched and hashed if the response does not give its digest.
const MAX_FETCHED: u64 = 64 * 1024;

/// What a response proves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Evidence {
    /// The client may read the repository.
    MayRead,
    /// The upstream says that the tag has this digest. A tag's response may be anything, so this proves nothing for
    /// other digests. `is_sent`: it sent the manifest itself.
    Tag { digest: Digest, is_sent: bool },
    /// Nothing yet: the upstream announces a blob of this length, which is not cached. Its content is the proof.
    Announced(u64),
}

/// Requests a manifest. Returns what the response proves, and for how long the upstream client kept it.
pub(super) async fn of_manifest(
    upstream: &Upstream,
    repository: &Repository,
    reference: &Reference,
    accept: &Accept,
    documents: &Offload,
) -> Result<(Evidence, Duration), Error> {
    match upstream.head_manifest(repository, reference, accept).await {
        Ok(head) => {
            if let Some(evidence) = head.digest.and_then(|digest| judge_head(reference, digest)) {
                return Ok((evidence, head.resident_time));
            }
        }
        // Some registries support only GET, or answer a HEAD with 404 for content that they would first have to fetch.
        Err(error) if !matches!(error.kind, ErrorKind::Unsupported | ErrorKind::NotFound) => return Err(error),
        Err(_) => {}
    }
    let body = upstream.get_manifest(repository, reference, accept).await?;
    let (reference, is_tag) = (reference.clone(), matches!(reference, Reference::Tag(_)));
    let (len, waited) = (body.bytes.len(), body.resident_time);
    let judge = move || manifest_digest(&reference, body.media_type.as_ref(), body.digest.as_ref(), &body.bytes);
    match documents.read(len, judge).await.flatten() {
        Some(digest) if is_tag => Ok((Evidence::Tag { digest, is_sent: true }, waited)),
        Some(_) => Ok((Evidence::MayRead, waited)),
        None => Err(invalid("what is not the manifest")),
    }
}

/// The same for a blob; `cached_len`: the length of the cached one.
pub(super) async fn of_blob(
    upstream: &Upstream,
    repository: &Repository,
    digest: &Digest,
    cached_len: Option<u64>,
) -> Result<(Evidence, Duration), Error> {
    // For a client that pushes, another HEAD follows.
    let head = upstream.head_blob_to_get(repository, digest).await?;
    match judge_blob(digest, cached_len, &head).map_err(invalid)? {
        BlobVerdict::Proven => Ok((Evidence::MayRead, head.resident_time)),
        BlobVerdict::Announced(len) => Ok((Evidence::Announced(len), head.resident_time)),
        BlobVerdict::Fetch => {
            let mut stream = upstream.open_blob(repository, digest, BlobRange::default()).await?;
            let (waited, mut content) = (stream.resident_time(), Vec::new());
            while let Some(piece) = stream.next().await? {
                content.extend_from_slice(&piece);
                if content.len() as u64 > MAX_FETCHED {
                    return Err(invalid("a longer blob than it announced"));
                }
            }
            if Digest::of(digest.algorithm(), &content) != *digest {
                return Err(invalid("what is not the blob"));
            }
            Ok((Evidence::MayRead, waited))
        }
    }
}

fn invalid(what: &'static str) -> Error {
    Error::new(ErrorKind::Protocol, format!("the upstream answered a request for a client's grant with {what}"))
}

/// What the `HEAD` of a blob proves.
#[derive(Debug, PartialEq, Eq)]
enum BlobVerdict {
    Proven,
    Announced(u64),
    Fetch,
}

fn judge_blob(requested: &Digest, cached_len: Option<u64>, head: &BlobHead) -> Result<BlobVerdict, &'static str> {
    let len = head.len.ok_or("no length of the blob")?;
    if cached_len.is_some_and(|cached| cached != len) {
        return Err("another length than the blob's");
    }
    match &head.digest {
        Some(digest) if digest == requested => Ok(BlobVerdict::Proven),
        Some(digest) if digest.algorithm() == requested.algorithm() => Err("the digest of another blob"),
        Some(_) | None if len <= MAX_FETCHED => Ok(BlobVerdict::Fetch),
        Some(_) | None if cached_len.is_some() => Ok(BlobVerdict::Proven),
        Some(_) | None => Ok(BlobVerdict::Announced(len)),
    }
}

/// What a `HEAD` of a manifest proves if its response gives this digest.
fn judge_head(reference: &Reference, digest: Digest) -> Option<Evidence> {
    match reference {
        Reference::Digest(requested) => (digest == *requested).then_some(Evidence::MayRead),
        Reference::Tag(_) => Some(Evidence::Tag { digest, is_sent: false }),
    }
}

/// The digest of the manifest that was sent; `None` if it is no manifest, or not the requested one.
fn manifest_digest(
    reference: &Reference,
    media_type: Option<&MediaType>,
    claimed: Option<&Digest>,
    bytes: &Bytes,
) -> Option<Digest> {
    let expected = match reference {
        Reference::Digest(requested) => Some(requested),
        Reference::Tag(_) => claimed,
    };
    let is_manifest = matches!(reference, Reference::Digest(_)) || ManifestSigns::of(bytes, media_type).is_sure;
    if !is_manifest {
        return None;
    }
    let algorithm = expected.map_or(Algorithm::Sha256, Digest::algorithm);
    let raw = Digest::of(algorithm, bytes);
    match expected {
        // The digest of a signed manifest may be that of the signed payload.
        Some(expected) if raw != *expected => {
            let signed = Digest::of(algorithm, &schema1_payload(bytes)?);
            (signed == *expected).then_some(signed)
        }
        Some(_) | None => Some(raw),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::signed_example;

    #[test]
    fn a_blob_is_proven_by_its_digest_or_its_length() {
        let (requested, other) = (Digest::of(Algorithm::Sha256, b"a"), Digest::of(Algorithm::Sha256, b"b"));
        let longer = Digest::of(Algorithm::Sha512, b"a");
        let large = MAX_FETCHED + 1;
        for (cached, len, given, expected) in [
            (None, Some(1), Some(&requested), Some(BlobVerdict::Proven)),
            (Some(1), Some(1), Some(&requested), Some(BlobVerdict::Proven)),
            (Some(2), Some(1), Some(&requested), None),
            (Some(1), Some(1), Some(&other), None),
            (None, Some(1), Some(&other), None),
            (None, Some(1), Some(&longer), Some(BlobVerdict::Fetch)),
            (Some(1), None, Some(&requested), None),
            (None, None, None, None),
            (Some(1), Some(1), None, Some(BlobVerdict::Fetch)),
            (None, Some(MAX_FETCHED), None, Some(BlobVerdict::Fetch)),
            (Some(large), Some(large), None, Some(BlobVerdict::Proven)),
            (Some(large), Some(large + 1), None, None),
            (None, Some(large), None, Some(BlobVerdict::Announced(large))),
        ] {
            let head =
                BlobHead { len, digest: given.cloned(), resident_time: Duration::ZERO, notes: Default::default() };
            assert_eq!(judge_blob(&requested, cached, &head).ok(), expected, "{cached:?} {head:?}");
        }
    }

    #[test]
    fn a_signed_manifest_has_the_digest_of_bytes_or_payload() {
        let (document, payload) = signed_example();
        let bytes = Bytes::from(document);
        let of = |bytes: &[u8]| Digest::of(Algorithm::Sha256, bytes);
        for (digest, expected) in [(of(payload.as_bytes()), true), (of(&bytes), true), (of(b"other"), false)] {
            let proven = expected.then(|| digest.clone());
            assert_eq!(manifest_digest(&"1".parse().unwrap(), None, Some(&digest), &bytes), proven);
            assert_eq!(manifest_digest(&Reference::Digest(digest), None, None, &bytes), proven);
        }
    }

    #[test]
    fn a_head_proves_a_manifest_by_its_digest() {
        let (right, wrong) = (Digest::of(Algorithm::Sha256, b"a"), Digest::of(Algorithm::Sha256, b"b"));
        for (reference, given, expected) in [
            (Reference::Digest(right.clone()), &right, Some(Evidence::MayRead)),
            (Reference::Digest(right.clone()), &wrong, None),
            ("1".parse().unwrap(), &wrong, Some(Evidence::Tag { digest: wrong.clone(), is_sent: false })),
        ] {
            assert_eq!(judge_head(&reference, given.clone()), expected, "{reference} {given}");
        }
    }

    #[test]
    fn only_a_manifest_is_proof() {
        let index = r#"{"schemaVersion":2,"manifests":[]}"#;
        let typed = r#"{"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#;
        for (media_type, text, expected) in [
            ("application/json", index, true),
            ("application/vnd.oci.image.index.v1+json", typed, true),
            ("application/json", typed, false),
            ("application/json", r#"{"login":"https://sso.example"}"#, false),
            ("application/json", r#"[2,"application/json"]"#, false),
            ("application/json", r#"{"schemaVersion":3}"#, false),
            ("application/json", r#"{"schemaVersion":2,"error":"login"}"#, false),
            ("application/json", r#"{"mediaType":"application/json","login":"x"}"#, false),
            ("application/json", "{}", false),
            ("application/json", "", false),
        ] {
            let (media_type, bytes) = (media_type.parse().unwrap(), Bytes::from(text));
            let tag = "1".parse().unwrap();
            assert_eq!(manifest_digest(&tag, Some(&media_type), None, &bytes).is_some(), expected, "{text}");
            let (right, wrong) = (Digest::of(Algorithm::Sha256, &bytes), Digest::of(Algorithm::Sha256, b"other"));
            assert_eq!(manifest_digest(&tag, Some(&media_type), Some(&wrong), &bytes), None);
            assert_eq!(manifest_digest(&Reference::Digest(right.clone()), None, None, &bytes), Some(right));
            assert_eq!(manifest_digest(&Reference::Digest(wrong), None, None, &bytes), None);
        }
    }
}
