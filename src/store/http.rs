//! How requests of the engine reach the store: one HTTP client, with forebay's TLS.
//!
//! What must hold: an error response is kept by its status and code alone, since its text repeats what was sent.

use std::time::Duration;

use async_trait::async_trait;
use http::{Method, StatusCode};
use http_body_util::BodyExt as _;
use object_store::{
    ClientOptions,
    client::{
        HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpResponseBody, HttpService,
    },
};
use reqwest::{Client, redirect::Policy};

use super::status_error::StatusError;

const USER_AGENT: &str = concat!("forebay/", env!("CARGO_PKG_VERSION"));
/// A store that does not accept a connection within this time cannot be reached.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long an idle connection is kept. Amazon's servers close them after 20 s.
const MAX_IDLE: Duration = Duration::from_secs(15);
/// How many bytes of an error response are read for its code.
const MAX_ERROR: usize = 4 * 1024;
/// The longest code, in bytes.
const MAX_CODE: usize = 64;

/// The HTTP client cannot be made.
#[derive(Debug, thiserror::Error)]
#[error("the HTTP client cannot be made")]
pub struct NoClient(#[from] reqwest::Error);

/// One client for all requests to the store, and for its credentials.
#[derive(Clone, Debug)]
pub(super) struct Connector(Client);

impl Connector {
    pub(super) fn new(tls: rustls::ClientConfig) -> Result<Self, NoClient> {
        let builder = Client::builder()
            .user_agent(USER_AGENT)
            .redirect(Policy::none())
            .referer(false)
            .retry(reqwest::retry::never())
            .connect_timeout(CONNECT_TIMEOUT)
            .pool_idle_timeout(MAX_IDLE)
            .tcp_nodelay(true)
            .http1_only()
            .tls_backend_preconfigured(tls);
        Ok(Self(builder.build()?))
    }
}

impl HttpConnector for Connector {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.clone()))
    }
}

#[async_trait]
impl HttpService for Connector {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let has_body = *request.method() != Method::HEAD;
        let response = HttpService::call(&self.0, request).await?;
        let status = response.status();
        // What the engine has a meaning for.
        if status.is_success() || matches!(status.as_u16(), 304 | 409 | 412) || (status == 404 && !has_body) {
            return Ok(response);
        }
        let (parts, body) = response.into_parts();
        let status = StatusError { status, code: code_of(body).await };
        if status.status == StatusCode::NOT_FOUND && !status.is_about_bucket() {
            return Ok(HttpResponse::from_parts(parts, HttpResponseBody::from(String::new())));
        }
        Err(HttpError::new(HttpErrorKind::Unknown, status))
    }
}

/// The code in the body of an error response.
async fn code_of(mut body: HttpResponseBody) -> Option<Box<str>> {
    let mut text = Vec::new();
    while text.len() < MAX_ERROR
        && let Some(Ok(frame)) = body.frame().await
    {
        if let Some(data) = frame.data_ref() {
            text.extend_from_slice(data);
        }
    }
    code_in(&String::from_utf8_lossy(&text))
}

/// Stores answer `<Error><Code>NoSuchKey</Code>…`, Google's JSON apart, which has none that matters.
fn code_in(text: &str) -> Option<Box<str>> {
    let (_, rest) = text.split_once("<Code>")?;
    let (code, _) = rest.split_once("</Code>")?;
    let is_code = !code.is_empty() && code.len() <= MAX_CODE && code.bytes().all(|byte| byte.is_ascii_alphanumeric());
    is_code.then(|| code.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_code_of_an_error_is_kept() {
        for (text, expected) in [
            ("<?xml?><Error><Code>SlowDown</Code><Message>x</Message></Error>", Some("SlowDown")),
            ("<Error><Code>a b</Code></Error>", None),
            ("<Error><Code></Code></Error>", None),
            ("<Code>x", None),
            ("", None),
        ] {
            assert_eq!(code_in(text).as_deref(), expected, "{text}");
        }
    }
}
