//! A TCP proxy before forebay or its upstream that lets a chosen number of bytes pass and then holds the rest.
//!
//! "Half-way" becomes a condition instead of a time: the gate is set, the transfer stops there, the test acts.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::until::until;

use super::port::free_port;

/// What a gate is about.
#[derive(Clone, Copy)]
enum Direction {
    Answers,
    Requests,
}

/// Counts and holds what flows in one direction: all connections together, or each by itself.
pub struct Gate {
    pub port: u16,
    state: Arc<watch::Sender<State>>,
    task: JoinHandle<()>,
}

#[derive(Clone, Copy)]
struct State {
    /// Bytes that went through so far.
    passed: u64,
    /// Bytes that may have gone through before the rest is held.
    limit: u64,
    /// Bytes that may have gone through one connection before the rest of it is held.
    limit_each: u64,
    /// Connections of an older generation are broken off.
    generation: u64,
}

impl Gate {
    /// An open gate before the port, for what the target answers.
    pub async fn before(target: u16) -> Gate {
        Gate::new(target, Direction::Answers).await
    }

    /// An open gate before the port, for what the target is sent.
    pub async fn of_requests_to(target: u16) -> Gate {
        Gate::new(target, Direction::Requests).await
    }

    async fn new(target: u16, direction: Direction) -> Gate {
        let port = free_port();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await.expect("the port is free");
        let state =
            Arc::new(watch::Sender::new(State { passed: 0, limit: u64::MAX, limit_each: u64::MAX, generation: 0 }));
        let target = (Ipv4Addr::LOCALHOST, target).into();
        let task = tokio::spawn(serve(listener, target, direction, Arc::clone(&state)));
        Gate { port, state, task }
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub fn passed(&self) -> u64 {
        self.state.borrow().passed
    }

    /// Lets so many bytes more pass, then holds.
    pub fn hold_after(&self, more: u64) {
        self.state.send_modify(|state| state.limit = state.passed + more);
    }

    /// Holds each connection that this much has passed, and lets all others pass.
    pub fn hold_each_after(&self, bytes: u64) {
        self.state.send_modify(|state| state.limit_each = bytes);
    }

    /// Waits until the gate holds.
    pub async fn until_holding(&self) {
        self.until_holding_or(|| false).await;
    }

    /// Waits until the gate holds, or until it will not because there is nothing more to come.
    pub async fn until_holding_or(&self, nothing_more: impl Fn() -> bool) {
        until("the gate holds", async || {
            let state = *self.state.borrow();
            (state.passed >= state.limit || nothing_more()).then_some(())
        })
        .await;
    }

    pub fn open(&self) {
        self.state.send_modify(|state| (state.limit, state.limit_each) = (u64::MAX, u64::MAX));
    }

    /// Breaks off every connection, with what they still held.
    pub fn cut(&self) {
        self.state.send_modify(|state| state.generation += 1);
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(listener: TcpListener, target: SocketAddr, direction: Direction, state: Arc<watch::Sender<State>>) {
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let Ok((client, _)) = listener.accept().await else { continue };
        let state = Arc::clone(&state);
        connections.spawn(async move {
            let mut watched = state.subscribe();
            let generation = watched.borrow().generation;
            tokio::select! {
                _ = watched.wait_for(|now| now.generation != generation) => {}
                // An end of either side ends the connection; whose fault it was is not the gate's business.
                _ = carry(client, target, direction, &state) => {}
            }
        });
    }
}

async fn carry(
    client: TcpStream,
    target: SocketAddr,
    direction: Direction,
    state: &watch::Sender<State>,
) -> std::io::Result<()> {
    // While the target is down a client's connection is accepted and closed at once.
    let server = TcpStream::connect(target).await?;
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    match direction {
        Direction::Answers => tokio::select! {
            end = tokio::io::copy(&mut from_client, &mut to_server) => end.map(drop),
            end = measure(&mut from_server, &mut to_client, state) => end,
        },
        Direction::Requests => tokio::select! {
            end = measure(&mut from_client, &mut to_server, state) => end,
            end = tokio::io::copy(&mut from_server, &mut to_client) => end.map(drop),
        },
    }
}

async fn measure(
    from: &mut (impl AsyncReadExt + Unpin),
    to: &mut (impl AsyncWriteExt + Unpin),
    state: &watch::Sender<State>,
) -> std::io::Result<()> {
    let mut watched = state.subscribe();
    let mut buffer = vec![0; 64 * 1024];
    let mut here = 0;
    loop {
        let length = from.read(&mut buffer).await?;
        if length == 0 {
            return Ok(());
        }
        let mut rest = &buffer[..length];
        while !rest.is_empty() {
            watched.wait_for(|now| now.passed < now.limit && here < now.limit_each).await.ok();
            let mut allowed = 0;
            // Taken from the common allowance first, so that two connections cannot use the same bytes of it.
            state.send_modify(|now| {
                allowed = now
                    .limit
                    .saturating_sub(now.passed)
                    .min(now.limit_each.saturating_sub(here))
                    .min(rest.len() as u64);
                now.passed += allowed;
            });
            here += allowed;
            let (now, later) = rest.split_at(allowed as usize);
            to.write_all(now).await?;
            rest = later;
        }
    }
}
