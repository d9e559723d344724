//! The control API on the control socket.

use std::sync::Arc;

use http::{Request, Response};
use hyper::body::Incoming;
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;

use super::{
    api::{Api, ApiBody, access::Caller},
    control_socket::ControlSocket,
};
use crate::transport::{HandleLocal, serve_local};

/// Serves the control socket until `shutdown`, and removes it.
pub(crate) async fn run((socket, listener): (ControlSocket, UnixListener), api: Api, shutdown: CancellationToken) {
    serve_local(&listener, Arc::new(Control(api)), shutdown).await;
    // While the socket listens, no other forebay replaces it: what is removed is this one's.
    drop(socket);
    drop(listener);
}

/// The handler of the control socket.
struct Control(Api);

impl HandleLocal for Control {
    type Body = ApiBody;

    async fn handle(&self, request: Request<Incoming>) -> Response<ApiBody> {
        // What may open the socket may follow as long as it likes.
        self.0.respond(request, Caller::Socket, CancellationToken::new()).await
    }
}
