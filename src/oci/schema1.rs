//! Docker's schema 1 signed manifests: which bytes their digest is computed over.
//!
//! Such a document contains its own signatures, and its digest is that of the document before it was signed. Each
//! signature tells how to restore that document: the first `formatLength` bytes, then `formatTail`. forebay does not
//! verify the signatures: the digest vouches for the content.
//!
//! Source: Docker image manifest version 2, schema 1, "Signed Manifests"; libtrust's `PrettySignature`.

use base64::{
    Engine as _,
    alphabet::URL_SAFE,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use serde::Deserialize;

use super::{Digest, manifest_type::is_schema1};

/// libtrust writes no padding; other programs might.
const BASE64URL: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The payload of `application/vnd.docker.distribution.manifest.v1+prettyjws`. `None` if the document is not signed or
/// not of schema 1, if its signatures disagree about what they sign, or if it contains more than payload and
/// signatures: no digest would cover the rest.
pub fn schema1_payload(document: &[u8]) -> Option<Vec<u8>> {
    let signed: Signed = serde_json::from_slice(document).ok()?;
    let mut formats = signed.signatures.iter().map(Signature::format);
    let format = formats.next()??;
    if !formats.all(|other| other.as_ref() == Some(&format)) {
        return None;
    }
    let (head, rest) = document.split_at_checked(format.length)?;
    only_signatures(rest)?;
    // Any other content of the tail would be in the digest and not in the document.
    if format.tail.trim_ascii() != b"}" {
        return None;
    }
    // The document and its payload differ by the signatures alone: if one is of schema 1, so is the other.
    is_schema1(document).then(|| [head, &format.tail].concat())
}

/// Checks that only `, "signatures": […] }` follows the payload.
fn only_signatures(rest: &[u8]) -> Option<()> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Only {
        #[serde(rename = "signatures")]
        _signatures: serde::de::IgnoredAny,
    }
    let rest = rest.trim_ascii_start().strip_prefix(b",")?;
    serde_json::from_slice::<Only>(&[b"{", rest].concat()).ok().map(drop)
}

#[derive(Deserialize)]
struct Signed {
    signatures: Vec<Signature>,
}

#[derive(Deserialize)]
struct Signature {
    protected: String,
}

#[derive(PartialEq, Eq)]
struct Format {
    length: usize,
    tail: Vec<u8>,
}

impl Signature {
    fn format(&self) -> Option<Format> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Protected {
            format_length: usize,
            format_tail: String,
        }
        let protected: Protected = serde_json::from_slice(&BASE64URL.decode(&self.protected).ok()?).ok()?;
        let tail = BASE64URL.decode(&protected.format_tail).ok()?;
        Some(Format { length: protected.format_length, tail })
    }
}

/// Whether a manifest has this digest: `Some(true)` if the digest is that of the signed payload. forebay compares the
/// digest of the unchanged bytes first.
pub fn matches_manifest(digest: &Digest, bytes: &[u8]) -> Option<bool> {
    if Digest::of(digest.algorithm(), bytes) == *digest {
        return Some(false);
    }
    let payload = schema1_payload(bytes)?;
    (Digest::of(digest.algorithm(), &payload) == *digest).then_some(true)
}

#[cfg(test)]
pub(crate) mod tests {
    use base64::engine::general_purpose::{URL_SAFE as PADDED, URL_SAFE_NO_PAD};
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    const PAYLOAD: &str =
        "{\n   \"schemaVersion\": 1,\n   \"name\": \"library/busybox\",\n   \"fsLayers\": [],\n   \"history\": []\n}";

    fn signature(length: usize, tail: &str) -> Value {
        let protected = json!({ "formatLength": length, "formatTail": URL_SAFE_NO_PAD.encode(tail), "time": "2015-08-01T00:00:00Z" });
        json!({ "header": { "alg": "ES256" }, "signature": "AAAA", "protected": URL_SAFE_NO_PAD.encode(protected.to_string()) })
    }

    fn good() -> Value {
        signature(PAYLOAD.len() - 2, "\n}")
    }

    /// A document signed in the way of libtrust.
    fn signed(between: &str, signatures: &[Value]) -> String {
        let head = &PAYLOAD[..PAYLOAD.len() - 2];
        format!("{head}{between},\n   \"signatures\": {}\n}}", Value::from(signatures))
    }

    /// A signed document, and its payload.
    pub(crate) fn example() -> (String, &'static str) {
        (signed("", &[good()]), PAYLOAD)
    }

    #[test]
    fn the_payload_is_what_was_signed() {
        let payload = Some(PAYLOAD.as_bytes().to_vec());
        assert_eq!(schema1_payload(signed("", &[good()]).as_bytes()), payload);
        assert_eq!(schema1_payload(signed("", &[good(), good()]).as_bytes()), payload);
        let mut padded = good();
        let protected = URL_SAFE_NO_PAD.decode(padded["protected"].as_str().unwrap()).unwrap();
        padded["protected"] = PADDED.encode(protected).into();
        assert_eq!(schema1_payload(signed("", &[padded]).as_bytes()), payload);
    }

    #[test]
    fn a_wrapper_of_another_manifest_has_no_payload() {
        for payload in [
            r#"{"schemaVersion":2,"config":{},"layers":[]}"#,
            r#"{"layers":[],"config":{},"schemaVersion":2}"#,
            r#"{"schemaVersion":1,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#,
        ] {
            for cut in 1..payload.len() {
                let signatures = Value::from(vec![signature(cut, &payload[cut..])]);
                for wrapper in [
                    format!(r#"{},"signatures":{signatures}}}"#, &payload[..cut]),
                    format!(r#"{},"signatures":{signatures}}}"#, &payload[..cut]).replace(":2", ":1"),
                ] {
                    assert_eq!(schema1_payload(wrapper.as_bytes()), None, "{wrapper}");
                }
            }
        }
    }

    #[test]
    fn what_is_not_signed_or_not_all_signed_has_none() {
        let length = PAYLOAD.len() - 2;
        for document in [
            String::new(),
            "[]".to_owned(),
            PAYLOAD.to_owned(),
            signed("", &[]),
            signed("", &[json!({})]),
            signed("", &[json!({ "protected": "!" })]),
            signed("", &[signature(usize::MAX, "")]),
            signed("", &[signature(length - 1, "\n}")]),
            signed("", &[signature(0, PAYLOAD)]),
            signed("", &[good(), signature(length, "}")]),
            signed("", &[signature(length, ",\"tag\":\"1\"\n}")]),
            // For most readers the last of two equal keys counts, and no digest would cover this one.
            signed(",\"fsLayers\":[{}]", &[good()]),
            signed("", &[good()]).replace("\n}", ",\"name\":\"evil\"}"),
            signed(",\"signatures\":[]", &[good()]),
        ] {
            assert_eq!(schema1_payload(document.as_bytes()), None, "{document}");
        }
    }

    proptest! {
        #[test]
        fn what_is_signed_in_a_document_of_schema_1_is_one(head in r#"\{"schemaVersion":1,"fsLayers":\[\],"history":\[\](,"(name|config|signatures|layers)":(1|"\\?,?"|\[\]|\{\})){0,2}[ ,"}\]\\]{0,2}"#) {
            let signatures = Value::from(vec![signature(head.len(), "}")]);
            let document = format!("{head},\"signatures\":{signatures}}}");
            if let Some(payload) = schema1_payload(document.as_bytes()) {
                prop_assert!(is_schema1(&payload));
            }
        }

        #[test]
        fn any_length_is_read_without_a_panic(length: usize, near in 0usize..200, tail in ".{0,8}") {
            for length in [length, near] {
                let document = signed("", &[signature(length, &tail)]);
                if let Some(payload) = schema1_payload(document.as_bytes()) {
                    prop_assert_eq!(payload, [&PAYLOAD[..PAYLOAD.len() - 2], &tail].concat().into_bytes());
                }
            }
        }
    }
}
