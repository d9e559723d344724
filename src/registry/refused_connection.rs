//! Responses to clients that are not served.

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};

use crate::{
    oci::ErrorCode,
    transport::{Refusal, isolate},
};

/// The response to a client that is not served; its connection ends with it.
pub fn refusal(refusal: Refusal) -> Response<Bytes> {
    let (status, code, message) = match refusal {
        Refusal::Full => {
            (StatusCode::SERVICE_UNAVAILABLE, ErrorCode::Unavailable, "too many connections, try again soon")
        }
        Refusal::Share => (
            StatusCode::SERVICE_UNAVAILABLE,
            ErrorCode::Unavailable,
            "too many connections from your address: close some, try again soon, or ask the operator for \
             server.trusted_networks",
        ),
        Refusal::TlsOnly => {
            (StatusCode::BAD_REQUEST, ErrorCode::Unsupported, "this port speaks TLS only: use https://")
        }
        Refusal::ClearOnly => {
            (StatusCode::BAD_REQUEST, ErrorCode::Unsupported, "this port speaks clear HTTP only: use http://")
        }
    };
    let body = format!("{{\"errors\":[{{\"code\":\"{code}\",\"message\":\"{message}\",\"detail\":null}}]}}\n");
    let mut response = Response::new(Bytes::from(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    isolate(headers);
    if status == StatusCode::SERVICE_UNAVAILABLE {
        headers.insert(header::RETRY_AFTER, HeaderValue::from_static("2"));
        headers.insert("docker-distribution-api-version", HeaderValue::from_static("registry/2.0"));
    }
    response
}
