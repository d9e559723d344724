//! What all responses to operators have in common.

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::Full;

use crate::transport::isolate;

const TEXT_TYPE: &str = "text/plain; charset=utf-8";

pub(super) fn text(status: StatusCode, body: &str) -> Response<Full<Bytes>> {
    response(status, TEXT_TYPE, body.to_owned())
}

pub(super) fn response(
    status: StatusCode,
    content_type: &'static str,
    body: impl Into<Bytes>,
) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    isolate(headers);
    response
}
