//! The clients: blobs in clear and over TLS, discarded as cheaply as possible; manifests by `wrk`.

use std::{
    io,
    net::SocketAddr,
    thread::{self, JoinHandle},
    time::Duration,
};

pub mod clear;
mod framing;
pub mod http2;
pub mod push;
pub mod tls;
pub mod wrk;

use crate::cpu::Stopwatch;

/// A thread with some of the connections: the bytes of each, and the thread's own time.
type Worker = JoinHandle<io::Result<(Vec<u64>, Duration)>>;

/// A blob at a server.
#[derive(Clone)]
pub struct Target {
    pub address: SocketAddr,
    /// The server's first process.
    pub process: u32,
    pub path: String,
    pub length: u64,
}

impl Target {
    fn request(&self) -> Vec<u8> {
        format!("GET {} HTTP/1.1\r\nHost: {}\r\nAccept: */*\r\n\r\n", self.path, self.address).into_bytes()
    }
}

/// The result of a client that streamed for a given time.
pub struct Streamed {
    /// Body bytes of each connection.
    pub bytes: Vec<u64>,
    pub wall: Duration,
    /// CPU time of the server's processes during that time.
    pub server_cpu: Duration,
    /// CPU time of this process during that time.
    pub client_cpu: Duration,
    /// How many cores the client could have kept busy.
    client_cores: usize,
}

impl Streamed {
    pub fn total(&self) -> u64 {
        self.bytes.iter().sum()
    }

    pub fn gigabytes_per_second(&self) -> f64 {
        self.total() as f64 / 1e9 / self.wall.as_secs_f64()
    }

    /// CPU seconds that the server needs for a gigabyte.
    pub fn cpu_per_gigabyte(&self) -> f64 {
        self.server_cpu.as_secs_f64() / (self.total() as f64 / 1e9)
    }

    /// The share of its possible CPU time that the client waited for the server; 0: the client was the bottleneck.
    pub fn client_idle(&self) -> f64 {
        (1.0 - self.client_cpu.as_secs_f64() / self.wall.as_secs_f64() / self.client_cores as f64).max(0.0)
    }

    /// The results of threads that begin now.
    fn collect(server: &Target, workers: Vec<Worker>) -> io::Result<Self> {
        let client_cores = workers.len().min(thread::available_parallelism()?.get());
        let (server_cpu, client_cpu) = (Stopwatch::of_tree(server.process), Stopwatch::of_process(std::process::id()));
        let (mut all, mut longest) = (Vec::new(), Duration::ZERO);
        for worker in workers {
            let (bytes, wall) = worker.join().map_err(|_| io::Error::other("a client thread panicked"))??;
            all.extend(bytes);
            longest = longest.max(wall);
        }
        Ok(Self {
            bytes: all,
            wall: longest,
            server_cpu: server_cpu.elapsed(),
            client_cpu: client_cpu.elapsed(),
            client_cores,
        })
    }
}
