//! Clients that keep much open, and read nothing.

use std::{io, net::SocketAddr};

use forebay_test_support::{
    fake_registry::FakeRegistry,
    manifest::manifest,
    mirror::Mirror,
    program::Program,
    until::{bounded, until},
};
use rustix::{
    io::Errno,
    process::{Resource, Rlimit, getrlimit, setrlimit},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpStream, UnixStream},
};

use super::{super::control::ask, World};

const CLIENTS: usize = 1000;
const EVENTS: &str = "GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// Both ends of a thousand connections are open in the process of these tests, and a shell usually allows 1 024.
fn allow_many_descriptors() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    assert!(maximum.is_none_or(|most| most > 3 * CLIENTS as u64), "the hard limit of open files is {maximum:?}");
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
}

/// The connection; `None`: the other end takes none. A lack of descriptors here would look like that.
fn connected<S>(result: io::Result<S>) -> Option<S> {
    let lacks = |error: &io::Error| error.raw_os_error() == Some(Errno::MFILE.raw_os_error());
    assert!(!result.as_ref().is_err_and(lacks), "this process has too many files open");
    result.ok()
}

/// The status of the answer to these bytes; `None`: the connection ends without one.
async fn status(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), bytes: &str) -> Option<u16> {
    let mut start = [0; 12];
    stream.write_all(bytes.as_bytes()).await.ok()?;
    stream.read_exact(&mut start).await.ok()?;
    std::str::from_utf8(&start[9..]).ok()?.parse().ok()
}

/// What a thousand clients got that ask for events.
struct Crowd<S> {
    /// Those that are told of events.
    followers: usize,
    refused: usize,
    /// All that are still connected.
    _streams: Vec<S>,
}

/// Connects a thousand clients that ask for events; all of them stay, or those that are refused leave.
async fn crowd<S: AsyncRead + AsyncWrite + Unpin>(connect: impl AsyncFn() -> Option<S>, all_stay: bool) -> Crowd<S> {
    let mut crowd = Crowd { followers: 0, refused: 0, _streams: Vec::new() };
    for _ in 0..CLIENTS {
        let Some(mut stream) = connect().await else {
            crowd.refused += 1;
            continue;
        };
        let got = bounded(status(&mut stream, EVENTS)).await;
        match got {
            Some(200) => crowd.followers += 1,
            Some(429 | 503) | None => crowd.refused += 1,
            Some(other) => panic!("{other}"),
        }
        if all_stay || got == Some(200) {
            crowd._streams.push(stream);
        }
    }
    crowd
}

/// Fails unless clients of the registry are served.
async fn assert_served(world: &World) {
    assert_eq!(world.mirror.get(&manifest("1")).await.status, 200);
    assert_eq!(world.mirror.get(&forebay_test_support::blob::path(&world.image.layers[0])).await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_streams_are_a_few_on_the_listener() {
    allow_many_descriptors();
    let world = World::open().await;
    let address = world.address();
    let connect = async || connected(TcpStream::connect(address).await);
    for _ in 0..2 {
        // All places come back, so the second thousand gets as many.
        let crowd = until("no stream of before is open", async || {
            let crowd = crowd(connect, true).await;
            (crowd.followers == 8).then_some(crowd)
        })
        .await;
        assert_eq!((crowd.followers, crowd.refused), (8, CLIENTS - 8));
        assert_served(&world).await;
        assert_eq!(ask(socket(&world.mirror), "GET", "/api/v1/status").await.0, "200");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_streams_are_a_few_on_the_socket() {
    allow_many_descriptors();
    let world = World::open().await;
    let path = socket(&world.mirror);
    let connect = async || connected(UnixStream::connect(path).await);
    for _ in 0..2 {
        let crowd = until("no stream of before is open", async || {
            let crowd = crowd(connect, false).await;
            (crowd.followers == 16).then_some(crowd)
        })
        .await;
        assert_eq!((crowd.followers, crowd.refused), (16, CLIENTS - 16));
        assert_served(&world).await;
        assert_eq!(world.send("GET status", &[], b"").await.status, 200);
        assert_eq!(ask(path, "GET", "/api/v1/status").await.0, "200");
    }
}

/// How many descriptors the program has open, and how much memory, in bytes.
fn held(program: &Program) -> (usize, u64) {
    let of = |name: &str| format!("/proc/{}/{name}", program.pid().as_raw_nonzero());
    let status = std::fs::read_to_string(of("status")).unwrap();
    let kilobytes = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")).unwrap();
    (std::fs::read_dir(of("fd")).unwrap().count(), kilobytes.parse::<u64>().unwrap() * 1024)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_thousand_streams_take_comes_back() {
    allow_many_descriptors();
    const MAX_GROWTH: u64 = 16 << 20;
    let directory = tempfile::tempdir().unwrap();
    let text = "[[upstream]]\nname = \"fake.example\"\nurls = [\"http://127.0.0.1:1\"]\ndefault = true\n";
    std::fs::write(directory.path().join("forebay.toml"), text).unwrap();
    let program = Program::serve(directory, "warn").await;
    let address = program.admin;
    let connect = async || connected(TcpStream::connect(address).await);
    assert!(program.metrics().await.contains("forebay_build_info"));
    // A file that a thread of the pool reads just now may be open, too.
    let most = held(&program).0 + 4;
    let mut memory = None;
    for _ in 0..4 {
        let crowd = crowd(connect, true).await;
        assert!((1..=8).contains(&crowd.followers), "{}", crowd.followers);
        drop(crowd);
        until("all descriptors are back", async || held(&program).0 <= most).await;
        // The first ones fill what is kept for the next, such as the stacks of threads.
        memory.get_or_insert(held(&program).1);
    }
    let after = held(&program).1;
    assert!(memory.is_some_and(|memory| after <= memory + MAX_GROWTH), "{memory:?} bytes before, {after} bytes after");
}

fn socket(mirror: &Mirror) -> &std::path::Path {
    mirror.config().admin.socket.as_deref().unwrap()
}

/// A thousand connections at the same time, which say nothing or half of a request.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_silent_clients_delay_no_pull() {
    allow_many_descriptors();
    let world = World::open().await;
    let address: SocketAddr = world.address();
    let mut silent = Vec::new();
    for number in 0..CLIENTS {
        let Some(mut stream) = connected(TcpStream::connect(address).await) else { continue };
        if number % 2 == 0 {
            let _ = stream.write_all(b"GET /api/v1/events HTTP/1.1\r\nHost: local").await;
        }
        silent.push(stream);
    }
    assert_served(&world).await;
    assert_eq!(ask(socket(&world.mirror), "GET", "/api/v1/status").await.0, "200");
    drop(silent);
    until("the listener answers again", async || {
        let Ok(mut stream) = TcpStream::connect(address).await else { return false };
        let probe = "GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        bounded(status(&mut stream, probe)).await == Some(200)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn followers_that_read_nothing_delay_no_other() {
    let world = World::open().await;
    let mut followers = Vec::new();
    for _ in 0..8 {
        let mut stream = TcpStream::connect(world.address()).await.unwrap();
        assert_eq!(bounded(status(&mut stream, EVENTS)).await, Some(200));
        followers.push(stream);
    }
    let mut reading = UnixStream::connect(socket(&world.mirror)).await.unwrap();
    assert_eq!(bounded(status(&mut reading, EVENTS)).await, Some(200));
    // More than a follower's channel and a connection's buffers have room for.
    let agent = "x".repeat(500);
    for _ in 0..3000 {
        let answer = world.mirror.get_with(&manifest("1"), &[("user-agent", &agent)]).await;
        assert_eq!(answer.status, 200);
    }
    let (mut told, mut buffer) = (String::new(), vec![0; 64 * 1024]);
    bounded(async {
        while !told.contains("event: request\n") {
            let len = reading.read(&mut buffer).await.unwrap();
            assert!(len > 0);
            told += &String::from_utf8_lossy(&buffer[..len]);
        }
    })
    .await;
    assert_served(&world).await;
    drop(followers);
    until("their places are free", async || {
        let mut stream = TcpStream::connect(world.address()).await.unwrap();
        bounded(status(&mut stream, EVENTS)).await == Some(200)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exports_that_are_not_read_are_two() {
    let registry = FakeRegistry::start().await;
    // More than the buffers of a connection hold.
    let image = registry.add_image("team/app", "1", &[&vec![7; 24 << 20]]);
    let mirror = Mirror::of(&registry).await;
    let export =
        "GET /api/v1/export?name=fake.example/team/app:1 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    let begin = async || {
        let mut stream = UnixStream::connect(socket(&mirror)).await.unwrap();
        let status = bounded(status(&mut stream, export)).await;
        (stream, status)
    };
    let (first, second) = (begin().await, begin().await);
    assert_eq!((first.1, second.1), (Some(200), Some(200)));
    assert_eq!(begin().await.1, Some(429));
    assert_eq!(mirror.get(&manifest("1")).await.status, 200);
    assert_eq!(mirror.get(&forebay_test_support::blob::path(&image.layers[0])).await.status, 200);
    drop((first, second));
    until("there is a place again", async || begin().await.1 == Some(200)).await;
}
