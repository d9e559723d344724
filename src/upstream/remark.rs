//! What an answer says of its content beside it, as far as clients are told (pure).
//!
//! Source: OCI distribution specification v1.1, "Warnings"; RFC 7234 section 5.5.

use http::{HeaderMap, HeaderValue, header};

use super::media_type;
use crate::oci::MediaType;

/// How much of warnings is passed on of one answer, in bytes: more than that is none of the specification.
const MAX_WARNINGS: usize = 4096;

/// Warnings for clients, and the type of a manifest that came as a blob.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Remark {
    /// Where it is that of a manifest.
    pub media_type: Option<MediaType>,
    /// Values of `Warning`, each of code 299.
    pub warnings: Vec<HeaderValue>,
}

impl Remark {
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let mut left = MAX_WARNINGS;
        let told = headers.get_all(header::WARNING).iter().filter(|value| value.as_bytes().starts_with(b"299 "));
        let fits = |value: &&HeaderValue| match left.checked_sub(value.len()) {
            Some(rest) => {
                left = rest;
                true
            }
            None => false,
        };
        let warnings = told.take_while(fits).cloned().collect();
        Self { media_type: media_type(headers).filter(|said| said.kind().is_some()), warnings }
    }

    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// About how many bytes of memory it takes.
    pub fn size(&self) -> usize {
        let said = self.media_type.as_ref().map_or(0, |said| said.as_str().len());
        said + self.warnings.iter().map(HeaderValue::len).sum::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_warnings_of_the_specification_are_passed_on() {
        let long = format!("299 - \"{}\"", "x".repeat(3000));
        for (told, expected) in [
            (&[r#"299 - "deprecated""#, r#"299 - "again""#][..], 2),
            (&[r#"110 - "stale""#, r#"299 - "deprecated""#], 1),
            (&["299", "2990 x", ""], 0),
            (&[long.as_str(), long.as_str()], 1),
            (&[], 0),
        ] {
            let headers = told.iter().map(|text| (header::WARNING, HeaderValue::from_str(text).unwrap())).collect();
            assert_eq!(Remark::of(&headers).warnings.len(), expected, "{told:?}");
        }
    }

    #[test]
    fn only_the_type_of_a_manifest_is_passed_on() {
        for (said, expected) in [
            (MediaType::OCI_INDEX.as_str(), true),
            (MediaType::DOCKER_MANIFEST.as_str(), true),
            ("application/octet-stream", false),
            ("text/html", false),
            ("application/vnd.oci.image.layer.v1.tar", false),
        ] {
            let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_str(said).unwrap())]);
            assert_eq!(Remark::of(&headers).media_type.is_some(), expected, "{said}");
            assert_eq!(Remark::of(&headers).is_empty(), !expected, "{said}");
        }
    }
}
