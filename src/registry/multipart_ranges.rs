//! Several parts of a blob in one body (pure).
//!
//! Source: RFC 9110 sections 14.6 (multipart/byteranges) and 15.3.7.2, RFC 2046 section 5.1.1.

use std::{collections::hash_map::RandomState, hash::BuildHasher as _};

use bytes::Bytes;
use http::HeaderValue;

use crate::oci::ResolvedRange;

/// The boundary and heads of the parts of one body.
pub(crate) struct Framing {
    /// Random, so that no blob can contain it on purpose.
    boundary: String,
    /// The length of the whole blob, in bytes.
    total: u64,
}

impl Framing {
    pub(crate) fn new(total: u64) -> Self {
        let random = RandomState::new();
        Self { boundary: format!("{:016x}{:016x}", random.hash_one(0), random.hash_one(1)), total }
    }

    /// `None` never occurs: a boundary consists of digits and letters.
    pub(crate) fn content_type(&self) -> Option<HeaderValue> {
        HeaderValue::try_from(format!("multipart/byteranges; boundary={}", self.boundary)).ok()
    }

    /// The head of a part.
    pub(crate) fn head(&self, range: ResolvedRange, is_first: bool) -> Bytes {
        let line_end = if is_first { "" } else { "\r\n" };
        let (boundary, range) = (&self.boundary, range.content_range(self.total));
        Bytes::from(format!(
            "{line_end}--{boundary}\r\nContent-Type: application/octet-stream\r\nContent-Range: {range}\r\n\r\n"
        ))
    }

    /// The end behind the last part.
    pub(crate) fn end(&self) -> Bytes {
        Bytes::from(format!("\r\n--{}--\r\n", self.boundary))
    }

    /// How long the body with these parts is, in bytes.
    pub(crate) fn body_len(&self, ranges: &[ResolvedRange]) -> u64 {
        let part = |(index, range): (usize, &ResolvedRange)| self.head(*range, index == 0).len() as u64 + range.len();
        ranges.iter().enumerate().map(part).sum::<u64>() + self.end().len() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_has_the_announced_length_and_a_head_per_part() {
        let framing = Framing { boundary: "b".to_owned(), total: 1000 };
        let ranges = [(0, 2), (998, 999), (10, 10)].map(|(first, last)| ResolvedRange { first, last });
        let content = ["abc", "de", "f"];
        let mut body = Vec::new();
        for (index, (range, content)) in ranges.iter().zip(content).enumerate() {
            body.extend_from_slice(&framing.head(*range, index == 0));
            body.extend_from_slice(content.as_bytes());
        }
        body.extend_from_slice(&framing.end());
        assert_eq!(body.len() as u64, framing.body_len(&ranges));
        let octets = "Content-Type: application/octet-stream";
        let expected = format!(
            "--b\r\n{octets}\r\nContent-Range: bytes 0-2/1000\r\n\r\nabc\r\n\
             --b\r\n{octets}\r\nContent-Range: bytes 998-999/1000\r\n\r\nde\r\n\
             --b\r\n{octets}\r\nContent-Range: bytes 10-10/1000\r\n\r\nf\r\n--b--\r\n"
        );
        assert_eq!(String::from_utf8(body).unwrap(), expected);
    }

    #[test]
    fn each_body_has_a_boundary_of_its_own() {
        let boundaries: Vec<String> = (0..100).map(|_| Framing::new(1).boundary).collect();
        for (index, boundary) in boundaries.iter().enumerate() {
            assert!(boundary.len() == 32 && boundary.bytes().all(|byte| byte.is_ascii_hexdigit()), "{boundary}");
            assert!(!boundaries[..index].contains(boundary));
        }
        assert!(
            Framing::new(1).content_type().unwrap().to_str().unwrap().starts_with("multipart/byteranges; boundary=")
        );
    }
}
