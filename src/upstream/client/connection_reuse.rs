//! Whether a request went over a connection that was kept from an earlier one, and whether that proved dead.
//!
//! An upstream may close a connection that is idle in the moment in which a request is sent on it. hyper sends a request
//! again that it had not begun to write; one that is written may have been read, and only its sender knows that a GET
//! may come twice. That a connection is new is noted by a layer around the connector, which is asked within the request that
//! the connection is made for.

use std::{
    cell::Cell,
    error::Error,
    io::{self, ErrorKind},
    pin::Pin,
    task::{Context, Poll},
};

use tower_layer::Layer;
use tower_service::Service;

use super::super::error::sources;

tokio::task_local! {
    /// Whether a connection was made for the request that is being sent.
    static IS_NEW: Cell<bool>;
}

/// What sending a request came to, and whether it went over a connection that was kept. The client must have the layer [`NoteNew`].
pub(in crate::upstream) async fn noted<T>(sending: impl Future<Output = T>) -> (T, bool) {
    let noted = async {
        let answer = sending.await;
        (answer, !IS_NEW.with(Cell::get))
    };
    IS_NEW.scope(Cell::new(false), noted).await
}

/// Whether the connection ended before an answer came, as against an answer that makes no sense, or none in time. A part of a head is
/// no answer either: hyper tells it and nothing at all in the same way, and reqwest shows no layer what comes.
pub(in crate::upstream) fn is_dead(error: &reqwest::Error) -> bool {
    !error.is_connect() && sources(error).any(says_dead)
}

/// Whether the upstream says that it has not looked at the request: over HTTP/2 it may on a new connection, too, where others come on it
/// sooner than it has told how many it takes.
///
/// Source: RFC 9113 section 8.7.
pub(in crate::upstream) fn is_unprocessed(error: &reqwest::Error) -> bool {
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
        // The kernel's probes were not answered.
        ErrorKind::TimedOut,
        ErrorKind::HostUnreachable,
    ];
    source.downcast_ref::<io::Error>().is_some_and(|error| of_connections.contains(&error.kind()))
}

/// Notes the connections that a connector makes.
#[derive(Clone, Copy)]
pub(in crate::upstream) struct NoteNew;

impl<S> Layer<S> for NoteNew {
    type Service = Noting<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Noting(inner)
    }
}

#[derive(Clone)]
pub(in crate::upstream) struct Noting<S>(S);

impl<S, R> Service<R> for Noting<S>
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
            // Its request may have gone over another connection meanwhile: then this one is noted by none.
            let _ = IS_NEW.try_with(|is_new| is_new.set(true));
            connected
        })
    }
}
