//! Entity tags: content that never changes is named by its digest.
//!
//! Source: RFC 9110 sections 8.8.3 (ETag) and 13.1.2 (If-None-Match).

use http::{HeaderMap, header};

use super::Digest;

/// The entity tag of content: its digest. It is a strong one.
pub fn etag(digest: &Digest) -> String {
    format!("\"{digest}\"")
}

/// Whether `If-None-Match` names this content.
pub fn matches_if_none_match(headers: &HeaderMap, digest: &Digest) -> bool {
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

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn if_none_match() {
        let digest: Digest = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855".parse().unwrap();
        let one = |value: &str| HeaderMap::from_iter([(header::IF_NONE_MATCH, HeaderValue::from_str(value).unwrap())]);
        let ours = etag(&digest);
        for (value, expected) in [
            (ours.clone(), true),
            (format!("W/{ours}"), true),
            (format!("\"other\", {ours}"), true),
            ("*".into(), true),
            ("\"other\"".into(), false),
            (digest.to_string(), false),
        ] {
            assert_eq!(matches_if_none_match(&one(&value), &digest), expected, "{value}");
        }
        assert!(!matches_if_none_match(&HeaderMap::new(), &digest));
    }
}
