//! One client's TCP connection: reads, timed writes, and a lingering close.
//!
//! What must hold: a write that the client does not take ends after the stall timeout, under TLS, HTTP/1 and HTTP/2 alike: see
//! [`super::write_timer`]. The streams of HTTP/2 have clocks of their own: see [`super::h2`].
//!
//! The kernel sends the parts of files that placeholders stand for: see [`super::zero_copy::queue`]. It may encrypt what is
//! written: see [`super::tls::handover`].

use std::{
    io::{self, IoSlice},
    net::SocketAddr,
    os::fd::{AsFd, AsRawFd as _, BorrowedFd},
    pin::{Pin, pin},
    sync::atomic::{AtomicI32, Ordering},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, BytesMut};
use rustix::{
    io::Errno,
    net::{SendAncillaryBuffer, SendFlags},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, Interest, ReadBuf},
    net::TcpStream,
    task::JoinHandle,
    time::Sleep,
};
use tokio_util::sync::CancellationToken;

use super::{
    detect::{Protocol, protocol_of},
    recipient::Recipient,
    reset_flag::ResetFlag,
    tls::{
        ktls,
        records::{RecordBudget, Records},
    },
    write_timer::WriteTimer,
    zero_copy::{page_cache, placeholder, queue::SendQueue},
};
use crate::metrics::Metrics;

/// How much, and for how long, a client is still read after the last byte of its response: to close a socket with unread bytes
/// makes the kernel reset the connection, and the client may never see the response (a 405 to an upload, for example).
const LINGER_BYTES: usize = 1 << 20;
const LINGER: Duration = Duration::from_secs(1);
/// Room for an ordinary first request, in bytes. If hyper reads it in two parts, it doubles its buffer for good.
const FIRST_READ: usize = 2048;
/// How many bytes one connection writes before it yields to other tasks of its thread.
const BURST: usize = 256 * 1024;
/// The same while no other connection writes as much: each yield has an idle thread look for work in vain.
const BURST_ALONE: usize = 2 * 1024 * 1024;
/// How long TCP waits on a silent connection before it probes the peer, and between two probes.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);

/// The descriptor of the connection that last wrote [`BURST`] bytes.
static LAST_TURN: AtomicI32 = AtomicI32::new(-1);

/// One TCP connection of a client.
pub(super) struct Stream {
    tcp: TcpStream,
    /// Bytes that were received and that no caller has read yet.
    unread: BytesMut,
    timer: WriteTimer,
    /// Present after the last byte was sent: for how long, and up to how many bytes, the client is still read.
    linger: Option<(Pin<Box<Sleep>>, usize)>,
    reset: ResetFlag,
    encryption: Encryption,
    /// Cancelled when no other response should begin on this connection.
    keys_exhausted: CancellationToken,
    /// The parts of files for the placeholders among the buffers to be written.
    send_queue: Option<SendQueue>,
    corked: bool,
    /// The last write was pending, so pages may have left memory since.
    waited: bool,
    /// Loads those pages.
    loading: Option<JoinHandle<()>>,
    /// Bytes written since this task last yielded.
    burst: usize,
}

/// What encrypts and decrypts the connection.
enum Encryption {
    /// Nothing, or the caller.
    None,
    /// rustls, which reads and writes here; the ends of the records it reads are tracked.
    Rustls(Records),
    /// The kernel. `closed`: the close_notify was sent.
    Kernel { closed: bool, budget: RecordBudget },
}

impl Stream {
    pub(super) fn new(tcp: TcpStream, stall: Duration) -> Stream {
        if let Err(error) = set_options(&tcp, stall) {
            // A socket that was reset meanwhile fails on the first read; it works without the options, too.
            tracing::debug!(%error, "cannot set options of a client's socket");
        }
        let reset = ResetFlag::default();
        Stream {
            tcp,
            unread: BytesMut::new(),
            timer: WriteTimer::new(stall, reset.clone()),
            linger: None,
            reset,
            encryption: Encryption::None,
            keys_exhausted: CancellationToken::new(),
            send_queue: None,
            corked: false,
            waited: false,
            loading: None,
            burst: 0,
        }
    }

    pub(super) fn reset_flag(&self) -> ResetFlag {
        self.reset.clone()
    }

    /// The client as the recipient of what is written here.
    pub(super) fn recipient(&self) -> Recipient {
        self.timer.recipient()
    }

    /// Cancelled when the keys of this connection may encrypt no other response.
    pub(super) fn keys_exhausted(&self) -> CancellationToken {
        self.keys_exhausted.clone()
    }

    /// From now on bodies may push parts of files into this queue.
    pub(super) fn open_send_queue(&mut self, metrics: Option<Metrics>) -> SendQueue {
        self.send_queue.get_or_insert_with(|| SendQueue::new(metrics)).clone()
    }

    /// From now on rustls reads TLS records.
    pub(super) fn track_records(&mut self) {
        self.encryption = Encryption::Rustls(Records::default());
    }

    /// Whether all received bytes were read, and were whole records.
    pub(super) fn is_between_records(&self) -> bool {
        self.unread.is_empty() && matches!(&self.encryption, Encryption::Rustls(records) if records.is_between())
    }

    /// From now on the kernel encrypts and decrypts. `decrypted`: received before, and not read yet.
    pub(super) fn set_kernel_encryption(&mut self, decrypted: &[u8]) {
        self.encryption = Encryption::Kernel { closed: false, budget: RecordBudget::new() };
        self.unread.extend_from_slice(decrypted);
    }

    pub(super) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.tcp.local_addr()
    }

    /// Reads as many bytes as tell which protocol the client speaks; the next reader reads them again. The caller bounds the
    /// time.
    pub(super) async fn detect(&mut self) -> io::Result<Protocol> {
        loop {
            if let Some(protocol) = protocol_of(&self.unread) {
                return Ok(protocol);
            }
            self.unread.reserve(FIRST_READ);
            if self.tcp.read_buf(&mut self.unread).await? == 0 {
                return Ok(Protocol::Closed);
            }
        }
    }

    /// Sends a response in clear text and closes. Takes at most `limit`.
    pub(super) async fn send_and_close(mut self, response: &[u8], limit: Duration) {
        let send = async {
            self.write_all(response).await?;
            self.shutdown().await
        };
        if let Ok(Err(error)) = tokio::time::timeout(limit, send).await {
            tracing::debug!(%error, "a client did not wait for its answer");
        }
    }

    /// Writes the buffers before the first placeholder; or, if there are none, as much of its part as the socket takes.
    fn poll_write_mixed(
        &mut self,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
        send_queue: &SendQueue,
    ) -> Poll<io::Result<usize>> {
        let plain = bufs.iter().take_while(|buf| !placeholder::is_placeholder(buf)).count();
        self.cork(true);
        // kTLS would hold back the end of a body until a record is full.
        let more = !matches!(self.encryption, Encryption::Kernel { .. });
        loop {
            ready!(self.tcp.poll_write_ready(cx))?;
            let mut written = 0;
            let full = self.tcp.try_io(Interest::WRITABLE, || match bufs.get(plain) {
                Some(buf) if plain == 0 => {
                    let taken = send_queue.send(buf, &self.tcp, more)?;
                    written = taken.bytes;
                    // `WouldBlock` within this call, so that no readiness that arrives meanwhile is lost.
                    if taken.full { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
                }
                _ => {
                    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
                    let mut control = SendAncillaryBuffer::default();
                    written = rustix::net::sendmsg(&self.tcp, &bufs[..plain], &mut control, flags)?;
                    Ok(())
                }
            });
            match full {
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => {
                    if plain == 0 {
                        self.reset.set();
                    }
                    return Poll::Ready(Err(error));
                }
                _ if written > 0 => return Poll::Ready(Ok(written)),
                _ => {}
            }
        }
    }

    /// Splicing blocks on pages that are not in memory. So after a pause they are checked again, and loaded on another thread.
    fn poll_load(&mut self, cx: &mut Context<'_>, send_queue: &SendQueue) -> Poll<io::Result<()>> {
        if std::mem::take(&mut self.waited)
            && let Some(slice) = send_queue.evicted()
        {
            self.loading = Some(tokio::task::spawn_blocking(move || page_cache::load(&slice)));
        }
        if self.loading.is_some() {
            self.timer.resume(&self.tcp)?;
        }
        if let Some(loading) = &mut self.loading {
            // If it failed, splicing finds the error again.
            let _ = ready!(Pin::new(loading).poll(cx));
            self.loading = None;
            send_queue.note_loaded();
        }
        Poll::Ready(Ok(()))
    }

    /// The zeroes of a placeholder are never written.
    fn refuse_placeholders(&self, bufs: &[IoSlice<'_>]) -> io::Result<()> {
        if self.send_queue.is_some() && bufs.iter().any(|buf| placeholder::is_placeholder(buf)) {
            self.reset.set();
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a buffer stands for no part of a file"));
        }
        Ok(())
    }

    /// Lets the kernel wait for full segments while a head and parts of files alternate.
    fn cork(&mut self, corked: bool) {
        if self.corked != corked {
            self.corked = corked;
            if let Err(error) = rustix::net::sockopt::set_tcp_cork(&self.tcp, corked) {
                // The connection is gone; the next write fails.
                tracing::debug!(%error, "cannot set options of a client's socket");
            }
        }
    }

    /// Sends the closure alert if the kernel encrypts, unless a response was cut short.
    fn poll_close_notify(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Encryption::Kernel { closed: closed @ false, .. } = &mut self.encryption else {
            return Poll::Ready(Ok(()));
        };
        if !self.reset.is_set() {
            loop {
                ready!(self.tcp.poll_write_ready(cx))?;
                match self.tcp.try_io(Interest::WRITABLE, || ktls::close_notify(&self.tcp)) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => return Poll::Ready(Err(error)),
                    Ok(()) => break,
                }
            }
        }
        *closed = true;
        Poll::Ready(Ok(()))
    }

    /// Reads from the socket. A kernel that decrypts gives an error for records that are no data: an alert, which is the client's
    /// end, or a request for new keys, which the kernel cannot fulfil.
    fn poll_receive(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match ready!(Pin::new(&mut self.tcp).poll_read(cx, buf)) {
            Err(error)
                if matches!(self.encryption, Encryption::Kernel { .. })
                    && Errno::from_io_error(&error) == Some(Errno::IO) =>
            {
                Poll::Ready(Ok(()))
            }
            result => {
                self.timer.note_timeout(&result);
                Poll::Ready(result)
            }
        }
    }

    /// Reads the unread bytes, then from the socket.
    fn poll_next(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.unread.is_empty() {
            return self.poll_receive(cx, buf);
        }
        let n = self.unread.len().min(buf.remaining());
        buf.put_slice(&self.unread[..n]);
        self.unread.advance(n);
        if self.unread.is_empty() {
            // Frees the memory for the rest of the connection.
            self.unread = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }

    /// Yields after [`BURST`] bytes, to the other tasks of this thread and to sockets that became ready meanwhile. A task that
    /// only wakes itself would have an idle thread woken to take it over, and no socket looked at for dozens of turns.
    fn poll_yield(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.burst < BURST {
            return Poll::Ready(());
        }
        let this = self.tcp.as_raw_fd();
        if !is_turn_over(self.burst, LAST_TURN.swap(this, Ordering::Relaxed) == this) {
            return Poll::Ready(());
        }
        self.burst = 0;
        // Its first poll is always pending, and wakes this task later; the second one need not be this future's.
        pin!(tokio::task::yield_now()).poll(cx)
    }

    /// Passes the result of a write on, and bounds how long a write may stay pending.
    fn timed(&mut self, cx: &mut Context<'_>, write: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        let Poll::Ready(result) = &write else {
            self.burst = 0;
            self.waited = true;
            return self.timer.poll_pending(cx, &self.tcp).map(Err);
        };
        self.timer.note_timeout(result);
        let written = result.as_ref().map_or(0, |written| *written);
        self.timer.wrote(&self.tcp, written)?;
        self.burst += written;
        if let Encryption::Kernel { budget, .. } = &mut self.encryption
            && !budget.spend(written)
        {
            self.keys_exhausted.cancel();
        }
        write
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if self.reset.is_set() {
            // If this fails, the connection closes without a reset.
            let _ = self.tcp.set_zero_linger();
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(self.poll_next(cx, buf))?;
        if let Encryption::Rustls(records) = &mut self.encryption {
            records.read(&buf.filled()[before..]);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.tcp.as_fd()
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.refuse_placeholders(&[IoSlice::new(buf)])?;
        ready!(self.poll_yield(cx));
        let write = Pin::new(&mut self.tcp).poll_write(cx, buf);
        self.timed(cx, write)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_yield(cx));
        let send_queue = self.send_queue.clone().filter(|send_queue| !send_queue.is_empty());
        if let Some(send_queue) = &send_queue
            && bufs.first().is_some_and(|buf| placeholder::is_placeholder(buf))
        {
            // Before the timer runs: this is the time of the disk, not of the client.
            ready!(self.poll_load(cx, send_queue))?;
        }
        let write = match send_queue {
            Some(send_queue) => self.poll_write_mixed(cx, bufs, &send_queue),
            None => {
                self.refuse_placeholders(bufs)?;
                Pin::new(&mut self.tcp).poll_write_vectored(cx, bufs)
            }
        };
        self.timed(cx, write)
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.send_queue.as_ref().is_some_and(|send_queue| !send_queue.is_empty()) {
            // All buffers were written, and the placeholders were not among them: hyper has copied them.
            self.reset.set();
            return Poll::Ready(Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "a part of a file was written as zeroes",
            )));
        }
        if self.send_queue.as_ref().is_none_or(|send_queue| !send_queue.has_next()) {
            self.cork(false);
        }
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let stream = &mut *self;
        if stream.linger.is_none() {
            let notified = stream.poll_close_notify(cx).map_ok(|()| 0);
            ready!(stream.timed(cx, notified))?;
            ready!(Pin::new(&mut stream.tcp).poll_shutdown(cx))?;
        }
        let (clock, left) = stream.linger.get_or_insert_with(|| (Box::pin(tokio::time::sleep(LINGER)), LINGER_BYTES));
        while *left > 0 && clock.as_mut().poll(cx).is_pending() {
            let mut sink = [0; 4096];
            let mut sink = ReadBuf::new(&mut sink);
            // After an error no client is left that could miss its response.
            if ready!(Pin::new(&mut stream.tcp).poll_read(cx, &mut sink)).is_err() || sink.filled().is_empty() {
                break;
            }
            *left = left.saturating_sub(sink.filled().len());
        }
        Poll::Ready(Ok(()))
    }
}

/// Whether a connection that has written so many bytes since it last yielded should yield.
fn is_turn_over(burst: usize, is_alone: bool) -> bool {
    burst >= if is_alone { BURST_ALONE } else { BURST }
}

fn set_options(tcp: &TcpStream, stall: Duration) -> io::Result<()> {
    use rustix::net::sockopt;
    tcp.set_nodelay(true)?;
    sockopt::set_socket_keepalive(tcp, true)?;
    sockopt::set_tcp_keepidle(tcp, KEEPALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(tcp, KEEPALIVE_INTERVAL)?;
    // The same limit for bytes that this kernel has taken and the client has not (tcp(7)).
    #[cfg(target_os = "linux")]
    sockopt::set_tcp_user_timeout(tcp, u32::try_from(stall.as_millis()).unwrap_or(u32::MAX))?;
    Ok(())
}

#[cfg(test)]
mod tests;
