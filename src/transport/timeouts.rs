//! How long the server waits for a client, at each step.
//!
//! They are no configuration: no two operators needed different values. Tests shorten them.

use std::time::Duration;

/// Every wait for a client. None runs while the client waits for forebay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// From the connection to the bytes that distinguish TLS, HTTP/1 and HTTP/2.
    pub first_byte: Duration,
    /// From the TLS hello to the end of the handshake.
    pub handshake: Duration,
    /// HTTP/1: from the end of one exchange to the end of the next request's head. hyper has one clock for both, so an idle
    /// keep-alive connection ends after it as well.
    pub head: Duration,
    /// HTTP/2: after so long without an open stream the connection ends (GOAWAY).
    pub idle: Duration,
    /// HTTP/2: the client is pinged so often …
    pub ping_interval: Duration,
    /// … and must answer within this.
    pub ping_timeout: Duration,
    /// A client that reads nothing of its response for so long is cut off.
    pub stall: Duration,
    /// The whole time for a client that is refused.
    pub courtesy: Duration,
    /// How long after the drain began a client that had just connected may send its first request.
    pub grace: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Timeouts {
            first_byte: Duration::from_secs(15),
            handshake: Duration::from_secs(10),
            head: Duration::from_secs(30),
            idle: Duration::from_secs(60),
            ping_interval: Duration::from_secs(30),
            ping_timeout: Duration::from_secs(20),
            stall: Duration::from_secs(120),
            courtesy: Duration::from_secs(5),
            grace: Duration::from_secs(1),
        }
    }
}
