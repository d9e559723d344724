//! Gathers small writes into large ones.
//!
//! An HTTP/2 connection writes and flushes each frame by itself: a head of 9 bytes and a body of up to 16 KiB, which would cost
//! two records under TLS, and a system call. The buffer is written when it is full, or when the connection, polled once more,
//! has nothing to add.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The size of the buffer, in bytes: four of TLS's largest records (RFC 8446 section 5.1).
const ENOUGH: usize = 4 * 16 * 1024;

pub(super) struct WriteBuffer<I> {
    io: I,
    gathered: Vec<u8>,
    /// How many of these bytes are written.
    written: usize,
    /// Bytes were added since the last flush.
    added: bool,
}

impl<I: AsyncWrite + Unpin> WriteBuffer<I> {
    pub(super) fn new(io: I) -> Self {
        Self { io, gathered: Vec::new(), written: 0, added: false }
    }

    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.gathered.len() {
            let written = ready!(Pin::new(&mut self.io).poll_write(cx, &self.gathered[self.written..]))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += written;
        }
        self.written = 0;
        self.gathered.clear();
        Poll::Ready(Ok(()))
    }

    fn poll_flush_now(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(cx))?;
        // An idle connection holds no memory.
        self.gathered = Vec::new();
        self.added = false;
        Pin::new(&mut self.io).poll_flush(cx)
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for WriteBuffer<I> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.gathered.len() >= ENOUGH {
            ready!(self.poll_drain(cx))?;
        }
        let before = self.gathered.len();
        for buf in bufs {
            let room = ENOUGH - self.gathered.len();
            self.gathered.extend_from_slice(&buf[..buf.len().min(room)]);
        }
        self.added = true;
        Poll::Ready(Ok(self.gathered.len() - before))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Postpones the flush while bytes are added between two calls: the caller is woken, and calls again.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if std::mem::take(&mut self.added) {
            cx.waker().wake_by_ref();
            return Poll::Ready(Ok(()));
        }
        self.poll_flush_now(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_flush_now(cx))?;
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for WriteBuffer<I> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, task::Waker};

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    #[tokio::test]
    async fn all_bytes_arrive_in_order_through_a_small_pipe() {
        let (ours, mut theirs) = duplex(1000);
        let writing = tokio::spawn(async move {
            let mut io = WriteBuffer::new(ours);
            let mut written = Vec::new();
            for n in 0..300u32 {
                let frame = vec![n as u8; (n * 7 % 1500) as usize];
                io.write_all(&frame).await.unwrap();
                io.flush().await.unwrap();
                written.extend(frame);
            }
            io.shutdown().await.unwrap();
            written
        });
        let mut arrived = Vec::new();
        theirs.read_to_end(&mut arrived).await.unwrap();
        assert!(arrived == writing.await.unwrap());
    }

    #[tokio::test]
    async fn a_flush_is_postponed_only_while_bytes_are_added() {
        let (ours, mut theirs) = duplex(1 << 20);
        let mut io = WriteBuffer::new(ours);
        for _ in 0..3 {
            io.write_all(b"frame").await.unwrap();
            io.flush().await.unwrap();
        }
        let mut buffer = [0; 64];
        let mut sink = ReadBuf::new(&mut buffer);
        let mut cx = Context::from_waker(Waker::noop());
        assert!(Pin::new(&mut theirs).poll_read(&mut cx, &mut sink).is_pending(), "nothing was written");
        poll_fn(|cx| Pin::new(&mut io).poll_flush(cx)).await.unwrap();
        assert_eq!(theirs.read(&mut buffer).await.unwrap(), 15);
        assert_eq!(io.gathered.capacity(), 0);
    }

    #[tokio::test]
    async fn a_full_buffer_is_written_at_once() {
        let (ours, mut theirs) = duplex(1 << 20);
        let mut io = WriteBuffer::new(ours);
        io.write_all(&vec![1; ENOUGH + 1]).await.unwrap();
        let mut all = vec![0; ENOUGH];
        theirs.read_exact(&mut all).await.unwrap();
        assert_eq!(io.gathered.len(), 1);
    }
}
