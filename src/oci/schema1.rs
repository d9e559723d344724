//! Docker's schema 1 signed manifests: which bytes their digest is computed over.
//!
//! Such a document carries its signatures inside itself, and its digest is that of the document
//! as it was before it was signed. Each signature says how to get back there: the first
//! `formatLength` bytes, then `formatTail`. The signatures themselves are nobody's concern here:
//! the digest is what vouches for the content.
//!
//! Source: Docker image manifest version 2, schema 1, "Signed Manifests"; libtrust's `PrettySignature`.

use base64::{
    Engine as _,
    alphabet::URL_SAFE,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use serde::Deserialize;

/// libtrust writes no padding; others might.
const BASE64URL: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The payload of `application/vnd.docker.distribution.manifest.v1+prettyjws`, or `None` when the document is
/// not signed, or its signatures disagree about what they sign, or it holds more than payload and signatures:
/// whatever stood between the two would be covered by no digest.
pub fn schema1_payload(document: &[u8]) -> Option<Vec<u8>> {
    let signed: Signed = serde_json::from_slice(document).ok()?;
    let mut formats = signed.signatures.iter().map(Signature::format);
    let format = formats.next()??;
    if !formats.all(|other| other.as_ref() == Some(&format)) {
        return None;
    }
    let (head, rest) = document.split_at_checked(format.length)?;
    only_signatures(rest)?;
    Some([head, &format.tail].concat())
}

/// Checks that what follows the payload is `, "signatures": […] }` and no more.
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
