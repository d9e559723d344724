//! What the log and the metrics say of an upstream that fails: one line per cause and minute, and one when it is back.
//!
//! What must hold: an outage costs as many lines as it has minutes and causes, however many requests fail; the line has
//! the whole chain of causes, and how many failures were left out. An upstream that fails now and then is called back
//! only if a line said that it failed.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::time::Instant;

use super::{
    error::{Error, ErrorKind},
    failure_cause::FailureCause,
    health::HealthLog,
};
use crate::{
    error_chain::ErrorChain,
    line_limit::{LINE_INTERVAL, LineLimit},
    metrics::{Label as _, Metrics},
};

/// Logs and counts the failures of one upstream.
pub(super) struct FailureLog {
    upstream: Arc<str>,
    metrics: Metrics,
    health: Arc<HealthLog>,
    lines: LineLimit<FailureCause>,
    outage: Mutex<Outage>,
}

#[derive(Default)]
struct Outage {
    /// Since when no request was answered, and how many requests that were.
    since: Option<(Instant, u64)>,
    /// Whether a line said so.
    is_told: bool,
}

/// An outage that is over, and of which the log has told.
#[derive(Debug, PartialEq, Eq)]
struct Ended {
    lasted: Duration,
    requests: u64,
}

impl FailureLog {
    pub(super) fn new(upstream: Arc<str>, metrics: Metrics, health: Arc<HealthLog>) -> Self {
        let lines = LineLimit::new(LINE_INTERVAL, FailureCause::ALL.len());
        Self { upstream, metrics, health, lines, outage: Mutex::default() }
    }

    /// Counts and logs a request, or a body, that failed at one of the URLs.
    pub(super) fn note(&self, error: &Error) {
        // No request was sent; those that opened the circuit were counted.
        if error.open_circuit.is_some() {
            return;
        }
        let Some(cause) = error.failure_cause() else { return };
        self.metrics.upstream_error(&self.upstream, cause);
        self.health.note_failure(cause);
        let left_out = self.failed(cause);
        let (upstream, cause, chain) = (&self.upstream, cause.as_str(), ErrorChain(error));
        let Some(left_out) = left_out else {
            return tracing::debug!(%upstream, cause, error = %chain, "the upstream could not answer");
        };
        if error.kind == ErrorKind::OurCredentials {
            tracing::warn!(
                %upstream, cause, error = %chain, left_out,
                "the upstream refuses forebay's own credentials: what is cached is still served, requests that need \
                 them fail; forebay sends them again after a while, or when they have changed"
            );
        } else {
            tracing::warn!(%upstream, cause, error = %chain, left_out, "the upstream could not answer");
        }
    }

    /// Notes whether a request was answered by none of the URLs.
    pub(super) fn settle(&self, is_down: bool) {
        self.metrics.upstream_up(&self.upstream, !is_down);
        self.health.note_answer(is_down);
        if let Some(Ended { lasted, requests }) = self.ended(is_down) {
            let seconds = lasted.as_secs();
            tracing::info!(upstream = %self.upstream, seconds, requests, "the upstream answers again");
        }
    }

    /// `Some`: the failure gets a line, with the number of failures that got none since the last one.
    fn failed(&self, cause: FailureCause) -> Option<u64> {
        let left_out = self.lines.admit(cause)?;
        self.outage.lock().is_told = true;
        Some(left_out)
    }

    /// `Some`: an outage of which the log has told is over.
    fn ended(&self, is_down: bool) -> Option<Ended> {
        let mut outage = self.outage.lock();
        if is_down {
            let (_, requests) = outage.since.get_or_insert_with(|| (Instant::now(), 0));
            *requests = requests.saturating_add(1);
            return None;
        }
        // An answer to a request from before the outage neither ends it nor makes its line forgotten.
        let (since, requests) = outage.since.take()?;
        std::mem::take(&mut outage.is_told).then(|| Ended { lasted: since.elapsed(), requests })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log() -> FailureLog {
        FailureLog::new("fake.example".into(), Metrics::new().unwrap(), Arc::default())
    }

    #[tokio::test(start_paused = true)]
    async fn an_outage_is_a_line_per_minute_and_one_at_its_end() {
        let log = log();
        let mut lines = Vec::new();
        assert_eq!(log.ended(false), None);
        for second in 0..150 {
            if let Some(left_out) = log.failed(FailureCause::Refused) {
                lines.push((second, left_out));
            }
            assert_eq!(log.ended(true), None);
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        assert_eq!(lines, [(0, 0), (60, 59), (120, 59)]);
        // Another cause is told at once.
        assert_eq!(log.failed(FailureCause::Tls), Some(0));
        assert_eq!(log.ended(false), Some(Ended { lasted: Duration::from_secs(150), requests: 150 }));
        assert_eq!(log.ended(false), None);
    }

    #[tokio::test(start_paused = true)]
    async fn an_upstream_that_fails_now_and_then_is_not_told_each_time() {
        let log = log();
        let mut lines = 0;
        for _ in 0..59 {
            lines += usize::from(log.failed(FailureCause::Status).is_some());
            log.ended(true);
            lines += usize::from(log.ended(false).is_some());
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        assert_eq!(lines, 2, "that it fails, and that it is back");
    }

    #[tokio::test]
    async fn an_answer_between_a_failure_and_its_end_hides_no_end() {
        let log = log();
        assert_eq!(log.failed(FailureCause::Refused), Some(0));
        assert_eq!(log.ended(false), None, "of a request that was sent before");
        assert_eq!(log.ended(true), None);
        assert!(log.ended(false).is_some_and(|ended| ended.requests == 1));
    }

    /// The second URL answers: the upstream was never down.
    #[tokio::test]
    async fn a_url_that_fails_alone_ends_no_outage() {
        let log = log();
        assert_eq!(log.failed(FailureCause::Timeout), Some(0));
        assert_eq!(log.ended(false), None);
    }
}
