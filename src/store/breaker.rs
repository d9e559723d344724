//! When the store is left alone after failures.
//!
//! What must hold: while it is open, requests fail at once; after the pause one request probes, and the others still
//! fail.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::error_kind::ErrorKind;

/// Whether requests of one kind are sent.
#[derive(Debug)]
pub(super) struct Breaker {
    limits: Limits,
    state: Mutex<State>,
}

#[derive(Debug)]
struct Limits {
    /// So many failures in a row open it. One that took its whole time counts as so many: each cost a client that time.
    failures: u32,
    min_pause: Duration,
    max_pause: Duration,
}

#[derive(Debug, Default)]
struct State {
    failures: u32,
    open: Option<Open>,
}

#[derive(Clone, Copy, Debug)]
struct Open {
    until: Instant,
    pause: Duration,
    /// A request probes.
    is_probed: bool,
}

/// What a result changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    None,
    Opened,
    Closed,
}

impl Breaker {
    /// Clients wait for reads, and have other sources.
    pub(super) fn of_reads() -> Self {
        Self::new(Limits { failures: 3, min_pause: Duration::from_secs(5), max_pause: Duration::from_secs(60) })
    }

    /// Writes can wait, and are many: the first failure makes all of them pause.
    pub(super) fn of_writes() -> Self {
        Self::new(Limits { failures: 1, min_pause: Duration::from_secs(1), max_pause: Duration::from_secs(300) })
    }

    fn new(limits: Limits) -> Self {
        Self { limits, state: Mutex::default() }
    }

    /// Whether a request may be sent now. If it is the probe, the next one may be sent after another pause.
    pub(super) fn admits(&self, now: Instant) -> bool {
        let mut state = self.state.lock();
        match &mut state.open {
            Some(open) if now < open.until => false,
            Some(open) => {
                open.until = now + open.pause;
                open.is_probed = true;
                true
            }
            None => true,
        }
    }

    /// Whether [`Breaker::admits`] would admit a request now, without sending one.
    pub(super) fn would_admit(&self, now: Instant) -> bool {
        self.state.lock().open.is_none_or(|open| open.until <= now)
    }

    /// How long until a request may be sent.
    pub(super) fn pause(&self, now: Instant) -> Option<Duration> {
        self.state.lock().open.map(|open| open.until.saturating_duration_since(now)).filter(|pause| !pause.is_zero())
    }

    /// Whether the store is left alone, probes apart.
    pub(super) fn is_open(&self) -> bool {
        self.state.lock().open.is_some()
    }

    pub(super) fn note(&self, failure: Option<ErrorKind>, now: Instant) -> Change {
        let state = &mut *self.state.lock();
        let Some(kind) = failure.filter(|kind| kind.is_outage()) else {
            state.failures = 0;
            return match state.open.take() {
                Some(_) => Change::Closed,
                None => Change::None,
            };
        };
        state.failures =
            state.failures.saturating_add(if kind == ErrorKind::Timeout { self.limits.failures } else { 1 });
        match &mut state.open {
            Some(open) => {
                // Of requests that fail together, only the probe makes the pause longer.
                if std::mem::take(&mut open.is_probed) {
                    open.pause = (open.pause * 2).min(self.limits.max_pause);
                    open.until = now + open.pause;
                }
                Change::None
            }
            None if state.failures >= self.limits.failures => {
                let pause = self.limits.min_pause;
                state.open = Some(Open { until: now + pause, pause, is_probed: false });
                Change::Opened
            }
            None => Change::None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAILED: Option<ErrorKind> = Some(ErrorKind::Failed);
    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn some_failures_in_a_row_open_it_and_one_timeout_does() {
        let now = Instant::now();
        for (results, expected) in [
            (&[FAILED, FAILED][..], false),
            (&[FAILED, FAILED, FAILED], true),
            (&[FAILED, FAILED, None, FAILED], false),
            (&[FAILED, FAILED, Some(ErrorKind::Missing), FAILED], false),
            (&[Some(ErrorKind::Timeout)], true),
            (&[Some(ErrorKind::Missing)], false),
        ] {
            let breaker = Breaker::of_reads();
            for result in results {
                breaker.note(*result, now);
            }
            assert_eq!(breaker.is_open(), expected, "{results:?}");
            assert_eq!(breaker.admits(now), !expected, "{results:?}");
        }
    }

    #[test]
    fn one_request_probes_after_a_pause_that_grows() {
        let breaker = Breaker::of_reads();
        let mut now = Instant::now();
        assert_eq!(breaker.note(Some(ErrorKind::Timeout), now), Change::Opened);
        for pause in [5, 10, 20, 40, 60, 60] {
            now += SECOND * (pause - 1);
            assert!(!breaker.admits(now), "{pause}");
            now += SECOND;
            assert!(breaker.admits(now), "{pause}");
            assert!(!breaker.admits(now), "only one probes");
            assert_eq!(breaker.note(FAILED, now), Change::None);
            // A request from before the probe changes nothing.
            assert_eq!(breaker.note(FAILED, now), Change::None);
        }
        now += SECOND * 60;
        assert!(breaker.admits(now));
        assert_eq!(breaker.note(None, now), Change::Closed);
        assert!(breaker.admits(now) && breaker.admits(now));
        assert_eq!(breaker.note(None, now), Change::None);
    }
}
