//! What the head of an upstream's response says, header by header (pure).

use std::{
    num::IntErrorKind,
    time::{Duration, SystemTime},
};

use http::{HeaderMap, HeaderName, HeaderValue, header};

use super::{mirrors::Mirrors, response::rate_limit::RateLimit};
use crate::oci::{Accept, ContentRange, Digest, MediaType};

const DOCKER_CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
/// The header by which registries tell that they are registries.
pub(super) const API_VERSION: HeaderName = HeaderName::from_static("docker-distribution-api-version");

/// The longest `Age` that is believed, in seconds. Source: RFC 9111 section 1.2.2.
const MAX_AGE: u64 = 1 << 31;
/// The longest `Retry-After` that is believed: one day.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(24 * 60 * 60);

/// The `Accept` headers of a request.
pub(super) fn accept_headers(accept: &Accept) -> HeaderMap {
    accept.headers().map(|value: &HeaderValue| (header::ACCEPT, value.clone())).collect()
}

/// A header that is one number, such as `Content-Length`.
pub(super) fn number(headers: &HeaderMap, name: &HeaderName) -> Option<u64> {
    headers.get(name)?.to_str().ok()?.trim().parse().ok()
}

pub(super) fn content_length(headers: &HeaderMap) -> Option<u64> {
    number(headers, &header::CONTENT_LENGTH)
}

pub(super) fn media_type(headers: &HeaderMap) -> Option<MediaType> {
    headers.get(header::CONTENT_TYPE).and_then(|value| MediaType::try_from(value).ok())
}

/// The digest of the content, as the upstream claims.
pub(super) fn digest(headers: &HeaderMap) -> Option<Digest> {
    headers.get(DOCKER_CONTENT_DIGEST)?.to_str().ok()?.trim().parse().ok()
}

/// The value of `Retry-After` as a duration from `now`: seconds, or an HTTP date (RFC 9110 section 10.2.3).
pub(super) fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = match text.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(error) if *error.kind() == IntErrorKind::PosOverflow => MAX_RETRY_AFTER,
        Err(_) => httpdate::parse_http_date(text).ok()?.duration_since(now).unwrap_or_default(),
    };
    Some(wait.min(MAX_RETRY_AFTER))
}

/// The value of `Age`: of several the first, if it is a number. Source: RFC 9111 section 5.1.
pub(super) fn age(headers: &HeaderMap) -> Option<Duration> {
    let first = headers.get(header::AGE)?.to_str().ok()?.split(',').next()?.trim();
    if first.is_empty() || !first.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    // Digits that do not fit a u64 are a larger number.
    Some(Duration::from_secs(first.parse().unwrap_or(MAX_AGE).min(MAX_AGE)))
}

/// The content coding of a response, by its `Content-Encoding`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Coding {
    None,
    Gzip,
    /// A value that is no content coding, such as `utf-8`, or S3's `aws-chunked`, which tells how the object was
    /// uploaded.
    Label,
    /// A coding that forebay does not decode, or several.
    Other,
}

/// Source: RFC 9110 section 8.4.1, and the registry of content codings at IANA.
const CODINGS: [&str; 9] = ["gzip", "x-gzip", "deflate", "compress", "x-compress", "br", "zstd", "dcb", "dcz"];

pub(super) fn coding(headers: &HeaderMap) -> Coding {
    let mut found = Coding::None;
    for value in headers.get_all(header::CONTENT_ENCODING) {
        let Ok(text) = value.to_str() else { return Coding::Other };
        let names = text.split(',').map(|name| name.trim().to_ascii_lowercase());
        for name in names.filter(|name| !name.is_empty() && name != "identity") {
            let one = match name.as_str() {
                "gzip" | "x-gzip" => Coding::Gzip,
                name if CODINGS.contains(&name) => Coding::Other,
                _ => Coding::Label,
            };
            found = match (found, one) {
                (Coding::None | Coding::Label, one) => one,
                (found, Coding::Label) => found,
                _ => Coding::Other,
            };
        }
    }
    found
}

/// Whether a 503 is a registry's own rate limit, with a time to retry: not the error of a proxy in front of it, nor of
/// a mirror.
pub(super) fn is_rate_limit(headers: &HeaderMap) -> bool {
    headers.contains_key(header::RETRY_AFTER)
        && (is_of_registry(headers) || RateLimit::from_headers(headers).is_some())
        && Mirrors::in_headers(headers).is_none()
}

/// Whether the response names the registry API version, as registries do.
pub(super) fn is_of_registry(headers: &HeaderMap) -> bool {
    let says = |value: &HeaderValue| {
        let names = |text: &str| text.split([',', ' ']).any(|version| version.eq_ignore_ascii_case("registry/2.0"));
        value.to_str().is_ok_and(names)
    };
    headers.get_all(API_VERSION).iter().any(says)
}

/// The length of the content, by the `Content-Range` of a 416.
pub(super) fn unsatisfied_total(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_RANGE).and_then(ContentRange::parse_unsatisfied)
}

/// Whether the body is neither an HTML page nor encoded.
pub(super) fn is_content(headers: &HeaderMap) -> bool {
    !is_html(headers) && !is_encoded(headers)
}

/// Whether the body is encoded.
pub(super) fn is_encoded(headers: &HeaderMap) -> bool {
    matches!(coding(headers), Coding::Gzip | Coding::Other)
}

/// Whether the body is an HTML page.
pub(super) fn is_html(headers: &HeaderMap) -> bool {
    is_typed(headers, &["text/html", "application/xhtml+xml"])
}

pub(super) fn is_plain_text(headers: &HeaderMap) -> bool {
    is_typed(headers, &["text/plain"])
}

fn is_typed(headers: &HeaderMap, types: &[&str]) -> bool {
    let Some(value) = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()) else {
        return false;
    };
    let essence = value.split(';').next().unwrap_or_default().trim();
    types.iter().any(|one| essence.eq_ignore_ascii_case(one))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: HeaderName, value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_static(value))])
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        let cases: &[(&str, Option<u64>)] = &[
            ("120", Some(120)),
            (" 7 ", Some(7)),
            ("0", Some(0)),
            ("Sun, 06 Nov 1994 08:50:37 GMT", Some(60)),
            ("Sun, 06 Nov 1994 08:00:00 GMT", Some(0)),
            ("99999999999999", Some(86_400)),
            ("99999999999999999999999", Some(86_400)),
            ("-1", None),
            ("soon", None),
        ];
        for (text, seconds) in cases {
            let headers = HeaderMap::from_iter([(header::RETRY_AFTER, HeaderValue::from_static(text))]);
            assert_eq!(retry_after(&headers, now), seconds.map(Duration::from_secs), "{text}");
        }
        assert_eq!(retry_after(&HeaderMap::new(), now), None);
    }

    #[test]
    fn an_age_is_the_first_number() {
        for (lines, expected) in [
            (&["0"][..], Some(0)),
            (&["17"], Some(17)),
            (&[" 17 "], Some(17)),
            (&["007"], Some(7)),
            (&["2147483648"], Some(MAX_AGE)),
            (&["2147483649"], Some(MAX_AGE)),
            (&["99999999999999999999999999"], Some(MAX_AGE)),
            (&["17, 3"], Some(17)),
            (&["17", "3"], Some(17)),
            (&["3", "17"], Some(3)),
            (&["x", "17"], None),
            (&["-1"], None),
            (&["+1"], None),
            (&["1.5"], None),
            (&["0x10"], None),
            (&["1 2"], None),
            (&[""], None),
            (&[",3"], None),
            (&[], None),
        ] {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(header::AGE, HeaderValue::from_str(line).unwrap());
            }
            assert_eq!(age(&headers), expected.map(Duration::from_secs), "{lines:?}");
        }
    }

    #[test]
    fn html_pages_are_found_by_their_type() {
        for (value, html) in [
            ("text/html", true),
            ("Text/HTML; charset=utf-8", true),
            ("application/octet-stream", false),
            ("text/plain", false),
            ("application/vnd.oci.image.index.v1+json", false),
        ] {
            assert_eq!(is_html(&headers(header::CONTENT_TYPE, value)), html, "{value}");
        }
    }

    #[test]
    fn content_codings() {
        for (value, expected) in [
            ("gzip", Coding::Gzip),
            ("X-Gzip", Coding::Gzip),
            ("identity", Coding::None),
            ("Identity", Coding::None),
            ("", Coding::None),
            ("zstd, gzip", Coding::Other),
            ("gzip, gzip", Coding::Other),
            ("br", Coding::Other),
            ("aws-chunked", Coding::Label),
            ("utf-8", Coding::Label),
            ("aws-chunked,gzip", Coding::Gzip),
            ("gzip, identity", Coding::Gzip),
        ] {
            assert_eq!(coding(&headers(header::CONTENT_ENCODING, value)), expected, "{value}");
        }
    }
}
