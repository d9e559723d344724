//! Conditional requests on content that never changes (pure).
//!
//! Source: RFC 9110 sections 13.1.2 (If-None-Match) and 13.1.5 (If-Range).

use http::{HeaderMap, header};

use crate::oci::{ByteRange, Digest, etag};

/// Whether the client says that it has this content already.
pub fn has_already(headers: &HeaderMap, digest: &Digest) -> bool {
    // Most requests have no conditions.
    if !headers.contains_key(header::IF_NONE_MATCH) {
        return false;
    }
    let ours = etag(digest);
    headers
        .get_all(header::IF_NONE_MATCH)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .any(|list| list.trim() == "*" || list.split(',').any(|tag| tag.trim().trim_start_matches("W/") == ours))
}

/// The range the client wants, if it still wants one of this content.
pub fn wanted_range(headers: &HeaderMap, digest: &Digest) -> Option<ByteRange> {
    if let Some(condition) = headers.get(header::IF_RANGE)
        && condition.as_bytes() != etag(digest).as_bytes()
    {
        return None;
    }
    let mut ranges = headers.get_all(header::RANGE).iter();
    match (ranges.next(), ranges.next()) {
        (Some(range), None) => ByteRange::parse(range),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    fn digest() -> Digest {
        "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855".parse().unwrap()
    }

    fn one(name: HeaderName, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_str(value).unwrap())])
    }

    #[test]
    fn if_none_match() {
        let ours = etag(&digest());
        for (value, expected) in [
            (ours.clone(), true),
            (format!("W/{ours}"), true),
            (format!("\"other\", {ours}"), true),
            ("*".into(), true),
            ("\"other\"".into(), false),
            (digest().to_string(), false),
        ] {
            assert_eq!(has_already(&one(header::IF_NONE_MATCH, &value), &digest()), expected, "{value}");
        }
        assert!(!has_already(&HeaderMap::new(), &digest()));
    }

    #[test]
    fn if_range_of_something_else_means_all_of_it() {
        let mut headers = one(header::RANGE, "bytes=5-");
        assert!(wanted_range(&headers, &digest()).is_some());
        headers.insert(header::IF_RANGE, HeaderValue::from_static("\"other\""));
        assert!(wanted_range(&headers, &digest()).is_none());
        headers.insert(header::IF_RANGE, HeaderValue::from_str(&etag(&digest())).unwrap());
        assert!(wanted_range(&headers, &digest()).is_some());
        headers.append(header::RANGE, HeaderValue::from_static("bytes=7-"));
        assert!(wanted_range(&headers, &digest()).is_none(), "two Range headers are none");
    }
}
