//! What an upstream's answer proves about a client's right to a repository.
//!
//! What must hold: only an answer about exactly the subject of the question proves anything. A proxy in front of the
//! registry may answer a client that it refuses with a status of 200 and a document of its own; that is an outage.

use std::time::Duration;

use bytes::Bytes;

use crate::{
    oci::{Accept, Algorithm, Digest, ManifestSigns, MediaType, Reference, Repository, schema1_payload},
    offload::Offload,
    upstream::{BlobHead, BlobRange, Error, ErrorKind, Upstream},
};

/// A blob of up to this size, in bytes, is fetched and hashed where its digest is not told.
const MAX_FETCHED: u64 = 64 * 1024;

/// What an answer proves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Evidence {
    /// The client may read the repository.
    MayRead,
    /// The tag has this digest, says the upstream. What it says of a tag may be anything, so that is a right to no other
    /// digest. `sent`: it sent the manifest itself.
    Tag { digest: Digest, sent: bool },
    /// Nothing yet: the upstream announces a blob of this size, which is not cached. The content proves the rest.
    Announced(u64),
}

/// Asks for a manifest. With what it proves, how long ago the answer came, if it was kept for this question.
pub(super) async fn of_manifest(
    upstream: &Upstream,
    repository: &Repository,
    reference: &Reference,
    accept: &Accept,
    documents: &Offload,
) -> Result<(Evidence, Duration), Error> {
    match upstream.head_manifest(repository, reference, accept).await {
        Ok(head) => {
            if let Some(evidence) = head.digest.and_then(|told| judge_head(reference, told)) {
                return Ok((evidence, head.resident_time));
            }
        }
        // Some registries know only GET, or say 404 to a HEAD of what they would first have to fetch themselves.
        Err(error) if !matches!(error.kind, ErrorKind::Unsupported | ErrorKind::NotFound) => return Err(error),
        Err(_) => {}
    }
    let body = upstream.get_manifest(repository, reference, accept).await?;
    let (reference, is_tag) = (reference.clone(), matches!(reference, Reference::Tag(_)));
    let (len, waited) = (body.bytes.len(), body.resident_time);
    let judge = move || manifest_digest(&reference, body.media_type.as_ref(), body.digest.as_ref(), &body.bytes);
    match documents.read(len, judge).await.flatten() {
        Some(digest) if is_tag => Ok((Evidence::Tag { digest, sent: true }, waited)),
        Some(_) => Ok((Evidence::MayRead, waited)),
        None => Err(foreign("what is not the manifest")),
    }
}

/// The same for a blob; `cached`: the size of the one that is here.
pub(super) async fn of_blob(
    upstream: &Upstream,
    repository: &Repository,
    digest: &Digest,
    cached: Option<u64>,
) -> Result<(Evidence, Duration), Error> {
    // What a client that pushes is told of it comes after this.
    let head = upstream.head_blob_to_get(repository, digest).await?;
    match judge_blob(digest, cached, &head).map_err(foreign)? {
        GrantVerdict::Proven => Ok((Evidence::MayRead, head.resident_time)),
        GrantVerdict::Announced(len) => Ok((Evidence::Announced(len), head.resident_time)),
        GrantVerdict::Fetch => {
            let mut stream = upstream.open_blob(repository, digest, BlobRange::default()).await?;
            let (waited, mut content) = (stream.resident_time(), Vec::new());
            while let Some(piece) = stream.next().await? {
                content.extend_from_slice(&piece);
                if content.len() as u64 > MAX_FETCHED {
                    return Err(foreign("a longer blob than it announced"));
                }
            }
            if Digest::of(digest.algorithm(), &content) != *digest {
                return Err(foreign("what is not the blob"));
            }
            Ok((Evidence::MayRead, waited))
        }
    }
}

fn foreign(what: &'static str) -> Error {
    Error::new(ErrorKind::Protocol, format!("the upstream answered a question about a client's right with {what}"))
}

/// What the head of a blob proves, or what is wrong with it.
#[derive(Debug, PartialEq, Eq)]
enum GrantVerdict {
    Proven,
    Announced(u64),
    Fetch,
}

fn judge_blob(asked: &Digest, cached: Option<u64>, head: &BlobHead) -> Result<GrantVerdict, &'static str> {
    let len = head.len.ok_or("no length of the blob")?;
    if cached.is_some_and(|cached| cached != len) {
        return Err("another length than the blob's");
    }
    match &head.digest {
        Some(told) if told == asked => Ok(GrantVerdict::Proven),
        Some(told) if told.algorithm() == asked.algorithm() => Err("the digest of another blob"),
        Some(_) | None if len <= MAX_FETCHED => Ok(GrantVerdict::Fetch),
        Some(_) | None if cached.is_some() => Ok(GrantVerdict::Proven),
        Some(_) | None => Ok(GrantVerdict::Announced(len)),
    }
}

/// What the head of a manifest proves, which tells this digest.
fn judge_head(reference: &Reference, told: Digest) -> Option<Evidence> {
    match reference {
        Reference::Digest(asked) => (told == *asked).then_some(Evidence::MayRead),
        Reference::Tag(_) => Some(Evidence::Tag { digest: told, sent: false }),
    }
}

/// The digest of the manifest that was sent; `None` when it is none, or not the one that was asked for.
fn manifest_digest(
    reference: &Reference,
    media_type: Option<&MediaType>,
    told: Option<&Digest>,
    bytes: &Bytes,
) -> Option<Digest> {
    let expected = match reference {
        Reference::Digest(asked) => Some(asked),
        Reference::Tag(_) => told,
    };
    let looks_like_one = matches!(reference, Reference::Digest(_)) || ManifestSigns::of(bytes, media_type).is_sure;
    if !looks_like_one {
        return None;
    }
    let algorithm = expected.map_or(Algorithm::Sha256, Digest::algorithm);
    let raw = Digest::of(algorithm, bytes);
    match expected {
        // A signed manifest may be named by what is signed.
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
        let (asked, other) = (Digest::of(Algorithm::Sha256, b"a"), Digest::of(Algorithm::Sha256, b"b"));
        let longer = Digest::of(Algorithm::Sha512, b"a");
        let large = MAX_FETCHED + 1;
        for (cached, len, told, expected) in [
            (None, Some(1), Some(&asked), Some(GrantVerdict::Proven)),
            (Some(1), Some(1), Some(&asked), Some(GrantVerdict::Proven)),
            (Some(2), Some(1), Some(&asked), None),
            (Some(1), Some(1), Some(&other), None),
            (None, Some(1), Some(&other), None),
            (None, Some(1), Some(&longer), Some(GrantVerdict::Fetch)),
            (Some(1), None, Some(&asked), None),
            (None, None, None, None),
            (Some(1), Some(1), None, Some(GrantVerdict::Fetch)),
            (None, Some(MAX_FETCHED), None, Some(GrantVerdict::Fetch)),
            (Some(large), Some(large), None, Some(GrantVerdict::Proven)),
            (Some(large), Some(large + 1), None, None),
            (None, Some(large), None, Some(GrantVerdict::Announced(large))),
        ] {
            let head =
                BlobHead { len, digest: told.cloned(), resident_time: Duration::ZERO, notes: Default::default() };
            assert_eq!(judge_blob(&asked, cached, &head).ok(), expected, "{cached:?} {head:?}");
        }
    }

    #[test]
    fn a_signed_manifest_is_named_by_its_bytes_or_its_payload() {
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
    fn a_head_is_about_a_manifest_where_it_tells_its_digest() {
        let (right, wrong) = (Digest::of(Algorithm::Sha256, b"a"), Digest::of(Algorithm::Sha256, b"b"));
        for (reference, told, expected) in [
            (Reference::Digest(right.clone()), &right, Some(Evidence::MayRead)),
            (Reference::Digest(right.clone()), &wrong, None),
            ("1".parse().unwrap(), &wrong, Some(Evidence::Tag { digest: wrong.clone(), sent: false })),
        ] {
            assert_eq!(judge_head(&reference, told.clone()), expected, "{reference} {told}");
        }
    }

    #[test]
    fn only_a_manifest_is_taken_for_one() {
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
