//! Whether hyper still hands the buffers of a body on as they are, which [`super::queue`] relies on.
//!
//! Checked once, before the first client: a hyper that copies frames would send zeroes in place of a blob. If it does, bodies
//! are bytes.

use std::{
    convert::Infallible,
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use parking_lot::Mutex;

use futures_util::stream;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::StreamBody;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::placeholder::{self, MAX_PART};

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
/// More bytes than a head and the ends of chunks have.
const MAX_PLAIN: usize = 1024;
/// The lengths of the parts that are sent.
const PARTS: [usize; 4] = [1, 40_000, MAX_PART as usize, 100_000];

/// Sends a body of placeholders over a connection without a client, and looks at what would be written. `builder` is that of
/// clients' connections.
pub(crate) async fn holds(builder: &http1::Builder) -> bool {
    holds_over(builder, true).await
}

async fn holds_over(builder: &http1::Builder, is_vectored: bool) -> bool {
    let seen = Arc::new(Mutex::new(Written::default()));
    let io = Probe { request: REQUEST, seen: seen.clone(), is_vectored };
    let serve = |_: Request<Incoming>| async {
        let frames = PARTS.map(|len| Ok::<_, Infallible>(Frame::data(placeholder::sample(len))));
        Ok::<_, Infallible>(Response::new(StreamBody::new(stream::iter(frames))))
    };
    let served = builder.serve_connection(TokioIo::new(io), service_fn(serve)).await;
    let seen = seen.lock();
    served.is_ok() && seen.placeholders == PARTS.iter().sum::<usize>() && seen.plain < MAX_PLAIN
}

#[derive(Default)]
struct Written {
    /// Bytes of placeholders.
    placeholders: usize,
    plain: usize,
}

impl Written {
    fn write(&mut self, buffer: &[u8]) -> usize {
        let kind = if placeholder::is_placeholder(buffer) { &mut self.placeholders } else { &mut self.plain };
        *kind += buffer.len();
        buffer.len()
    }
}

/// A client that sends one request and reads everything.
struct Probe {
    request: &'static [u8],
    seen: Arc<Mutex<Written>>,
    is_vectored: bool,
}

impl AsyncRead for Probe {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.request.is_empty() {
            return Poll::Pending;
        }
        let (now, later) = self.request.split_at(self.request.len().min(buf.remaining()));
        buf.put_slice(now);
        self.request = later;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Probe {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(self.seen.lock().write(buf)))
    }

    fn poll_write_vectored(self: Pin<&mut Self>, _: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let mut seen = self.seen.lock();
        Poll::Ready(Ok(bufs.iter().map(|buf| seen.write(buf)).sum()))
    }

    fn is_write_vectored(&self) -> bool {
        self.is_vectored
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn frames_that_are_handed_on_differ_from_copies() {
        let builder = http1::Builder::new();
        assert!(holds_over(&builder, true).await);
        // Without vectored writes hyper copies, small frames at least.
        assert!(!holds_over(&builder, false).await);
    }
}
