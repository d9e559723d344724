//! A proxy before an object store that does what stores do on bad days, and counts.
//!
//! It changes no host: the signature of a request covers it.

use std::{
    convert::Infallible,
    net::Ipv4Addr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Request, Response, header};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    body::{Frame, Incoming},
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::AbortOnDropHandle;

use super::port::free_port;

/// What the store does instead of what it should.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mood {
    #[default]
    Well,
    /// Ignores `If-None-Match`, as some do. (The signature covers the header, so that the proxy cannot just drop it.)
    NoConditions,
    /// 503 SlowDown to everything.
    SlowDown,
    /// So long before each response.
    Late(Duration),
    /// Refuses what writes for want of room.
    Full,
    /// Closes each connection.
    Down,
    /// Breaks the body of each GET after so many bytes.
    Cut(u64),
    /// Sends the head of each GET, and no byte after it.
    Silent,
}

/// A proxy with a mood.
pub struct StoreProxy {
    pub port: u16,
    state: Arc<State>,
    _task: AbortOnDropHandle<()>,
}

struct State {
    target: u16,
    mood: Mutex<Mood>,
    requests: AtomicUsize,
    writes: AtomicUsize,
    /// Requests that are being answered, and the most at a time.
    running: AtomicUsize,
    most: AtomicUsize,
}

type Body = UnsyncBoxBody<Bytes, Box<dyn std::error::Error + Send + Sync>>;

impl StoreProxy {
    pub async fn before(target: u16) -> StoreProxy {
        let port = free_port();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await.expect("the port is free");
        let state = Arc::new(State {
            target,
            mood: Mutex::default(),
            requests: AtomicUsize::new(0),
            writes: AtomicUsize::new(0),
            running: AtomicUsize::new(0),
            most: AtomicUsize::new(0),
        });
        let task = tokio::spawn(serve(listener, state.clone()));
        StoreProxy { port, state, _task: AbortOnDropHandle::new(task) }
    }

    pub fn set(&self, mood: Mood) {
        *self.state.mood.lock() = mood;
    }

    /// How many requests came.
    pub fn requests(&self) -> usize {
        self.state.requests.load(Ordering::SeqCst)
    }

    /// How many of them were to write.
    pub fn writes(&self) -> usize {
        self.state.writes.load(Ordering::SeqCst)
    }

    /// The most requests at a time.
    pub fn most_at_a_time(&self) -> usize {
        self.state.most.load(Ordering::SeqCst)
    }
}

async fn serve(listener: TcpListener, state: Arc<State>) {
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        if *state.mood.lock() == Mood::Down {
            state.requests.fetch_add(1, Ordering::SeqCst);
            continue;
        }
        let state = state.clone();
        connections.spawn(async move {
            let answer = service_fn(|request| answer(request, state.clone()));
            let mut server = hyper::server::conn::http1::Builder::new();
            server.timer(TokioTimer::new());
            let _ = server.serve_connection(TokioIo::new(stream), answer).await;
        });
    }
}

async fn answer(request: Request<Incoming>, state: Arc<State>) -> Result<Response<Body>, BrokenOff> {
    state.requests.fetch_add(1, Ordering::SeqCst);
    let is_write = matches!(*request.method(), Method::PUT | Method::POST);
    state.writes.fetch_add(usize::from(is_write), Ordering::SeqCst);
    let running = Running::begin(&state);
    let mood = *state.mood.lock();
    let (mut cut, mut is_silent) = (None, false);
    match mood {
        Mood::Well => {}
        Mood::NoConditions => {}
        Mood::SlowDown => return Ok(refusal(503, "SlowDown")),
        Mood::Late(time) => tokio::time::sleep(time).await,
        Mood::Full if is_write => return Ok(refusal(507, "InsufficientStorage")),
        Mood::Full => {}
        Mood::Down => return Err(BrokenOff),
        Mood::Cut(bytes) => cut = (*request.method() == Method::GET).then_some(bytes),
        Mood::Silent => is_silent = *request.method() == Method::GET,
    }
    let response = forward(request, state.target).await.map_err(|_| BrokenOff)?;
    drop(running);
    if mood == Mood::NoConditions && response.status() == 412 {
        // As if it had been written again.
        return Ok(Response::builder().header(header::ETAG, "\"again\"").body(empty()).expect("a response"));
    }
    if is_silent {
        return Ok(response.map(|_| StreamBody::new(futures_util::stream::pending()).boxed_unsync()));
    }
    Ok(match cut {
        None => response.map(|body| body.map_err(Into::into).boxed_unsync()),
        Some(bytes) => response.map(|body| cut_after(body, bytes)),
    })
}

async fn forward(request: Request<Incoming>, target: u16) -> Result<Response<Incoming>, Box<dyn std::error::Error>> {
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, target)).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(sender.send_request(request).await?)
}

fn empty() -> Body {
    Full::default().map_err(|never: Infallible| match never {}).boxed_unsync()
}

fn refusal(status: u16, code: &str) -> Response<Body> {
    let text = format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>by the test</Message></Error>");
    let body = Full::new(Bytes::from(text)).map_err(|never: Infallible| match never {}).boxed_unsync();
    Response::builder().status(status).header(header::CONTENT_TYPE, "application/xml").body(body).expect("a response")
}

/// The body, which breaks after so many bytes.
fn cut_after(body: Incoming, bytes: u64) -> Body {
    let stream = futures_util::stream::try_unfold((body, bytes), |(mut body, left)| async move {
        if left == 0 {
            return Err(Box::new(BrokenOff) as Box<dyn std::error::Error + Send + Sync>);
        }
        match body.frame().await {
            Some(Ok(frame)) => {
                let Ok(mut data) = frame.into_data() else { return Ok(None) };
                data.truncate(usize::try_from(left).unwrap_or(usize::MAX));
                let left = left - data.len() as u64;
                Ok(Some((Frame::data(data), (body, left))))
            }
            Some(Err(error)) => Err(error.into()),
            None => Ok(None),
        }
    });
    BodyExt::boxed_unsync(StreamBody::new(stream))
}

/// A connection breaks here.
#[derive(Debug, thiserror::Error)]
#[error("broken off by the test")]
struct BrokenOff;

/// A request that is being answered.
struct Running(Arc<State>);

impl Running {
    fn begin(state: &Arc<State>) -> Self {
        let now = state.running.fetch_add(1, Ordering::SeqCst) + 1;
        state.most.fetch_max(now, Ordering::SeqCst);
        Self(state.clone())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::SeqCst);
    }
}
