//! The least that a server can do: epoll and a loop of sendfile(2) or splice(2), without an HTTP library.
//!
//! It sends one file to whatever request comes. It runs as a process of its own, so that its CPU time is told apart from the
//! client's: this program starts itself again with `--limit`.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, Read as _},
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::OwnedFd,
    path::Path,
    process::Command,
    sync::{
        Arc,
        mpsc::{self, Receiver},
    },
    thread,
};

use clap::ValueEnum;
use rustix::{
    event::epoll::{self, EventData, EventFlags},
    fs::sendfile,
    io::Errno,
    net::{SendFlags, send},
    pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice},
};
use tempfile::TempDir;

use super::{folder, local};
use forebay_test_support::real::{daemon::Daemon, port::free_port};

/// The most bytes that one connection is sent before the others of its thread.
const BURST: usize = 2 << 20;
/// The capacity of a pipe, in bytes.
const PIPE: usize = 256 * 1024;

/// How the bytes leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Way {
    Sendfile,
    Splice,
}

/// The ways and numbers of threads of which the best is the limit.
pub const LOOPS: [(Way, usize); 4] = [(Way::Sendfile, 1), (Way::Sendfile, 2), (Way::Splice, 1), (Way::Splice, 2)];

/// A loop that sends one file.
pub struct Limit {
    pub address: SocketAddr,
    daemon: Daemon,
    _folder: TempDir,
}

impl Limit {
    pub async fn start(file: &Path, way: Way, threads: usize) -> Self {
        let (folder, port) = (folder("limit"), free_port());
        let mut command = Command::new(std::env::current_exe().unwrap());
        let way = way.to_possible_value().unwrap();
        command.arg("--limit").arg(file).args([way.get_name(), &threads.to_string(), &port.to_string()]);
        let mut daemon = Daemon::spawn("the raw loop", command, &folder.path().join("log"));
        daemon.until_listening(local(port)).await;
        Self { address: local(port), daemon, _folder: folder }
    }

    pub fn process(&self) -> u32 {
        self.daemon.id()
    }
}

/// What the process does that [`Limit::start`] starts: FILE WAY THREADS PORT.
pub fn serve(arguments: &[String]) -> io::Result<()> {
    let [file, way, threads, port] = arguments else { return Err(io::Error::other("FILE WAY THREADS PORT")) };
    let file = Arc::new(File::open(file)?);
    let way = Way::from_str(way, false).map_err(io::Error::other)?;
    let listener = TcpListener::bind(local(port.parse().map_err(io::Error::other)?))?;
    let mut workers = Vec::new();
    for _ in 0..threads.parse().map_err(io::Error::other)? {
        let (sender, new) = mpsc::channel();
        let poll = Arc::new(epoll::create(epoll::CreateFlags::CLOEXEC)?);
        let worker =
            Worker { poll: Arc::clone(&poll), file: Arc::clone(&file), length: file.metadata()?.len(), way, new };
        thread::spawn(move || worker.run());
        workers.push((sender, poll));
    }
    for (number, socket) in listener.incoming().enumerate() {
        let socket = Arc::new(socket?);
        socket.set_nonblocking(true)?;
        socket.set_nodelay(true)?;
        let (sender, poll) = &workers[number % workers.len()];
        sender.send((number as u64, Arc::clone(&socket))).map_err(io::Error::other)?;
        epoll::add(poll, &socket, EventData::new_u64(number as u64), EventFlags::IN)?;
    }
    Ok(())
}

/// A thread with some of the connections.
struct Worker {
    poll: Arc<OwnedFd>,
    file: Arc<File>,
    length: u64,
    way: Way,
    /// Connections that were accepted; the poll may tell of one before.
    new: Receiver<(u64, Arc<TcpStream>)>,
}

struct Connection {
    socket: Arc<TcpStream>,
    /// How many bytes of the file are to be sent; 0: a request comes next.
    left: u64,
    /// The end of the request that has arrived.
    request: Vec<u8>,
    pipe: Option<Pipe>,
}

struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
    holds: usize,
}

impl Worker {
    fn run(self) -> io::Result<()> {
        let mut connections = HashMap::new();
        let mut events = Vec::with_capacity(64);
        loop {
            events.clear();
            match epoll::wait(&self.poll, rustix::buffer::spare_capacity(&mut events), None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            for (number, socket) in self.new.try_iter() {
                let pipe = if self.way == Way::Splice { Some(Pipe::new()?) } else { None };
                connections.insert(number, Connection { socket, left: 0, request: Vec::new(), pipe });
            }
            for event in &events {
                let number = event.data.u64();
                let Some(connection) = connections.get_mut(&number) else { continue };
                // A client that left; what the kernel has of the connection is gone with the descriptor.
                if self.advance(connection, number).is_err() {
                    connections.remove(&number);
                }
            }
        }
    }

    fn advance(&self, connection: &mut Connection, number: u64) -> io::Result<()> {
        let data = EventData::new_u64(number);
        if connection.left == 0 {
            let mut buffer = [0; 4096];
            let count = (&*connection.socket).read(&mut buffer)?;
            connection.request.extend_from_slice(&buffer[..count]);
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if !connection.request.ends_with(b"\r\n\r\n") {
                return Ok(());
            }
            connection.request.clear();
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", self.length);
            send(&connection.socket, head.as_bytes(), SendFlags::MORE | SendFlags::NOSIGNAL)?;
            connection.left = self.length;
            epoll::modify(&self.poll, &connection.socket, data, EventFlags::OUT)?;
        }
        match self.send(connection) {
            Ok(()) | Err(Errno::AGAIN | Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        if connection.left == 0 {
            epoll::modify(&self.poll, &connection.socket, data, EventFlags::IN)?;
        }
        Ok(())
    }

    fn send(&self, connection: &mut Connection) -> Result<(), Errno> {
        let most = usize::try_from(connection.left).unwrap_or(usize::MAX).min(BURST);
        let Some(pipe) = &mut connection.pipe else {
            let mut offset = self.length - connection.left;
            let sent = sendfile(&connection.socket, &self.file, Some(&mut offset), most)?;
            connection.left -= sent as u64;
            return Ok(());
        };
        let mut burst = 0;
        while burst < most {
            if pipe.holds == 0 {
                let mut offset = self.length - connection.left;
                pipe.holds = splice(&self.file, Some(&mut offset), &pipe.write, None, PIPE, SpliceFlags::MORE)?;
            }
            let flags = SpliceFlags::MORE | SpliceFlags::NONBLOCK;
            let sent = splice(&pipe.read, None, &connection.socket, None, pipe.holds, flags)?;
            pipe.holds -= sent;
            connection.left -= sent as u64;
            burst += sent;
            if connection.left == 0 {
                break;
            }
        }
        Ok(())
    }
}

impl Pipe {
    fn new() -> io::Result<Self> {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
        fcntl_setpipe_size(&write, PIPE)?;
        Ok(Self { read, write, holds: 0 })
    }
}
