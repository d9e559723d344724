//! Requests for parts of content that never changes (pure).
//!
//! Source: RFC 9110 sections 13.1.5 (If-Range) and 14.2 (Range).

use http::{HeaderMap, header};

use crate::oci::{Adjoining, Digest, Ranges, etag};

/// The ranges that the client requests; `None` for the whole content, and when `If-Range` names other content.
pub(crate) fn wanted_ranges(headers: &HeaderMap, digest: &Digest) -> Option<Ranges> {
    if let Some(condition) = headers.get(header::IF_RANGE)
        && condition.as_bytes() != etag(digest).as_bytes()
    {
        return None;
    }
    let mut ranges = headers.get_all(header::RANGE).iter();
    match (ranges.next(), ranges.next()) {
        (Some(range), None) => Ranges::parse(range),
        _ => None,
    }
}

/// How the `User-Agent` of clients begins that count the parts of a response: containers/image before 5.30 (podman
/// before 5.0) takes each part for the next requested range, whatever its head says, and requests neighbouring files as
/// adjoining ranges.
///
/// Source: containers/image, `docker/docker_image_src.go`, `handle206Response`; the registry of distribution joins
/// nothing.
const PART_COUNTERS: [&str; 5] = ["containers/", "skopeo/", "buildah/", "cri-o/", "podman/"];

/// What this client expects of adjoining ranges.
pub(crate) fn adjoining(headers: &HeaderMap) -> Adjoining {
    let name = headers.get(header::USER_AGENT).and_then(|name| name.to_str().ok()).unwrap_or_default();
    let begins_with = |known: &&str| name.get(..known.len()).is_some_and(|name| name.eq_ignore_ascii_case(known));
    if PART_COUNTERS.iter().any(begins_with) { Adjoining::KeepApart } else { Adjoining::Join }
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
    fn clients_of_containers_image_count_the_parts() {
        for (name, expected) in [
            ("containers/5.23.1 (github.com/containers/image)", Adjoining::KeepApart),
            ("Buildah/1.28", Adjoining::KeepApart),
            ("containerd/1.7.2", Adjoining::Join),
            ("stargz", Adjoining::Join),
            ("", Adjoining::Join),
        ] {
            assert_eq!(adjoining(&one(header::USER_AGENT, name)), expected, "{name}");
        }
        assert_eq!(adjoining(&HeaderMap::new()), Adjoining::Join);
    }

    #[test]
    fn if_range_of_other_content_means_the_whole() {
        let mut headers = one(header::RANGE, "bytes=5-6,8-");
        assert!(wanted_ranges(&headers, &digest()).is_some());
        headers.insert(header::IF_RANGE, HeaderValue::from_static("\"other\""));
        assert!(wanted_ranges(&headers, &digest()).is_none());
        headers.insert(header::IF_RANGE, HeaderValue::from_str(&etag(&digest())).unwrap());
        assert!(wanted_ranges(&headers, &digest()).is_some());
        headers.append(header::RANGE, HeaderValue::from_static("bytes=7-"));
        assert!(wanted_ranges(&headers, &digest()).is_none(), "two Range headers are none");
    }
}
