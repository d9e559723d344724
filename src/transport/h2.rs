//! The streams of one HTTP/2 connection: each a task, each watched, all counted.
//!
//! HTTP/2 has flow control of its own: a client can keep its connection alive, answer pings, and yet take nothing of
//! one response. So every response body is watched for whose turn it is: a body that returned bytes and is not asked
//! for more waits for the client; a body that returned `Pending` waits for us, and is left alone. Only the stalled
//! stream is reset, its neighbours go on; so is one whose client takes too little: see [`super::send_rate`]. HTTP/1 needs none of this: its only stall is that of the socket.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use parking_lot::{Mutex, MutexGuard};

use bytes::Buf;
use http_body::{Body, Frame, SizeHint};
use hyper::rt::Executor;
use tokio::time::Instant;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::debug;

use super::{
    recipient::{Recipient, RecipientState},
    send_rate::MinRate,
};
use crate::metrics::Metrics;

tokio::task_local! {
    /// The turn of the stream whose task is running.
    static TURN: Arc<Turn>;
}

/// Whose turn it is on one stream.
pub(crate) struct Turn {
    stall: Duration,
    recipient: Recipient,
    state: Mutex<TurnState>,
}

struct TurnState {
    rate: MinRate,
    /// Whether the rate has found the client too slow.
    slow: bool,
    clients: Option<ClientsTurn>,
}

/// What the client was given, and when.
struct ClientsTurn {
    bytes: usize,
    since: Instant,
    /// Up to when the rate knows of it.
    told: Instant,
}

impl Turn {
    fn new(stall: Duration, connection: Recipient) -> Arc<Turn> {
        let state = TurnState { rate: MinRate::new(stall), slow: false, clients: None };
        let recipient = Recipient::new(RecipientState { connection: Some(connection), ..RecipientState::default() });
        Arc::new(Turn { stall, recipient, state: Mutex::new(state) })
    }

    /// The client has taken what it was given.
    fn ours(&self) {
        let mut state = self.state();
        if let Some(clients) = state.clients.take() {
            self.recipient.meter.took(clients.bytes as u64);
            self.recipient.meter.goes_on();
            state.rate.took(clients.bytes);
            state.slow |= !state.rate.waited(clients.told.elapsed(), || None);
        }
    }

    fn the_clients(&self, bytes: usize) {
        let now = Instant::now();
        self.recipient.meter.waits();
        self.state().clients = Some(ClientsTurn { bytes, since: now, told: now });
    }

    /// Ends when it has been the client's turn for too long, or the client was too slow all in all.
    async fn stalled(&self) {
        while let Some(wait) = self.patience() {
            // It cannot be over earlier than this; a stall may be noticed a little late, never early.
            tokio::time::sleep(wait.max(Duration::from_millis(1))).await;
        }
    }

    /// For how long the client may do nothing. `None`: it has had its time.
    fn patience(&self) -> Option<Duration> {
        let mut state = self.state();
        let TurnState { rate, slow, clients } = &mut *state;
        if *slow {
            return None;
        }
        let Some(clients) = clients else { return Some(self.stall) };
        let now = Instant::now();
        let still = now - clients.since;
        let goes_on = rate.waited(now - clients.told, || None);
        clients.told = now;
        (goes_on && still < self.stall).then(|| rate.left().min(self.stall - still))
    }

    fn state(&self) -> MutexGuard<'_, TurnState> {
        // What is in it is whole even if a thread panicked beside it.
        self.state.lock()
    }
}

/// What takes the response of the stream whose task is running, if it is one.
pub(crate) fn recipient() -> Option<Recipient> {
    TURN.try_with(|turn| turn.recipient.clone()).ok()
}

/// A body that keeps its stream's [`Turn`].
pub(crate) struct StallTimed<B> {
    body: Pin<Box<B>>,
    turn: Option<Arc<Turn>>,
}

impl<B> StallTimed<B> {
    /// Must be called in the task of the body's stream.
    pub(crate) fn new(body: B) -> StallTimed<B> {
        StallTimed { body: Box::pin(body), turn: TURN.try_with(Arc::clone).ok() }
    }
}

impl<B: Body<Data: Buf>> Body for StallTimed<B> {
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
        if let (Some(turn), Some(Ok(frame))) = (&self.turn, &frame) {
            turn.the_clients(frame.data_ref().map_or(0, Buf::remaining));
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
pub(crate) struct StreamExecutor {
    pub(crate) tasks: TaskTracker,
    /// The connection is gone.
    pub(crate) ended: CancellationToken,
    /// The connection, as far as it takes what is written to it.
    pub(crate) recipient: Recipient,
    pub(crate) stall: Duration,
    pub(crate) metrics: Option<Metrics>,
    pub(crate) activity: Arc<Activity>,
}

impl<F> Executor<F> for StreamExecutor
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, stream: F) {
        let open = self.activity.begin();
        let StreamExecutor { tasks, ended, recipient, stall, metrics, .. } = self.clone();
        tasks.spawn(async move {
            let turn = Turn::new(stall, recipient);
            tokio::select! {
                biased;
                () = ended.cancelled() => {}
                () = turn.recipient.end.cancelled() => debug!("a slow client of a response is in others' way: resetting the stream"),
                () = TURN.scope(turn.clone(), stream) => {}
                () = turn.stalled() => {
                    debug!("a client takes too little of a response: resetting the stream");
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
pub(crate) struct Activity(Mutex<State>);

struct State {
    open: usize,
    last: Instant,
}

/// A stream is open until this is dropped.
pub(crate) struct Open(Arc<Activity>);

impl Activity {
    pub(crate) fn new() -> Arc<Activity> {
        Arc::new(Activity(Mutex::new(State { open: 0, last: Instant::now() })))
    }

    fn begin(self: &Arc<Self>) -> Open {
        self.update(|state| state.open += 1);
        Open(self.clone())
    }

    /// The quiet begins anew.
    pub(crate) fn touch(&self) {
        self.update(|_| {});
    }

    fn update(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.0.lock();
        change(&mut state);
        state.last = Instant::now();
    }

    /// Ends when no stream has been open for `limit`.
    pub(crate) async fn quiet(&self, limit: Duration) {
        loop {
            let waited = {
                let state = self.0.lock();
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

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_frame_now_and_then_is_no_progress() {
        for (bytes, ends) in [(1, true), (120 * 1024, false)] {
            let turn = Turn::new(Duration::from_secs(120), Recipient::default());
            turn.the_clients(bytes);
            tokio::time::advance(Duration::from_secs(100)).await;
            assert!(turn.stalled().now_or_never().is_none());
            turn.ours();
            // What the stream waits for us is not the client's time.
            tokio::time::advance(Duration::from_secs(1000)).await;
            turn.the_clients(bytes);
            tokio::time::advance(Duration::from_secs(21)).await;
            assert_eq!(turn.stalled().now_or_never().is_some(), ends, "{bytes}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_nothing_has_its_time_and_no_more() {
        let turn = Turn::new(Duration::from_secs(120), Recipient::default());
        turn.the_clients(1 << 30);
        tokio::time::advance(Duration::from_secs(10)).await;
        turn.ours();
        turn.the_clients(1 << 30);
        let began = Instant::now();
        turn.stalled().await;
        assert_eq!(began.elapsed().as_secs(), 120);
    }
}
