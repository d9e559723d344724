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
    breakers.admit(host(name)).await.map_err(|circuit| circuit.left)
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
        // A request from before.
        fail(&breakers, 1);
        tokio::time::advance(pause).await;
        admit(&breakers, "a").await.unwrap().timed_out();
    }
    breakers.always(host("a")).answered();
    assert!(admit(&breakers, "a").await.is_ok() && admit(&breakers, "a").await.is_ok());
    assert!(!open(&breakers));
}

#[tokio::test(start_paused = true)]
async fn requests_during_a_probe_wait_for_it() {
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
    // Its client left: the next request is the probe.
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
    // Its failure is outdated by now; a response still counts.
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
    assert!(!open(&breakers), "a circuit without requests is dropped");
}
