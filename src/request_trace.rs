//! What a request of a client spends at its upstream: how long it waits, and how many bytes come for it.
//!
//! A trace goes with the handle of the upstream, also into tasks that outlive the request: whatever is done by the
//! handle logs the request's id and adds its bytes. Only the request's own task adds time, where it waits.
//!
//! What must hold: a request without a trace costs nothing here; waits that overlap count once.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tracing::Span;

use crate::request_id::RequestId;

/// The name of the span of a request, which exists in logs of `debug` and more. Its one field is the id.
pub const SPAN: &str = "request";

/// The trace of a request, or of none. A cheap handle.
#[derive(Clone, Debug, Default)]
pub(crate) struct RequestTrace(Option<Arc<Trace>>);

#[derive(Debug)]
struct Trace {
    id: RequestId,
    received: AtomicU64,
    waits: Mutex<Waits>,
}

/// The waits of a request (pure).
#[derive(Debug, Default)]
struct Waits {
    running: u32,
    /// When the first of those that run began.
    since: Option<Instant>,
    /// How long those took that are over; `None`: there was none.
    total: Option<Duration>,
}

impl Waits {
    fn begin(&mut self, now: Instant) {
        self.running += 1;
        self.since.get_or_insert(now);
    }

    fn end(&mut self, now: Instant) {
        self.running = self.running.saturating_sub(1);
        if self.running == 0 {
            self.total = self.total_at(now);
            self.since = None;
        }
    }

    fn total_at(&self, now: Instant) -> Option<Duration> {
        let running = self.since.map(|since| now.saturating_duration_since(since));
        match (self.total, running) {
            (None, None) => None,
            (total, running) => Some(total.unwrap_or_default() + running.unwrap_or_default()),
        }
    }
}

/// What a request has spent at its upstream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Spent {
    /// How long the request waited for the upstream; `None`: it never did.
    pub waited: Option<Duration>,
    /// How many bytes of bodies came for it; `None`: none.
    pub received: Option<u64>,
}

/// The request waits as long as this lives.
struct Waiting<'a>(&'a Trace);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waits.lock().end(Instant::now());
    }
}

impl RequestTrace {
    pub(crate) fn of(id: RequestId) -> Self {
        Self(Some(Arc::new(Trace { id, received: AtomicU64::new(0), waits: Mutex::default() })))
    }

    /// The same request, for work that it does not need: what this spends counts nowhere.
    pub(crate) fn uncounted(&self) -> Self {
        self.id().map_or_else(Self::default, Self::of)
    }

    /// The id of the request; `None`: there is no request.
    pub(crate) fn id(&self) -> Option<RequestId> {
        self.0.as_ref().map(|trace| trace.id)
    }

    /// The span of work for this request.
    pub(crate) fn span(&self) -> Span {
        match self.id() {
            Some(id) => tracing::debug_span!(SPAN, id = id.text().as_str()),
            None => Span::none(),
        }
    }

    /// The result of `work`, while which the request waits for its upstream.
    pub(crate) async fn wait<T>(&self, work: impl Future<Output = T>) -> T {
        let _waiting = self.0.as_deref().map(|trace| {
            trace.waits.lock().begin(Instant::now());
            Waiting(trace)
        });
        work.await
    }

    /// Bytes of a body came for the request.
    pub(crate) fn received(&self, bytes: u64) {
        if let Some(trace) = &self.0 {
            trace.received.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    /// What the request has spent until `now`.
    pub(crate) fn spent(&self, now: Instant) -> Spent {
        let Some(trace) = &self.0 else { return Spent::default() };
        let received = trace.received.load(Ordering::Relaxed);
        Spent { waited: trace.waits.lock().total_at(now), received: (received > 0).then_some(received) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlapping_waits_count_once() {
        let begun = Instant::now();
        let at = |second| begun + Duration::from_secs(second);
        for (changes, now, expected) in [
            (&[][..], 9, None),
            (&[(true, 1), (false, 3)], 9, Some(2)),
            (&[(true, 1), (false, 3), (true, 5), (false, 6)], 9, Some(3)),
            // One within another, and one that goes on.
            (&[(true, 1), (true, 2), (false, 4), (false, 5)], 9, Some(4)),
            (&[(true, 1), (false, 2), (true, 4), (true, 5), (false, 6)], 9, Some(6)),
            (&[(true, 9)], 9, Some(0)),
        ] {
            let mut waits = Waits::default();
            for &(begins, second) in changes {
                if begins { waits.begin(at(second)) } else { waits.end(at(second)) }
            }
            assert_eq!(waits.total_at(at(now)), expected.map(Duration::from_secs), "{changes:?}");
        }
    }

    #[tokio::test]
    async fn a_trace_sums_what_its_handles_spend() {
        let trace = RequestTrace::of(RequestId { instance: 1, number: 2 });
        assert_eq!(trace.spent(Instant::now()), Spent::default());
        let handle = trace.clone();
        handle.received(5);
        trace.received(7);
        trace.uncounted().received(100);
        assert_eq!(handle.wait(async { 3 }).await, 3);
        let spent = trace.spent(Instant::now());
        assert!(spent.waited.is_some() && spent.received == Some(12), "{spent:?}");
        assert_eq!(trace.uncounted().id(), trace.id());
        let none = RequestTrace::default();
        none.received(5);
        assert_eq!(none.wait(async { 3 }).await, 3);
        assert_eq!((none.spent(Instant::now()), none.id(), none.uncounted().id()), (Spent::default(), None, None));
    }
}
