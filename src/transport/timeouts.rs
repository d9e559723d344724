//! How long the server waits for a client, at each step.
//!
//! These are not configuration: no operator asked two different things of them. Tests shorten them.

use std::time::Duration;

/// Every wait for a client. None of them runs while the client waits for us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// From the connection to the bytes that tell TLS, HTTP/1 and HTTP/2 apart.
    pub first_byte: Duration,
    /// From the TLS hello to the end of the handshake.
    pub handshake: Duration,
    /// HTTP/1: from the end of one exchange to the end of the next request's head. It is one and the same clock in
    /// hyper, so an idle keep-alive connection ends after it as well.
    pub head: Duration,
    /// HTTP/2: without an open stream for so long, the connection is ended (GOAWAY).
    pub idle: Duration,
    /// HTTP/2: the client is pinged so often …
    pub ping_interval: Duration,
    /// … and must answer within this.
    pub ping_timeout: Duration,
    /// A client that takes no byte of what is ready for it for so long is cut off.
    pub stall: Duration,
    /// All that is spent on a client that is only told to go away.
    pub courtesy: Duration,
    /// How long a client that has just connected may still send its first request when the drain begins.
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
