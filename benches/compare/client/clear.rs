//! Clear HTTP/1.1: a client that has the kernel discard what it receives, so that it measures the server.
//!
//! `recv` with `MSG_TRUNC` takes bytes from a TCP socket without copying them (tcp(7)); the client reads only heads.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{Arc, Barrier},
    thread,
    time::{Duration, Instant},
};

use rustix::{
    event::{Timespec, epoll},
    net::{RecvFlags, recv},
};
use sha2::{Digest as _, Sha256};

use super::{Streamed, Target, framing::Framing, framing::wrong};

/// A server that is silent for this long is broken.
const PATIENCE: Duration = Duration::from_secs(60);
/// The most bytes that one `recv` discards.
const SINK: usize = 1 << 20;
/// The most bytes that are compared at once: they are still in the processor's caches.
const COMPARED: usize = 64 << 10;
/// More connections than this share threads.
const THREADS: usize = 8;
/// Threads for many connections: one for each of the two cores that the table is made for.
const SHARED_THREADS: usize = 2;

/// The times of a download, from before `connect`: to the first byte of the body, and to the last.
#[derive(Clone, Copy)]
pub struct Download {
    pub first_byte: Duration,
    pub whole: Duration,
}

/// Streams the blob again and again over this many connections until the time is up.
///
/// Each connection is open, and has its first response, before the clock starts.
pub fn stream(target: &Target, connections: usize, duration: Duration) -> io::Result<Streamed> {
    let threads = if connections <= THREADS { connections } else { SHARED_THREADS };
    let ready = Arc::new(Barrier::new(threads + 1));
    let workers: Vec<_> = (0..threads)
        .map(|index| {
            let count = connections / threads + usize::from(index < connections % threads);
            let (target, ready) = (target.clone(), Arc::clone(&ready));
            thread::spawn(move || {
                let opened = (0..count).map(|_| Connection::open(&target)).collect::<io::Result<Vec<_>>>();
                // Also after an error: the other threads wait.
                ready.wait();
                let mut opened = opened?;
                run(&mut opened, duration)
            })
        })
        .collect();
    ready.wait();
    Streamed::collect(target, workers)
}

/// Begins this many downloads together; returns the latest first byte and the latest end.
pub fn downloads(target: &Target, clients: usize) -> io::Result<Download> {
    let barrier = Arc::new(Barrier::new(clients));
    let workers: Vec<_> = (0..clients)
        .map(|_| {
            let (target, barrier) = (target.clone(), Arc::clone(&barrier));
            thread::spawn(move || {
                barrier.wait();
                download(&target)
            })
        })
        .collect();
    let mut latest = Download { first_byte: Duration::ZERO, whole: Duration::ZERO };
    for worker in workers {
        let one = worker.join().map_err(|_| io::Error::other("a client thread panicked"))??;
        latest.first_byte = latest.first_byte.max(one.first_byte);
        latest.whole = latest.whole.max(one.whole);
    }
    Ok(latest)
}

/// One download of the blob on a new connection.
fn download(target: &Target) -> io::Result<Download> {
    let start = Instant::now();
    let mut connection = Connection::connect(target)?;
    connection.ask()?;
    let mut first_byte = None;
    let mut sink = vec![0; SINK];
    loop {
        connection.receive(&mut sink)?;
        if connection.framing.received() > 0 && first_byte.is_none() {
            first_byte = Some(start.elapsed());
        }
        if connection.framing.received() == target.length {
            let whole = start.elapsed();
            return Ok(Download { first_byte: first_byte.unwrap_or(whole), whole });
        }
    }
}

/// Downloads the blob once, reads every byte of it, and compares its digest.
pub fn verify(target: &Target, digest: &str) -> io::Result<()> {
    let mut connection = Connection::connect(target)?;
    connection.ask()?;
    let (mut hasher, mut buffer) = (Sha256::new(), vec![0; SINK]);
    while connection.framing.received() < target.length {
        let count = connection.socket.read(&mut buffer)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        hasher.update(connection.framing.read(&buffer[..count])?);
    }
    let got = format!("sha256:{}", hex::encode(hasher.finalize()));
    if got == digest { Ok(()) } else { Err(wrong(&format!("the body is {got}, not {digest}"))) }
}

/// Downloads the blob once, and compares every byte of it with these as it comes, which costs less than a digest.
pub fn compare(target: &Target, expected: &[u8]) -> io::Result<Download> {
    let start = Instant::now();
    let mut connection = Connection::connect(target)?;
    connection.ask()?;
    let (mut rest, mut first_byte, mut buffer) = (expected, None, vec![0; COMPARED]);
    while connection.framing.received() < target.length {
        let count = connection.socket.read(&mut buffer)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let body = connection.framing.read(&buffer[..count])?;
        if !body.is_empty() {
            first_byte.get_or_insert_with(|| start.elapsed());
        }
        rest = rest.strip_prefix(body).ok_or_else(|| wrong("the body has other bytes"))?;
    }
    let whole = start.elapsed();
    if rest.is_empty() {
        Ok(Download { first_byte: first_byte.unwrap_or(whole), whole })
    } else {
        Err(wrong("too short"))
    }
}

/// A connection whose response to the request for the blob comes next, head first.
pub fn body(target: &Target) -> io::Result<TcpStream> {
    let mut connection = Connection::connect(target)?;
    connection.ask()?;
    Ok(connection.socket)
}

/// GET of a small document: its status and its body.
pub fn get(address: SocketAddr, path: &str) -> io::Result<(u16, Vec<u8>)> {
    get_accepting(address, path, "*/*")
}

/// As [`get`], with this `Accept`.
pub fn get_accepting(address: SocketAddr, path: &str, accept: &str) -> io::Result<(u16, Vec<u8>)> {
    let mut socket = TcpStream::connect(address)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    write!(socket, "GET {path} HTTP/1.1\r\nHost: {address}\r\nAccept: {accept}\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer)?;
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n").ok_or_else(|| wrong("no head"))?;
    let head = String::from_utf8_lossy(&answer[..end]).into_owned();
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or_else(|| wrong("no status"))?;
    Ok((status, answer.split_off(end + 4)))
}

fn run(connections: &mut [Connection], duration: Duration) -> io::Result<(Vec<u64>, Duration)> {
    let start = Instant::now();
    let before: Vec<u64> = connections.iter().map(|connection| connection.framing.received()).collect();
    if let [one] = connections {
        run_one(one, start, duration)?;
    } else {
        run_many(connections, start, duration)?;
    }
    let elapsed = start.elapsed();
    let bytes = connections.iter().zip(before).map(|(connection, before)| connection.framing.received() - before);
    Ok((bytes.collect(), elapsed))
}

fn run_one(connection: &mut Connection, start: Instant, duration: Duration) -> io::Result<()> {
    let mut sink = vec![0; SINK];
    while start.elapsed() < duration {
        connection.ask_when_due()?;
        connection.receive(&mut sink)?;
    }
    Ok(())
}

/// Level-triggered, with one `recv` for each readable socket: no connection can keep the others waiting.
fn run_many(connections: &mut [Connection], start: Instant, duration: Duration) -> io::Result<()> {
    let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    for (index, connection) in connections.iter().enumerate() {
        connection.socket.set_nonblocking(true)?;
        let data = epoll::EventData::new_u64(index as u64);
        epoll::add(&poll, &connection.socket, data, epoll::EventFlags::IN)?;
    }
    let mut sink = vec![0; SINK];
    let mut events = Vec::with_capacity(connections.len());
    let pause = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
    let mut progress = Instant::now();
    while start.elapsed() < duration {
        events.clear();
        epoll::wait(&poll, rustix::buffer::spare_capacity(&mut events), Some(&pause))?;
        for event in &events {
            let Some(connection) = connections.get_mut(event.data.u64() as usize) else { continue };
            match connection.receive(&mut sink) {
                Ok(()) => connection.ask_when_due()?,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        if !events.is_empty() {
            progress = Instant::now();
        } else if progress.elapsed() > PATIENCE {
            return Err(io::ErrorKind::TimedOut.into());
        }
    }
    Ok(())
}

struct Connection {
    socket: TcpStream,
    request: Vec<u8>,
    framing: Framing,
}

impl Connection {
    fn connect(target: &Target) -> io::Result<Self> {
        let socket = TcpStream::connect(target.address)?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        Ok(Self { socket, request: target.request(), framing: Framing::new(target.length) })
    }

    /// Connects, and waits until the body of the first response has begun.
    fn open(target: &Target) -> io::Result<Self> {
        let mut connection = Self::connect(target)?;
        connection.ask()?;
        while connection.framing.left() == 0 {
            connection.receive(&mut [])?;
        }
        Ok(connection)
    }

    fn ask(&mut self) -> io::Result<()> {
        // The request fits into an empty socket buffer, even if the socket does not block.
        (&self.socket).write_all(&self.request)
    }

    fn ask_when_due(&mut self) -> io::Result<()> {
        if self.framing.left() == 0 && self.framing.at_boundary() { self.ask() } else { Ok(()) }
    }

    /// One `recv`: it keeps a head in memory, and discards a body.
    fn receive(&mut self, sink: &mut [u8]) -> io::Result<()> {
        let left = self.framing.left();
        if left == 0 {
            let mut buffer = [0; 4096];
            let count = self.socket.read(&mut buffer)?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.framing.read(&buffer[..count])?;
            return Ok(());
        }
        let most = sink.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let (_, count) = recv(&self.socket, &mut sink[..most], RecvFlags::TRUNC)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.framing.skip(count as u64)
    }
}
