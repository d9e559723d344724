//! Sends a request again whose reused connection proved dead.
//!
//! An upstream may close an idle connection in the moment in which a request is sent on it. hyper repeats a request
//! that it has not begun to write; one that is written may have been read, and only the caller knows that a GET may be
//! sent twice. A layer around the connector notes new connections; it runs within the request that the connection is
//! made for.

use std::{
    cell::Cell,
    error::Error,
    io::{self, ErrorKind},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use http::StatusCode;
use reqwest::{Client, RequestBuilder, Response};
use tower_layer::Layer;
use tower_service::Service;

use super::super::error::sources;

tokio::task_local! {
    /// Whether a connection was made for the request that is being sent.
    static IS_NEW: Cell<bool>;
}

/// Sends a request that may be sent twice.
pub(super) struct ResendingClient {
    pub upstream: Arc<str>,
    pub client: Client,
    /// Opens a connection for each request.
    pub fresh: Client,
}

impl ResendingClient {
    /// Sends it again, on a new connection, where the reused connection was dead, or the upstream has not processed the
    /// request. Neither says anything about the upstream, so neither is counted.
    pub(super) async fn send(self, request: impl Fn(&Client) -> RequestBuilder) -> reqwest::Result<Response> {
        let (answer, reused) = with_reuse_noted(request(&self.client).send()).await;
        let must_resend = match &answer {
            // The upstream has closed the connection as idle (RFC 9110 section 15.5.9).
            Ok(response) => reused && response.status() == StatusCode::REQUEST_TIMEOUT,
            Err(error) => (reused && is_dead(error)) || is_unprocessed(error),
        };
        if !must_resend {
            return answer;
        }
        let error = answer.err().map(reqwest::Error::without_url);
        let error = error.as_ref().map(tracing::field::display);
        tracing::debug!(upstream = %self.upstream, error, "a request is sent once more, on a new connection");
        request(&self.fresh).send().await
    }
}

/// The response, and whether the request went over a reused connection. The client must have the layer
/// [`NoteNewConnections`].
async fn with_reuse_noted<T>(sending: impl Future<Output = T>) -> (T, bool) {
    let noted = async {
        let answer = sending.await;
        (answer, !IS_NEW.with(Cell::get))
    };
    IS_NEW.scope(Cell::new(false), noted).await
}

/// Whether the connection ended before a response, as against a malformed response, or a timeout. A part of a head
/// counts as no response: hyper reports both in the same way, and reqwest shows no layer the bytes.
fn is_dead(error: &reqwest::Error) -> bool {
    !error.is_connect() && sources(error).any(says_dead)
}

/// Whether the upstream says that it has not processed the request. Over HTTP/2 that also happens on a new connection,
/// where requests arrive before its settings said how many streams it allows.
///
/// Source: RFC 9113 section 8.7.
fn is_unprocessed(error: &reqwest::Error) -> bool {
    let of_http2 = sources(error).filter_map(|source| source.downcast_ref::<h2::Error>());
    of_http2.filter(|error| error.is_remote()).any(|error| match error.reason() {
        Some(h2::Reason::NO_ERROR) => error.is_go_away(),
        Some(h2::Reason::REFUSED_STREAM) => error.is_reset(),
        _ => false,
    })
}

fn says_dead(source: &(dyn Error + 'static)) -> bool {
    if let Some(error) = source.downcast_ref::<hyper::Error>() {
        return error.is_incomplete_message() || error.is_canceled() || error.is_closed();
    }
    if let Some(error) = source.downcast_ref::<h2::Error>() {
        return error.is_go_away();
    }
    let of_connections = [
        ErrorKind::ConnectionReset,
        ErrorKind::ConnectionAborted,
        ErrorKind::BrokenPipe,
        ErrorKind::NotConnected,
        ErrorKind::UnexpectedEof,
        // The kernel's keepalive probes got no answer.
        ErrorKind::TimedOut,
        ErrorKind::HostUnreachable,
    ];
    source.downcast_ref::<io::Error>().is_some_and(|error| of_connections.contains(&error.kind()))
}

/// A layer that notes each connection that a connector makes.
#[derive(Clone, Copy)]
pub(super) struct NoteNewConnections;

impl<S> Layer<S> for NoteNewConnections {
    type Service = NotingConnector<S>;

    fn layer(&self, inner: S) -> Self::Service {
        NotingConnector(inner)
    }
}

#[derive(Clone)]
pub(super) struct NotingConnector<S>(S);

impl<S, R> Service<R> for NotingConnector<S>
where
    S: Service<R>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, target: R) -> Self::Future {
        let connecting = self.0.call(target);
        Box::pin(async move {
            let connected = connecting.await;
            // The request may have gone over another connection meanwhile: then there is no place to note this one.
            let _ = IS_NEW.try_with(|is_new| is_new.set(true));
            connected
        })
    }
}
