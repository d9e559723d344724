//! The client for bodies of blobs, where no proxy is in between: hyper's own, whose read buffers have a limit.
//!
//! A connection at full speed has a read buffer of 400 KiB, which pieces of the body keep while they are hashed and
//! written. reqwest has no setting for it. It stays the client for everything else: documents, uploads, and requests
//! through proxies.
//!
//! What must hold: connections, and the headers of requests, are those of the other clients.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Uri, header};
use http_body_util::Empty;
use hyper_rustls::HttpsConnector;
use hyper_util::{
    client::{
        legacy::{
            Client,
            connect::{HttpConnector, dns::Name},
        },
        proxy::matcher::Matcher,
    },
    rt::{TokioExecutor, TokioTimer},
};
use reqwest::{Body, Response};
use rustls::ClientConfig;
use tower_layer::Layer as _;
use tower_service::Service;

use super::{
    address_filter::AddressFilter,
    client_options::{ClientOptions, KEEPALIVE, KEEPALIVE_TIMEOUT, MAX_HEAD, MAX_HEADERS, MAX_IDLE, USER_AGENT},
    http_request::{HttpRequest, TransportError},
    new_connections::{NoteNewConnections, NotingConnector},
};

type BoxError = Box<dyn std::error::Error + Send + Sync>;
type BoxFuture<T> = Pin<Box<dyn Future<Output = Result<T, BoxError>> + Send>>;
type Connector = NotingConnector<TimedConnector<HttpsConnector<HttpConnector<FilteringResolver>>>>;

/// To how many bytes the buffer of a connection grows, at most by doubling once more; no head of a response is longer.
/// With half of it, a miss on loopback takes 15 % more CPU.
pub(super) const READ_BUFFER: usize = 64 * 1024;
/// As reqwest has them: how long, and how often, an unanswered probe is repeated, and how long sent bytes may stay
/// unacknowledged.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
const KEEPALIVE_RETRIES: u32 = 3;
const UNACKNOWLEDGED_TIMEOUT: Duration = Duration::from_secs(30);

/// Cheap to clone.
#[derive(Clone)]
pub(super) struct BlobClient {
    client: Client<Connector, Empty<Bytes>>,
    headers: HeaderMap,
    proxies: Arc<Matcher>,
}

impl BlobClient {
    /// `tls` says which protocols are spoken; at most `max_idle` idle connections to a host are kept.
    pub(super) fn new(options: &ClientOptions, tls: ClientConfig, max_idle: usize) -> Self {
        let mut tcp = HttpConnector::new_with_resolver(FilteringResolver(options.filter.clone()));
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_keepalive(Some(KEEPALIVE));
        tcp.set_keepalive_interval(Some(KEEPALIVE_INTERVAL));
        tcp.set_keepalive_retries(Some(KEEPALIVE_RETRIES));
        tcp.set_tcp_user_timeout(Some(UNACKNOWLEDGED_TIMEOUT));
        let connector = NoteNewConnections
            .layer(TimedConnector { connector: HttpsConnector::from((tcp, tls)), timeout: options.connect_timeout });
        let client = Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(MAX_IDLE)
            .pool_max_idle_per_host(max_idle)
            .http1_max_headers(MAX_HEADERS)
            .http1_max_buf_size(READ_BUFFER)
            .http2_max_header_list_size(MAX_HEAD)
            .http2_keep_alive_interval(KEEPALIVE)
            .http2_keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .build(connector);
        let mut headers = options.headers.clone();
        headers.insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
        headers.insert(header::ACCEPT, HeaderValue::from_static("*/*"));
        Self { client, headers, proxies: Arc::new(Matcher::from_system()) }
    }

    /// Whether this client can send the request: it has no body, and goes through no proxy.
    pub(super) fn takes(&self, request: &HttpRequest) -> bool {
        let uri = Uri::try_from(request.url.as_str());
        request.body.is_none() && uri.is_ok_and(|uri| self.proxies.intercept(&uri).is_none())
    }

    pub(super) async fn send(&self, request: &HttpRequest) -> Result<Response, TransportError> {
        let mut sent = Request::new(Empty::new());
        *sent.method_mut() = request.method.clone();
        *sent.uri_mut() = Uri::try_from(request.url.as_str())?;
        *sent.headers_mut() = self.headers.clone();
        for name in request.headers.keys() {
            sent.headers_mut().remove(name);
        }
        sent.headers_mut().extend(request.headers.clone());
        Ok(self.client.request(sent).await?.map(Body::wrap).into())
    }
}

/// Looks names up as the filter allows.
#[derive(Clone)]
struct FilteringResolver(AddressFilter);

impl Service<Name> for FilteringResolver {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = BoxError;
    type Future = BoxFuture<Self::Response>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let filter = self.0.clone();
        Box::pin(async move { Ok(filter.resolve_name(name.as_str()).await?.into_iter()) })
    }
}

/// A connector whose connections, TLS included, come up in time.
#[derive(Clone)]
struct TimedConnector<S> {
    connector: S,
    timeout: Duration,
}

impl<S> Service<Uri> for TimedConnector<S>
where
    S: Service<Uri, Error = BoxError, Future: Send + 'static>,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = BoxFuture<S::Response>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.connector.poll_ready(cx)
    }

    fn call(&mut self, target: Uri) -> Self::Future {
        let connecting = tokio::time::timeout(self.timeout, self.connector.call(target));
        Box::pin(
            async move { connecting.await.unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut).into())) },
        )
    }
}

#[cfg(test)]
mod tests {
    use http::Method;
    use reqwest::Url;
    use tokio::{io::AsyncReadExt as _, net::TcpListener};

    use super::*;
    use crate::upstream::client::trust;

    fn client(url: &Url, proxies: Matcher) -> BlobClient {
        let headers = HeaderMap::from_iter([(header::VIA, HeaderValue::from_static("1.1 test"))]);
        let tls = trust::configuration("test", Vec::new()).unwrap();
        let filter = AddressFilter::new(std::slice::from_ref(url), &[]);
        let connect_timeout = Duration::from_secs(10);
        let options = ClientOptions { headers, tls: tls.clone(), filter, connect_timeout };
        BlobClient { proxies: Arc::new(proxies), ..BlobClient::new(&options, tls, usize::MAX) }
    }

    fn request(url: &Url, body: Option<&str>) -> HttpRequest {
        let headers = HeaderMap::from_iter([(header::ACCEPT, HeaderValue::from_static("a/b"))]);
        HttpRequest { method: Method::GET, url: url.clone(), headers, body: body.map(str::to_owned) }
    }

    #[test]
    fn a_request_through_a_proxy_or_with_a_body_is_not_taken() {
        let proxies = || Matcher::builder().https("http://proxy.test:3128").no("inside.test").build();
        for (url, body, takes) in [
            ("https://registry.test/v2/", None, false),
            ("https://inside.test/v2/", None, true),
            ("http://registry.test/v2/", None, true),
            ("http://registry.test/v2/", Some("a=b"), false),
        ] {
            let url: Url = url.parse().unwrap();
            assert_eq!(client(&url, proxies()).takes(&request(&url, body)), takes, "{url} {body:?}");
        }
    }

    #[tokio::test]
    async fn a_connection_that_fails_is_told_from_a_broken_one() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let url: Url = format!("http://{}/blob", listener.local_addr().unwrap()).parse().unwrap();
        let client = client(&url, Matcher::builder().build());
        let breaking = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read_u8().await;
        });
        let broken = client.send(&request(&url, None)).await.unwrap_err();
        breaking.await.unwrap();
        assert!(!broken.is_connect() && !broken.is_timeout(), "{broken:?}");
        let refused = client.send(&request(&url, None)).await.unwrap_err();
        assert!(refused.is_connect() && !refused.is_timeout(), "{refused:?}");
    }
}
