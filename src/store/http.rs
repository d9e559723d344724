//! How requests of the engine reach the store: with forebay's TLS, and by the environment's proxy.
//!
//! What must hold: an error response is kept by its status and code alone, since its text repeats what was sent. What
//! the engine reads at once, that is all but blobs, is bounded in bytes.

use std::{error::Error, time::Duration};

use async_trait::async_trait;
use http::{Method, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use object_store::{
    ClientOptions,
    client::{
        HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpResponseBody, HttpService,
    },
};
use reqwest::{Client, ClientBuilder, redirect::Policy};

use super::{direct_hosts::DirectHosts, status_error::StatusError};

const USER_AGENT: &str = concat!("forebay/", env!("CARGO_PKG_VERSION"));
/// A store that does not accept a connection within this time cannot be reached.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long an idle connection is kept. Amazon's servers close them after 20 s.
const MAX_IDLE: Duration = Duration::from_secs(15);
/// How many bytes of an error response are read for its code.
const MAX_ERROR: usize = 4 * 1024;
/// The longest code, in bytes.
const MAX_CODE: usize = 64;
/// The most bytes of a listing, whose page has 1000 names of at most 1 KiB, or of an object that is no blob.
const MAX_READ: usize = 16 * 1024 * 1024;
/// The most bytes of any other response: of an upload, a deletion, or a service for credentials.
const MAX_ANSWER: usize = 64 * 1024;

/// The HTTP client cannot be made.
#[derive(Debug, thiserror::Error)]
#[error("the HTTP client cannot be made")]
pub struct NoClient(#[from] reqwest::Error);

/// The clients for all requests to the store, and for its credentials.
#[derive(Clone, Debug)]
pub(super) struct Connector {
    client: Client,
    /// The one without a proxy.
    direct: Client,
    direct_hosts: DirectHosts,
}

impl Connector {
    pub(super) fn new(tls: rustls::ClientConfig, direct_hosts: DirectHosts) -> Result<Self, NoClient> {
        let client = Self::client(tls.clone()).build()?;
        Ok(Self { client, direct: Self::client(tls).no_proxy().build()?, direct_hosts })
    }

    fn client(tls: rustls::ClientConfig) -> ClientBuilder {
        Client::builder()
            .user_agent(USER_AGENT)
            .redirect(Policy::none())
            .referer(false)
            .retry(reqwest::retry::never())
            .connect_timeout(CONNECT_TIMEOUT)
            .pool_idle_timeout(MAX_IDLE)
            .tcp_nodelay(true)
            .http1_only()
            .tls_backend_preconfigured(tls)
    }

    fn client_for(&self, host: &str) -> &Client {
        if self.direct_hosts.has(host) { &self.direct } else { &self.client }
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
        let is_get = *request.method() == Method::GET;
        let is_blob = is_get && is_blob(request.uri().path());
        let client = self.client_for(request.uri().host().unwrap_or_default());
        let response = HttpService::call(client, request).await?;
        let status = response.status();
        // What the engine has a meaning for.
        if status.is_success() || matches!(status.as_u16(), 304 | 409 | 412) || (status == 404 && !has_body) {
            let most = if is_get { MAX_READ } else { MAX_ANSWER };
            // Whoever reads a blob knows how long it may be.
            return Ok(if is_blob && status.is_success() {
                response
            } else {
                response.map(|body| limited(body, most))
            });
        }
        let (parts, body) = response.into_parts();
        let status = StatusError { status, code: code_of(body).await };
        if status.status == StatusCode::NOT_FOUND && !status.is_about_bucket() {
            return Ok(HttpResponse::from_parts(parts, HttpResponseBody::from(String::new())));
        }
        Err(HttpError::new(HttpErrorKind::Unknown, status))
    }
}

/// Whether an object of this path is a blob: see [`super::names`].
fn is_blob(path: &str) -> bool {
    path.contains("/blobs/sha")
}

/// The body, of which no more bytes come.
fn limited(body: HttpResponseBody, most: usize) -> HttpResponseBody {
    let too_long = |error: Box<dyn Error + Send + Sync>| match error.downcast::<HttpError>() {
        Ok(error) => *error,
        Err(error) => HttpError::new_boxed(HttpErrorKind::Decode, error),
    };
    HttpResponseBody::new(Limited::new(body, most).map_err(too_long))
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
    use http::Request;
    use object_store::client::HttpRequestBody;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use super::*;

    fn connector() -> Connector {
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let tls = rustls::ClientConfig::builder_with_provider(provider.into()).with_safe_default_protocol_versions();
        let roots = rustls::RootCertStore::empty();
        let tls = tls.unwrap().with_root_certificates(roots).with_no_client_auth();
        Connector::new(tls, DirectHosts::default()).unwrap()
    }

    /// A server that answers each request with this status and `len` bytes. Returns its address.
    async fn server(status: u16, len: usize) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let _ = stream.read(&mut [0; 4096]).await;
                let head = format!("HTTP/1.1 {status} OK\r\nConnection: close\r\n\r\n");
                let _ = stream.write_all(head.as_bytes()).await;
                let _ = stream.write_all(&vec![b'x'; len]).await;
            }
        });
        address.to_string()
    }

    #[tokio::test]
    async fn what_is_read_at_once_is_bounded() {
        let (listing, answer) = (MAX_READ, MAX_ANSWER);
        for (method, path, status, most) in [
            (Method::GET, "/bucket?list-type=2&prefix=blobs/sha256/", 200, Some(listing)),
            (Method::GET, "/bucket/tags/docker.io/library/app/1", 200, Some(listing)),
            (Method::GET, "/latest/meta-data/iam/security-credentials/", 200, Some(listing)),
            (Method::GET, "/bucket/blobs/sha256/ab/abcd", 412, Some(listing)),
            (Method::PUT, "/bucket/blobs/sha256/ab/abcd", 200, Some(answer)),
            (Method::POST, "/bucket/blobs/sha256/ab/abcd?uploadId=1", 200, Some(answer)),
            (Method::POST, "/token", 200, Some(answer)),
            (Method::GET, "/bucket/blobs/sha256/ab/abcd", 200, None),
            (Method::GET, "/bucket/forebay/clients/blobs/sha512/ab/abcd", 206, None),
        ] {
            for more in [0, 1] {
                let len = most.unwrap_or(listing) + more;
                let url = format!("http://{}{path}", server(status, len).await);
                let request =
                    Request::builder().method(method.clone()).uri(url).body(HttpRequestBody::empty()).unwrap();
                let response = connector().call(request).await.unwrap();
                let read = response.into_body().bytes().await.map(|bytes| bytes.len());
                let is_whole = most.is_none() || more == 0;
                assert_eq!(read.ok(), is_whole.then_some(len), "{method} {path} {status}: {len} bytes");
            }
        }
    }

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
