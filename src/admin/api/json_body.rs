//! The body of a request that has one: a JSON document.
//!
//! What must hold: it must say that it is JSON, which a form of another site cannot do; its length and the wait for it are
//! bounded.

use std::time::Duration;

use http::{HeaderMap, StatusCode, header};
use http_body::Body;
use http_body_util::{BodyExt as _, Limited};
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use super::response::ApiError;
use crate::transport::BoxError;

/// The longest body in general, in bytes.
const MAX_BODY: usize = 64 * 1024;
/// How long a body may take.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// Reads a document.
///
/// # Errors
/// It is no JSON, too long, too slow, or not what the resource takes.
pub(super) async fn read<T: DeserializeOwned>(
    headers: &HeaderMap,
    body: impl Body<Error: Into<BoxError>>,
) -> Result<T, ApiError> {
    read_within(headers, body, MAX_BODY).await
}

/// The same for a document of at most `most` bytes.
///
/// # Errors
/// As [`read`].
pub(super) async fn read_within<T: DeserializeOwned>(
    headers: &HeaderMap,
    body: impl Body<Error: Into<BoxError>>,
    most: usize,
) -> Result<T, ApiError> {
    if !is_json(headers) {
        let why = "send JSON, with Content-Type: application/json";
        return Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, why));
    }
    let too_long = || {
        let why = format!("the body broke off, or is longer than {most} bytes");
        ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, why)
    };
    // What the client announces.
    if body.size_hint().lower() > most as u64 {
        return Err(too_long());
    }
    let collected = timeout(BODY_TIMEOUT, Limited::new(body, most).collect()).await;
    let too_slow = |_| ApiError::new(StatusCode::REQUEST_TIMEOUT, "the body did not come in time");
    let bytes = collected.map_err(too_slow)?.map_err(|_| too_long())?.to_bytes();
    serde_json::from_slice(&bytes).map_err(|error| ApiError::new(StatusCode::BAD_REQUEST, error.to_string()))
}

fn is_json(headers: &HeaderMap) -> bool {
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let essence = value.and_then(|value| value.split(';').next()).map(str::trim);
    essence.is_some_and(|essence| essence.eq_ignore_ascii_case("application/json"))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use http_body_util::Full;
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct Wanted {
        image: String,
    }

    async fn read(content_type: &'static str, body: String) -> Result<Wanted, u16> {
        let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static(content_type))]);
        super::read(&headers, Full::new(bytes::Bytes::from(body))).await.map_err(|error| error.status.as_u16())
    }

    #[tokio::test]
    async fn a_body_is_json_says_so_and_is_bounded() {
        let good = || r#"{"image":"node"}"#.to_owned();
        let node = Wanted { image: "node".to_owned() };
        for (content_type, body, expected) in [
            ("application/json", good(), Ok(node)),
            ("APPLICATION/JSON; charset=utf-8", good(), Ok(Wanted { image: "node".to_owned() })),
            ("text/plain", good(), Err(415)),
            ("application/x-www-form-urlencoded", good(), Err(415)),
            ("application/json", String::new(), Err(400)),
            ("application/json", "{".to_owned(), Err(400)),
            ("application/json", r#"{"image":"node","x":1}"#.to_owned(), Err(400)),
            ("application/json", r#"{"image":["node"]}"#.to_owned(), Err(400)),
            ("application/json", format!(r#"{{"image":"{}"}}"#, "x".repeat(MAX_BODY)), Err(413)),
        ] {
            assert_eq!(read(content_type, body.clone()).await, expected, "{content_type} {}", body.len());
        }
        let none = super::read::<Wanted>(&HeaderMap::new(), Full::new(bytes::Bytes::from(good()))).await;
        assert_eq!(none.unwrap_err().status.as_u16(), 415);
    }
}
