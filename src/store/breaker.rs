//! When the store is left alone after failures.
//!
//! What must hold: while it is open, requests fail at once; after the pause one request probes, and the others still
//! fail. What a success proves it proves: that an object is listed does not show that it can be read or written.

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
    /// Counts the openings, the probes and the closings.
    number: u64,
    /// Results of requests with a lower number come too late to tell anything.
    valid_from: u64,
    failures: u32,
    /// The heaviest of these failures: a success that proves less undoes nothing.
    weight: Weight,
    open: Option<Open>,
}

#[derive(Clone, Copy, Debug)]
struct Open {
    until: Instant,
    pause: Duration,
}

/// What a request is about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Weight {
    /// Names and lengths.
    #[default]
    Light,
    /// Content, which is read, written or deleted.
    Heavy,
}

/// A request that was admitted. Its results count for as long as nothing has changed since.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pass(u64);

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

    /// Listings and deletes: these make room in a store that is full.
    pub(super) fn of_upkeep() -> Self {
        Self::new(Limits { failures: 1, min_pause: Duration::from_secs(1), max_pause: Duration::from_secs(60) })
    }

    fn new(limits: Limits) -> Self {
        Self { limits, state: Mutex::default() }
    }

    /// Whether a request may be sent now. If it is the probe, the next one may be sent after another pause.
    pub(super) fn admits(&self, now: Instant) -> Option<Pass> {
        let state = &mut *self.state.lock();
        if let Some(open) = &mut state.open {
            if now < open.until {
                return None;
            }
            open.until = now + open.pause;
            state.number += 1;
        }
        Some(Pass(state.number))
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

    /// Notes a success, which proves as much as `weight` says, or a failure.
    pub(super) fn note(&self, pass: Pass, failure: Option<ErrorKind>, weight: Weight, now: Instant) -> Change {
        let state = &mut *self.state.lock();
        if pass.0 < state.valid_from {
            return Change::None;
        }
        match failure.filter(|kind| kind.is_outage()) {
            Some(kind) => state.note_failure(&self.limits, pass, (kind, weight), now),
            None => state.note_success(pass, weight, now),
        }
    }
}

impl State {
    fn note_success(&mut self, pass: Pass, weight: Weight, now: Instant) -> Change {
        if weight < self.weight {
            // The probe is over and has proved too little: the next request is another one.
            if let Some(open) = self.open.as_mut().filter(|_| pass.0 == self.number) {
                open.until = now;
            }
            return Change::None;
        }
        (self.failures, self.weight) = (0, Weight::Light);
        match self.open.take() {
            Some(_) => {
                self.begin();
                Change::Closed
            }
            None => Change::None,
        }
    }

    fn note_failure(
        &mut self,
        limits: &Limits,
        pass: Pass,
        (kind, weight): (ErrorKind, Weight),
        now: Instant,
    ) -> Change {
        if let Some(open) = &mut self.open {
            // Of probes that fail together, only the last makes the pause longer.
            if pass.0 == self.number {
                open.pause = (open.pause * 2).min(limits.max_pause);
                open.until = now + open.pause;
                self.number += 1;
                self.weight = self.weight.max(weight);
            }
            return Change::None;
        }
        self.failures = self.failures.saturating_add(if kind == ErrorKind::Timeout { limits.failures } else { 1 });
        self.weight = self.weight.max(weight);
        if self.failures < limits.failures {
            return Change::None;
        }
        let pause = limits.min_pause;
        self.open = Some(Open { until: now + pause, pause });
        self.begin();
        Change::Opened
    }

    /// From now on only results of requests count that are sent from now on.
    fn begin(&mut self) {
        self.number += 1;
        self.valid_from = self.number;
    }
}

#[cfg(test)]
mod tests {
    use super::{Weight::*, *};

    const FAILED: Option<ErrorKind> = Some(ErrorKind::Failed);
    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn some_failures_in_a_row_open_it_and_one_timeout_does() {
        let now = Instant::now();
        for (results, expected) in [
            (&[(FAILED, Light), (FAILED, Light)][..], false),
            (&[(FAILED, Light), (FAILED, Light), (FAILED, Light)], true),
            (&[(FAILED, Light), (FAILED, Light), (None, Light), (FAILED, Light)], false),
            (&[(FAILED, Light), (FAILED, Light), (Some(ErrorKind::Missing), Light), (FAILED, Light)], false),
            (&[(FAILED, Heavy), (FAILED, Heavy), (Some(ErrorKind::Missing), Light), (FAILED, Heavy)], true),
            (&[(FAILED, Heavy), (FAILED, Heavy), (None, Heavy), (FAILED, Heavy)], false),
            (&[(Some(ErrorKind::Timeout), Light)], true),
            (&[(Some(ErrorKind::Missing), Light)], false),
        ] {
            let breaker = Breaker::of_reads();
            for (result, weight) in results {
                let pass = breaker.admits(now).unwrap();
                breaker.note(pass, *result, *weight, now);
            }
            assert_eq!(breaker.is_open(), expected, "{results:?}");
            assert_eq!(breaker.admits(now).is_none(), expected, "{results:?}");
        }
    }

    #[test]
    fn one_request_probes_after_a_pause_that_grows() {
        let breaker = Breaker::of_reads();
        let mut now = Instant::now();
        let first = breaker.admits(now).unwrap();
        assert_eq!(breaker.note(first, Some(ErrorKind::Timeout), Light, now), Change::Opened);
        for pause in [5, 10, 20, 40, 60, 60] {
            now += SECOND * (pause - 1);
            assert!(breaker.admits(now).is_none(), "{pause}");
            now += SECOND;
            let probe = breaker.admits(now).unwrap();
            assert!(breaker.admits(now).is_none(), "only one probes");
            assert_eq!(breaker.note(probe, FAILED, Light, now), Change::None);
            // Neither does the same failure count twice, nor does a request from before the probe change anything.
            for late in [(probe, FAILED), (first, FAILED), (first, None)] {
                assert_eq!(breaker.note(late.0, late.1, Heavy, now), Change::None);
            }
        }
        now += SECOND * 60;
        let probe = breaker.admits(now).unwrap();
        assert_eq!(breaker.note(probe, None, Light, now), Change::Closed);
        assert!(breaker.admits(now).is_some() && breaker.admits(now).is_some());
        assert_eq!(breaker.note(probe, FAILED, Light, now), Change::None, "it is from before");
        let next = breaker.admits(now).unwrap();
        assert_eq!(breaker.note(next, None, Light, now), Change::None);
    }

    #[test]
    fn a_success_that_proves_less_closes_nothing() {
        let breaker = Breaker::of_writes();
        let mut now = Instant::now();
        let put = breaker.admits(now).unwrap();
        assert_eq!(breaker.note(put, FAILED, Heavy, now), Change::Opened);
        for pause in [1, 2, 4, 8] {
            now += SECOND * pause;
            let head = breaker.admits(now).unwrap();
            assert!(breaker.admits(now).is_none());
            assert_eq!(breaker.note(head, None, Light, now), Change::None);
            assert!(breaker.is_open());
            let put = breaker.admits(now).expect("the place of the probe is free again");
            assert_eq!(breaker.note(put, FAILED, Heavy, now), Change::None);
            assert_eq!(breaker.pause(now), Some(SECOND * pause * 2), "it grows all the same");
        }
        now += SECOND * 16;
        let put = breaker.admits(now).unwrap();
        assert_eq!(breaker.note(put, None, Heavy, now), Change::Closed);
    }

    #[test]
    fn a_slow_probe_counts_when_a_later_one_is_under_way() {
        let breaker = Breaker::of_reads();
        let mut now = Instant::now();
        breaker.note(breaker.admits(now).unwrap(), Some(ErrorKind::Timeout), Heavy, now);
        now += SECOND * 5;
        let slow = breaker.admits(now).unwrap();
        now += SECOND * 5;
        let _later = breaker.admits(now).unwrap();
        assert_eq!(breaker.note(slow, None, Heavy, now), Change::Closed);
    }
}
