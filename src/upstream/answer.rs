//! What the head of an upstream's answer means.
//!
//! A status becomes an [`ErrorKind`]; an answer that is a success by its status but cannot be what
//! was asked for, such as a captive portal's HTML page, becomes one as well.

use std::time::Duration;

use http::{HeaderMap, HeaderValue, StatusCode, header};

use super::{
    client::number,
    error::{Error, ErrorKind, Shown},
    follow::Followed,
    via::Mirrors,
};
use crate::oci::ContentRange;

/// The longest age that is believed, in seconds. Source: RFC 9111 section 1.2.2.
const MAX_AGE: u64 = 1 << 31;

/// Passes on 200 and 206; everything else is an error, and a page for people unless what it says of its type counts for
/// nothing (`any_type`).
pub(super) fn check(followed: Followed, any_type: bool) -> Result<Followed, Error> {
    let headers = followed.response.headers();
    let status = followed.response.status();
    let says = |what: &str| format!("{} answered {what}", Shown(&followed.url));
    if !matches!(status, StatusCode::OK | StatusCode::PARTIAL_CONTENT) {
        let kind = kind_of(status, followed.away, headers);
        return Err(Error::new(kind, says(status.as_str())).retry_after(headers));
    }
    if is_html(headers) && !any_type {
        return Err(Error::new(ErrorKind::Protocol, says("with an HTML page")));
    }
    if is_encoded(headers) {
        return Err(Error::new(ErrorKind::Protocol, says("in an encoding that was not asked for")));
    }
    Ok(followed)
}

/// `away` means that a redirect's target answered. It knows nothing of who may pull what; when it
/// refuses, the signature was bad or has died, and asking the registry anew helps.
fn kind_of(status: StatusCode, away: bool, headers: &HeaderMap) -> ErrorKind {
    match status.as_u16() {
        400 | 401 | 403 if away => ErrorKind::Unavailable,
        401 => ErrorKind::Unauthorized,
        // 451: unavailable for legal reasons (RFC 7725).
        403 | 451 => ErrorKind::Denied,
        404 | 410 => ErrorKind::NotFound,
        405 => ErrorKind::Unsupported,
        // Our own proxy wants to know who asks: no client can help that.
        407 => ErrorKind::Unavailable,
        408 => ErrorKind::Timeout,
        416 => ErrorKind::RangeNotSatisfiable { total: unsatisfied_total(headers) },
        429 => ErrorKind::TooManyRequests,
        400..=499 => ErrorKind::Rejected { status: status.as_u16() },
        508 => ErrorKind::Loop,
        500..=599 => ErrorKind::Unavailable,
        _ => ErrorKind::Protocol,
    }
}

/// How long the content is, by the answer to a HEAD, or to the GET of one byte in its place.
pub(super) fn announced_len(followed: &Followed) -> Option<u64> {
    let headers = followed.response.headers();
    match followed.response.status() {
        StatusCode::PARTIAL_CONTENT => ContentRange::parse(headers.get(header::CONTENT_RANGE)?).ok()?.total,
        _ => number(headers, &header::CONTENT_LENGTH),
    }
}

/// How long ago the content of an answer was true. Only a forebay's word counts: other caches, such as a CDN, count from when
/// they fetched what a registry calls unchanging.
pub(super) fn age(followed: &Followed) -> Duration {
    let headers = followed.response.headers();
    if followed.away || Mirrors::in_headers(headers).is_none() {
        return Duration::ZERO;
    }
    age_of(headers).unwrap_or_default()
}

/// Of several the first counts, and what is no number says nothing. Source: RFC 9111 section 5.1.
fn age_of(headers: &HeaderMap) -> Option<Duration> {
    let first = headers.get(header::AGE)?.to_str().ok()?.split(',').next()?.trim();
    if first.is_empty() || !first.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    // What is no number any more is a larger one.
    Some(Duration::from_secs(first.parse().unwrap_or(MAX_AGE).min(MAX_AGE)))
}

/// Whether a registry says that it is one.
pub(super) fn is_of_registry(headers: &HeaderMap) -> bool {
    let says = |value: &HeaderValue| {
        let names = |text: &str| text.split([',', ' ']).any(|version| version.eq_ignore_ascii_case("registry/2.0"));
        value.to_str().is_ok_and(names)
    };
    headers.get_all("docker-distribution-api-version").iter().any(says)
}

/// The length that a 416 tells.
pub(super) fn unsatisfied_total(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_RANGE).and_then(ContentRange::parse_unsatisfied)
}

/// Whether it is neither a page for people nor in an encoding.
pub(super) fn is_content(headers: &HeaderMap) -> bool {
    !is_html(headers) && !is_encoded(headers)
}

/// Whether it says that it is a page for people.
pub(super) fn is_html(headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()) else {
        return false;
    };
    let essence = value.split(';').next().unwrap_or_default().trim();
    ["text/html", "application/xhtml+xml"].iter().any(|html| essence.eq_ignore_ascii_case(html))
}

fn is_encoded(headers: &HeaderMap) -> bool {
    headers
        .get_all(header::CONTENT_ENCODING)
        .iter()
        .any(|value| !matches!(value.to_str().map(str::trim), Ok(text) if text.is_empty() || text.eq_ignore_ascii_case("identity")))
}

#[cfg(test)]
mod tests {
    use http::HeaderName;

    use super::*;

    #[test]
    fn an_age_is_a_number_and_the_first_of_several() {
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
            assert_eq!(age_of(&headers), expected.map(Duration::from_secs), "{lines:?}");
        }
    }

    #[test]
    fn statuses() {
        for (status, home, away) in [
            (400, ErrorKind::Rejected { status: 400 }, ErrorKind::Unavailable),
            (407, ErrorKind::Unavailable, ErrorKind::Unavailable),
            (408, ErrorKind::Timeout, ErrorKind::Timeout),
            (410, ErrorKind::NotFound, ErrorKind::NotFound),
            (414, ErrorKind::Rejected { status: 414 }, ErrorKind::Rejected { status: 414 }),
            (422, ErrorKind::Rejected { status: 422 }, ErrorKind::Rejected { status: 422 }),
            (451, ErrorKind::Denied, ErrorKind::Denied),
            (401, ErrorKind::Unauthorized, ErrorKind::Unavailable),
            (403, ErrorKind::Denied, ErrorKind::Unavailable),
            (404, ErrorKind::NotFound, ErrorKind::NotFound),
            (405, ErrorKind::Unsupported, ErrorKind::Unsupported),
            (416, ErrorKind::RangeNotSatisfiable { total: None }, ErrorKind::RangeNotSatisfiable { total: None }),
            (429, ErrorKind::TooManyRequests, ErrorKind::TooManyRequests),
            (500, ErrorKind::Unavailable, ErrorKind::Unavailable),
            (503, ErrorKind::Unavailable, ErrorKind::Unavailable),
            (508, ErrorKind::Loop, ErrorKind::Loop),
            (204, ErrorKind::Protocol, ErrorKind::Protocol),
            (304, ErrorKind::Protocol, ErrorKind::Protocol),
        ] {
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(kind_of(status, false, &HeaderMap::new()), home, "{status}");
            assert_eq!(kind_of(status, true, &HeaderMap::new()), away, "{status}");
        }
    }

    fn headers(name: HeaderName, value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_static(value))])
    }

    #[test]
    fn a_page_for_people_is_no_content() {
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
    fn encodings() {
        for (value, encoded) in
            [("gzip", true), ("identity", false), ("Identity", false), ("", false), ("zstd, gzip", true)]
        {
            assert_eq!(is_encoded(&headers(header::CONTENT_ENCODING, value)), encoded, "{value}");
        }
    }
}
