//! Clients of one blob for which the cache has no room.

use std::{
    io::{self, ErrorKind, Read as _, Write as _},
    net::TcpStream,
    thread,
    time::{Duration, Instant},
};

use super::{BLOB, Setup, Upstream, apart};
use crate::{
    client::{Target, clear},
    cpu,
    servers::{Forebay, Options},
    table::{Figure, Goal, Row},
};

const ALL_OF_ONE_SPEED: usize = 40;
const SLOW: usize = 500;
/// Between two reads of all slow clients.
const PAUSE: Duration = Duration::from_millis(100);
/// The slowest client takes this much at a time, the fastest 32 times as much.
const STEP: usize = 16 * 1024;
/// What a client takes that then stops.
const FRONT: usize = 64 * 1024;

/// How slow clients read.
#[derive(Clone, Copy)]
enum Pace {
    /// The front, and nothing more.
    Stop,
    /// At 32 rates.
    Rates,
}

/// Forty clients that read as fast as they can.
pub async fn one_speed(setup: &Setup) -> Row {
    let upstream = Upstream::with_blob(BLOB).await;
    let (mut copies, mut cost) = (Vec::new(), Vec::new());
    for _ in 0..setup.rounds {
        let forebay = without_room(setup, &upstream).await;
        let (target, watch) = (upstream.at(&forebay), cpu::Stopwatch::of_tree(forebay.process()));
        apart(move || clear::downloads(&target, ALL_OF_ONE_SPEED)).await;
        cost.push(watch.elapsed().as_secs_f64() / (ALL_OF_ONE_SPEED * BLOB) as f64 * 1e9);
        copies.push(from_upstream(&forebay));
    }
    Row {
        work: format!("{ALL_OF_ONE_SPEED} clients, one blob of 256 MB without room"),
        peer: String::new(),
        figures: vec![
            figure("bytes from upstream / size of the blob", "", Goal::AtMost(1.0), copies),
            figure("server CPU", "s/GB", Goal::Shown, cost),
        ],
        idle: None,
    }
}

/// Many clients that read slowly, or not at all.
pub async fn slow_clients(setup: &Setup) -> Row {
    let upstream = Upstream::with_blob(BLOB).await;
    let mut figures = Vec::new();
    for (measure, pace) in [("peak RSS, clients stop", Pace::Stop), ("peak RSS, 32 rates", Pace::Rates)] {
        let mut memory = Vec::new();
        for _ in 0..setup.rounds.min(3) {
            let forebay = without_room(setup, &upstream).await;
            let (target, time) = (upstream.at(&forebay), setup.time * 7);
            let least = apart(move || read_slowly(&target, pace, time)).await;
            assert!(least > 0, "every client gets bytes");
            memory.push(cpu::peak_memory(forebay.process()).unwrap() as f64 / f64::from(1 << 20));
        }
        figures.push(figure(measure, "MiB", Goal::AtMost(64.0), memory));
    }
    Row { work: format!("{SLOW} slow clients of a blob without room"), peer: String::new(), figures, idle: None }
}

fn figure(measure: &'static str, unit: &'static str, goal: Goal, forebay: Vec<f64>) -> Figure {
    Figure { measure, unit, goal, peer: Vec::new(), forebay }
}

async fn without_room(setup: &Setup, upstream: &Upstream) -> Forebay {
    let options = Options { max_size: Some("64 MiB"), ..Options::default() };
    Forebay::start(&setup.program, &upstream.registry.url(), options).await
}

fn from_upstream(forebay: &Forebay) -> f64 {
    forebay.metric("forebay_upstream_received_bytes_total", "").unwrap_or_default() / BLOB as f64
}

/// Reads with all clients in turn until the time is up. Returns the bytes of the client that got least.
fn read_slowly(target: &Target, pace: Pace, time: Duration) -> io::Result<usize> {
    let mut clients = Vec::new();
    for _ in 0..SLOW {
        let mut socket = TcpStream::connect(target.address)?;
        write!(socket, "GET {} HTTP/1.1\r\nHost: {}\r\n\r\n", target.path, target.address)?;
        socket.set_nonblocking(true)?;
        clients.push((socket, 0));
    }
    let (begun, mut sink) = (Instant::now(), vec![0; 32 * STEP]);
    while begun.elapsed() < time {
        for (index, (socket, taken)) in clients.iter_mut().enumerate() {
            let most = match pace {
                Pace::Stop if *taken >= FRONT => continue,
                Pace::Stop => FRONT,
                Pace::Rates => (1 + index % 32) * STEP,
            };
            match socket.read(&mut sink[..most]) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(read) => *taken += read,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        thread::sleep(PAUSE);
    }
    Ok(clients.iter().map(|(_, taken)| *taken).min().unwrap_or_default())
}
