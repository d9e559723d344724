//! Notes whether a request opened a connection, or reused one: a layer around the connector, which runs within the request
//! that the connection is made for.

use std::{
    cell::Cell,
    pin::Pin,
    task::{Context, Poll},
};

use tower_layer::Layer;
use tower_service::Service;

tokio::task_local! {
    /// Whether a connection was made for the request that is being sent.
    static IS_NEW: Cell<bool>;
}

/// The response, and whether the request went over a reused connection. The client must have the layer
/// [`NoteNewConnections`].
pub(super) async fn with_reuse_noted<T>(sending: impl Future<Output = T>) -> (T, bool) {
    let noted = async {
        let answer = sending.await;
        (answer, !IS_NEW.with(Cell::get))
    };
    IS_NEW.scope(Cell::new(false), noted).await
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
