//! Hosts that do not answer: after so many failures in a row one is not asked any more, but by one probe now and then.
//!
//! What must hold: each host counts for itself, and its blobs apart from all else, so that what fails there stops nothing
//! elsewhere; a request is one failure, however often it was sent; a request that is refused is refused at once, and its client told when to
//! come again; one that comes during a probe waits for that, so that none is refused by a host that is well; one answer ends it, whatever it
//! says. Changes, logins and requests for tokens are never refused ([`CircuitBreakers::always`]), and count all the same.
//!
//! Beside it [`endpoint`](super::super::failover) remembers which URL failed last: that orders the URLs of an upstream after one failure of any
//! kind, also a page or a 429, for ten seconds and more, and refuses nothing. Here a host has to be silent, and comes back within seconds.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;

use http::StatusCode;
use reqwest::{Response, Url};
use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};

use super::super::{
    error::{Error, ErrorKind},
    response,
    via::Mirrors,
};
use crate::metrics::{InFlight, Metrics};

/// How many failures in a row open a circuit: a few are what a restart costs.
const MAX_FAILURES: u32 = 10;
/// How long it is open; twice as long after each probe that failed.
const MIN_PAUSE: Duration = Duration::from_secs(1);
const MAX_PAUSE: Duration = Duration::from_secs(8);
/// How long a probe is waited for; after that it counts as failed.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);
/// Of how many hosts failures are counted at a time.
const MAX_HOSTS: usize = 256;
/// How long after its pause an open circuit is kept that no request comes to.
const MAX_UNUSED: Duration = Duration::from_secs(600);

/// What fails together.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(in crate::upstream) struct Host {
    /// Such as `https://registry.example:5000`.
    origin: String,
    /// Bodies of blobs; they have connections of their own.
    blobs: bool,
}

impl Host {
    pub(in crate::upstream) fn of(url: &Url, blobs: bool) -> Self {
        Self { origin: url.origin().ascii_serialization(), blobs }
    }
}

/// Those of one upstream.
pub(in crate::upstream) struct CircuitBreakers {
    upstream: Arc<str>,
    circuits: Mutex<HashMap<Host, Circuit>>,
    /// A probe has ended.
    changed: watch::Sender<()>,
    metrics: Metrics,
}

#[derive(Debug)]
struct Circuit {
    /// In a row.
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

/// How a request failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Failure {
    NoConnection,
    NoAnswer,
    Broken,
    Status(StatusCode),
}

/// Why a host is not asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resting {
    /// `None`: it is not told.
    host: Option<String>,
    failing_for: Duration,
    last: Failure,
    left: Duration,
}

/// What may be done with a request.
enum Admitted {
    Ask { probe: Option<u64> },
    Wait { until: Instant },
    Refuse(Resting),
}

/// A request to a host, to be told what became of it. Dropped without, it says nothing.
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

    /// Lets a request to a host through, or has it wait for the probe that is under way.
    ///
    /// # Errors
    /// The host is not asked now.
    pub(in crate::upstream) async fn admit(self: &Arc<Self>, host: Host) -> Result<Arc<Ticket>, Resting> {
        let mut changes = self.changed.subscribe();
        loop {
            match self.look(&host) {
                Admitted::Ask { probe } => return Ok(self.ticket(host, probe)),
                Admitted::Refuse(resting) => return Err(resting),
                Admitted::Wait { until } => {
                    // Its end or the probe's, which is seen above.
                    let _ = timeout_at(until, changes.changed()).await;
                }
            }
        }
    }

    /// For what is never refused.
    pub(in crate::upstream) fn always(self: &Arc<Self>, host: Host) -> Arc<Ticket> {
        self.ticket(host, None)
    }

    fn ticket(self: &Arc<Self>, host: Host, probe: Option<u64>) -> Arc<Ticket> {
        Arc::new(Ticket { breakers: self.clone(), host, probe, settled: AtomicBool::new(false) })
    }

    fn look(&self, host: &Host) -> Admitted {
        let now = Instant::now();
        self.with(|circuits| {
            let known = circuits.get_mut(host);
            let Some(Circuit { since, last, open: Some(open), .. }) = known else {
                return Admitted::Ask { probe: None };
            };
            if let Some(probe) = open.probe {
                let until = probe.begun + PROBE_TIMEOUT;
                if now < until {
                    return Admitted::Wait { until };
                }
                open.probe_failed(until);
            }
            let left = open.until.saturating_duration_since(now);
            if !left.is_zero() {
                let (failing_for, host) = (now.duration_since(*since), Some(host.origin.clone()));
                return Admitted::Refuse(Resting { host, failing_for, last: *last, left });
            }
            open.probes += 1;
            open.probe = Some(Probe { number: open.probes, begun: now });
            Admitted::Ask { probe: Some(open.probes) }
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
                // What was on its way before says nothing new.
                None | Some(_) => {}
            }
            false
        });
        if opened {
            tracing::warn!(
                upstream = %self.upstream, host = %host.origin, blobs = host.blobs, %last,
                "a host has failed {MAX_FAILURES} times in a row: it is probed now and then, and what is cached is served"
            );
        }
        if probe.is_some() {
            self.changed.send_replace(());
        }
    }

    /// A probe was given up before an answer: the next request is one.
    fn given_up(&self, host: &Host, probe: u64) {
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

/// Whether another host can be counted.
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
    /// What the host gave.
    pub(in crate::upstream) fn settle(&self, answer: &Result<Response, Error>) {
        match answer {
            Ok(response) if !is_failure(response) => self.answered(),
            Ok(response) => self.failed(Failure::Status(response.status())),
            Err(error) => match error.kind {
                ErrorKind::Unavailable | ErrorKind::Timeout if error.is_unreached() => {
                    self.failed(Failure::NoConnection);
                }
                ErrorKind::Timeout => self.failed(Failure::NoAnswer),
                ErrorKind::Unavailable => self.failed(Failure::Broken),
                _ => {}
            },
        }
    }

    /// It has not answered in time. It may do so yet.
    pub(in crate::upstream) fn timed_out(&self) {
        self.failed(Failure::NoAnswer);
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
            self.breakers.given_up(&self.host, probe);
        }
    }
}

/// Whether it comes from what stands before a host that does not answer. A mirror that cannot reach its upstream is up, and a registry
/// may say by 503 that it has enough.
fn is_failure(response: &Response) -> bool {
    let (status, headers) = (response.status().as_u16(), response.headers());
    matches!(status, 502..=504)
        && !(status == 503 && response::is_limit(headers))
        && Mirrors::in_headers(headers).is_none()
}

impl Resting {
    /// Until it is asked again.
    pub fn left(&self) -> Duration {
        self.left
    }

    /// Without the host's name.
    pub(in crate::upstream) fn unnamed(self) -> Self {
        Self { host: None, ..self }
    }
}

impl fmt::Display for Resting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = self.host.as_deref().unwrap_or("its host");
        let (since, left) = (self.failing_for.as_secs(), self.left.as_secs_f64().ceil());
        write!(f, "{host} has failed for {since} s (last: {}), and is asked again in {left} s", self.last)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoConnection => f.write_str("no connection could be made"),
            Self::NoAnswer => f.write_str("no answer came in time"),
            Self::Broken => f.write_str("the connection broke before an answer"),
            Self::Status(status) => write!(f, "the answer was {}", status.as_u16()),
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    fn breakers() -> Arc<CircuitBreakers> {
        CircuitBreakers::new("fake.example".into(), Metrics::new().unwrap())
    }

    fn host(name: &str) -> Host {
        Host::of(&Url::parse(&format!("https://{name}/v2/")).unwrap(), false)
    }

    fn fail(breakers: &Arc<CircuitBreakers>, times: u32) {
        (0..times).for_each(|_| breakers.always(host("a")).timed_out());
    }

    async fn admit(breakers: &Arc<CircuitBreakers>, name: &str) -> Result<Arc<Ticket>, Duration> {
        breakers.admit(host(name)).await.map_err(|resting| resting.left)
    }

    fn open(breakers: &CircuitBreakers) -> bool {
        breakers.metrics.encode().unwrap().contains("forebay_upstream_circuit_open{upstream=\"fake.example\"} 1")
    }

    #[tokio::test(start_paused = true)]
    async fn a_host_that_fails_in_a_row_is_probed_now_and_then() {
        let breakers = breakers();
        fail(&breakers, MAX_FAILURES - 1);
        breakers.always(host("a")).answered();
        fail(&breakers, MAX_FAILURES - 1);
        assert!(admit(&breakers, "a").await.is_ok() && !open(&breakers));
        fail(&breakers, 1);
        assert!(open(&breakers));
        for seconds in [1, 2, 4, 8, 8] {
            let pause = Duration::from_secs(seconds);
            assert_eq!(admit(&breakers, "a").await.err(), Some(pause));
            assert!(admit(&breakers, "b").await.is_ok());
            assert!(breakers.admit(Host { blobs: true, ..host("a") }).await.is_ok());
            // What was on its way.
            fail(&breakers, 1);
            tokio::time::advance(pause).await;
            admit(&breakers, "a").await.unwrap().timed_out();
        }
        breakers.always(host("a")).answered();
        assert!(admit(&breakers, "a").await.is_ok() && admit(&breakers, "a").await.is_ok());
        assert!(!open(&breakers));
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_during_a_probe_waits_for_it() {
        let breakers = breakers();
        fail(&breakers, MAX_FAILURES);
        tokio::time::advance(MIN_PAUSE).await;
        let probe = admit(&breakers, "a").await.unwrap();
        let mut waits = Box::pin(admit(&breakers, "a"));
        assert!(waits.as_mut().now_or_never().is_none());
        probe.timed_out();
        assert_eq!(waits.await.err(), Some(MIN_PAUSE * 2));
        tokio::time::advance(MIN_PAUSE * 2).await;
        let probe = admit(&breakers, "a").await.unwrap();
        let mut waits = Box::pin(admit(&breakers, "a"));
        assert!(waits.as_mut().now_or_never().is_none());
        // Its client left: that one is the probe.
        drop(probe);
        let probe = waits.await.unwrap();
        let mut waits = [Box::pin(admit(&breakers, "a")), Box::pin(admit(&breakers, "a"))];
        assert!(waits.iter_mut().all(|wait| wait.as_mut().now_or_never().is_none()));
        probe.answered();
        for wait in waits {
            assert!(wait.await.is_ok());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_that_hangs_has_failed() {
        let breakers = breakers();
        fail(&breakers, MAX_FAILURES);
        tokio::time::advance(MIN_PAUSE).await;
        let hangs = admit(&breakers, "a").await.unwrap();
        let begun = Instant::now();
        assert_eq!(admit(&breakers, "a").await.err(), Some(MIN_PAUSE * 2));
        assert_eq!(begun.elapsed(), PROBE_TIMEOUT);
        tokio::time::advance(MIN_PAUSE * 2).await;
        let probe = admit(&breakers, "a").await.unwrap();
        // Its failure is old by now, and its answer would be none too late.
        hangs.timed_out();
        assert!(admit(&breakers, "a").now_or_never().is_none());
        hangs.answered();
        assert!(admit(&breakers, "a").await.is_ok());
        drop(probe);
        assert!(admit(&breakers, "a").await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn failures_of_a_bounded_number_of_hosts_are_counted() {
        let breakers = breakers();
        fail(&breakers, MAX_FAILURES);
        for number in 0..2 * MAX_HOSTS {
            breakers.always(host(&format!("h{number}"))).timed_out();
        }
        assert!(breakers.with(|circuits| circuits.len()) <= MAX_HOSTS);
        assert!(admit(&breakers, "a").await.is_err());
        tokio::time::advance(MIN_PAUSE + MAX_UNUSED).await;
        breakers.always(host("b")).timed_out();
        assert!(!open(&breakers), "no request came to it for long");
    }

    #[test]
    fn what_is_no_answer_of_the_host() {
        let registry = ("docker-distribution-api-version", "registry/2.0");
        let (later, via) = (("retry-after", "5"), ("via", "1.1 forebay-3f2a"));
        for (status, headers, failed) in [
            (200, &[][..], false),
            (404, &[], false),
            (429, &[], false),
            (500, &[], false),
            (502, &[], true),
            (503, &[], true),
            (504, &[], true),
            (508, &[], false),
            (503, &[later], true),
            (503, &[registry], true),
            (503, &[registry, later], false),
            (503, &[("ratelimit-remaining", "0"), later], false),
            (502, &[registry, later], true),
            (503, &[via], false),
        ] {
            let response = headers.iter().fold(http::Response::builder().status(status), |response, (name, value)| {
                response.header(*name, *value)
            });
            assert_eq!(is_failure(&response.body("").unwrap().into()), failed, "{status} {headers:?}");
        }
    }

    #[test]
    fn a_host_that_rests_is_told_with_its_last_failure() {
        let (host, last) = (Some("https://a.example".to_owned()), Failure::Status(StatusCode::BAD_GATEWAY));
        let (failing_for, left) = (Duration::from_secs(12), Duration::from_millis(1200));
        let resting = Resting { host, failing_for, last, left };
        let told = "https://a.example has failed for 12 s (last: the answer was 502), and is asked again in 2 s";
        assert_eq!(resting.to_string(), told);
        assert_eq!(resting.unnamed().to_string(), told.replace("https://a.example", "its host"));
    }
}
