//! What the head of an upstream's answer means.
//!
//! A status becomes an [`ErrorKind`]; an answer that is a success by its status but cannot be what
//! was asked for, such as a captive portal's HTML page, becomes one as well. A refusal (4xx) counts for the registry's
//! word only where something shows that it is: an ingress, a CDN and a firewall refuse as well.

pub(crate) mod document;
pub(crate) mod document_budget;
pub(crate) mod gunzip;
pub(crate) mod mislabeled;
pub(crate) mod rate_limit;
pub(crate) mod redaction;
pub(crate) mod refusal;
pub(crate) mod warning;

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use reqwest::{Response, Url};
use tokio::time::timeout;

use self::{
    rate_limit::RateLimit,
    refusal::{Refusal, Said},
};
use super::{
    client::{number, redirect_walk::Followed, whole_body},
    error::{Error, ErrorKind, Shown},
    via::Mirrors,
};
use crate::oci::ContentRange;

/// How long the body of a refusal is waited for.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(5);
/// What registries say that they are, with whatever they answer.
pub(super) const API_VERSION: HeaderName = HeaderName::from_static("docker-distribution-api-version");

/// The longest age that is believed, in seconds. Source: RFC 9111 section 1.2.2.
const MAX_AGE: u64 = 1 << 31;

/// What of a question decides what an answer to it means.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RequestKind {
    pub is_head: bool,
    pub is_blob: bool,
    /// What the answer says of its type counts for nothing.
    pub any_type: bool,
    /// The upstream decides by its clients: a refusal of any shape ends a client's right.
    pub by_client: bool,
}

/// Passes on 200 and 206; everything else is an error, and so is a page for people where the type counts.
pub(super) async fn check(followed: Followed, asked: RequestKind) -> Result<Followed, Error> {
    if !matches!(followed.response.status(), StatusCode::OK | StatusCode::PARTIAL_CONTENT) {
        return Err(Box::pin(refused(followed, asked)).await);
    }
    let headers = followed.response.headers();
    let says = |what: &str| format!("{} answered {what}", Shown(&followed.url));
    if is_html(headers) && !asked.any_type {
        // A manifest may be called so: its content tells, which a HEAD has not.
        if asked.is_head {
            return Err(Error::new(ErrorKind::Unsupported, says("a HEAD as an HTML page")));
        }
        return Err(Error::new(ErrorKind::Protocol, says("with an HTML page")));
    }
    Ok(followed)
}

async fn refused(followed: Followed, asked: RequestKind) -> Error {
    let elsewhere = registry_elsewhere(&followed);
    let Followed { response, url, away, .. } = followed;
    let (status, headers) = (response.status(), response.headers().clone());
    let kind = match kind_of(status, away, &headers, asked) {
        // No part was asked for.
        ErrorKind::RangeNotSatisfiable { .. } if !asked.is_blob => ErrorKind::Rejected { status: status.as_u16() },
        kind => kind,
    };
    let judged = judge(kind, status, &headers, asked);
    let body = match status.is_client_error() && !asked.is_head {
        true => body_of_refusal(response, &url).await,
        false => Bytes::new(),
    };
    let Said { mut reasons, is_of_registry } = Said::of(&body);
    if reasons.is_empty() && is_plain_text(&headers) {
        reasons = Said::in_plain_text(&body).reasons;
    }
    let kind = match judged {
        Judged::Unsure(_) if !is_of_registry => ErrorKind::Foreign { status: status.as_u16() },
        Judged::Sure(kind) | Judged::Unsure(kind) => kind,
    };
    let mut error = Error::new(kind, format!("{} answered {}", Shown(&url), status.as_str())).retry_after(&headers);
    if let Some(host) = elsewhere {
        error = error.led_to(host);
    }
    // What a redirect's target says is no word to clients.
    if !status.is_client_error() || away || matches!(kind, ErrorKind::Foreign { .. }) {
        return error;
    }
    error.in_words(Refusal { status: status.as_u16(), reasons })
}

/// What stands in a refusal. A body that breaks, hangs or is longer says nothing.
pub(super) async fn body_of_refusal(response: Response, url: &Url) -> Bytes {
    let body = timeout(REFUSAL_TIMEOUT, whole_body(response, url, refusal::MAX_LEN)).await;
    body.ok().and_then(Result::ok).unwrap_or_default()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Judged {
    Sure(ErrorKind),
    /// It is that if the body is a registry's.
    Unsure(ErrorKind),
}

/// Whether the head alone tells whose word a refusal is. A HEAD has no body, so that a GET has to tell; but a client that
/// pushes is told by the HEAD of a blob what to send, also where an ingress says that the blob is not there.
fn judge(kind: ErrorKind, status: StatusCode, headers: &HeaderMap, asked: RequestKind) -> Judged {
    if asked.is_head && matches!(status, StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED) {
        return Judged::Sure(ErrorKind::Unsupported);
    }
    let may_be_foreign = match kind {
        ErrorKind::NotFound | ErrorKind::Unsupported | ErrorKind::Rejected { .. } => true,
        ErrorKind::Denied => !asked.by_client,
        ErrorKind::Unauthorized => !asked.by_client && !headers.contains_key(header::WWW_AUTHENTICATE),
        // Registries say how long the blob is.
        ErrorKind::RangeNotSatisfiable { total } => total.is_none(),
        ErrorKind::TooManyRequests
        | ErrorKind::Unavailable
        | ErrorKind::Timeout
        | ErrorKind::Exhausted
        | ErrorKind::OurCredentials
        | ErrorKind::TooLarge
        | ErrorKind::Protocol
        | ErrorKind::Foreign { .. }
        | ErrorKind::Loop => false,
    };
    match (may_be_foreign && status.is_client_error() && !headers.contains_key(API_VERSION), kind) {
        (false, kind) => Judged::Sure(kind),
        (true, ErrorKind::NotFound) if asked.is_head && asked.is_blob => Judged::Sure(ErrorKind::NotFound),
        (true, _) if asked.is_head => Judged::Sure(ErrorKind::Unsupported),
        (true, kind) => Judged::Unsure(kind),
    }
}

/// `away` means that a redirect's target answered. It knows nothing of who may pull what; when it
/// refuses, the signature was bad or has died, and asking the registry anew helps. Manifests and lists have no signed URLs:
/// where an upstream decides by its clients, a refusal that it sends a client to is its own.
fn kind_of(status: StatusCode, away: bool, headers: &HeaderMap, asked: RequestKind) -> ErrorKind {
    match status.as_u16() {
        401 | 403 if away && asked.by_client && !asked.is_blob => ErrorKind::Denied,
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
        // A forebay's word; of others it means that they have no resources left.
        508 if is_of_registry(headers) || Mirrors::in_headers(headers).is_some() => ErrorKind::Loop,
        500..=599 => ErrorKind::Unavailable,
        _ => ErrorKind::Protocol,
    }
}

/// The host that a redirect led to, if it is a registry that asks for credentials: none of the upstream's are shown there.
fn registry_elsewhere(Followed { response, url, away, .. }: &Followed) -> Option<String> {
    let headers = response.headers();
    let challenges = response.status() == StatusCode::UNAUTHORIZED && headers.contains_key(header::WWW_AUTHENTICATE);
    let is_registry = is_of_registry(headers) || url.path().starts_with("/v2/");
    let host = url.host_str().filter(|_| *away && challenges && is_registry)?;
    Some(url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}")))
}

/// What an answer says of how its content is encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Coding {
    None,
    Gzip,
    /// What is no coding, such as `utf-8` or S3's `aws-chunked`, which says how it came there.
    Label,
    /// One that is not undone, or several.
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

/// How long the content is, by the answer to a HEAD, or to the GET of one byte in its place. That of an encoding tells nothing.
pub(super) fn announced_len(followed: &Followed) -> Option<u64> {
    let headers = followed.response.headers();
    if is_encoded(headers) {
        return None;
    }
    match followed.response.status() {
        StatusCode::PARTIAL_CONTENT => ContentRange::parse(headers.get(header::CONTENT_RANGE)?).ok()?.total,
        _ => number(headers, &header::CONTENT_LENGTH),
    }
}

/// How long ago the content of an answer was true: before it came, and since. Of what comes only a forebay's word counts: other
/// caches, such as a CDN, count from when they fetched what a registry calls unchanging.
pub(super) fn age(followed: &Followed) -> Duration {
    let headers = followed.response.headers();
    let is_mirrors = !followed.away && Mirrors::in_headers(headers).is_some();
    let told = if is_mirrors { age_of(headers) } else { None };
    told.unwrap_or_default() + followed.resident_time()
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

/// Whether a registry says by a 503 that it has had enough, and for how long: not what stands before it, nor a mirror.
pub(super) fn is_limit(headers: &HeaderMap) -> bool {
    headers.contains_key(header::RETRY_AFTER)
        && (is_of_registry(headers) || RateLimit::of(headers).is_some())
        && Mirrors::in_headers(headers).is_none()
}

/// Whether a registry says that it is one.
pub(super) fn is_of_registry(headers: &HeaderMap) -> bool {
    let says = |value: &HeaderValue| {
        let names = |text: &str| text.split([',', ' ']).any(|version| version.eq_ignore_ascii_case("registry/2.0"));
        value.to_str().is_ok_and(names)
    };
    headers.get_all(API_VERSION).iter().any(says)
}

/// The length that a 416 tells.
pub(super) fn unsatisfied_total(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_RANGE).and_then(ContentRange::parse_unsatisfied)
}

/// Whether it is neither a page for people nor in an encoding.
pub(super) fn is_content(headers: &HeaderMap) -> bool {
    !is_html(headers) && !is_encoded(headers)
}

/// Whether it says that it is in an encoding.
pub(super) fn is_encoded(headers: &HeaderMap) -> bool {
    matches!(coding(headers), Coding::Gzip | Coding::Other)
}

/// Whether it says that it is a page for people.
pub(super) fn is_html(headers: &HeaderMap) -> bool {
    is_typed(headers, &["text/html", "application/xhtml+xml"])
}

fn is_plain_text(headers: &HeaderMap) -> bool {
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
            (508, ErrorKind::Unavailable, ErrorKind::Unavailable),
            (204, ErrorKind::Protocol, ErrorKind::Protocol),
            (304, ErrorKind::Protocol, ErrorKind::Protocol),
        ] {
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(kind_of(status, false, &HeaderMap::new(), RequestKind::default()), home, "{status}");
            assert_eq!(kind_of(status, true, &HeaderMap::new(), RequestKind::default()), away, "{status}");
        }
    }

    #[test]
    fn a_refusal_is_the_registrys_where_its_head_says_so() {
        use ErrorKind::{Denied, NotFound, TooManyRequests, Unauthorized, Unavailable, Unsupported};
        use Judged::{Sure, Unsure};
        let nothing = HeaderMap::new();
        let registry = headers(API_VERSION, "registry/2.0");
        let challenge = headers(header::WWW_AUTHENTICATE, "Basic realm=\"x\"");
        let total = headers(header::CONTENT_RANGE, "bytes */9");
        let (get, head) = (RequestKind::default(), RequestKind { is_head: true, ..RequestKind::default() });
        let (blob, by_client) = (RequestKind { is_blob: true, ..head }, RequestKind { by_client: true, ..get });
        let rejected = ErrorKind::Rejected { status: 400 };
        let unsatisfied = ErrorKind::RangeNotSatisfiable { total: None };
        for (status, headers, asked, expected) in [
            (404, &nothing, get, Unsure(NotFound)),
            (404, &registry, get, Sure(NotFound)),
            (404, &nothing, head, Sure(Unsupported)),
            (404, &registry, head, Sure(NotFound)),
            (404, &nothing, blob, Sure(NotFound)),
            (404, &nothing, by_client, Unsure(NotFound)),
            (403, &nothing, get, Unsure(Denied)),
            (403, &nothing, blob, Sure(Unsupported)),
            (403, &nothing, by_client, Sure(Denied)),
            (403, &nothing, RequestKind { by_client: true, ..head }, Sure(Denied)),
            (401, &nothing, get, Unsure(Unauthorized)),
            (401, &nothing, by_client, Sure(Unauthorized)),
            (401, &challenge, get, Sure(Unauthorized)),
            (401, &challenge, head, Sure(Unauthorized)),
            (400, &nothing, get, Unsure(rejected)),
            (400, &registry, head, Sure(rejected)),
            (405, &nothing, get, Unsure(Unsupported)),
            (429, &nothing, head, Sure(TooManyRequests)),
            (407, &nothing, get, Sure(Unavailable)),
            (416, &nothing, get, Unsure(unsatisfied)),
            (416, &nothing, head, Sure(Unsupported)),
            (416, &registry, get, Sure(unsatisfied)),
            (416, &total, get, Sure(ErrorKind::RangeNotSatisfiable { total: Some(9) })),
            (508, &registry, get, Sure(ErrorKind::Loop)),
            (503, &nothing, get, Sure(Unavailable)),
            (501, &nothing, get, Sure(Unavailable)),
            (501, &nothing, head, Sure(Unsupported)),
            (501, &registry, blob, Sure(Unsupported)),
            (405, &registry, head, Sure(Unsupported)),
        ] {
            let status = StatusCode::from_u16(status).unwrap();
            let judged = judge(kind_of(status, false, headers, asked), status, headers, asked);
            assert_eq!(judged, expected, "{status} {headers:?} {asked:?}");
        }
    }

    #[test]
    fn a_clients_refusal_elsewhere_is_the_upstreams() {
        let by_client = RequestKind { by_client: true, ..RequestKind::default() };
        for (status, asked, expected) in [
            (403, by_client, ErrorKind::Denied),
            (401, by_client, ErrorKind::Denied),
            (400, by_client, ErrorKind::Unavailable),
            (403, RequestKind { is_blob: true, ..by_client }, ErrorKind::Unavailable),
            (403, RequestKind::default(), ErrorKind::Unavailable),
        ] {
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(kind_of(status, true, &HeaderMap::new(), asked), expected, "{status} {asked:?}");
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
    fn codings() {
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
