//! The status and headers of every kind of response.

use std::time::SystemTime;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, header};
use url::Url;

use super::{
    body::{self, Body},
    multipart_ranges::Framing,
    pace::Pace,
};
use crate::{
    cache::{
        BlobReader, OpenedBlob, Outcome, Parts, Reading, ServedList,
        blob::BlobSize,
        manifest::{ManifestHead, ServedManifest},
    },
    error::{Asked, Error, Told},
    oci::{Digest, ErrorCode, MediaType, ResolvedRange, etag},
    transport::{SendQueue, isolate},
    upstream::{Reason, WriteResponse},
};

pub(crate) const API_VERSION: HeaderName = HeaderName::from_static("docker-distribution-api-version");
pub(crate) const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
pub(crate) const NAMESPACE: HeaderName = HeaderName::from_static("oci-namespace");
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Source: RFC 9211.
pub(crate) const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const OCTETS: HeaderValue = HeaderValue::from_static("application/octet-stream");

/// More headers than the response of a manifest has, so that the map is allocated once.
const MAX_HEADERS: usize = 12;

/// The response to `GET /v2/` for a client that may pull.
pub(crate) fn base() -> Response<Body> {
    let mut response = Response::new(body::full("{}"));
    response.headers_mut().insert(header::CONTENT_TYPE, JSON);
    response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(2));
    response
}

pub(crate) fn manifest(served: &ServedManifest) -> Response<Body> {
    let content = &served.content;
    let mut response = Response::new(body::full(content.bytes.clone()));
    let headers = response.headers_mut();
    headers.reserve(MAX_HEADERS);
    headers.insert(header::CONTENT_TYPE, content.headers.media_type.clone());
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(content.bytes.len()));
    headers.insert(CONTENT_DIGEST, content.headers.digest.clone());
    headers.insert(header::ETAG, content.headers.etag.clone());
    headers.insert(CACHE_STATUS, cache_status(served.outcome, true));
    insert_age(headers, served.confirmed);
    response
}

pub(crate) fn manifest_head(head: &ManifestHead) -> Response<Body> {
    let mut response = Response::new(body::empty());
    manifest_headers(response.headers_mut(), &head.digest, head.media_type.as_str(), head.size);
    response.headers_mut().insert(CACHE_STATUS, cache_status(head.outcome, false));
    insert_age(response.headers_mut(), head.confirmed);
    response
}

/// How long ago the upstream confirmed which manifest a tag means: a mirror behind this one counts on from there.
///
/// Source: RFC 9111 section 5.1.
fn insert_age(headers: &mut HeaderMap, confirmed: Option<SystemTime>) {
    if let Some(confirmed) = confirmed {
        // The clock may have been set back.
        let age = SystemTime::now().duration_since(confirmed).unwrap_or_default();
        headers.insert(header::AGE, HeaderValue::from(age.as_secs()));
    }
}

fn manifest_headers(headers: &mut HeaderMap, digest: &Digest, media_type: &str, size: u64) {
    if let Ok(media_type) = HeaderValue::from_str(media_type) {
        headers.insert(header::CONTENT_TYPE, media_type);
    }
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(size));
    content_headers(headers, digest);
}

/// The size of a blob in a response of several parts, where no header tells it.
#[derive(Clone, Copy)]
pub(crate) struct SizeOfWhole(pub u64);

/// `send_queue`: through which the kernel sends parts of files; `reading`: keeps a cached blob in the cache.
pub(crate) fn blob(
    digest: &Digest,
    opened: OpenedBlob,
    send_queue: Option<&SendQueue>,
    reading: Option<Reading>,
    pace: Pace,
) -> Response<Body> {
    let OpenedBlob { reader, total, range, parts, outcome, stored } = opened;
    let len = range.map(ResolvedRange::len).or(total);
    let mirrors = reader.mirrors();
    let several = parts.is_some();
    let mut response = match parts {
        Some(parts) => blob_parts(digest, reader, parts, reading, pace),
        None => {
            let mut response = Response::new(body::blob(reader, len, send_queue.cloned(), reading, pace));
            blob_headers(response.headers_mut(), digest, len);
            response
        }
    };
    let headers = response.headers_mut();
    headers.insert(CACHE_STATUS, cache_status(outcome, stored));
    headers.extend(mirrors.and_then(|mirrors| mirrors.header()).map(|via| (header::VIA, via)));
    if let (Some(range), Some(total), false) = (range, total, several) {
        if let Ok(value) = HeaderValue::from_str(&range.content_range(total).to_string()) {
            headers.insert(header::CONTENT_RANGE, value);
        }
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    }
    response
}

/// Several parts of a blob, each behind its head.
fn blob_parts(
    digest: &Digest,
    reader: BlobReader,
    parts: Parts,
    reading: Option<Reading>,
    pace: Pace,
) -> Response<Body> {
    let (framing, total) = (Framing::new(parts.total()), parts.total());
    let (len, content_type) = (framing.body_len(parts.ranges()), framing.content_type());
    let mut response = Response::new(body::parts(reader, parts, framing, reading, pace));
    *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    blob_headers(response.headers_mut(), digest, Some(len));
    if let Some(content_type) = content_type {
        response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    }
    response.extensions_mut().insert(SizeOfWhole(total));
    response
}

/// 307: the client gets the blob by this URL, which is a secret. `None`: it is no value of a header.
pub(crate) fn redirect(digest: &Digest, url: &Url) -> Option<Response<Body>> {
    let mut location = HeaderValue::try_from(url.as_str()).ok()?;
    location.set_sensitive(true);
    let mut response = Response::new(body::empty());
    *response.status_mut() = StatusCode::TEMPORARY_REDIRECT;
    let headers = response.headers_mut();
    headers.insert(header::LOCATION, location);
    // The URL soon ends.
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(0));
    headers.insert(CACHE_STATUS, cache_status(Outcome::Redirected, false));
    if let Ok(value) = HeaderValue::from_str(digest.as_str()) {
        headers.insert(CONTENT_DIGEST, value);
    }
    Some(response)
}

pub(crate) fn blob_head(digest: &Digest, size: &BlobSize) -> Response<Body> {
    let mut response = Response::new(body::empty());
    blob_headers(response.headers_mut(), digest, size.total);
    response.headers_mut().insert(CACHE_STATUS, cache_status(size.outcome, false));
    response
}

fn blob_headers(headers: &mut HeaderMap, digest: &Digest, len: Option<u64>) {
    headers.insert(header::CONTENT_TYPE, OCTETS);
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    if let Some(len) = len {
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(len));
    }
    content_headers(headers, digest);
}

/// Adds the upstream's notes on the content. `kind`: the media type of a manifest that was requested as a blob.
pub(crate) fn add_notes(headers: &mut HeaderMap, kind: Option<&MediaType>, warnings: Vec<HeaderValue>) {
    if let Some(kind) = kind {
        headers.insert(header::CONTENT_TYPE, kind.into());
    }
    for warning in warnings {
        headers.append(header::WARNING, warning);
    }
}

/// A response whose body in memory is sent at this pace.
pub(crate) fn paced(response: Response<Body>, pace: Pace) -> Response<Body> {
    let (mut head, body) = response.into_parts();
    if let Body::Whole(Some(bytes)) = &body {
        head.headers.entry(header::CONTENT_LENGTH).or_insert_with(|| HeaderValue::from(bytes.len()));
    }
    Response::from_parts(head, body::paced(body, pace))
}

/// 304: the client has this content. `confirmed`: when the upstream confirmed that the tag means it.
pub(crate) fn not_modified(digest: &Digest, outcome: Outcome, confirmed: Option<SystemTime>) -> Response<Body> {
    let mut response = Response::new(body::empty());
    *response.status_mut() = StatusCode::NOT_MODIFIED;
    content_headers(response.headers_mut(), digest);
    response.headers_mut().insert(CACHE_STATUS, cache_status(outcome, false));
    insert_age(response.headers_mut(), confirmed);
    response
}

fn content_headers(headers: &mut HeaderMap, digest: &Digest) {
    if let Ok(value) = HeaderValue::from_str(digest.as_str()) {
        headers.insert(CONTENT_DIGEST, value);
    }
    if let Ok(value) = HeaderValue::from_str(&etag(digest)) {
        headers.insert(header::ETAG, value);
    }
}

/// `path` is the path of the client's request, which the link to the next page repeats. A list has the type of the
/// specification, whatever type the upstream sends.
pub(crate) fn list(kind: HeaderValue, served: ServedList, path: &str, namespace: Option<&str>) -> Response<Body> {
    let ServedList { mut headers, body, outcome } = served;
    let next = super::pagination_link::next_page(headers.get_all(header::LINK), path, namespace);
    headers.remove(header::LINK);
    headers.extend(next.map(|next| (header::LINK, next)));
    headers.insert(header::CONTENT_TYPE, kind);
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
    headers.insert(CACHE_STATUS, cache_status(outcome, false));
    let mut response = Response::new(body::full(body));
    *response.headers_mut() = headers;
    response
}

/// The response to a push, mount or delete.
pub(crate) fn written(written: WriteResponse) -> Response<Body> {
    let WriteResponse { status, mut headers, location, reasons } = written;
    let body = of_write(status, reasons);
    if !body.is_empty() {
        headers.insert(header::CONTENT_TYPE, JSON);
    }
    if let Some(location) = location.and_then(|location| HeaderValue::try_from(location).ok()) {
        headers.insert(header::LOCATION, location);
    }
    // A 204 has no body, and so no length of it (RFC 9110 section 8.6).
    if status != StatusCode::NO_CONTENT {
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
    }
    headers.insert(CACHE_STATUS, cache_status(Outcome::Bypass, false));
    let mut response = Response::new(body::full(body));
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

/// The error of a refused push, with the upstream's reasons. The page of a proxy becomes an error of the specification.
fn of_write(status: StatusCode, reasons: Vec<Reason>) -> Bytes {
    if !status.is_client_error() && !status.is_server_error() {
        return Bytes::new();
    }
    let code = match status.as_u16() {
        401 => ErrorCode::Unauthorized,
        403 => ErrorCode::Denied,
        404 => ErrorCode::NameUnknown,
        413 | 416 => ErrorCode::SizeInvalid,
        429 => ErrorCode::TooManyRequests,
        500.. => ErrorCode::Unavailable,
        _ => ErrorCode::Unsupported,
    };
    let own = |Reason { code: theirs, message, detail }: Reason| {
        let message = message.unwrap_or_else(|| format!("the upstream answers {status}"));
        (theirs.unwrap_or_else(|| code.as_str().to_owned()), message, detail)
    };
    let nothing = Reason { code: None, message: None, detail: serde_json::Value::Null };
    let reasons = if reasons.is_empty() { vec![nothing] } else { reasons };
    error_body(&reasons.into_iter().map(own).collect::<Vec<_>>())
}

fn error_body(errors: &[(String, String, serde_json::Value)]) -> Bytes {
    let entry = |(code, message, detail): &(String, String, serde_json::Value)| serde_json::json!({ "code": code, "message": message, "detail": detail });
    let text = serde_json::json!({ "errors": errors.iter().map(entry).collect::<Vec<_>>() });
    Bytes::from(text.to_string())
}

/// The OCI error body, with the upstream's reasons if the upstream refused.
pub(crate) fn error(error: &Error, asked: Asked<'_>) -> Response<Body> {
    let Told { status, mut headers, errors } = Told::new(error, asked);
    let bytes = error_body(&errors);
    headers.insert(header::CONTENT_TYPE, JSON);
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(bytes.len()));
    let mut response = Response::new(body::full(bytes));
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

/// A HEAD has the headers of the GET and no body.
pub(crate) fn without_body(method: &Method, response: Response<Body>) -> Response<Body> {
    if *method == Method::HEAD { response.map(|_| body::empty()) } else { response }
}

fn cache_status(outcome: Outcome, stored: bool) -> HeaderValue {
    HeaderValue::from_static(match (outcome, stored) {
        (Outcome::Hit, _) => "forebay; hit",
        (Outcome::Joined, _) => "forebay; fwd=miss; collapsed",
        (Outcome::Miss, true) => "forebay; fwd=miss; stored",
        (Outcome::Miss, false) => "forebay; fwd=miss",
        (Outcome::Stale, _) => "forebay; hit; detail=stale",
        (Outcome::Revalidated, _) => "forebay; hit; detail=revalidated",
        (Outcome::Redirected, _) => "forebay; fwd=bypass; detail=redirected",
        (Outcome::Bypass | Outcome::Error, _) => "forebay; fwd=bypass",
    })
}

/// The headers of every response.
pub(crate) fn common(headers: &mut HeaderMap, id: HeaderValue, via: &HeaderValue, namespace: Option<&str>) {
    headers.insert(API_VERSION, HeaderValue::from_static("registry/2.0"));
    // `Via` also names the mirrors through which the content still comes: a client mirror must not wait for itself.
    let behind = headers.get(header::VIA).map(|behind| [behind.as_bytes(), b", ", via.as_bytes()].concat());
    let via = behind.and_then(|via| HeaderValue::from_bytes(&via).ok()).unwrap_or_else(|| via.clone());
    headers.insert(header::VIA, via);
    headers.insert(REQUEST_ID, id);
    isolate(headers);
    if let Some(namespace) = namespace.and_then(|namespace| HeaderValue::from_str(namespace).ok()) {
        headers.insert(NAMESPACE, namespace);
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn cache_status_follows_rfc_9211() {
        for (outcome, stored, text) in [
            (Outcome::Hit, true, "forebay; hit"),
            (Outcome::Hit, false, "forebay; hit"),
            (Outcome::Joined, true, "forebay; fwd=miss; collapsed"),
            (Outcome::Miss, true, "forebay; fwd=miss; stored"),
            (Outcome::Miss, false, "forebay; fwd=miss"),
            (Outcome::Stale, true, "forebay; hit; detail=stale"),
            (Outcome::Revalidated, true, "forebay; hit; detail=revalidated"),
            (Outcome::Redirected, false, "forebay; fwd=bypass; detail=redirected"),
            (Outcome::Bypass, false, "forebay; fwd=bypass"),
        ] {
            assert_eq!(cache_status(outcome, stored), text, "{outcome:?} {stored}");
        }
    }

    #[tokio::test]
    async fn an_error_is_a_document_of_the_specification() {
        // A client can send such a name; it must not become part of the document's structure.
        let response = error(&ErrorKind::UnknownRoute("a\"}],\n<b>".to_owned()).into(), Asked::default());
        assert_eq!(response.status(), 404);
        let length: usize = response.headers()[header::CONTENT_LENGTH].to_str().unwrap().parse().unwrap();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(bytes.len(), length);
        let json: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(json["errors"].as_array().map(Vec::len), Some(1));
        assert_eq!(json["errors"][0]["code"], "NAME_UNKNOWN");
        assert!(json["errors"][0]["detail"].is_null());
    }

    #[tokio::test]
    async fn a_head_has_the_headers_of_the_get_and_no_body() {
        for (method, len) in [(Method::GET, 2), (Method::HEAD, 0)] {
            let response = without_body(&method, base());
            assert_eq!(response.headers()[header::CONTENT_LENGTH], "2");
            assert_eq!(response.into_body().collect().await.unwrap().to_bytes().len(), len, "{method}");
        }
    }

    #[test]
    fn a_namespace_that_is_no_header_is_left_out() {
        for (namespace, echoed) in [(None, None), (Some("docker.io"), Some("docker.io")), (Some("a\r\nb: c"), None)] {
            let mut headers = HeaderMap::new();
            common(&mut headers, HeaderValue::from_static("1"), &HeaderValue::from_static("1.1 forebay-1"), namespace);
            assert_eq!(headers.get(NAMESPACE).map(|value| value.to_str().unwrap()), echoed);
            assert_eq!(headers[API_VERSION], "registry/2.0");
        }
    }
}
