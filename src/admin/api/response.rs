//! The responses of the API: JSON documents, and errors in JSON.

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, combinators::UnsyncBoxBody};
use serde_json::{Value, json};

use super::{access::Denied, parameters::ParameterError};
use crate::{admin::response::response, transport::BoxError};

const JSON_TYPE: &str = "application/json";
/// After how many seconds a client may try again for which there is no turn or place.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("5");

/// The body of a response: a document, or what goes on for a while.
pub(crate) type ApiBody = UnsyncBoxBody<Bytes, BoxError>;

/// Why a request is not answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ApiError {
    pub status: StatusCode,
    pub why: String,
    /// The methods that there are, for a 405.
    allow: Option<&'static str>,
}

impl ApiError {
    pub(crate) fn new(status: StatusCode, why: impl Into<String>) -> Self {
        Self { status, why: why.into(), allow: None }
    }

    pub(crate) fn method(allow: &'static str) -> Self {
        Self { allow: Some(allow), ..Self::new(StatusCode::METHOD_NOT_ALLOWED, format!("only {allow}")) }
    }
}

impl From<ParameterError> for ApiError {
    fn from(error: ParameterError) -> Self {
        Self::new(StatusCode::BAD_REQUEST, error.to_string())
    }
}

impl From<Denied> for ApiError {
    fn from(denied: Denied) -> Self {
        match denied {
            Denied::Token(why) => Self::new(StatusCode::UNAUTHORIZED, why),
            Denied::Never(why) => Self::new(StatusCode::FORBIDDEN, why),
        }
    }
}

/// A document.
pub(crate) fn json(document: &Value) -> Response<ApiBody> {
    text(StatusCode::OK, format!("{document}\n"))
}

/// A document that is JSON already.
pub(crate) fn text(status: StatusCode, json: impl Into<Bytes>) -> Response<ApiBody> {
    boxed(response(status, JSON_TYPE, json))
}

pub(crate) fn error(error: &ApiError) -> Response<ApiBody> {
    let mut response = text(error.status, format!("{}\n", json!({ "error": error.why })));
    let headers = response.headers_mut();
    if let Some(allow) = error.allow {
        headers.insert(header::ALLOW, HeaderValue::from_static(allow));
    }
    if error.status == StatusCode::UNAUTHORIZED {
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"forebay\""));
    }
    if error.status == StatusCode::TOO_MANY_REQUESTS {
        headers.insert(header::RETRY_AFTER, RETRY_AFTER);
    }
    response
}

/// A whole body as one of the API.
pub(crate) fn boxed(response: Response<Full<Bytes>>) -> Response<ApiBody> {
    response.map(|body| body.map_err(|never| match never {}).boxed_unsync())
}
