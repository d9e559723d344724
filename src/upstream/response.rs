//! What an upstream's response means: success, or which [`ErrorKind`].
//!
//! A success that cannot be the requested content, such as a captive portal's HTML page, is an error. A refusal (4xx)
//! counts as the registry's only if something shows that: an ingress, a CDN or a firewall refuses requests as well.

mod content_coding;
pub(crate) mod document;
pub(crate) mod document_budget;
pub(crate) mod gunzip;
pub(crate) mod gzip_guess;
pub(crate) mod mislabeled;
pub(crate) mod rate_limit;
mod read_with_room;
pub(crate) mod redaction;
pub(crate) mod refusal;
pub(crate) mod warning;

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, StatusCode, header};
use reqwest::{Response, Url};
use tokio::time::timeout;

use self::refusal::{Refusal, RefusalBody};
use super::{
    client::{body::whole_body, follow_redirects::FinalResponse},
    error::{Error, ErrorKind},
    head::{self, API_VERSION},
    mirrors::Mirrors,
    redacted_url::RedactedUrl,
};

/// How long the body of a refusal may take.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(5);

/// What the meaning of a response depends on.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RequestKind {
    pub is_head: bool,
    pub is_blob: bool,
    /// The Content-Type of the response does not matter.
    pub any_type: bool,
    /// Clients use their own credentials: a refusal in any form ends a client's grant.
    pub by_client: bool,
}

/// Passes on a 200 or 206; all else is an error, and so is an HTML page if the type matters.
pub(super) async fn check(followed: FinalResponse, request: RequestKind) -> Result<FinalResponse, Error> {
    if !matches!(followed.response.status(), StatusCode::OK | StatusCode::PARTIAL_CONTENT) {
        return Err(Box::pin(error_of(followed, request)).await);
    }
    let headers = followed.response.headers();
    let message = |what: &str| format!("{} answered {what}", RedactedUrl(&followed.url));
    if head::is_html(headers) && !request.any_type {
        // A manifest may have this type: only the content of a GET tells.
        if request.is_head {
            return Err(Error::new(ErrorKind::Unsupported, message("a HEAD as an HTML page")));
        }
        return Err(Error::new(ErrorKind::Protocol, message("with an HTML page")));
    }
    Ok(followed)
}

async fn error_of(followed: FinalResponse, request: RequestKind) -> Error {
    let other_registry = other_registry(&followed);
    let FinalResponse { response, url, is_other_origin, .. } = followed;
    let (status, headers) = (response.status(), response.headers().clone());
    let kind = match kind_of(status, is_other_origin, &headers, request) {
        // No range was requested.
        ErrorKind::RangeNotSatisfiable { .. } if !request.is_blob => ErrorKind::Rejected { status: status.as_u16() },
        kind => kind,
    };
    let judged = judge(kind, status, &headers, request);
    let body = match status.is_client_error() && !request.is_head {
        true => body_of_refusal(response, &url).await,
        false => Bytes::new(),
    };
    let RefusalBody { mut reasons, is_of_registry } = RefusalBody::parse(&body);
    if reasons.is_empty() && head::is_plain_text(&headers) {
        reasons = RefusalBody::parse_plain_text(&body).reasons;
    }
    let kind = match judged {
        Judged::Unsure(_) if !is_of_registry => ErrorKind::Foreign { status: status.as_u16() },
        Judged::Sure(kind) | Judged::Unsure(kind) => kind,
    };
    let mut error =
        Error::new(kind, format!("{} answered {}", RedactedUrl(&url), status.as_str())).retry_after(&headers);
    if let Some(host) = other_registry {
        error = error.redirected_to_registry(&host);
    }
    // Clients do not get the words of a redirect's target.
    if !status.is_client_error() || is_other_origin || matches!(kind, ErrorKind::Foreign { .. }) {
        return error;
    }
    error.with_refusal(Refusal { status: status.as_u16(), reasons })
}

/// The body of a refusal; empty if it breaks off, hangs or is too long.
pub(super) async fn body_of_refusal(response: Response, url: &Url) -> Bytes {
    let body = timeout(REFUSAL_TIMEOUT, whole_body(response, url, refusal::MAX_LEN)).await;
    body.ok().and_then(Result::ok).unwrap_or_default()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Judged {
    Sure(ErrorKind),
    /// Only if the body is a registry's.
    Unsure(ErrorKind),
}

/// Whether the head alone tells that a refusal is the registry's. A HEAD has no body, so a GET has to tell; but a
/// client that pushes learns from the HEAD of a blob what to send, even if an ingress answers that the blob is not
/// there.
fn judge(kind: ErrorKind, status: StatusCode, headers: &HeaderMap, request: RequestKind) -> Judged {
    if request.is_head && matches!(status, StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED) {
        return Judged::Sure(ErrorKind::Unsupported);
    }
    let may_be_foreign = match kind {
        ErrorKind::NotFound | ErrorKind::Unsupported | ErrorKind::Rejected { .. } => true,
        ErrorKind::Denied => !request.by_client,
        ErrorKind::Unauthorized => !request.by_client && !headers.contains_key(header::WWW_AUTHENTICATE),
        // A registry tells the length of the blob.
        ErrorKind::RangeNotSatisfiable { total } => total.is_none(),
        ErrorKind::TooManyRequests
        | ErrorKind::Unavailable
        | ErrorKind::Timeout
        | ErrorKind::Exhausted
        | ErrorKind::Paused
        | ErrorKind::OurCredentials
        | ErrorKind::TooLarge
        | ErrorKind::Protocol
        | ErrorKind::Foreign { .. }
        | ErrorKind::Loop => false,
    };
    match (may_be_foreign && status.is_client_error() && !headers.contains_key(API_VERSION), kind) {
        (false, kind) => Judged::Sure(kind),
        (true, ErrorKind::NotFound) if request.is_head && request.is_blob => Judged::Sure(ErrorKind::NotFound),
        (true, _) if request.is_head => Judged::Sure(ErrorKind::Unsupported),
        (true, kind) => Judged::Unsure(kind),
    }
}

/// `is_other_origin`: a redirect's target responded. It knows no accounts; if it refuses a blob, the signature was
/// wrong or has expired, and a new request to the registry helps. Manifests and lists have no signed URLs: if clients
/// use their own credentials, such a refusal is the upstream's.
fn kind_of(status: StatusCode, is_other_origin: bool, headers: &HeaderMap, request: RequestKind) -> ErrorKind {
    match status.as_u16() {
        401 | 403 if is_other_origin && request.by_client && !request.is_blob => ErrorKind::Denied,
        400 | 401 | 403 if is_other_origin => ErrorKind::Unavailable,
        401 => ErrorKind::Unauthorized,
        // 451: unavailable for legal reasons (RFC 7725).
        403 | 451 => ErrorKind::Denied,
        404 | 410 => ErrorKind::NotFound,
        405 => ErrorKind::Unsupported,
        // forebay's own proxy requires authentication: no client can help that.
        407 => ErrorKind::Unavailable,
        408 => ErrorKind::Timeout,
        416 => ErrorKind::RangeNotSatisfiable { total: head::unsatisfied_total(headers) },
        429 => ErrorKind::TooManyRequests,
        400..=499 => ErrorKind::Rejected { status: status.as_u16() },
        // A forebay's loop detection; for others it means a lack of resources.
        508 if head::is_of_registry(headers) || Mirrors::in_headers(headers).is_some() => ErrorKind::Loop,
        500..=599 => ErrorKind::Unavailable,
        _ => ErrorKind::Protocol,
    }
}

/// The host that a redirect led to, if it is a registry that requires credentials: forebay sends it none of the
/// upstream's.
fn other_registry(FinalResponse { response, url, is_other_origin, .. }: &FinalResponse) -> Option<String> {
    let headers = response.headers();
    let challenges = response.status() == StatusCode::UNAUTHORIZED && headers.contains_key(header::WWW_AUTHENTICATE);
    let is_registry = head::is_of_registry(headers) || url.path().starts_with("/v2/");
    let host = url.host_str().filter(|_| *is_other_origin && challenges && is_registry)?;
    Some(url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}")))
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    #[test]
    fn each_status_has_an_error_kind() {
        for (status, home, other) in [
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
            assert_eq!(kind_of(status, true, &HeaderMap::new(), RequestKind::default()), other, "{status}");
        }
    }

    #[test]
    fn the_head_tells_whether_a_refusal_is_the_registrys() {
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
        for (status, headers, request, expected) in [
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
            let judged = judge(kind_of(status, false, headers, request), status, headers, request);
            assert_eq!(judged, expected, "{status} {headers:?} {request:?}");
        }
    }

    #[test]
    fn a_clients_refusal_by_another_host_is_the_upstreams() {
        let by_client = RequestKind { by_client: true, ..RequestKind::default() };
        for (status, request, expected) in [
            (403, by_client, ErrorKind::Denied),
            (401, by_client, ErrorKind::Denied),
            (400, by_client, ErrorKind::Unavailable),
            (403, RequestKind { is_blob: true, ..by_client }, ErrorKind::Unavailable),
            (403, RequestKind::default(), ErrorKind::Unavailable),
        ] {
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(kind_of(status, true, &HeaderMap::new(), request), expected, "{status} {request:?}");
        }
    }

    fn headers(name: HeaderName, value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_static(value))])
    }
}
