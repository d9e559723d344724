//! One client's TCP stream: its first bytes looked at and put back, its stalled writes timed.
//!
//! What must hold: a write that the client does not take ends after the stall timeout, under TLS, HTTP/1 and HTTP/2
//! alike, and nothing but a pending write starts that clock: a response that waits for its upstream has nothing to
//! write. The clock restarts with every byte that the client's kernel takes, so a slow client is not a stalled one.
//! HTTP/2's own flow control is above this file: see [`super::h2`].
//!
//! Buffers that stand for parts of files are sent by the kernel: see [`super::zero_copy::queue`]. It may encrypt what is written,
//! too: see [`super::tls::kernel`].

use std::{
    io::{self, IoSlice},
    net::SocketAddr,
    os::fd::{AsFd, BorrowedFd},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
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
    time::{Instant, Sleep},
};
use tokio_util::sync::CancellationToken;

use super::{
    recipient::Recipient,
    send_rate::Pace,
    tls::kernel::{self, RecordBudget, Records},
    zero_copy::{
        buffers,
        queue::{self, SendQueue},
        unacknowledged::queued,
    },
};
use crate::metrics::Metrics;

/// The content type of a TLS handshake record, RFC 8446 section 5.1. No HTTP method begins with it.
const TLS_HANDSHAKE: u8 = 0x16;
/// What an HTTP/2 client sends first, RFC 9113 section 3.4.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// How much, and how long, is still read from a client after our last byte: closing with unread bytes makes the
/// kernel reset the connection, and the client may never see the answer (a 405 to an upload, say).
const LINGER_BYTES: usize = 1 << 20;
const LINGER: Duration = Duration::from_secs(1);
/// Room for an ordinary first request, in bytes: hyper, given one in two parts, makes its buffer twice as large for good.
const FIRST_READ: usize = 2048;
/// How many bytes one connection writes before other tasks of its thread have a turn.
const BURST: usize = 256 * 1024;
/// After this part of the stall timeout it is looked at what is queued for a client.
const FIRST_LOOK: u32 = 100;
/// How long TCP waits on a silent connection before it asks whether the peer is there, and between asking again.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);

/// What the first bytes of a client say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Opening {
    Tls,
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
    /// The client left without a word.
    Closed,
}

/// Says that a connection must end with a reset, so that no client can take what it got for a whole. A write that
/// stalled sets it, and so does whoever ends a connection in the middle.
#[derive(Clone, Debug, Default)]
pub(super) struct Broken(Arc<(AtomicBool, AtomicBool)>);

impl Broken {
    pub(super) fn set(&self) {
        self.0.0.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_set(&self) -> bool {
        self.0.0.load(Ordering::Relaxed)
    }

    /// Because of a write that the client did not take.
    fn stalled(&self) {
        self.0.1.store(true, Ordering::Relaxed);
        self.set();
    }

    pub(super) fn is_stalled(&self) -> bool {
        self.0.1.load(Ordering::Relaxed)
    }
}

pub(super) struct Stream {
    tcp: TcpStream,
    /// Read from the socket, not yet by whoever reads from us.
    seen: BytesMut,
    stall: Duration,
    /// Runs while a write is pending.
    blocked: Option<Box<Blocked>>,
    /// Present once a write had to wait.
    pace: Option<Box<Pace>>,
    recipient: Recipient,
    /// We have sent our last byte: how long, and how many bytes, the client may take to send its own.
    linger: Option<(Pin<Box<Sleep>>, usize)>,
    broken: Broken,
    encryption: Encryption,
    /// Cancelled when no new response should begin here.
    worn: CancellationToken,
    /// Parts of files that stand in the buffers to be written.
    lane: Option<SendQueue>,
    corked: bool,
    /// The last write had to wait, so that pages may have left memory meanwhile.
    waited: bool,
    /// They are brought back.
    warming: Option<JoinHandle<()>>,
    /// Bytes written since this task last gave its thread back.
    burst: usize,
}

/// A write that the client keeps waiting.
struct Blocked {
    clock: Pin<Box<Sleep>>,
    since: Instant,
    /// Up to when the pace knows of it.
    told: Instant,
    /// What is queued for the client has been looked at since.
    looked: bool,
}

/// Who encrypts what is written and decrypts what is read.
enum Encryption {
    /// Nobody, or whoever reads and writes here.
    NotHere,
    /// The same, and we look at where records begin and end.
    StallTimed(Records),
    /// The kernel. `closed`: it has sent our close_notify.
    Kernel { closed: bool, allowance: RecordBudget },
}

impl Stream {
    pub(super) fn new(tcp: TcpStream, stall: Duration) -> Stream {
        if let Err(error) = set_options(&tcp, stall) {
            // A socket that was reset meanwhile says so on the first read; without the options it works as well.
            tracing::debug!(%error, "cannot set options of a client's socket");
        }
        Stream {
            tcp,
            seen: BytesMut::new(),
            stall,
            blocked: None,
            pace: None,
            recipient: Recipient::default(),
            linger: None,
            broken: Broken::default(),
            encryption: Encryption::NotHere,
            worn: CancellationToken::new(),
            lane: None,
            corked: false,
            waited: false,
            warming: None,
            burst: 0,
        }
    }

    pub(super) fn broken(&self) -> Broken {
        self.broken.clone()
    }

    /// The client, as far as it takes what is written here.
    pub(super) fn recipient(&self) -> Recipient {
        self.recipient.clone()
    }

    /// Cancelled when the keys of this connection have encrypted enough.
    pub(super) fn worn(&self) -> CancellationToken {
        self.worn.clone()
    }

    /// From now on bodies may push parts of files into this lane.
    pub(super) fn open_lane(&mut self, metrics: Option<Metrics>) -> SendQueue {
        self.lane.get_or_insert_with(|| SendQueue::new(metrics)).clone()
    }

    /// From now on TLS records are read.
    pub(super) fn watch_records(&mut self) {
        self.encryption = Encryption::StallTimed(Records::default());
    }

    /// Whether all that has been taken from the socket was read, and was whole records.
    pub(super) fn is_between_records(&self) -> bool {
        self.seen.is_empty() && matches!(&self.encryption, Encryption::StallTimed(records) if records.is_between())
    }

    /// From now on clear bytes are read and written. `decrypted` is what came before and nobody has read.
    pub(super) fn is_encrypted_by_the_kernel(&mut self, decrypted: &[u8]) {
        self.encryption = Encryption::Kernel { closed: false, allowance: RecordBudget::new() };
        self.seen.extend_from_slice(decrypted);
    }

    pub(super) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.tcp.local_addr()
    }

    /// Reads as little as tells what the client speaks; whoever reads next reads it again. Waits for ever: the
    /// caller has the clock.
    pub(super) async fn opening(&mut self) -> io::Result<Opening> {
        loop {
            if let Some(opening) = classify(&self.seen) {
                return Ok(opening);
            }
            self.seen.reserve(FIRST_READ);
            if self.tcp.read_buf(&mut self.seen).await? == 0 {
                // A client that closes in the middle of a preface has not said anything either.
                return Ok(Opening::Closed);
            }
        }
    }

    /// Answers in clear text, whatever was asked, and closes. Takes at most `limit`.
    pub(super) async fn send_away(mut self, answer: &str, limit: Duration) {
        let goodbye = async {
            self.write_all(answer.as_bytes()).await?;
            self.shutdown().await
        };
        if let Ok(Err(error)) = tokio::time::timeout(limit, goodbye).await {
            tracing::debug!(%error, "a client did not wait for its answer");
        }
    }

    /// Writes what is in memory in front of the first part of a file, or of that part what the socket takes.
    fn poll_write_mixed(
        &mut self,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
        lane: &SendQueue,
    ) -> Poll<io::Result<usize>> {
        let plain = bufs.iter().take_while(|buf| !queue::is_stand_in(buf)).count();
        self.cork(true);
        // kTLS would keep the end of a body back until a full record is together.
        let more = !matches!(self.encryption, Encryption::Kernel { .. });
        loop {
            ready!(self.tcp.poll_write_ready(cx))?;
            let mut written = 0;
            let full = self.tcp.try_io(Interest::WRITABLE, || match bufs.get(plain) {
                Some(buf) if plain == 0 => {
                    let taken = lane.send(buf, &self.tcp, more)?;
                    written = taken.bytes;
                    // Said within this call, so that no news of the socket that comes meanwhile is lost.
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
                        self.broken.set();
                    }
                    return Poll::Ready(Err(error));
                }
                _ if written > 0 => return Poll::Ready(Ok(written)),
                _ => {}
            }
        }
    }

    /// Splicing waits for pages that are not in memory: after a pause they are looked for again, and brought back on
    /// another thread.
    fn poll_warm(&mut self, cx: &mut Context<'_>, lane: &SendQueue) -> Poll<io::Result<()>> {
        if std::mem::take(&mut self.waited)
            && let Some(slice) = lane.cold()
        {
            self.warming = Some(tokio::task::spawn_blocking(move || buffers::warm(&slice)));
        }
        if self.warming.is_some() && !self.client_goes_on() {
            return Poll::Ready(Err(self.too_slow()));
        }
        if let Some(warming) = &mut self.warming {
            // One that failed left the pages where they are: splicing says what is wrong.
            let _ = ready!(Pin::new(warming).poll(cx));
            self.warming = None;
        }
        Poll::Ready(Ok(()))
    }

    /// What stands for a part of a file is never written as the zeroes it is.
    fn refuse_stand_ins(&self, bufs: &[IoSlice<'_>]) -> io::Result<()> {
        if self.lane.is_some() && bufs.iter().any(|buf| queue::is_stand_in(buf)) {
            self.broken.set();
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a buffer stands for no part of a file"));
        }
        Ok(())
    }

    /// Lets the kernel wait for full segments while a head and parts of files are written by turns, and no longer.
    fn cork(&mut self, corked: bool) {
        if self.corked != corked {
            self.corked = corked;
            if let Err(error) = rustix::net::sockopt::set_tcp_cork(&self.tcp, corked) {
                // The connection is gone, and says so itself.
                tracing::debug!(%error, "cannot set options of a client's socket");
            }
        }
    }

    /// Where the kernel encrypts: says that nothing follows, unless what went before was not a whole.
    fn poll_close_notify(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Encryption::Kernel { closed: closed @ false, .. } = &mut self.encryption else {
            return Poll::Ready(Ok(()));
        };
        if !self.broken.is_set() {
            loop {
                ready!(self.tcp.poll_write_ready(cx))?;
                match self.tcp.try_io(Interest::WRITABLE, || kernel::close_notify(&self.tcp)) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => return Poll::Ready(Err(error)),
                    Ok(()) => break,
                }
            }
        }
        *closed = true;
        Poll::Ready(Ok(()))
    }

    /// Reads from the socket. Where the kernel decrypts it refuses to hand out what is not data: an alert, which is
    /// the client's end, or a wish for new keys, which cannot be met.
    fn poll_receive(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match ready!(Pin::new(&mut self.tcp).poll_read(cx, buf)) {
            Err(error)
                if matches!(self.encryption, Encryption::Kernel { .. })
                    && Errno::from_io_error(&error) == Some(Errno::IO) =>
            {
                Poll::Ready(Ok(()))
            }
            result => {
                self.note_timeout(&result);
                Poll::Ready(result)
            }
        }
    }

    /// Reads what has been seen before, then from the socket.
    fn poll_next(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.seen.is_empty() {
            return self.poll_receive(cx, buf);
        }
        let n = self.seen.len().min(buf.remaining());
        buf.put_slice(&self.seen[..n]);
        self.seen.advance(n);
        if self.seen.is_empty() {
            // The memory is not needed for the rest of the connection.
            self.seen = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }

    /// Gives the thread back after [`BURST`] bytes, for the sake of the other clients on it.
    fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.burst < BURST {
            return Poll::Ready(());
        }
        self.burst = 0;
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// The kernel gave up what the client did not take, as it is told to (`TCP_USER_TIMEOUT`), before the clock here did.
    fn note_timeout<T>(&self, result: &io::Result<T>) {
        if self.blocked.is_some() && result.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::TimedOut) {
            self.broken.stalled();
        }
    }

    /// Lets a write through, and bounds how long it may stay pending.
    fn timed(&mut self, cx: &mut Context<'_>, write: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(written) = &write {
            self.note_timeout(written);
            let written = written.as_ref().map_or(0, |written| *written);
            self.recipient.meter.took(written as u64);
            if let Some(pace) = &mut self.pace {
                pace.took(written);
                if !self.client_goes_on() {
                    return Poll::Ready(Err(self.too_slow()));
                }
            }
            self.burst += written;
            if let Encryption::Kernel { allowance, .. } = &mut self.encryption
                && !allowance.spend(written)
            {
                self.worn.cancel();
            }
            return write;
        }
        self.burst = 0;
        self.waited = true;
        let stall = self.stall;
        let pace = self.pace.get_or_insert_with(|| Box::new(Pace::new(stall)));
        let left = pace.left();
        let blocked = self.blocked.get_or_insert_with(|| {
            let now = Instant::now();
            self.recipient.meter.waits();
            let clock = Box::pin(tokio::time::sleep((stall / FIRST_LOOK).min(left)));
            Box::new(Blocked { clock, since: now, told: now, looked: false })
        });
        loop {
            ready!(blocked.clock.as_mut().poll(cx));
            let now = Instant::now();
            let queued = queued(&self.tcp);
            // Our kernel may take nothing for long of one that takes something from it.
            if queued.is_some_and(|queued| pace.look(queued)) && blocked.looked {
                blocked.since = now;
            }
            blocked.looked = true;
            let goes_on = pace.waited(now - blocked.told, || queued);
            blocked.told = now;
            let still = now - blocked.since;
            if !goes_on || still >= stall {
                return Poll::Ready(Err(self.too_slow()));
            }
            blocked.clock.as_mut().reset(now + pace.left().min(stall - still));
        }
    }

    /// The client is not waited for any more; whether it took enough.
    fn client_goes_on(&mut self) -> bool {
        let (Some(pace), Some(blocked)) = (&mut self.pace, self.blocked.take()) else { return true };
        self.recipient.meter.goes_on();
        pace.waited(blocked.told.elapsed(), || queued(&self.tcp))
    }

    fn too_slow(&self) -> io::Error {
        self.broken.stalled();
        io::Error::new(io::ErrorKind::TimedOut, "the client takes too little of its response")
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if self.broken.is_set() {
            // Nothing can be done when this fails, and the connection closes either way.
            let _ = self.tcp.set_zero_linger();
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(self.poll_next(cx, buf))?;
        if let Encryption::StallTimed(records) = &mut self.encryption {
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
        self.refuse_stand_ins(&[IoSlice::new(buf)])?;
        ready!(self.poll_turn(cx));
        let write = Pin::new(&mut self.tcp).poll_write(cx, buf);
        self.timed(cx, write)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_turn(cx));
        let lane = self.lane.clone().filter(|lane| !lane.is_empty());
        if let Some(lane) = &lane
            && bufs.first().is_some_and(|buf| queue::is_stand_in(buf))
        {
            // Before the clock of the client looks: it is our disk that is waited for.
            ready!(self.poll_warm(cx, lane))?;
        }
        let write = match lane {
            Some(lane) => self.poll_write_mixed(cx, bufs, &lane),
            None => {
                self.refuse_stand_ins(bufs)?;
                Pin::new(&mut self.tcp).poll_write_vectored(cx, bufs)
            }
        };
        self.timed(cx, write)
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.lane.as_ref().is_some_and(|lane| !lane.is_empty()) {
            // All buffers were written, and those that stand for these parts were not among them: they were copied.
            self.broken.set();
            return Poll::Ready(Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "a part of a file was written as zeroes",
            )));
        }
        if self.lane.as_ref().is_none_or(|lane| !lane.goes_on()) {
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
            // An error is as good as the client's own end: nobody is there who could miss our answer.
            if ready!(Pin::new(&mut stream.tcp).poll_read(cx, &mut sink)).is_err() || sink.filled().is_empty() {
                break;
            }
            *left = left.saturating_sub(sink.filled().len());
        }
        Poll::Ready(Ok(()))
    }
}

/// `None` while more bytes are needed; never more than the preface's 24.
fn classify(seen: &[u8]) -> Option<Opening> {
    match seen {
        [] => None,
        [TLS_HANDSHAKE, ..] => Some(Opening::Tls),
        _ if seen.starts_with(PREFACE) => Some(Opening::Http2),
        // `P` may go on as `PUT`, `PRI` as anything.
        _ if PREFACE.starts_with(seen) => None,
        _ => Some(Opening::Http1),
    }
}

fn set_options(tcp: &TcpStream, stall: Duration) -> io::Result<()> {
    use rustix::net::sockopt;
    tcp.set_nodelay(true)?;
    sockopt::set_socket_keepalive(tcp, true)?;
    sockopt::set_tcp_keepidle(tcp, KEEPALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(tcp, KEEPALIVE_INTERVAL)?;
    // What the kernel has taken of a response and the client has not: the same limit, kept by the kernel (tcp(7)).
    #[cfg(target_os = "linux")]
    sockopt::set_tcp_user_timeout(tcp, u32::try_from(stall.as_millis()).unwrap_or(u32::MAX))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file_slice::FileSlice;

    #[test]
    fn the_first_bytes_tell_what_a_client_speaks() {
        for (seen, opening) in [
            (&b""[..], None),
            (b"\x16", Some(Opening::Tls)),
            (b"\x16\x03\x01", Some(Opening::Tls)),
            (b"G", Some(Opening::Http1)),
            (b"P", None),
            (b"PU", Some(Opening::Http1)),
            (b"PR", None),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r", None),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Some(Opening::Http2)),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0", Some(Opening::Http2)),
            (b"PRI * HTTP/1.1\r\n", Some(Opening::Http1)),
            (b"\x00", Some(Opening::Http1)),
            (b"\x80\x2e", Some(Opening::Http1)),
        ] {
            assert_eq!(classify(seen), opening, "{seen:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_byte_now_and_then_is_no_progress() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        for (bytes, expected) in [(1, Err(io::ErrorKind::TimedOut)), (120 * 1024, Ok(()))] {
            let mut stream = Stream::new(TcpStream::connect(address).await.unwrap(), Duration::from_secs(120));
            let mut write = async |result: Poll<io::Result<usize>>| {
                let mut result = Some(result);
                std::future::poll_fn(|cx| match stream.timed(cx, result.take().unwrap_or(Poll::Pending)) {
                    // What the client does not take meanwhile.
                    Poll::Pending => Poll::Ready(Ok(())),
                    Poll::Ready(written) => Poll::Ready(written.map(drop).map_err(|error| error.kind())),
                })
                .await
            };
            assert_eq!(write(Poll::Pending).await, Ok(()));
            tokio::time::advance(Duration::from_secs(2)).await;
            assert_eq!(write(Poll::Pending).await, Ok(()));
            tokio::time::advance(Duration::from_secs(100)).await;
            assert_eq!(write(Poll::Ready(Ok(bytes))).await, Ok(()));
            assert_eq!(write(Poll::Pending).await, Ok(()));
            tokio::time::advance(Duration::from_secs(21)).await;
            assert_eq!(write(Poll::Pending).await, expected, "{bytes}");
            assert_eq!(stream.broken.is_stalled(), expected.is_err());
        }
    }

    #[tokio::test]
    async fn what_stands_for_a_part_of_a_file_is_never_written_as_it_is() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let other = SendQueue::new(None);
        let slice = FileSlice { file: Arc::new(tempfile::tempfile().unwrap()), offset: 0, len: 100 };
        let stand_in = other.push(slice, None, false);
        for vectored in [false, true] {
            let tcp = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let mut theirs = listener.accept().await.unwrap().0;
            let mut stream = Stream::new(tcp, Duration::from_secs(60));
            stream.open_lane(None);
            let written = if vectored {
                stream.write_vectored(&[IoSlice::new(b"head"), IoSlice::new(&stand_in)]).await
            } else {
                stream.write(&stand_in).await
            };
            assert_eq!(written.unwrap_err().kind(), io::ErrorKind::InvalidData);
            assert!(stream.broken.is_set() && !stream.broken.is_stalled());
            drop(stream);
            let mut arrived = Vec::new();
            assert!(theirs.read_to_end(&mut arrived).await.is_err(), "it is reset");
            assert!(arrived.is_empty());
        }
    }

    #[tokio::test]
    async fn a_stand_in_that_was_copied_breaks_the_connection() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let tcp = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let mut theirs = listener.accept().await.unwrap().0;
        let mut stream = Stream::new(tcp, Duration::from_secs(60));
        let lane = stream.open_lane(None);
        stream.flush().await.unwrap();
        let file = tempfile::tempfile().unwrap();
        file.set_len(100).unwrap();
        let copy = lane.push(FileSlice { file: Arc::new(file), offset: 0, len: 100 }, None, false).to_vec();
        stream.write_all(&copy).await.unwrap();
        assert_eq!(stream.flush().await.unwrap_err().kind(), io::ErrorKind::InvalidData);
        drop(stream);
        let mut arrived = Vec::new();
        assert!(theirs.read_to_end(&mut arrived).await.is_err(), "it is reset");
    }
}
