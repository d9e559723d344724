//! The HTTP server. It knows no registry and no cache: requests go to a [`Handle`]r.
//!
//! From the outside in: [`listener`] accepts connections and bounds their number; [`connection`] serves one, once [`detect`]
//! knows its protocol and [`tls`] has shaken hands; [`socket`] writes to it; [`write_timer`] ends a client that does not read; [`h2`] times
//! the streams of HTTP/2. [`zero_copy`] sends parts of files without a copy. [`recipient`] measures how fast a client reads.

mod bind;
mod browser;
mod client_log;
pub mod config;
mod connection;
mod context;
mod detect;
mod forwarded;
pub(crate) mod h2;
mod handshake_failure;
mod http_protocol;
mod listener;
pub(crate) mod recipient;
pub(crate) mod request_body;
mod reset_flag;
mod send_rate;
mod socket;
mod spare_descriptors;
mod stalled_writes;
mod timeouts;
mod tls;
mod unix;
mod write_buffer;
mod write_timer;
pub(crate) mod zero_copy;

use std::{net::SocketAddr, sync::Arc};

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::Incoming;

pub use self::{
    bind::bind,
    browser::isolate,
    config::{Config, TlsConfig},
    listener::{ConnectionLimit, ListenError, Listener},
    recipient::Recipient,
    timeouts::Timeouts,
    tls::{CertificateFacts, PreparedTls, ReloadableTls, TlsError, has_kernel_tls},
    unix::{HandleLocal, MAX_CLIENTS as MAX_LOCAL_CLIENTS, serve as serve_local},
    zero_copy::queue::SendQueue,
};
pub(crate) use self::{forwarded::is_forwarded, handshake_failure::HandshakeFailure};

#[cfg(test)]
pub(crate) use self::tls::certificate_for_tests;

/// The error of a response body.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Responds to requests.
pub trait Handle: Send + Sync + 'static {
    type Body: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static;

    /// The future is dropped when the client leaves. A body that fails breaks the connection (HTTP/1) or resets the stream
    /// (HTTP/2), so that a failure never looks like an end.
    fn handle(
        &self,
        request: Request<Incoming>,
        connection: Arc<Connection>,
    ) -> impl Future<Output = Response<Self::Body>> + Send;

    /// The response to a client that is not served; the connection ends with it.
    fn refuse(&self, refusal: Refusal) -> Response<Bytes>;
}

/// Why a client is not served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// All connections are taken.
    Full,
    /// The client's address has its share of the connections.
    Share,
    /// The client speaks clear HTTP, and only TLS is served.
    TlsOnly,
    /// The client speaks TLS, and only clear HTTP is served.
    ClearOnly,
}

/// What is known about a client before its first request.
#[derive(Clone, Debug)]
pub struct Connection {
    pub peer: SocketAddr,
    /// The peer as the log names it, for each of its requests.
    pub peer_text: Arc<str>,
    pub local: SocketAddr,
    pub tls: bool,
    /// Whether the listener is bound to a loopback address: only programs of this machine connect, browsers among them.
    pub loopback: bool,
    /// The server name in the client's TLS hello.
    pub sni: Option<String>,
    /// Whether the client showed a certificate signed by `client_ca`.
    pub client_certificate: bool,
    /// Where bodies put parts of files for the kernel to send. HTTP/1 has one, unless rustls encrypts the connection.
    pub send_queue: Option<SendQueue>,
    /// Measures how fast the client reads, and can end the connection. HTTP/2 has one more for each stream.
    pub recipient: Recipient,
}
