//! The operator's own listener: `/metrics`, `/healthz`, `/readyz`.
//!
//! It has a port and limits of its own, and still responds while the registry's port is full or draining: operators need it
//! then.

pub mod config;
pub(crate) mod control;
pub mod control_socket;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::error;

pub use self::config::Config;
use crate::{
    metrics::Metrics,
    route::{AllowedHosts, request_host},
    transport::{Connection, Handle, Listener, Refusal, isolate},
};

/// Enough for Prometheus, a few probes, and a browser.
const MAX_CONNECTIONS: usize = 64;
/// Responses are small and immediate.
const DRAIN: Duration = Duration::from_secs(1);
/// The text format that Prometheus has read since 2014.
const METRICS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";
const TEXT_TYPE: &str = "text/plain; charset=utf-8";

/// Whether this process is ready for clients. A cheap handle.
#[derive(Clone, Debug)]
pub struct Readiness(Arc<AtomicU8>);

/// What a [`Readiness`] says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum State {
    Starting,
    Ready,
    Draining,
}

impl State {
    pub fn as_str(self) -> &'static str {
        match self {
            State::Starting => "starting",
            State::Ready => "ready",
            State::Draining => "draining",
        }
    }
}

impl Default for Readiness {
    fn default() -> Self {
        Readiness(Arc::new(AtomicU8::new(State::Starting as u8)))
    }
}

impl Readiness {
    pub fn set_ready(&self) {
        self.0.store(State::Ready as u8, Ordering::Relaxed);
    }

    pub fn set_draining(&self) {
        self.0.store(State::Draining as u8, Ordering::Relaxed);
    }

    pub fn state(&self) -> State {
        match self.0.load(Ordering::Relaxed) {
            n if n == State::Ready as u8 => State::Ready,
            n if n == State::Draining as u8 => State::Draining,
            _ => State::Starting,
        }
    }
}

/// Serves the operator until `shutdown`, which should come after the drain of the registry's port. `hosts`: the hosts that are
/// allowed on a loopback address.
pub async fn run(
    listener: TcpListener,
    metrics: Metrics,
    readiness: Readiness,
    hosts: Arc<ArcSwap<AllowedHosts>>,
    shutdown: CancellationToken,
) {
    let listener = Listener::clear(listener, MAX_CONNECTIONS, DRAIN);
    listener.run(Arc::new(Admin { metrics, readiness, hosts }), shutdown).await;
}

struct Admin {
    metrics: Metrics,
    readiness: Readiness,
    hosts: Arc<ArcSwap<AllowedHosts>>,
}

impl Handle for Admin {
    type Body = Full<Bytes>;

    async fn handle(&self, request: Request<Incoming>, connection: Arc<Connection>) -> Response<Full<Bytes>> {
        let host = match request_host(request.version(), request.uri(), request.headers()) {
            Ok(host) => host,
            Err(error) => return text(StatusCode::BAD_REQUEST, &format!("{error}\n")),
        };
        // On other addresses probes and Prometheus may use any host.
        if connection.loopback && !self.hosts.load().allow(host) {
            let host = host.unwrap_or_default();
            let why = format!(
                "this listener is bound to a loopback address and does not answer to the host {host:?}: to have it do so, \
                 add that to admin.allowed_hosts\n"
            );
            return text(StatusCode::MISDIRECTED_REQUEST, &why);
        }
        if request.method() != Method::GET && request.method() != Method::HEAD {
            let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
            response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
            return response;
        }
        match request.uri().path() {
            "/metrics" => self.metrics(),
            "/healthz" => text(StatusCode::OK, "ok\n"),
            "/readyz" => {
                let state = self.readiness.state();
                let status = if state == State::Ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
                text(status, &format!("{}\n", state.as_str()))
            }
            _ => text(StatusCode::NOT_FOUND, "there are /metrics, /healthz and /readyz\n"),
        }
    }

    fn refuse(&self, refusal: Refusal) -> Response<Bytes> {
        let (status, why) = match refusal {
            Refusal::Full | Refusal::Share => {
                (StatusCode::SERVICE_UNAVAILABLE, "too many connections, try again soon\n")
            }
            Refusal::TlsOnly => (StatusCode::BAD_REQUEST, "this port speaks TLS only: use https://\n"),
            Refusal::ClearOnly => (StatusCode::BAD_REQUEST, "this port speaks clear HTTP only: use http://\n"),
        };
        let mut response = text(status, why).map(|_| Bytes::from_static(why.as_bytes()));
        if status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("2"));
        }
        response
    }
}

impl Admin {
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

fn text(status: StatusCode, body: &str) -> Response<Full<Bytes>> {
    response(status, TEXT_TYPE, body.to_owned())
}

fn response(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    isolate(headers);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_client_learns_when_to_come_again() {
        let admin = Admin { metrics: Metrics::new().unwrap(), readiness: Readiness::default(), hosts: Arc::default() };
        for (refusal, status, retry_after) in [
            (Refusal::Full, 503, Some("2")),
            (Refusal::Share, 503, Some("2")),
            (Refusal::TlsOnly, 400, None),
            (Refusal::ClearOnly, 400, None),
        ] {
            let response = admin.refuse(refusal);
            let header = response.headers().get(header::RETRY_AFTER).map(|value| value.to_str().unwrap());
            assert_eq!((response.status().as_u16(), header), (status, retry_after), "{refusal:?}");
            assert!(!response.body().is_empty(), "{refusal:?}");
        }
    }
}
