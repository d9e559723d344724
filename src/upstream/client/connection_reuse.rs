//! Sends a request again whose reused connection proved dead.
//!
//! An upstream may close an idle connection in the moment in which a request is sent on it. hyper repeats a request
//! that it has not begun to write; one that is written may have been read, and only the caller knows that a GET may be
//! sent twice.

use std::{
    error::Error,
    io::{self, ErrorKind},
    sync::Arc,
};

use http::StatusCode;
use reqwest::Response;

use super::{
    http_client::HttpClient,
    http_request::{HttpRequest, TransportError},
    new_connections::with_reuse_noted,
};
use crate::error_chain::sources;

/// Sends a request that may be sent twice.
pub(super) struct ResendingClient {
    pub upstream: Arc<str>,
    pub client: HttpClient,
    /// Opens a connection for each request.
    pub fresh: HttpClient,
}

impl ResendingClient {
    /// Sends it again, on a new connection, where the reused connection was dead, or the upstream has not processed the
    /// request. Neither says anything about the upstream, so neither is counted.
    pub(super) async fn send(self, request: &HttpRequest) -> Result<Response, TransportError> {
        let (answer, reused) = with_reuse_noted(self.client.send(request)).await;
        let must_resend = match &answer {
            // The upstream has closed the connection as idle (RFC 9110 section 15.5.9).
            Ok(response) => reused && response.status() == StatusCode::REQUEST_TIMEOUT,
            Err(error) => (reused && is_dead(error)) || is_unprocessed(error),
        };
        if !must_resend {
            return answer;
        }
        let error = answer.err();
        let error = error.as_ref().map(tracing::field::display);
        tracing::debug!(upstream = %self.upstream, error, "a request is sent once more, on a new connection");
        self.fresh.send(request).await
    }
}

/// Whether the connection ended before a response, as against a malformed response, or a timeout. A part of a head
/// counts as no response: hyper reports both in the same way, and reqwest shows no layer the bytes.
fn is_dead(error: &TransportError) -> bool {
    !error.is_connect() && sources(error).any(says_dead)
}

/// Whether the upstream says that it has not processed the request. Over HTTP/2 that also happens on a new connection,
/// where requests arrive before its settings said how many streams it allows.
///
/// Source: RFC 9113 section 8.7.
fn is_unprocessed(error: &TransportError) -> bool {
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
