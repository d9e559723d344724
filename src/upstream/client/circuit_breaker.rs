//! Circuit breakers of the hosts of one upstream: after ten failures in a row a host gets only a probe now and then.
//!
//! What must hold: each host counts for itself, and its blobs apart from all else, so that a failing host stops no
//! other; a request counts as one failure, however often it was sent; a request that is refused is refused at once,
//! with the time of the next probe; a request during a probe waits for the probe, so that a healthy host refuses none;
//! one response closes the circuit, whatever its status. Pushes, logins and token requests are never refused
//! ([`CircuitBreakers::always`]), and still count.
//!
//! [`failover`](super::super::failover) is not the same: it orders the URLs of an upstream after one failure of any
//! kind (also an HTML
//! page, or a 429) for ten seconds and more, and refuses nothing. Here a host must not respond at all, and is back
//! within seconds.

pub(crate) mod open_circuit;

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use reqwest::Url;
use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};

use self::open_circuit::{Failure, OpenCircuit};
use crate::metrics::{InFlight, Metrics};

/// How many failures in a row open a circuit: a restart of the host costs a few.
const MAX_FAILURES: u32 = 10;
/// How long a circuit stays open; twice as long after each failed probe.
const MIN_PAUSE: Duration = Duration::from_secs(1);
const MAX_PAUSE: Duration = Duration::from_secs(8);
/// How long a probe may take; then it counts as failed.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);
/// How many hosts are counted at a time.
const MAX_HOSTS: usize = 256;
/// How long an open circuit without requests is kept after its pause.
const MAX_UNUSED: Duration = Duration::from_secs(600);

/// A host, whose requests fail together.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(in crate::upstream) struct Host {
    /// Such as `https://registry.example:5000`.
    origin: String,
    /// Whether these are bodies of blobs, which have connections of their own.
    blobs: bool,
}

impl Host {
    pub(in crate::upstream) fn of(url: &Url, blobs: bool) -> Self {
        Self { origin: url.origin().ascii_serialization(), blobs }
    }
}

/// The circuit breakers of one upstream.
pub(in crate::upstream) struct CircuitBreakers {
    upstream: Arc<str>,
    circuits: Mutex<HashMap<Host, Circuit>>,
    /// Notified when a probe ends.
    changed: watch::Sender<()>,
    metrics: Metrics,
}

#[derive(Debug)]
struct Circuit {
    /// Failures in a row.
    failures: u32,
    since: Instant,
    last: Failure,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    until: Instant,
    pause: Duration,
    probe: Option<Probe>,
    probes: u64,
    _open: InFlight,
}

#[derive(Clone, Copy, Debug)]
struct Probe {
    number: u64,
    begun: Instant,
}

enum Admission {
    Send { probe: Option<u64> },
    Wait { until: Instant },
    Refuse(OpenCircuit),
}

/// How a host answered a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::upstream) enum HostOutcome {
    Answered,
    Failed(Failure),
    /// The failure is forebay's, or that of the request.
    Unknown,
}

/// A request to a host. Dropped before it is settled, it does not count.
pub(in crate::upstream) struct Ticket {
    breakers: Arc<CircuitBreakers>,
    host: Host,
    probe: Option<u64>,
    settled: AtomicBool,
}

impl CircuitBreakers {
    pub(in crate::upstream) fn new(upstream: Arc<str>, metrics: Metrics) -> Arc<Self> {
        let (circuits, changed) = (Mutex::default(), watch::Sender::default());
        Arc::new(Self { upstream, circuits, changed, metrics })
    }

    /// Admits a request to a host, after the probe that is under way.
    ///
    /// # Errors
    /// The circuit is open.
    pub(in crate::upstream) async fn admit(self: &Arc<Self>, host: Host) -> Result<Arc<Ticket>, OpenCircuit> {
        let mut changes = self.changed.subscribe();
        loop {
            match self.look(&host) {
                Admission::Send { probe } => return Ok(self.ticket(host, probe)),
                Admission::Refuse(circuit) => return Err(circuit),
                Admission::Wait { until } => {
                    // Either the deadline or the end of the probe: `look` finds out which.
                    let _ = timeout_at(until, changes.changed()).await;
                }
            }
        }
    }

    /// Admits a request that is never refused.
    pub(in crate::upstream) fn always(self: &Arc<Self>, host: Host) -> Arc<Ticket> {
        self.ticket(host, None)
    }

    fn ticket(self: &Arc<Self>, host: Host, probe: Option<u64>) -> Arc<Ticket> {
        Arc::new(Ticket { breakers: self.clone(), host, probe, settled: AtomicBool::new(false) })
    }

    fn look(&self, host: &Host) -> Admission {
        let now = Instant::now();
        self.with(|circuits| {
            let known = circuits.get_mut(host);
            let Some(Circuit { since, last, open: Some(open), .. }) = known else {
                return Admission::Send { probe: None };
            };
            if let Some(probe) = open.probe {
                let until = probe.begun + PROBE_TIMEOUT;
                if now < until {
                    return Admission::Wait { until };
                }
                open.probe_failed(until);
            }
            let left = open.until.saturating_duration_since(now);
            if !left.is_zero() {
                let (failing_for, host) = (now.duration_since(*since), host.origin.clone());
                return Admission::Refuse(OpenCircuit { host, failing_for, last: *last, left });
            }
            open.probes += 1;
            open.probe = Some(Probe { number: open.probes, begun: now });
            Admission::Send { probe: Some(open.probes) }
        })
    }

    fn answered(&self, host: &Host) {
        let was_open = self.with(|circuits| circuits.remove(host)).is_some_and(|circuit| circuit.open.is_some());
        if was_open {
            tracing::info!(upstream = %self.upstream, host = %host.origin, "a host answers again");
            self.changed.send_replace(());
        }
    }

    fn failed(&self, host: &Host, probe: Option<u64>, last: Failure) {
        let now = Instant::now();
        let opened = self.with(|circuits| {
            if !circuits.contains_key(host) && !make_room(circuits, now) {
                return false;
            }
            let new = || Circuit { failures: 0, since: now, last, open: None };
            let circuit = circuits.entry(host.clone()).or_insert_with(new);
            circuit.failures = circuit.failures.saturating_add(1);
            circuit.last = last;
            match &mut circuit.open {
                None if circuit.failures >= MAX_FAILURES => {
                    let (until, pause, open) =
                        (now + MIN_PAUSE, MIN_PAUSE, self.metrics.circuit_opened(&self.upstream));
                    circuit.open = Some(Open { until, pause, probe: None, probes: 0, _open: open });
                    return true;
                }
                Some(open) if open.is_probed_by(probe) => open.probe_failed(now),
                // A request from before the circuit opened, or beside the probe, is no news.
                None | Some(_) => {}
            }
            false
        });
        if opened {
            // The failures themselves have warnings.
            tracing::info!(
                upstream = %self.upstream, host = %host.origin, blobs = host.blobs, %last,
                "a host has failed {MAX_FAILURES} times in a row: it is probed now and then, and what is cached is served"
            );
        }
        if probe.is_some() {
            self.changed.send_replace(());
        }
    }

    /// A probe was cancelled before a response: the next request becomes the probe.
    fn cancelled(&self, host: &Host, probe: u64) {
        self.with(|circuits| {
            let open = circuits.get_mut(host).and_then(|circuit| circuit.open.as_mut());
            if let Some(open) = open.filter(|open| open.is_probed_by(Some(probe))) {
                open.probe = None;
            }
        });
        self.changed.send_replace(());
    }

    fn with<T>(&self, act: impl FnOnce(&mut HashMap<Host, Circuit>) -> T) -> T {
        act(&mut self.circuits.lock())
    }
}

/// Makes room for another host; false where there is none.
fn make_room(circuits: &mut HashMap<Host, Circuit>, now: Instant) -> bool {
    circuits.retain(|_, circuit| circuit.open.as_ref().is_none_or(|open| now < open.until + MAX_UNUSED));
    if circuits.len() >= MAX_HOSTS {
        circuits.retain(|_, circuit| circuit.open.is_some());
    }
    circuits.len() < MAX_HOSTS
}

impl Open {
    fn is_probed_by(&self, probe: Option<u64>) -> bool {
        self.probe.is_some_and(|current| Some(current.number) == probe)
    }

    fn probe_failed(&mut self, at: Instant) {
        self.pause = (self.pause * 2).min(MAX_PAUSE);
        (self.until, self.probe) = (at + self.pause, None);
    }
}

impl Ticket {
    /// Notes how the host answered.
    pub(in crate::upstream) fn settle(&self, outcome: HostOutcome) {
        match outcome {
            HostOutcome::Answered => self.answered(),
            HostOutcome::Failed(failure) => self.failed(failure),
            HostOutcome::Unknown => {}
        }
    }

    /// The host has not responded in time. It may respond yet.
    pub(in crate::upstream) fn timed_out(&self) {
        self.failed(Failure::NoResponse);
    }

    fn answered(&self) {
        self.settled.store(true, Ordering::Relaxed);
        self.breakers.answered(&self.host);
    }

    fn failed(&self, failure: Failure) {
        if !self.settled.swap(true, Ordering::Relaxed) {
            self.breakers.failed(&self.host, self.probe, failure);
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some(probe) = self.probe
            && !*self.settled.get_mut()
        {
            self.breakers.cancelled(&self.host, probe);
        }
    }
}

#[cfg(test)]
mod tests;
