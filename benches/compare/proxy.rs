//! A line between a server and its upstream, with a rate and a round-trip time. It counts every byte.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use rustix::net::sockopt::set_socket_send_buffer_size;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::{JoinHandle, JoinSet},
    time::sleep_until,
};

use crate::servers::local;

/// The most bytes that are read from the upstream's response at once. At 1 Gbit/s they take half a millisecond.
const CHUNK: usize = 64 * 1024;
/// How much lost time a line may make up for if its next bytes were taken late: timers have a grain of a millisecond.
const SLACK: Duration = Duration::from_millis(4);

/// The properties of a line.
#[derive(Clone, Copy, Default)]
pub struct Line {
    /// Bytes per second of all connections together.
    pub shared_rate: Option<f64>,
    /// Whether requests get the same rate, apart from the responses.
    pub both_ways: bool,
    /// Bytes per second of each connection.
    pub connection_rate: Option<f64>,
    /// The round-trip time.
    pub round_trip: Duration,
}

/// Ends, with all its connections, when it is dropped.
pub struct Proxy {
    pub address: SocketAddr,
    received: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Proxy {
    pub async fn before(target: u16, line: Line) -> Self {
        let listener = TcpListener::bind(local(0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let received = Arc::new(AtomicU64::new(0));
        let task = tokio::spawn(serve(listener, local(target), line, Arc::clone(&received)));
        Self { address, received, task }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Bytes that the upstream has sent and that the proxy has passed on, heads included.
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(listener: TcpListener, target: SocketAddr, line: Line, received: Arc<AtomicU64>) {
    let pace = || line.shared_rate.map(|rate| Arc::new(Pace::new(rate)));
    let shared = [if line.both_ways { pace() } else { None }, pace()];
    let mut connections = JoinSet::new();
    loop {
        let Ok((client, _)) = listener.accept().await else { continue };
        let (shared, received) = (shared.clone(), Arc::clone(&received));
        connections.spawn(async move {
            // The end of either side ends the connection; its cause does not matter to the line.
            carry(client, target, line, shared, received).await.ok();
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn carry(
    client: TcpStream,
    target: SocketAddr,
    line: Line,
    [shared_there, shared]: [Option<Arc<Pace>>; 2],
    received: Arc<AtomicU64>,
) -> io::Result<()> {
    // The kernel has accepted the client at once; a distant server would have answered after one round trip.
    let open = Instant::now() + line.round_trip;
    let server = TcpStream::connect(target).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let paces: Vec<Arc<Pace>> =
        shared.into_iter().chain(line.connection_rate.map(|rate| Arc::new(Pace::new(rate)))).collect();
    if !paces.is_empty() {
        // A large buffer would take the bytes that the line has to hold back.
        set_socket_send_buffer_size(&client, CHUNK)?;
    }
    let paces_there = Vec::from_iter(shared_there);
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let there = pass(from_client, to_server, line.round_trip / 2, open, paces_there, None);
    let back = pass(from_server, to_client, line.round_trip / 2, open, paces, Some(received));
    // A client that has finished sending may still get a response.
    tokio::try_join!(there, back).map(drop)
}

/// Reads on while earlier bytes are on their way, up to what fits into a line of that length.
async fn pass(
    mut from: impl AsyncReadExt + Unpin,
    mut to: impl AsyncWriteExt + Unpin,
    delay: Duration,
    open: Instant,
    paces: Vec<Arc<Pace>>,
    count: Option<Arc<AtomicU64>>,
) -> io::Result<()> {
    let in_flight = if delay.is_zero() { 2 } else { 128 };
    let (sender, mut receiver) = mpsc::channel::<(Instant, Vec<u8>)>(in_flight);
    let read = async {
        loop {
            let mut chunk = Vec::with_capacity(CHUNK);
            if from.read_buf(&mut chunk).await? == 0 {
                drop(sender);
                return io::Result::Ok(());
            }
            let due = Instant::now().max(open) + delay;
            if sender.send((due, chunk)).await.is_err() {
                return Ok(());
            }
        }
    };
    let write = async {
        while let Some((mut due, chunk)) = receiver.recv().await {
            for pace in &paces {
                due = due.max(pace.take(chunk.len()));
            }
            if due > Instant::now() {
                sleep_until(due.into()).await;
            }
            to.write_all(&chunk).await?;
            if let Some(count) = &count {
                count.fetch_add(chunk.len() as u64, Ordering::Relaxed);
            }
        }
        to.shutdown().await
    };
    tokio::try_join!(read, write).map(drop)
}

/// Tells when bytes are through the line.
struct Pace {
    rate: f64,
    free: Mutex<Instant>,
}

impl Pace {
    fn new(rate: f64) -> Self {
        Self { rate, free: Mutex::new(Instant::now()) }
    }

    fn take(&self, bytes: usize) -> Instant {
        let mut free = self.free.lock().unwrap();
        let begin = (*free).max(Instant::now().checked_sub(SLACK).unwrap_or(*free));
        *free = begin + Duration::from_secs_f64(bytes as f64 / self.rate);
        *free
    }
}
