//! How an upstream is, as far as requests have shown: what operators ask first.
//!
//! What must hold: to note something costs a request next to nothing, and memory is fixed. Nothing here decides anything.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use parking_lot::Mutex;

use super::{Config, FailureCause, response::rate_limit::RateLimit};

/// How many of the latest requests count.
const LATENCIES: usize = 64;

/// What is known of an upstream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// Since when it has answered no request; `None`: it answered the last one, or none was sent.
    pub down_since: Option<SystemTime>,
    /// The last failure at one of its URLs, and when that was.
    pub last_failure: Option<(FailureCause, SystemTime)>,
    /// Whether it accepted forebay's own credentials when they were last judged; `None`: they were not.
    pub credentials_ok: Option<bool>,
    /// The pulls that it leaves to forebay: the limit, what remains of it, and when it said so.
    pub pulls: Option<(Option<u64>, Option<u64>, SystemTime)>,
    /// The time to the head of a response, of the latest requests: the median, and what one of twenty exceeds.
    pub latency: Option<(Duration, Duration)>,
}

/// The health of all upstreams, by their names: it outlives a reload. A cheap handle.
#[derive(Clone, Debug, Default)]
pub struct HealthTable(Arc<Mutex<HashMap<Arc<str>, Arc<HealthLog>>>>);

impl HealthTable {
    pub(super) fn of(&self, name: &Arc<str>) -> Arc<HealthLog> {
        self.0.lock().entry(name.clone()).or_default().clone()
    }

    /// Forgets all but these upstreams.
    pub fn keep(&self, upstreams: &[Config]) {
        self.0.lock().retain(|name, _| upstreams.iter().any(|upstream| upstream.name == *name));
    }
}

/// Collects what is known of one upstream.
#[derive(Debug)]
pub(super) struct HealthLog {
    known: Mutex<Health>,
    /// In microseconds; 0 is free.
    latencies: [AtomicU32; LATENCIES],
    next: AtomicUsize,
}

impl Default for HealthLog {
    fn default() -> Self {
        let latencies = [const { AtomicU32::new(0) }; LATENCIES];
        Self { known: Mutex::default(), latencies, next: AtomicUsize::new(0) }
    }
}

impl HealthLog {
    /// A request, or a body, failed at one of the URLs.
    pub(super) fn note_failure(&self, cause: FailureCause) {
        self.known.lock().last_failure = Some((cause, SystemTime::now()));
    }

    /// A request was answered by one of the URLs, or by none.
    pub(super) fn note_answer(&self, is_down: bool) {
        let mut known = self.known.lock();
        known.down_since = is_down.then(|| known.down_since.unwrap_or_else(SystemTime::now));
    }

    pub(super) fn note_credentials(&self, ok: bool) {
        self.known.lock().credentials_ok = Some(ok);
    }

    /// It announced a limit to forebay itself. An absent value keeps the last one.
    pub(super) fn note_rate_limit(&self, announced: RateLimit) {
        let mut known = self.known.lock();
        let (limit, remaining) = known.pulls.map_or((None, None), |(limit, remaining, _)| (limit, remaining));
        known.pulls = Some((announced.limit.or(limit), announced.remaining.or(remaining), SystemTime::now()));
    }

    /// The head of a response came after so long.
    pub(super) fn note_latency(&self, took: Duration) {
        let micros = u32::try_from(took.as_micros()).unwrap_or(u32::MAX).max(1);
        let next = self.next.fetch_add(1, Ordering::Relaxed) % LATENCIES;
        if let Some(slot) = self.latencies.get(next) {
            slot.store(micros, Ordering::Relaxed);
        }
    }

    pub(super) fn health(&self) -> Health {
        Health { latency: self.latency(), ..self.known.lock().clone() }
    }

    fn latency(&self) -> Option<(Duration, Duration)> {
        let mut micros: Vec<u32> = self.latencies.iter().map(|slot| slot.load(Ordering::Relaxed)).collect();
        micros.retain(|micros| *micros > 0);
        micros.sort_unstable();
        let at = |index: usize| micros.get(index).map(|micros| Duration::from_micros(u64::from(*micros)));
        let last = micros.len().checked_sub(1)?;
        Some((at(last / 2)?, at(last * 19 / 20)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_begins_with_the_first_request_that_fails() {
        let log = HealthLog::default();
        assert_eq!(log.health(), Health::default());
        log.note_failure(FailureCause::Dns);
        log.note_answer(true);
        let since = log.health().down_since.unwrap();
        log.note_answer(true);
        assert_eq!(log.health().down_since, Some(since));
        log.note_answer(false);
        let health = log.health();
        assert_eq!((health.down_since, health.last_failure.map(|(cause, _)| cause)), (None, Some(FailureCause::Dns)));
    }

    #[test]
    fn an_absent_number_keeps_the_last_one() {
        let log = HealthLog::default();
        let announce = |limit, remaining| log.note_rate_limit(RateLimit { limit, remaining, window: None });
        announce(Some(100), Some(40));
        announce(None, Some(39));
        assert!(matches!(log.health().pulls, Some((Some(100), Some(39), _))));
    }

    #[test]
    fn only_the_latest_requests_count() {
        let log = HealthLog::default();
        assert_eq!(log.health().latency, None);
        log.note_latency(Duration::from_secs(9));
        assert_eq!(log.health().latency, Some((Duration::from_secs(9), Duration::from_secs(9))));
        for millis in 1..=64 {
            log.note_latency(Duration::from_millis(millis));
        }
        assert_eq!(log.health().latency, Some((Duration::from_millis(32), Duration::from_millis(60))));
        log.note_latency(Duration::ZERO);
        log.note_latency(Duration::from_secs(1 << 40));
        assert!(log.health().latency.is_some());
    }
}
