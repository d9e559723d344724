//! Which protocol a client speaks, by its first bytes.

/// The content type of a TLS handshake record, RFC 8446 section 5.1. No HTTP method begins with it.
const TLS_HANDSHAKE: u8 = 0x16;
/// The client connection preface of HTTP/2, RFC 9113 section 3.4.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The protocol of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    Tls,
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
    /// The client closed the connection before its first request.
    Closed,
}

/// `None` while more bytes are needed; never more than the 24 of the preface.
pub(super) fn protocol_of(bytes: &[u8]) -> Option<Protocol> {
    match bytes {
        [] => None,
        [TLS_HANDSHAKE, ..] => Some(Protocol::Tls),
        _ if bytes.starts_with(PREFACE) => Some(Protocol::Http2),
        // `P` may be the beginning of `PUT`, `PRI` of anything.
        _ if PREFACE.starts_with(bytes) => None,
        _ => Some(Protocol::Http1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_bytes_tell_the_protocol() {
        for (bytes, protocol) in [
            (&b""[..], None),
            (b"\x16", Some(Protocol::Tls)),
            (b"\x16\x03\x01", Some(Protocol::Tls)),
            (b"G", Some(Protocol::Http1)),
            (b"P", None),
            (b"PU", Some(Protocol::Http1)),
            (b"PR", None),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r", None),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Some(Protocol::Http2)),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0", Some(Protocol::Http2)),
            (b"PRI * HTTP/1.1\r\n", Some(Protocol::Http1)),
            (b"\x00", Some(Protocol::Http1)),
            (b"\x80\x2e", Some(Protocol::Http1)),
        ] {
            assert_eq!(protocol_of(bytes), protocol, "{bytes:?}");
        }
    }
}
