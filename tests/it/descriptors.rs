//! The real program with few descriptors: clients are told, operators are answered.

use std::net::SocketAddr;

use rustix::process::{Resource, Rlimit, getrlimit, prlimit};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
};

use crate::support::{
    program::Program,
    until::{bounded, until},
};

fn directory(text: &str) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("forebay.toml"), text).unwrap();
    directory
}

async fn connect(from: &str, to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::new(from.parse().unwrap(), 0)).unwrap();
    bounded(socket.connect(to)).await.unwrap()
}

/// Asks on a connection that goes on, and gives what came first; nothing, if it ended.
async fn ask(stream: &mut TcpStream, path: &str) -> String {
    let _ = stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes()).await;
    let mut answer = vec![0; 4096];
    let read = bounded(stream.read(&mut answer)).await.unwrap_or(0);
    String::from_utf8_lossy(&answer[..read]).into_owned()
}

async fn is_healthy(program: &Program) -> bool {
    ask(&mut connect("127.0.0.1", program.admin).await, "/healthz").await.starts_with("HTTP/1.1 200")
}

#[tokio::test]
async fn max_connections_is_what_the_descriptors_allow() {
    let program = Program::serve_within(directory("[server]\nmax_connections = 1000\n"), "warn", 64).await;
    let log = program.log();
    assert!(log.contains("which is lowered") && log.contains("ulimit -Hn"), "{log}");
    // More than all its descriptors.
    let mut silent = Vec::new();
    for _ in 0..200 {
        silent.push(connect("127.0.0.1", program.registry).await);
    }
    for _ in 0..3 {
        until("operators are answered", async || is_healthy(&program).await).await;
        let answer = ask(&mut connect("127.0.0.2", program.registry).await, "/v2/").await;
        assert!(answer.starts_with("HTTP/1.1 200") || answer.starts_with("HTTP/1.1 503"), "{answer:?}");
    }
    // None of them kept the others from being accepted.
    assert!(!program.log().contains("cannot accept connections"), "{}", program.log());
    drop(silent);
    until("there is room again", async || {
        ask(&mut connect("127.0.0.1", program.registry).await, "/v2/").await.starts_with("HTTP/1.1 200")
    })
    .await;
}

#[tokio::test]
async fn without_descriptors_a_client_is_told_and_an_operator_answered() {
    let program = Program::serve(directory(""), "info").await;
    // From now on it gets no descriptor above those that its two listeners keep in reserve, which are open on nothing.
    let reserve = || {
        let open = std::fs::read_dir(format!("/proc/{}/fd", program.pid().as_raw_nonzero())).unwrap();
        let kept = open.map(|entry| entry.unwrap()).filter_map(|entry| {
            let is_kept = std::fs::read_link(entry.path()).is_ok_and(|target| target == *"/dev/null");
            is_kept.then(|| entry.file_name().to_str().unwrap().parse::<u64>().unwrap())
        });
        kept.collect::<Vec<_>>()
    };
    until("there is a reserve", async || reserve().len() > 2 * 8).await;
    let highest = reserve().into_iter().max().unwrap();
    // The hard limit is that of this process, and is not to be raised again without rights.
    let limit = Rlimit { current: Some(highest + 1), ..getrlimit(Resource::Nofile) };
    let before = prlimit(Some(program.pid()), Resource::Nofile, limit).unwrap();
    let mut served = Vec::new();
    let refusal = loop {
        let mut client = connect("127.0.0.1", program.registry).await;
        let answer = ask(&mut client, "/v2/").await;
        if !answer.starts_with("HTTP/1.1 200") && !answer.is_empty() {
            break answer;
        }
        served.push(client);
        assert!(served.len() < 1000, "there are descriptors");
    };
    assert!(refusal.starts_with("HTTP/1.1 503") && refusal.contains("retry-after"), "{refusal}");
    assert!(refusal.contains("UNAVAILABLE"), "{refusal}");
    until("operators are answered", async || is_healthy(&program).await).await;
    // With descriptors it goes on as before.
    prlimit(Some(program.pid()), Resource::Nofile, before).unwrap();
    until("it serves", async || {
        ask(&mut connect("127.0.0.1", program.registry).await, "/v2/").await.starts_with("HTTP/1.1 200")
    })
    .await;
}
