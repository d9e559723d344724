//! The streams of one HTTP/2 connection: each is a task with a stall timer, and all are counted.
//!
//! HTTP/2 has its own flow control: a client can keep its connection alive, answer pings, and yet read nothing of one response.
//! So every response body is timed: after it returned bytes, and until it is polled again, the stream waits for the client;
//! after it returned `Pending`, it waits for forebay, and the timer rests. Only the stalled stream is reset, not its neighbours;
//! so is a stream whose client reads too slowly: see [`super::send_rate`]. HTTP/1 needs none of this: only its socket can stall.

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
    /// The timer of the stream whose task is running.
    static TIMER: Arc<StallTimer>;
}

/// Times one stream while it waits for its client.
pub(crate) struct StallTimer {
    stall: Duration,
    recipient: Recipient,
    state: Mutex<TimerState>,
}

struct TimerState {
    rate: MinRate,
    /// The client was too slow in a period.
    slow: bool,
    /// Present while the stream waits for its client.
    wait: Option<ClientWait>,
}

/// A wait for the client to read a frame.
struct ClientWait {
    bytes: usize,
    since: Instant,
    /// Up to when the rate has counted the time.
    counted: Instant,
}

impl StallTimer {
    fn new(stall: Duration, connection: Recipient) -> Arc<StallTimer> {
        let state = TimerState { rate: MinRate::new(stall), slow: false, wait: None };
        let recipient = Recipient::new(RecipientState { connection: Some(connection), ..RecipientState::default() });
        Arc::new(StallTimer { stall, recipient, state: Mutex::new(state) })
    }

    /// The client has read its last frame.
    fn end_wait(&self) {
        let mut state = self.state();
        if let Some(wait) = state.wait.take() {
            self.recipient.meter.took(wait.bytes as u64);
            self.recipient.meter.goes_on();
            state.rate.took(wait.bytes);
            state.slow |= !state.rate.waited(wait.counted.elapsed(), || None);
        }
    }

    /// The client was given a frame of so many bytes.
    fn begin_wait(&self, bytes: usize) {
        let now = Instant::now();
        self.recipient.meter.waits();
        self.state().wait = Some(ClientWait { bytes, since: now, counted: now });
    }

    /// Ends when the stream has waited for its client for too long, or the client was too slow all in all.
    async fn stalled(&self) {
        while let Some(wait) = self.time_left() {
            // A stall cannot be over earlier than this; it may be noticed a little late, never early.
            tokio::time::sleep(wait.max(Duration::from_millis(1))).await;
        }
    }

    /// For how long the client may still read nothing. `None`: it has stalled or is too slow.
    fn time_left(&self) -> Option<Duration> {
        let mut state = self.state();
        let TimerState { rate, slow, wait } = &mut *state;
        if *slow {
            return None;
        }
        let Some(wait) = wait else { return Some(self.stall) };
        let now = Instant::now();
        let still = now - wait.since;
        let goes_on = rate.waited(now - wait.counted, || None);
        wait.counted = now;
        (goes_on && still < self.stall).then(|| rate.left().min(self.stall - still))
    }

    fn state(&self) -> MutexGuard<'_, TimerState> {
        self.state.lock()
    }
}

/// The recipient of the stream whose task is running, if it is one.
pub(crate) fn recipient() -> Option<Recipient> {
    TIMER.try_with(|timer| timer.recipient.clone()).ok()
}

/// A body that runs the [`StallTimer`] of its stream.
pub(crate) struct StallTimed<B> {
    body: Pin<Box<B>>,
    timer: Option<Arc<StallTimer>>,
}

impl<B> StallTimed<B> {
    /// Must be called in the task of the body's stream.
    pub(crate) fn new(body: B) -> StallTimed<B> {
        StallTimed { body: Box::pin(body), timer: TIMER.try_with(Arc::clone).ok() }
    }
}

impl<B: Body<Data: Buf>> Body for StallTimed<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        if let Some(timer) = &self.timer {
            timer.end_wait();
        }
        let frame = ready!(self.body.as_mut().poll_frame(cx));
        if let (Some(timer), Some(Ok(frame))) = (&self.timer, &frame) {
            timer.begin_wait(frame.data_ref().map_or(0, Buf::remaining));
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

/// Spawns the streams of one connection.
#[derive(Clone)]
pub(crate) struct StreamExecutor {
    pub(crate) tasks: TaskTracker,
    /// Cancelled when the connection has ended.
    pub(crate) ended: CancellationToken,
    /// The connection as a recipient.
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
            let timer = StallTimer::new(stall, recipient);
            tokio::select! {
                biased;
                () = ended.cancelled() => {}
                () = timer.recipient.end.cancelled() => debug!("a slow client of a response is in others' way: resetting the stream"),
                () = TIMER.scope(timer.clone(), stream) => {}
                () = timer.stalled() => {
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

    /// Restarts the time without an open stream.
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
    async fn a_frame_now_and_then_is_too_slow() {
        for (bytes, ends) in [(1, true), (120 * 1024, false)] {
            let timer = StallTimer::new(Duration::from_secs(120), Recipient::default());
            timer.begin_wait(bytes);
            tokio::time::advance(Duration::from_secs(100)).await;
            assert!(timer.stalled().now_or_never().is_none());
            timer.end_wait();
            // While the stream waits for forebay, the timer rests.
            tokio::time::advance(Duration::from_secs(1000)).await;
            timer.begin_wait(bytes);
            tokio::time::advance(Duration::from_secs(21)).await;
            assert_eq!(timer.stalled().now_or_never().is_some(), ends, "{bytes}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_reads_nothing_stalls_after_the_timeout() {
        let timer = StallTimer::new(Duration::from_secs(120), Recipient::default());
        timer.begin_wait(1 << 30);
        tokio::time::advance(Duration::from_secs(10)).await;
        timer.end_wait();
        timer.begin_wait(1 << 30);
        let began = Instant::now();
        timer.stalled().await;
        assert_eq!(began.elapsed().as_secs(), 120);
    }
}
