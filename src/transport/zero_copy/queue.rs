//! Blobs from the page cache to a clear HTTP/1 connection without passing through user space.
//!
//! hyper's HTTP/1 writer queues the buffers of a body as they are, never looks into them, and hands them in order to
//! the connection's `poll_write_vectored`. So a body that has a part of a file to send [pushes](SendQueue::push) it into its
//! connection's lane, and gives hyper a buffer of the same length out of the *stand-in*: memory that nobody ever reads.
//! When that buffer is to be written, the connection [sends](SendQueue::send) the part at the head of the lane instead.
//! Framing, keep-alive, pipelining and back-pressure stay hyper's.
//!
//! What must hold: the stand-in's zeroes are never sent in a blob's place. Where in the stand-in a buffer begins says
//! whose turn it is; unless that and the length agree with the head of the lane, the connection is broken. Only a
//! connection that was given a lane has one to push into, and only [`super::super::socket::Stream`] writes for such a one.

use std::{
    any::Any,
    collections::VecDeque,
    fmt,
    fs::File,
    io::{self, IoSliceMut},
    os::fd::AsFd,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use parking_lot::{Mutex, MutexGuard};

use bytes::Bytes;
use rustix::io::{Errno, ReadWriteFlags};

use super::splice::{self, Failed, Taken};
use crate::{file_slice::FileSlice, metrics::Metrics};

/// The longest part that is pushed at a time, in bytes.
pub(crate) const LONGEST: u64 = 2 * 1024 * 1024;
/// How many turns are told apart; a connection has a few parts in its lane at most.
const TURNS: usize = 1024;
/// Every so many bytes of a file one byte is asked for, to see whether its pages are in memory. Page caches fill and
/// empty by read-ahead windows and large folios, seldom by the page.
const SAMPLE: u64 = 256 * 1024;
/// The least that a socket is offered, in bytes: one segment as the kernel makes them for its network card.
const LEAST: usize = 64 * 1024;

/// Allocated zeroed, so that the kernel gives address space and, as nobody touches it, no memory.
static PLACEHOLDER: LazyLock<&'static [u8]> = LazyLock::new(|| Box::leak(vec![0; LONGEST as usize + TURNS].into()));

/// The parts of files that one connection is to send, in the order of their buffers.
#[derive(Clone, Default)]
pub struct SendQueue(Arc<QueueInner>);

impl fmt::Debug for SendQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Lane").field(&self.0.waiting).finish()
    }
}

#[derive(Default)]
struct QueueInner {
    parts: Mutex<PlaceholderRanges>,
    /// How many parts there are, for a look without the lock.
    waiting: AtomicUsize,
    /// The body has the next part at hand.
    goes_on: AtomicBool,
    /// Absent where nobody counts.
    metrics: Option<Metrics>,
}

struct PlaceholderRanges {
    queue: VecDeque<PlaceholderRange>,
    next_turn: usize,
    /// How much the socket is offered at a time, in bytes.
    appetite: usize,
}

impl Default for PlaceholderRanges {
    fn default() -> Self {
        Self { queue: VecDeque::new(), next_turn: 0, appetite: splice::CAPACITY }
    }
}

struct PlaceholderRange {
    turn: usize,
    /// How many of its bytes are gone.
    sent: usize,
    slice: FileSlice,
    _keep_alive: Option<KeepAlive>,
}

/// Keeps what a part of a file belongs to, for example its place in a cache. The queue only drops it, once the part is sent.
pub(crate) type KeepAlive = Box<dyn Any + Send>;

impl SendQueue {
    pub(crate) fn new(metrics: Option<Metrics>) -> Self {
        Self(Arc::new(QueueInner { metrics, ..QueueInner::default() }))
    }

    /// Queues a part of at most [`LONGEST`] bytes, and gives the buffer that stands for it. `goes_on`: another follows
    /// at once.
    pub(crate) fn push(&self, slice: FileSlice, keep_alive: Option<KeepAlive>, goes_on: bool) -> Bytes {
        self.0.goes_on.store(goes_on, Ordering::Relaxed);
        let len = slice.len.min(LONGEST) as usize;
        let slice = FileSlice { len: len as u64, ..slice };
        let mut parts = self.parts();
        let turn = parts.next_turn;
        parts.next_turn = (turn + 1) % TURNS;
        parts.queue.push_back(PlaceholderRange { turn, sent: 0, slice, _keep_alive: keep_alive });
        self.0.waiting.store(parts.queue.len(), Ordering::Relaxed);
        Bytes::from_static(&PLACEHOLDER[turn..turn + len])
    }

    /// Whether anything is to be sent.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.waiting.load(Ordering::Relaxed) == 0
    }

    /// What is to be sent next, if it is no longer in memory.
    pub(crate) fn cold(&self) -> Option<FileSlice> {
        let parts = self.parts();
        let part = parts.queue.front()?;
        let offset = part.slice.offset + part.sent as u64;
        let len = (part.slice.len - part.sent as u64).min(parts.appetite as u64);
        // An error is found again, and told, by whoever sends.
        let is_cold = matches!(is_in_memory(&part.slice.file, offset, len), Ok(false));
        is_cold.then(|| FileSlice { file: part.slice.file.clone(), offset, len })
    }

    /// Whether what was sent last is worth holding back until more comes.
    pub(crate) fn goes_on(&self) -> bool {
        self.0.goes_on.load(Ordering::Relaxed)
    }

    /// The body has to wait.
    pub(crate) fn pause(&self) {
        self.0.goes_on.store(false, Ordering::Relaxed);
    }

    /// Sends of the part at the head, for which `buffer` stands, what the socket takes. `more`: it may wait for more
    /// before that leaves.
    ///
    /// # Errors
    ///
    /// The socket's and the file's; `UnexpectedEof` when the file is shorter than it was; `InvalidData` when `buffer`
    /// stands for something else.
    pub(crate) fn send(&self, buffer: &[u8], socket: impl AsFd, more: bool) -> io::Result<Taken> {
        let parts = &mut *self.parts();
        let Some(part) = parts.queue.front_mut().filter(|part| part.is_meant_by(buffer)) else {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a buffer stands for no part of a file"));
        };
        let len = buffer.len().min(parts.appetite);
        let taken = match splice::send(&part.slice.file, part.slice.offset + part.sent as u64, len, socket, more) {
            Ok(taken) if taken.ended => return Err(reported(cut())),
            Ok(taken) => taken,
            Err(Failed::File(error)) => return Err(reported(of_file(error))),
            Err(Failed::Socket(error)) => return Err(error.into()),
        };
        if let Some(metrics) = &self.0.metrics {
            metrics.sent_by_kernel(taken.bytes);
        }
        parts.appetite = appetite(parts.appetite, taken);
        part.sent += taken.bytes;
        if part.sent as u64 >= part.slice.len {
            parts.queue.pop_front();
            self.0.waiting.store(parts.queue.len(), Ordering::Relaxed);
        }
        Ok(taken)
    }

    fn parts(&self) -> MutexGuard<'_, PlaceholderRanges> {
        self.0.parts.lock()
    }
}

impl PlaceholderRange {
    fn is_meant_by(&self, buffer: &[u8]) -> bool {
        buffer.as_ptr().addr() == PLACEHOLDER.as_ptr().addr() + self.turn + self.sent
            && (self.sent + buffer.len()) as u64 == self.slice.len
    }
}

/// How much to offer the socket next: about what it takes, since the rest would be for nothing.
fn appetite(offered: usize, taken: Taken) -> usize {
    if taken.full { taken.bytes.next_multiple_of(LEAST) } else { offered * 2 }.clamp(LEAST, splice::CAPACITY)
}

/// The body is done with this part, so its request's line in the log may not tell.
fn reported(error: io::Error) -> io::Error {
    tracing::error!(%error, "a cached blob cannot be sent: its connection is broken");
    error
}

/// What a file says is never that it will say more later: the socket would be waited for, which has nothing to tell.
fn of_file(error: Errno) -> io::Error {
    if error == Errno::AGAIN { Errno::IO.into() } else { error.into() }
}

fn cut() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "a cached file was cut")
}

/// A buffer like those of [`SendQueue::push`], that stands for nothing.
pub(crate) fn sample_stand_in(len: usize) -> Bytes {
    Bytes::from_static(&PLACEHOLDER[..len.min(PLACEHOLDER.len())])
}

/// Whether a buffer is one that [`SendQueue::push`] gave, or the rest of one.
pub(crate) fn is_stand_in(buffer: &[u8]) -> bool {
    PLACEHOLDER.as_ptr_range().contains(&buffer.as_ptr())
}

/// Whether a part of a file is in memory, as far as samples tell, so that sending it does not wait for the disk.
///
/// # Errors
///
/// `UnexpectedEof` when the file ends before the part does; what reading gives. A file system that cannot say without
/// waiting is one where nothing is in memory.
pub(crate) fn is_in_memory(file: &File, offset: u64, len: u64) -> io::Result<bool> {
    let last = offset + len.saturating_sub(1);
    let samples = (offset..last).step_by(SAMPLE as usize).chain([last]);
    for sample in samples {
        let mut byte = [0];
        match read_now(file, &mut byte, sample)? {
            Some(0) => return Err(cut()),
            Some(_) => {}
            None => return Ok(false),
        }
    }
    Ok(true)
}

/// Reads what is in memory of a file; `None` when the disk, or an older kernel, would have to be waited for.
///
/// Source: preadv2(2), RWF_NOWAIT.
pub(crate) fn read_now(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<Option<usize>> {
    loop {
        return match rustix::io::preadv2(file, &mut [IoSliceMut::new(buffer)], offset, ReadWriteFlags::NOWAIT) {
            Ok(read) => Ok(Some(read)),
            Err(Errno::INTR) => continue,
            Err(Errno::AGAIN | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => Ok(None),
            Err(error) => Err(error.into()),
        };
    }
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
        let lane = SendQueue::default();
        assert!(lane.is_empty());
        let buffers: Vec<Bytes> =
            [&b"first"[..], b"second", b"third"].map(|content| lane.push(slice(content), None, false)).into();
        for buffer in &buffers {
            assert!(is_stand_in(buffer) && !lane.is_empty());
            assert_eq!(lane.send(buffer, &ours, true).unwrap().bytes, buffer.len());
        }
        assert!(lane.is_empty());
        drop(ours);
        let mut arrived = String::new();
        theirs.read_to_string(&mut arrived).unwrap();
        assert_eq!(arrived, "firstsecondthird");
    }

    #[test]
    fn nothing_is_sent_for_a_buffer_that_does_not_stand_for_the_head_of_the_lane() {
        let (ours, mut theirs) = pair();
        let lane = SendQueue::default();
        let first = lane.push(slice(b"as long"), None, false);
        let second = lane.push(slice(b"as long"), None, false);
        for wrong in [&second[..], &first[..3], &first[1..], b"as long"] {
            assert_eq!(kind(lane.send(wrong, &ours, true)), Some(io::ErrorKind::InvalidData));
        }
        assert_eq!(lane.send(&first, &ours, true).unwrap().bytes, 7);
        assert_eq!(kind(lane.send(&first, &ours, true)), Some(io::ErrorKind::InvalidData), "it is gone");
        assert_eq!(lane.send(&second, &ours, true).unwrap().bytes, 7);
        assert_eq!(kind(lane.send(&second, &ours, true)), Some(io::ErrorKind::InvalidData), "the lane is empty");
        drop(ours);
        let mut arrived = String::new();
        theirs.read_to_string(&mut arrived).unwrap();
        assert_eq!(arrived, "as longas long");
    }

    #[test]
    fn turns_go_round() {
        let (ours, mut theirs) = pair();
        let lane = SendQueue::default();
        for turn in 0..2 * TURNS + 3 {
            let buffer = lane.push(slice(b"x"), None, false);
            assert_eq!(lane.send(&buffer, &ours, true).unwrap().bytes, 1, "turn {turn}");
            theirs.read_exact(&mut [0]).unwrap();
        }
    }

    #[test]
    fn a_long_slice_is_pushed_up_to_the_longest_part() {
        let lane = SendQueue::default();
        let long = FileSlice { len: 3 * LONGEST, ..slice(b"") };
        assert_eq!(lane.push(long, None, true).len() as u64, LONGEST);
        assert!(lane.goes_on());
        lane.pause();
        assert!(!lane.goes_on());
    }

    #[test]
    fn a_file_that_was_cut_is_an_error() {
        let (ours, _theirs) = pair();
        let lane = SendQueue::default();
        let part = slice(&[7; 100_000]);
        let buffer = lane.push(part.clone(), None, false);
        part.file.set_len(50_000).unwrap();
        let sent = lane.send(&buffer, &ours, true).unwrap();
        assert_eq!(sent, Taken { bytes: 50_000, full: false, ended: false });
        assert_eq!(kind(lane.send(&buffer[sent.bytes..], &ours, true)), Some(io::ErrorKind::UnexpectedEof));
        assert!(is_in_memory(&part.file, 0, 50_000).unwrap());
        assert_eq!(is_in_memory(&part.file, 0, 50_001).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn appetite_follows_what_the_socket_takes() {
        let taken = |bytes, full| Taken { bytes, full, ended: false };
        for (offered, taken, next) in [
            (splice::CAPACITY, taken(splice::CAPACITY, false), splice::CAPACITY),
            (splice::CAPACITY, taken(100_000, true), 2 * LEAST),
            (2 * LEAST, taken(2 * LEAST, false), 4 * LEAST),
            (2 * LEAST, taken(0, true), LEAST),
            (LEAST, taken(10, false), 2 * LEAST),
        ] {
            assert_eq!(appetite(offered, taken), next, "{offered} {taken:?}");
        }
    }

    #[test]
    fn pages_that_left_memory_while_a_part_waited_are_noticed_and_brought_back() {
        let lane = SendQueue::default();
        let part = slice(&vec![7; splice::CAPACITY]);
        drop(lane.push(part.clone(), None, false));
        assert!(lane.cold().is_none());
        part.file.sync_all().unwrap();
        rustix::fs::fadvise(&part.file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
        let cold = lane.cold().unwrap();
        assert_eq!((cold.offset, cold.len), (0, part.len));
        super::super::buffers::warm(&cold);
        assert!(lane.cold().is_none());
    }
}
