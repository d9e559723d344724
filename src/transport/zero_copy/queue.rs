//! Sends parts of files from the page cache to an HTTP/1 connection, without a copy through user space.
//!
//! hyper's HTTP/1 writer queues the buffers of a body as they are, never reads them, and hands them in order to the connection's
//! `poll_write_vectored`. So a body [pushes](SendQueue::push) a part of a file into the queue of its connection, and gives hyper
//! a [placeholder] of the same length. When the placeholder is to be written, the connection
//! [sends](SendQueue::send) the part at the head of the queue instead. Framing, keep-alive, pipelining and back-pressure are
//! hyper's.
//!
//! What must hold: the zeroes of a placeholder are never sent. Where a placeholder begins is its sequence number; unless that
//! and the length agree with the head of the queue, the connection is broken. Only a connection with a queue gets parts, and
//! only [`super::super::socket::Stream`] writes for such a connection.

use std::{
    any::Any,
    collections::VecDeque,
    fmt, io,
    os::fd::AsFd,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::{Mutex, MutexGuard};

use bytes::Bytes;
use rustix::io::Errno;

use super::{
    page_cache::{Presence, presence, truncated},
    placeholder::{self, MAX_PART, SEQUENCES},
    splice::{self, Failed, Taken},
};
use crate::{file_slice::FileSlice, metrics::Metrics};

/// The least that the socket is offered, in bytes: one segment as the kernel makes them for its network card.
const MIN_OFFER: usize = 64 * 1024;
/// For how long a part counts as being in memory where the kernel cannot tell. Pages that were just read are the last that a
/// kernel evicts; to find one evicted all the same, the thread of a connection would wait for the disk once.
const SEEN_FOR: Duration = Duration::from_secs(1);

/// The parts of files that one connection is to send, in the order of their buffers.
#[derive(Clone, Default)]
pub struct SendQueue(Arc<QueueInner>);

impl fmt::Debug for SendQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SendQueue").field(&self.0.waiting).finish()
    }
}

#[derive(Default)]
struct QueueInner {
    parts: Mutex<QueuedParts>,
    /// The number of parts, to be read without the lock.
    waiting: AtomicUsize,
    /// The body has the next part ready.
    has_next: AtomicBool,
    /// Absent on listeners without metrics.
    metrics: Option<Metrics>,
}

struct QueuedParts {
    queue: VecDeque<QueuedPart>,
    next_sequence: usize,
    /// How many bytes the socket is offered at a time.
    offer: usize,
}

impl Default for QueuedParts {
    fn default() -> Self {
        Self { queue: VecDeque::new(), next_sequence: 0, offer: splice::CAPACITY }
    }
}

struct QueuedPart {
    sequence: usize,
    /// How many of its bytes were sent.
    sent: usize,
    slice: FileSlice,
    /// When it was last known to be in memory.
    seen: Instant,
    _keep_alive: Option<KeepAlive>,
}

/// Keeps what a part of a file belongs to, for example its place in a cache. The queue only drops it, once the part is sent.
pub(crate) type KeepAlive = Box<dyn Any + Send>;

impl SendQueue {
    pub(crate) fn new(metrics: Option<Metrics>) -> Self {
        Self(Arc::new(QueueInner { metrics, ..QueueInner::default() }))
    }

    /// Queues a part that is in memory, of at most [`MAX_PART`] bytes, and gives its placeholder. `has_next`: another part follows at once.
    pub(crate) fn push(&self, slice: FileSlice, keep_alive: Option<KeepAlive>, has_next: bool) -> Bytes {
        self.0.has_next.store(has_next, Ordering::Relaxed);
        let len = slice.len.min(MAX_PART) as usize;
        let slice = FileSlice { len: len as u64, ..slice };
        let mut parts = self.parts();
        let sequence = parts.next_sequence;
        parts.next_sequence = (sequence + 1) % SEQUENCES;
        parts.queue.push_back(QueuedPart { sequence, sent: 0, slice, seen: Instant::now(), _keep_alive: keep_alive });
        self.0.waiting.store(parts.queue.len(), Ordering::Relaxed);
        placeholder::placeholder(sequence, len)
    }

    /// Whether no part is left to be sent.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.waiting.load(Ordering::Relaxed) == 0
    }

    /// The slice to be sent next, if it is no longer in memory, or if that is not known any more.
    pub(crate) fn evicted(&self) -> Option<FileSlice> {
        self.evicted_at(Instant::now())
    }

    fn evicted_at(&self, now: Instant) -> Option<FileSlice> {
        let parts = self.parts();
        let part = parts.queue.front()?;
        let (offset, rest) = (part.slice.offset + part.sent as u64, part.slice.len - part.sent as u64);
        let next = rest.min(parts.offer as u64);
        let len = match presence(&part.slice.file, offset, next) {
            // `send` finds and reports an error again.
            Ok(Presence::InMemory) | Err(_) => return None,
            Ok(Presence::OnDisk) => next,
            Ok(Presence::Untold) if now.saturating_duration_since(part.seen) < SEEN_FOR => return None,
            Ok(Presence::Untold) => rest,
        };
        Some(FileSlice { file: part.slice.file.clone(), offset, len })
    }

    /// The slice that was [evicted](Self::evicted) is loaded.
    pub(crate) fn note_loaded(&self) {
        if let Some(part) = self.parts().queue.front_mut() {
            part.seen = Instant::now();
        }
    }

    /// Whether the kernel should hold back the last segment for the part that follows.
    pub(crate) fn has_next(&self) -> bool {
        self.0.has_next.load(Ordering::Relaxed)
    }

    /// The body has to wait for its next part.
    pub(crate) fn pause(&self) {
        self.0.has_next.store(false, Ordering::Relaxed);
    }

    /// Sends as much as the socket takes of the part at the head, which `buffer` must stand for. `more`: the socket may wait for
    /// more bytes.
    ///
    /// # Errors
    ///
    /// The socket's and the file's; `UnexpectedEof` when the file is shorter than it was; `InvalidData` when `buffer`
    /// stands for something else.
    pub(crate) fn send(&self, buffer: &[u8], socket: impl AsFd, more: bool) -> io::Result<Taken> {
        let parts = &mut *self.parts();
        let Some(part) = parts.queue.front_mut().filter(|part| part.is_of(buffer)) else {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a buffer stands for no part of a file"));
        };
        let len = buffer.len().min(parts.offer);
        let taken = match splice::send(&part.slice.file, part.slice.offset + part.sent as u64, len, socket, more) {
            Ok(taken) if taken.ended => return Err(reported(truncated())),
            Ok(taken) => taken,
            Err(Failed::File(error)) => return Err(reported(of_file(error))),
            Err(Failed::Socket(error)) => return Err(error.into()),
        };
        if let Some(metrics) = &self.0.metrics {
            metrics.sent_by_kernel(taken.bytes);
        }
        parts.offer = next_offer(parts.offer, taken);
        part.sent += taken.bytes;
        if part.sent as u64 >= part.slice.len {
            parts.queue.pop_front();
            self.0.waiting.store(parts.queue.len(), Ordering::Relaxed);
        }
        Ok(taken)
    }

    fn parts(&self) -> MutexGuard<'_, QueuedParts> {
        self.0.parts.lock()
    }
}

impl QueuedPart {
    fn is_of(&self, buffer: &[u8]) -> bool {
        placeholder::continues(buffer, self.sequence, self.sent) && (self.sent + buffer.len()) as u64 == self.slice.len
    }
}

/// How much to offer the socket next: about as much as it took, since splicing the rest would be wasted.
fn next_offer(offered: usize, taken: Taken) -> usize {
    if taken.full { taken.bytes.next_multiple_of(MIN_OFFER) } else { offered * 2 }.clamp(MIN_OFFER, splice::CAPACITY)
}

/// Logs an error: the body is done with this part, so the access log may not have it.
fn reported(error: io::Error) -> io::Error {
    tracing::error!(%error, "a cached blob cannot be sent: its connection is broken");
    error
}

/// Never `WouldBlock` because of a file: the connection would wait for its socket instead.
fn of_file(error: Errno) -> io::Error {
    if error == Errno::AGAIN { Errno::IO.into() } else { error.into() }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        os::unix::net::UnixStream,
    };

    use super::*;

    #[test]
    fn what_a_file_says_is_never_taken_for_a_full_socket() {
        for errno in [Errno::AGAIN, Errno::WOULDBLOCK, Errno::IO, Errno::INVAL, Errno::STALE] {
            assert_ne!(of_file(errno).kind(), io::ErrorKind::WouldBlock, "{errno:?}");
        }
    }

    fn slice(content: &[u8]) -> FileSlice {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(content).unwrap();
        FileSlice { file: Arc::new(file), offset: 0, len: content.len() as u64 }
    }

    fn pair() -> (UnixStream, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        (ours, theirs)
    }

    fn kind(result: io::Result<Taken>) -> Option<io::ErrorKind> {
        result.err().map(|error| error.kind())
    }

    #[test]
    fn parts_are_sent_in_the_order_of_their_buffers() {
        let (ours, mut theirs) = pair();
        let queue = SendQueue::default();
        assert!(queue.is_empty());
        let buffers: Vec<Bytes> =
            [&b"first"[..], b"second", b"third"].map(|content| queue.push(slice(content), None, false)).into();
        for buffer in &buffers {
            assert!(placeholder::is_placeholder(buffer) && !queue.is_empty());
            assert_eq!(queue.send(buffer, &ours, true).unwrap().bytes, buffer.len());
        }
        assert!(queue.is_empty());
        drop(ours);
        let mut arrived = String::new();
        theirs.read_to_string(&mut arrived).unwrap();
        assert_eq!(arrived, "firstsecondthird");
    }

    #[test]
    fn a_buffer_that_is_not_the_head_of_the_queue_sends_nothing() {
        let (ours, mut theirs) = pair();
        let queue = SendQueue::default();
        let first = queue.push(slice(b"as long"), None, false);
        let second = queue.push(slice(b"as long"), None, false);
        for wrong in [&second[..], &first[..3], &first[1..], b"as long"] {
            assert_eq!(kind(queue.send(wrong, &ours, true)), Some(io::ErrorKind::InvalidData));
        }
        assert_eq!(queue.send(&first, &ours, true).unwrap().bytes, 7);
        assert_eq!(kind(queue.send(&first, &ours, true)), Some(io::ErrorKind::InvalidData), "it is gone");
        assert_eq!(queue.send(&second, &ours, true).unwrap().bytes, 7);
        assert_eq!(kind(queue.send(&second, &ours, true)), Some(io::ErrorKind::InvalidData), "the queue is empty");
        drop(ours);
        let mut arrived = String::new();
        theirs.read_to_string(&mut arrived).unwrap();
        assert_eq!(arrived, "as longas long");
    }

    #[test]
    fn sequence_numbers_wrap_around() {
        let (ours, mut theirs) = pair();
        let queue = SendQueue::default();
        for sequence in 0..2 * SEQUENCES + 3 {
            let buffer = queue.push(slice(b"x"), None, false);
            assert_eq!(queue.send(&buffer, &ours, true).unwrap().bytes, 1, "sequence {sequence}");
            theirs.read_exact(&mut [0]).unwrap();
        }
    }

    #[test]
    fn a_long_slice_is_pushed_up_to_the_longest_part() {
        let queue = SendQueue::default();
        let long = FileSlice { len: 3 * MAX_PART, ..slice(b"") };
        assert_eq!(queue.push(long, None, true).len() as u64, MAX_PART);
        assert!(queue.has_next());
        queue.pause();
        assert!(!queue.has_next());
    }

    #[test]
    fn a_file_that_was_cut_is_an_error() {
        let (ours, _theirs) = pair();
        let queue = SendQueue::default();
        let part = slice(&[7; 100_000]);
        let buffer = queue.push(part.clone(), None, false);
        part.file.set_len(50_000).unwrap();
        let sent = queue.send(&buffer, &ours, true).unwrap();
        assert_eq!(sent, Taken { bytes: 50_000, full: false, ended: false });
        assert_eq!(kind(queue.send(&buffer[sent.bytes..], &ours, true)), Some(io::ErrorKind::UnexpectedEof));
        assert_eq!(presence(&part.file, 0, 50_000).unwrap(), Presence::InMemory);
        assert_eq!(presence(&part.file, 0, 50_001).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn the_offer_follows_what_the_socket_takes() {
        let taken = |bytes, full| Taken { bytes, full, ended: false };
        for (offered, taken, next) in [
            (splice::CAPACITY, taken(splice::CAPACITY, false), splice::CAPACITY),
            (splice::CAPACITY, taken(100_000, true), 2 * MIN_OFFER),
            (2 * MIN_OFFER, taken(2 * MIN_OFFER, false), 4 * MIN_OFFER),
            (2 * MIN_OFFER, taken(0, true), MIN_OFFER),
            (MIN_OFFER, taken(10, false), 2 * MIN_OFFER),
        ] {
            assert_eq!(next_offer(offered, taken), next, "{offered} {taken:?}");
        }
    }

    #[test]
    fn pages_evicted_while_a_part_waits_are_read_again() {
        let queue = SendQueue::default();
        let part = slice(&vec![7; splice::CAPACITY]);
        drop(queue.push(part.clone(), None, false));
        assert!(queue.evicted().is_none());
        part.file.sync_all().unwrap();
        rustix::fs::fadvise(&part.file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
        let cold = queue.evicted().unwrap();
        assert_eq!((cold.offset, cold.len), (0, part.len));
        super::super::page_cache::load(&cold);
        assert!(queue.evicted().is_none());
    }

    #[test]
    fn a_part_the_kernel_is_silent_about_is_loaded_again() {
        // procfs refuses RWF_NOWAIT, as overlayfs does.
        let file = Arc::new(std::fs::File::open("/proc/cpuinfo").unwrap());
        let queue = SendQueue::default();
        drop(queue.push(FileSlice { file, offset: 10, len: 100 }, None, false));
        let later = |queue: &SendQueue| queue.evicted_at(Instant::now() + SEEN_FOR);
        assert!(queue.evicted_at(Instant::now() - SEEN_FOR).is_none(), "it was just seen");
        let rest = later(&queue).unwrap();
        assert_eq!((rest.offset, rest.len), (10, 100));
        let pushed = queue.parts().queue[0].seen;
        queue.note_loaded();
        assert!(queue.evicted_at(pushed + SEEN_FOR).is_none(), "it was seen again");
    }
}
