//! The streams of one HTTP/2 connection: each a task, each watched, all counted.
//!
//! HTTP/2 has flow control of its own: a client can keep its connection alive, answer pings, and yet take nothing of
//! one response. So every response body is watched for whose turn it is: a body that returned bytes and is not asked
//! for more waits for the client; a body that returned `Pending` waits for us, and is left alone. Only the stalled
//! stream is reset, its neighbours go on. HTTP/1 needs none of this: its only stall is that of the socket.

use std::{
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use http_body::{Body, Frame, SizeHint};
use hyper::rt::Executor;
use tokio::time::Instant;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::debug;

use crate::metrics::Metrics;

tokio::task_local! {
    /// The turn of the stream whose task is running.
    static TURN: Arc<Turn>;
}

/// Whose turn it is on one stream.
pub(super) struct Turn {
    origin: Instant,
    /// Milliseconds from `origin`, plus one, to when the client was given something; 0 while it waits for us.
    client_since: AtomicU64,
}

impl Turn {
    fn new() -> Arc<Turn> {
        Arc::new(Turn { origin: Instant::now(), client_since: AtomicU64::new(0) })
    }

    fn ours(&self) {
        self.client_since.store(0, Ordering::Relaxed);
    }

    fn the_clients(&self) {
        self.client_since.store(self.now(), Ordering::Relaxed);
    }

    fn now(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_millis()).unwrap_or(u64::MAX).saturating_add(1)
    }

    /// Ends when it has been the client's turn for `limit`.
    async fn stalled(&self, limit: Duration) {
        loop {
            let waited = match self.client_since.load(Ordering::Relaxed) {
                0 => Duration::ZERO,
                since => Duration::from_millis(self.now().saturating_sub(since)),
            };
            if waited >= limit {
                return;
            }
            // It cannot be over earlier than this; a stall may be noticed a little late, never early.
            tokio::time::sleep((limit - waited).max(Duration::from_millis(1))).await;
        }
    }
}

/// A body that keeps its stream's [`Turn`].
pub(super) struct Watched<B> {
    body: Pin<Box<B>>,
    turn: Option<Arc<Turn>>,
}

impl<B> Watched<B> {
    /// Must be called in the task of the body's stream.
    pub(super) fn new(body: B) -> Watched<B> {
        Watched { body: Box::pin(body), turn: TURN.try_with(Arc::clone).ok() }
    }
}

impl<B: Body> Body for Watched<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        if let Some(turn) = &self.turn {
            turn.ours();
        }
        let frame = ready!(self.body.as_mut().poll_frame(cx));
        if let (Some(turn), Some(Ok(_))) = (&self.turn, &frame) {
            turn.the_clients();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Runs the streams of one connection.
#[derive(Clone)]
pub(super) struct Streams {
    pub(super) tasks: TaskTracker,
    /// The connection is gone.
    pub(super) ended: CancellationToken,
    pub(super) stall: Duration,
    pub(super) metrics: Option<Metrics>,
    pub(super) activity: Arc<Activity>,
}

impl<F> Executor<F> for Streams
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, stream: F) {
        let open = self.activity.begin();
        let Streams { tasks, ended, stall, metrics, .. } = self.clone();
        tasks.spawn(async move {
            let turn = Turn::new();
            tokio::select! {
                biased;
                () = ended.cancelled() => {}
                () = TURN.scope(turn.clone(), stream) => {}
                () = turn.stalled(stall) => {
                    debug!("a client takes nothing of a response: resetting the stream");
                    if let Some(metrics) = metrics {
                        metrics.stall("read");
                    }
                }
            }
            drop(open);
        });
    }
}

/// How many streams are open, and since when none is.
pub(super) struct Activity(Mutex<State>);

struct State {
    open: usize,
    last: Instant,
}

/// A stream is open until this is dropped.
pub(super) struct Open(Arc<Activity>);

impl Activity {
    pub(super) fn new() -> Arc<Activity> {
        Arc::new(Activity(Mutex::new(State { open: 0, last: Instant::now() })))
    }

    fn begin(self: &Arc<Self>) -> Open {
        self.update(|state| state.open += 1);
        Open(self.clone())
    }

    /// The quiet begins anew.
    pub(super) fn touch(&self) {
        self.update(|_| {});
    }

    fn update(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut state);
        state.last = Instant::now();
    }

    /// Ends when no stream has been open for `limit`.
    pub(super) async fn quiet(&self, limit: Duration) {
        loop {
            let waited = {
                let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
                if state.open > 0 { Duration::ZERO } else { state.last.elapsed() }
            };
            if waited >= limit {
                return;
            }
            tokio::time::sleep((limit - waited).max(Duration::from_millis(1))).await;
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.update(|state| state.open -= 1);
    }
}
