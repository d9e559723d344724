//! What the control socket answers: `GET /api/v1/config`.

use std::sync::Arc;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;

use super::{control_socket::ControlSocket, response};
use crate::transport::{HandleLocal, serve_local};

const JSON_TYPE: &str = "application/json";

/// The running configuration as JSON: the composition root makes it, and makes it anew at a reload. A cheap handle.
#[derive(Clone, Debug, Default)]
pub(crate) struct ConfigDocument(Arc<ArcSwap<Bytes>>);

impl ConfigDocument {
    pub(crate) fn set(&self, json: Bytes) {
        self.0.store(Arc::new(json));
    }
}

/// Serves the control socket until `shutdown`, and removes it.
pub(crate) async fn run(
    (socket, listener): (ControlSocket, UnixListener),
    config: ConfigDocument,
    shutdown: CancellationToken,
) {
    serve_local(&listener, Arc::new(Control { config }), shutdown).await;
    // While the socket listens, no other forebay replaces it: what is removed is this one's.
    drop(socket);
    drop(listener);
}

/// The handler of the control socket.
struct Control {
    config: ConfigDocument,
}

impl HandleLocal for Control {
    async fn handle(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        self.answer(request.method(), request.uri().path())
    }
}

impl Control {
    fn answer(&self, method: &Method, path: &str) -> Response<Full<Bytes>> {
        match path {
            "/api/v1/config" if method == Method::GET => json(StatusCode::OK, Bytes::clone(&self.config.0.load())),
            "/api/v1/config" => {
                let mut response = error(StatusCode::METHOD_NOT_ALLOWED, "only GET");
                response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET"));
                response
            }
            _ => error(StatusCode::NOT_FOUND, "there is /api/v1/config"),
        }
    }
}

fn error(status: StatusCode, why: &str) -> Response<Full<Bytes>> {
    json(status, serde_json::json!({ "error": why }).to_string())
}

fn json(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    response(status, JSON_TYPE, body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_configuration_is_answered() {
        let config = ConfigDocument::default();
        config.set(Bytes::from_static(b"{}"));
        let control = Control { config };
        for (method, path, status) in [
            (Method::GET, "/api/v1/config", 200),
            (Method::POST, "/api/v1/config", 405),
            (Method::GET, "/api/v1/", 404),
            (Method::GET, "/metrics", 404),
        ] {
            assert_eq!(control.answer(&method, path).status().as_u16(), status, "{method} {path}");
        }
    }
}
