//! One connection, from its first byte to its last.
//!
//! It finds out whether the client speaks TLS or clear HTTP (by the first bytes) and HTTP/1 or HTTP/2 (under TLS by ALPN), and
//! lets hyper serve it. A client that is refused is served in the same way, but each of its responses is the refusal: so it
//! can read it in any protocol.

use std::{net::SocketAddr, pin::pin};

use bytes::Bytes;
use http::Response;
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::{
    Connection, Handle, Refusal,
    context::{Client, ServeContext},
    detect::Protocol,
    http_protocol::{http1, http2, poll_when_woken},
    reset_flag::ResetFlag,
    socket::Stream,
    tls::{
        ReloadableTls,
        handover::{self, HandedOver},
        ktls,
    },
};
use crate::metrics::Metrics;

/// Serves one client until it leaves, idles for too long, or the server ends. `loopback`: see [`Connection`].
pub(super) async fn serve<H: Handle>(
    tcp: TcpStream,
    address: (SocketAddr, bool),
    client: Client<H>,
    context: &ServeContext,
) {
    let stream = Stream::new(tcp, context.timeouts.stall);
    let (reset, recipient, peer) = (stream.reset_flag(), stream.recipient(), address.0);
    let (counted, limit) = match client.refusal {
        None => (context.metrics.as_ref().map(Metrics::connection), None),
        Some(_) => (None, Some(context.timeouts.courtesy)),
    };
    let mut aborted = pin!(poll_when_woken(async {
        tokio::select! {
            () = context.abort.cancelled() => {}
            () = recipient.end.cancelled() => debug!(%peer, "a slow client is in others' way: its connection is reset"),
        }
    }));
    let mut serving = pin!(async {
        match limit {
            None => detect_and_serve(stream, address, client, context).await,
            Some(limit) => {
                timeout(limit, detect_and_serve(stream, address, client, context)).await.unwrap_or_default();
            }
        }
    });
    tokio::select! {
        biased;
        // Before the socket is closed: a response that is cut short must not look whole.
        () = &mut aborted => reset.set(),
        () = &mut serving => {}
    }
    drop(counted);
}

/// The rare futures are on the heap: a task is as large as the largest of its futures, and most connections are clear HTTP/1.
async fn detect_and_serve<H: Handle>(
    mut stream: Stream,
    (peer, loopback): (SocketAddr, bool),
    client: Client<H>,
    context: &ServeContext,
) {
    let Ok(local) = stream.local_addr() else { return };
    let recipient = stream.recipient();
    let mut connection = Connection {
        peer,
        peer_text: peer.to_string().into(),
        local,
        tls: false,
        loopback,
        sni: None,
        client_certificate: false,
        send_queue: None,
        recipient,
    };
    let protocol = tokio::select! {
        biased;
        protocol = timeout(context.timeouts.first_byte, stream.detect()) => protocol,
        () = context.out_of_grace() => return,
    };
    let (reset, keys_exhausted) = (stream.reset_flag(), stream.keys_exhausted());
    match (protocol, &context.tls) {
        (Err(_), _) => context.note_stall("first_byte", peer),
        (Ok(Err(error)), _) => debug!(%peer, %error, "a client left before its first request"),
        (Ok(Ok(Protocol::Closed)), _) => {}
        (Ok(Ok(Protocol::Tls)), None) => refuse(stream, peer, &client, Refusal::ClearOnly, context).await,
        (Ok(Ok(Protocol::Tls)), Some(tls)) => {
            Box::pin(serve_tls(stream, connection, client, tls, context)).await;
        }
        (Ok(Ok(_)), Some(_)) if !context.clear_http => refuse(stream, peer, &client, Refusal::TlsOnly, context).await,
        (Ok(Ok(Protocol::Http1)), _) => {
            connection.send_queue = Some(stream.open_send_queue(context.metrics.clone()));
            http1(stream, connection, client, context, &reset, &keys_exhausted).await;
        }
        (Ok(Ok(Protocol::Http2)), _) => Box::pin(http2(stream, connection, client, context, &reset)).await,
    }
}

async fn serve_tls<H: Handle>(
    mut stream: Stream,
    mut connection: Connection,
    client: Client<H>,
    tls: &ReloadableTls,
    context: &ServeContext,
) {
    let peer = connection.peer;
    let (reset, keys_exhausted): (ResetFlag, CancellationToken) = (stream.reset_flag(), stream.keys_exhausted());
    if ktls::is_offered() {
        stream.track_records();
    }
    let handshake = Box::pin(TlsAcceptor::from(tls.acceptor_config()).accept(stream));
    let stream = tokio::select! {
        () = context.out_of_grace() => return,
        handshake = timeout(context.timeouts.handshake, handshake) => match handshake {
            Err(_) => {
                context.log.handshake_timed_out(peer);
                return context.note_stall("handshake", peer);
            }
            Ok(Err(error)) => return context.log.handshake_failed(peer, &error),
            Ok(Ok(stream)) => stream,
        }
    };
    let session = stream.get_ref().1;
    connection.tls = true;
    connection.sni = session.server_name().map(str::to_owned);
    connection.client_certificate = session.peer_certificates().is_some_and(|chain| !chain.is_empty());
    if session.alpn_protocol() == Some(b"h2") {
        return Box::pin(http2(stream, connection, client, context, &reset)).await;
    }
    match handover::hand_over(stream) {
        Ok(HandedOver::Kernel(mut stream)) => {
            connection.send_queue = Some(stream.open_send_queue(context.metrics.clone()));
            http1(*stream, connection, client, context, &reset, &keys_exhausted).await;
        }
        Ok(HandedOver::Rustls(stream)) => {
            Box::pin(http1(*stream, connection, client, context, &reset, &keys_exhausted)).await;
        }
        Err(error) => debug!(%peer, %error, "the kernel cannot go on with a TLS connection"),
    }
}

/// Responds in clear text, whatever the client sends, and closes. To a TLS hello this is on purpose: Go's clients (dockerd,
/// containerd) recognize a clear-text response by its first bytes, and go on with http:// if they are allowed to.
async fn refuse<H: Handle>(
    stream: Stream,
    peer: SocketAddr,
    client: &Client<H>,
    refusal: Refusal,
    context: &ServeContext,
) {
    let response = client.handler.refuse(refusal);
    let status = response.status();
    stream.send_and_close(&clear_text(&response, refusal), context.timeouts.courtesy).await;
    context.log.refused(peer, status, refusal);
}

fn clear_text(response: &Response<Bytes>, refusal: Refusal) -> Vec<u8> {
    // A client that speaks TLS has said nothing of its HTTP version.
    let version = if refusal == Refusal::ClearOnly { "HTTP/1.0" } else { "HTTP/1.1" };
    let mut text = format!("{version} {}\r\n", response.status()).into_bytes();
    for (name, value) in response.headers() {
        text.extend([title_case(name.as_str()).as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
    }
    text.extend(b"Connection: close\r\n\r\n");
    text.extend(response.body());
    text
}

/// `content-type` as `Content-Type`: as most servers write it in HTTP/1.
fn title_case(name: &str) -> String {
    let mut begins = true;
    let title =
        |letter: char| if std::mem::replace(&mut begins, letter == '-') { letter.to_ascii_uppercase() } else { letter };
    name.chars().map(title).collect()
}

#[cfg(test)]
mod tests {
    use http::{HeaderValue, StatusCode, header};

    use super::*;

    #[test]
    fn a_refusal_is_clear_text_that_a_go_client_recognizes() {
        let mut response = Response::new(Bytes::from_static(b"no\n"));
        *response.status_mut() = StatusCode::BAD_REQUEST;
        response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        for (refusal, version) in [(Refusal::ClearOnly, "1.0"), (Refusal::TlsOnly, "1.1")] {
            let expected = format!(
                "HTTP/{version} 400 Bad Request\r\nX-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\nno\n"
            );
            assert_eq!(String::from_utf8(clear_text(&response, refusal)).unwrap(), expected);
        }
    }
}
