//! The admin listener: `/metrics`, `/healthz`, `/readyz`, the control API, and the page.
//!
//! It has a port and limits of its own, and still responds while the registry's port is full or draining: operators need it
//! then.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header, request::Parts};
use http_body_util::Full;
use hyper::body::Incoming;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::error;

use super::{
    api::{
        self, Api, ApiBody, ApiError,
        access::{Caller, Token, is_of_other_site},
        boxed,
    },
    page::{self, Visit},
    readiness::{Readiness, State},
    response::{response, text},
    token::AdminToken,
};
use crate::{
    history::Readers,
    metrics::Metrics,
    route::{AllowedHosts, request_host},
    transport::{Connection, Handle, Listener, Refusal, is_forwarded},
};

/// Enough for Prometheus, a few probes, and a browser.
const MAX_CONNECTIONS: usize = 64;
/// Browsers and Prometheus use HTTP/1; each unread response of a stream takes memory.
const MAX_STREAMS: u32 = 4;
/// Responses are small and immediate.
const DRAIN: Duration = Duration::from_secs(1);
/// The text format that Prometheus has read since 2014.
const METRICS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What the admin listener serves, and by what it judges clients.
pub(crate) struct AdminListener {
    pub metrics: Metrics,
    pub readiness: Readiness,
    /// The hosts that are allowed on a loopback address, and for requests without a token.
    pub hosts: Arc<ArcSwap<AllowedHosts>>,
    pub api: Api,
    pub token: AdminToken,
    /// The visitors of the page that look through the history.
    pub readers: Readers,
}

impl AdminListener {
    /// Serves operators until `shutdown`, which should come after the drain of the registry's port.
    pub(crate) async fn run(self, listener: TcpListener, shutdown: CancellationToken) {
        let listener = Listener::clear(listener, MAX_CONNECTIONS, DRAIN).with_streams(MAX_STREAMS);
        listener.run(Arc::new(self), shutdown).await;
    }

    fn probe(&self, request: &Parts) -> Response<Full<Bytes>> {
        if request.method != Method::GET && request.method != Method::HEAD {
            let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
            response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
            return response;
        }
        match request.uri.path() {
            "/metrics" => self.metrics(),
            "/healthz" => text(StatusCode::OK, "ok\n"),
            "/readyz" => {
                let state = self.readiness.state();
                let status = if state == State::Ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
                text(status, &format!("{}\n", state.as_str()))
            }
            _ => text(StatusCode::NOT_FOUND, "there are /, /metrics, /healthz, /readyz and /api/v1/\n"),
        }
    }

    async fn api(&self, request: Request<Incoming>, host: Option<&str>, is_local: bool) -> Response<ApiBody> {
        let (token, until) = self.token.judge(request.headers());
        // A page of another site may have its own name resolved to this address; it does not have the token.
        if token != Token::Right && !self.hosts.load().allow(host) {
            let why = format!(
                "without a token there is no answer to the host {:?}: to have it so, add that to admin.allowed_hosts",
                host.unwrap_or_default()
            );
            return api::error(&ApiError::new(StatusCode::MISDIRECTED_REQUEST, why));
        }
        if is_of_other_site(request.headers(), host) {
            return api::error(&ApiError::new(StatusCode::FORBIDDEN, "a page of another site may not ask this"));
        }
        self.api.respond(request, Caller::Listener { is_local, token }, until).await
    }

    /// `None`: the path is none of the page.
    async fn page(&self, head: &Parts, host: Option<&str>, is_local: bool) -> Option<Response<Full<Bytes>>> {
        let (token, _) = self.token.judge(&head.headers);
        let visit = Visit {
            head,
            caller: Caller::Listener { is_local, token },
            is_host_allowed: self.hosts.load().allow(host),
            is_of_other_site: is_of_other_site(&head.headers, host),
        };
        page::respond(self.api.sources(), &self.readers, visit).await
    }

    fn metrics(&self) -> Response<Full<Bytes>> {
        match self.metrics.encode() {
            Ok(metrics) => response(StatusCode::OK, METRICS_TYPE, metrics),
            Err(error) => {
                error!(%error, "the metrics cannot be written");
                text(StatusCode::INTERNAL_SERVER_ERROR, "the metrics cannot be written\n")
            }
        }
    }
}

impl Handle for AdminListener {
    type Body = ApiBody;

    async fn handle(&self, request: Request<Incoming>, connection: Arc<Connection>) -> Response<ApiBody> {
        let host = match request_host(request.version(), request.uri(), request.headers()) {
            Ok(host) => host.map(str::to_owned),
            Err(error) => return boxed(text(StatusCode::BAD_REQUEST, &format!("{error}\n"))),
        };
        let host = host.as_deref();
        let is_of_api = request.uri().path().starts_with(api::ROOT);
        // On other addresses probes and Prometheus may name any host, and so may a client with the token.
        if connection.loopback && !is_of_api && !self.hosts.load().allow(host) {
            let host = host.unwrap_or_default();
            let why = format!(
                "this listener is bound to a loopback address and does not answer to the host {host:?}: to have it do so, \
                 add that to admin.allowed_hosts\n"
            );
            return boxed(text(StatusCode::MISDIRECTED_REQUEST, &why));
        }
        let is_local = connection.peer.ip().to_canonical().is_loopback() && !is_forwarded(request.headers());
        if is_of_api {
            return self.api(request, host, is_local).await;
        }
        let (head, _body) = request.into_parts();
        let response = self.page(&head, host, is_local).await;
        boxed(response.unwrap_or_else(|| self.probe(&head)))
    }

    fn refuse(&self, refusal: Refusal) -> Response<Bytes> {
        refused(refusal)
    }
}

/// The response to a client that is not served.
fn refused(refusal: Refusal) -> Response<Bytes> {
    let (status, why) = match refusal {
        Refusal::Full | Refusal::Share => (StatusCode::SERVICE_UNAVAILABLE, "too many connections, try again soon\n"),
        Refusal::TlsOnly => (StatusCode::BAD_REQUEST, "this port speaks TLS only: use https://\n"),
        Refusal::ClearOnly => (StatusCode::BAD_REQUEST, "this port speaks clear HTTP only: use http://\n"),
    };
    let mut response = text(status, why).map(|_| Bytes::from_static(why.as_bytes()));
    if status == StatusCode::SERVICE_UNAVAILABLE {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("2"));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_client_learns_when_to_come_again() {
        for (refusal, status, retry_after) in [
            (Refusal::Full, 503, Some("2")),
            (Refusal::Share, 503, Some("2")),
            (Refusal::TlsOnly, 400, None),
            (Refusal::ClearOnly, 400, None),
        ] {
            let response = refused(refusal);
            let header = response.headers().get(header::RETRY_AFTER).map(|value| value.to_str().unwrap());
            assert_eq!((response.status().as_u16(), header), (status, retry_after), "{refusal:?}");
            assert!(!response.body().is_empty(), "{refusal:?}");
        }
    }
}
