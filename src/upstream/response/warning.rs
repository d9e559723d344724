//! What the head of a response says about its content, as far as clients get it (pure).
//!
//! What must hold: values are copied; a slice would keep the whole head in memory, which may be a thousand times as
//! long.
//!
//! Source: OCI distribution specification v1.1, "Warnings"; RFC 7234 section 5.5.

use http::{HeaderMap, HeaderValue, header};

use super::{super::head::media_type, refusal::printable};
use crate::oci::MediaType;

/// The longest warnings of one response, in bytes, by the specification.
const MAX_WARNINGS: usize = 4096;
/// The most warnings of one response: clients allow about a hundred headers.
const MAX_LINES: usize = 16;
/// The memory of a header value beside its text, in bytes.
pub(crate) const VALUE_WEIGHT: usize = 100;

/// Warnings for clients, and the type of a manifest that was requested as a blob.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContentNotes {
    /// Set if it is that of a manifest.
    pub media_type: Option<MediaType>,
    /// Values of `Warning`, each of the form `299 - "text"`.
    pub warnings: Vec<HeaderValue>,
}

impl ContentNotes {
    pub(in crate::upstream) fn of(headers: &HeaderMap) -> Self {
        let mut left = MAX_WARNINGS;
        let lines = headers.get_all(header::WARNING).iter();
        let texts = lines.filter_map(|line| str::from_utf8(line.as_bytes()).ok()).flat_map(Texts);
        let warnings = texts
            .filter_map(|text| HeaderValue::from_bytes(format!("299 - \"{}\"", printable(text)).as_bytes()).ok())
            .filter(|value| match left.checked_sub(value.len()) {
                Some(rest) => {
                    left = rest;
                    true
                }
                None => false,
            })
            .take(MAX_LINES)
            .collect();
        Self { media_type: media_type(headers).filter(|said| said.kind().is_some()), warnings }
    }

    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Its memory, in bytes.
    pub(crate) fn size(&self) -> usize {
        let said = self.media_type.as_ref().map_or(0, |said| said.as_str().len());
        said + self.warnings.iter().map(|value| VALUE_WEIGHT + value.len()).sum::<usize>()
    }
}

/// The texts of the warnings in one line that have the form of the specification: code 299, no agent, no date. A proxy
/// may have joined several. Parsing ends at a malformed one.
struct Texts<'a>(&'a str);

impl<'a> Iterator for Texts<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        loop {
            let line = self.0.trim_start_matches([' ', '\t', ',']);
            let (code, rest) = line.split_once(' ')?;
            let (agent, rest) = rest.split_once(' ')?;
            let (text, rest) = quoted(rest)?;
            let (date, rest) = match quoted(rest.trim_start()) {
                Some((date, rest)) => (Some(date), rest),
                None => (None, rest),
            };
            let rest = rest.trim_start();
            if !rest.is_empty() && !rest.starts_with(',') {
                return None;
            }
            self.0 = rest;
            if code == "299" && agent == "-" && date.is_none() && !text.is_empty() {
                return Some(text);
            }
        }
    }
}

/// The quoted string at the beginning, and what follows it.
fn quoted(text: &str) -> Option<(&str, &str)> {
    let rest = text.strip_prefix('"')?;
    let mut escaped = false;
    let end = rest.bytes().position(|byte| {
        let is_end = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        is_end
    })?;
    Some((rest.get(..end)?, rest.get(end + 1..)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn notes(lines: &[&str]) -> ContentNotes {
        let value = |text: &&str| (header::WARNING, HeaderValue::from_bytes(text.as_bytes()).unwrap());
        ContentNotes::of(&lines.iter().map(value).collect())
    }

    #[test]
    fn only_warnings_of_the_specification_are_passed_on() {
        let (long, longer) = (format!("299 - \"{}\"", "x".repeat(3000)), format!("299 - \"{}\"", "x".repeat(5000)));
        let (a, b) = (r#"299 - "a""#, r#"299 - "b, \"c\"""#);
        for (told, expected) in [
            (&[a, b][..], &[a, b][..]),
            (&[r#"110 - "stale""#, a, r#"199 - "misc""#], &[a]),
            (
                &["299", "2990 x", "", "299 -", "299 ", r#"299 - """#, r#"299 - "open"#, r#"299 - a"#, r#"299\t- "x""#],
                &[],
            ),
            (&[r#"299 mirror:5000 "x""#, r#"299 - "x" "Wed, 21 Oct 2015 07:28:00 GMT""#, r#"299 - "x" y"#], &[]),
            (&[r#"299 - "a", 110 r "Stale""#, r#"110 r "Stale", 299 - "a""#], &[a, a]),
            (&[r#"299 - "a",299 - "b, \"c\"""#], &[a, b]),
            (&[&long, &long, a], &[&long, a]),
            (&[&longer, a], &[a]),
            (&["299 - \"\u{e9}\u{9b}2J\u{202e}\""], &["299 - \"\u{e9} 2J\""]),
            (&[a; 200], &[a; MAX_LINES]),
            (&[], &[]),
        ] {
            let told = notes(told).warnings;
            let told: Vec<&str> = told.iter().map(|value| str::from_utf8(value.as_bytes()).unwrap()).collect();
            assert_eq!(told, expected);
        }
        let latin1 = HeaderMap::from_iter([(header::WARNING, HeaderValue::from_bytes(b"299 - \"\xe9\"").unwrap())]);
        assert!(ContentNotes::of(&latin1).is_empty());
    }

    #[test]
    fn a_warning_does_not_keep_the_whole_head() {
        let head = bytes::Bytes::from([&[b'j'; 300_000][..], br#"299 - "x""#].concat());
        let value = HeaderValue::from_maybe_shared(head.slice(300_000..)).unwrap();
        let kept = ContentNotes::of(&HeaderMap::from_iter([(header::WARNING, value)]));
        assert_eq!(kept.warnings, [r#"299 - "x""#]);
        assert!(!head.as_ptr_range().contains(&kept.warnings[0].as_bytes().as_ptr()));
        assert!(kept.size() > VALUE_WEIGHT && kept.size() < 2 * VALUE_WEIGHT);
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
            assert_eq!(ContentNotes::of(&headers).media_type.is_some(), expected, "{said}");
            assert_eq!(ContentNotes::of(&headers).is_empty(), !expected, "{said}");
        }
    }
}
