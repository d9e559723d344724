//! What a connection is served with.

use std::{net::SocketAddr, sync::Arc};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::debug;

use super::{Connection, Handle, Refusal, Timeouts, client_log::ClientLog, tls::ReloadableTls};
use crate::metrics::Metrics;

/// What all connections of one listener share.
pub(super) struct ServeContext {
    pub(super) clear_http: bool,
    /// hyper hands on buffers as they are, so that the kernel may send parts of files.
    pub(super) keeps_buffers: bool,
    pub(super) timeouts: Timeouts,
    /// HTTP/2: concurrent requests of one client.
    pub(super) max_streams: u32,
    pub(super) tls: Option<ReloadableTls>,
    pub(super) metrics: Option<Metrics>,
    pub(super) log: Arc<ClientLog>,
    pub(super) tasks: TaskTracker,
    /// Finish running responses, begin no other.
    pub(super) drain: CancellationToken,
    /// End now.
    pub(super) abort: CancellationToken,
}

impl ServeContext {
    /// Waits until the drain has begun and a client that had just connected has had time for a first request: clients do not
    /// retry on their own if a connection that they have just opened is closed.
    pub(super) async fn out_of_grace(&self) {
        self.drain.cancelled().await;
        tokio::time::sleep(self.timeouts.grace).await;
    }

    /// The same, for a connection that no longer needs the grace once its first request has `begun`.
    pub(super) async fn drained(&self, begun: &CancellationToken) {
        tokio::select! {
            () = self.out_of_grace() => {}
            () = async { tokio::join!(self.drain.cancelled(), begun.cancelled()); } => {}
        }
    }

    pub(super) fn note_stall(&self, what: &'static str, peer: SocketAddr) {
        debug!(%peer, what, "a client was too slow");
        if let Some(metrics) = &self.metrics {
            metrics.stall(what);
        }
    }
}

/// The handler of a client's requests, and why they are refused, if they are.
pub(super) struct Client<H> {
    pub(super) handler: Arc<H>,
    pub(super) refusal: Option<Refusal>,
    pub(super) log: Arc<ClientLog>,
}

impl<H: Handle> Client<H> {
    pub(super) async fn respond(
        &self,
        request: Request<Incoming>,
        connection: Arc<Connection>,
    ) -> Response<Either<H::Body, Full<Bytes>>> {
        let Some(refusal) = self.refusal else {
            return self.handler.handle(request, connection).await.map(Either::Left);
        };
        let response = self.handler.refuse(refusal);
        self.log.refused(connection.peer, response.status(), refusal);
        response.map(|body| Either::Right(Full::from(body)))
    }
}
