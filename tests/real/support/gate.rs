//! A TCP proxy between forebay and its upstream that lets a chosen number of bytes pass and then holds the rest.
//!
//! "Half-way" becomes a condition instead of a time: the gate is set, the transfer stops there, the test acts.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::port::free_port;
use super::until::until;

/// Counts and holds what flows from the target to the clients, all connections together.
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
    /// Connections of an older generation are broken off.
    generation: u64,
}

impl Gate {
    /// An open gate before the port.
    pub async fn before(target: u16) -> Gate {
        let port = free_port();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await.expect("the port is free");
        let state = Arc::new(watch::Sender::new(State { passed: 0, limit: u64::MAX, generation: 0 }));
        let task = tokio::spawn(serve(listener, (Ipv4Addr::LOCALHOST, target).into(), Arc::clone(&state)));
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
        self.state.send_modify(|state| state.limit = u64::MAX);
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

async fn serve(listener: TcpListener, target: SocketAddr, state: Arc<watch::Sender<State>>) {
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
                _ = carry(client, target, &state) => {}
            }
        });
    }
}

async fn carry(client: TcpStream, target: SocketAddr, state: &watch::Sender<State>) -> std::io::Result<()> {
    // While the target is down a client's connection is accepted and closed at once.
    let server = TcpStream::connect(target).await?;
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    tokio::select! {
        end = tokio::io::copy(&mut from_client, &mut to_server) => end.map(drop),
        end = measure(&mut from_server, &mut to_client, state) => end,
    }
}

async fn measure(
    from: &mut (impl AsyncReadExt + Unpin),
    to: &mut (impl AsyncWriteExt + Unpin),
    state: &watch::Sender<State>,
) -> std::io::Result<()> {
    let mut watched = state.subscribe();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let length = from.read(&mut buffer).await?;
        if length == 0 {
            return Ok(());
        }
        let mut rest = &buffer[..length];
        while !rest.is_empty() {
            watched.wait_for(|now| now.passed < now.limit).await.ok();
            let mut allowed = 0;
            // Taken from the common allowance first, so that two connections cannot use the same bytes of it.
            state.send_modify(|now| {
                allowed = (now.limit - now.passed.min(now.limit)).min(rest.len() as u64);
                now.passed += allowed;
            });
            let (now, later) = rest.split_at(allowed as usize);
            to.write_all(now).await?;
            rest = later;
        }
    }
}
