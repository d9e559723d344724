//! Revalidation of cached values, and stale-if-error: what a client gets when a cached value is no longer fresh.
//!
//! A fresh value is a hit. Otherwise forebay asks the upstream. If the upstream fails, or does not respond within
//! [`STALE_TIMEOUT`], the client gets the stale value. Any other error, such as a refusal or a 404, is sent to the
//! client. Source: RFC 5861 section 4, `stale-if-error`.
//!
//! Four callers use it: `GET` and `HEAD` of a manifest by tag, lists, and the grants of clients. They differ in two
//! points. Tags and grants remember a failure for [`OUTAGE_TTL`], so that the next clients do not wait for it; each
//! request for a list is sent. And each caller says what its stale value is: that of a tag may be the manifest of
//! another `Accept` class.
//!
//! The `HEAD` of a client that may push (`manifest/head_for_push.rs`) is always sent, so it does not use this. Only the
//! `GET` that may follow it ends after [`STALE_TIMEOUT`], with what the `HEAD` said.
//!
//! What must hold: no stale value is served after a refusal; stale responses do not prolong an outage, so forebay asks
//! the upstream again once in [`OUTAGE_TTL`].

use std::{
    hash::Hash,
    pin::pin,
    time::{Duration, Instant},
};

use tokio::time::timeout;

use super::{freshness::Freshness, outcome::Outcome};

/// How long a client waits for the upstream if a stale value is cached.
pub(crate) const STALE_TIMEOUT: Duration = Duration::from_secs(3);
/// How long at most, after an upstream failed, a stale value is served without asking it.
pub(crate) const OUTAGE_TTL: Duration = Duration::from_secs(5);

/// What to do for a client's request.
#[derive(Debug, PartialEq, Eq)]
enum NextStep {
    Serve(Outcome),
    /// Ask the upstream; serve the stale value if it does not respond within this time.
    FetchWithin(Duration),
    /// Ask the upstream: there is nothing to serve instead.
    Fetch,
}

fn decide(freshness: Freshness, is_outage: bool) -> NextStep {
    match (freshness, is_outage) {
        (Freshness::Fresh, _) => NextStep::Serve(Outcome::Hit),
        (Freshness::Stale, true) => NextStep::Serve(Outcome::Stale),
        (Freshness::Stale, false) => NextStep::FetchWithin(STALE_TIMEOUT),
        (Freshness::Missing, _) => NextStep::Fetch,
    }
}

/// Whether a stale value may replace this response; `None`: the upstream did not respond in time.
fn may_serve_stale<T, E>(response: Option<&Result<T, E>>, is_outage: impl Fn(&E) -> bool) -> bool {
    match response {
        None => true,
        Some(Ok(_)) => false,
        Some(Err(error)) => is_outage(error),
    }
}

/// Serves a cached value, or the upstream's response to `fetch`.
///
/// `cached` gives the value as a hit or as stale. It is called at most once, after the upstream's response if there is
/// one, and may find none: a change through forebay, or a refusal, may have removed it meanwhile. `fetch` is not polled
/// unless the upstream has to be asked.
///
/// # Errors
/// That of `fetch`, if no stale value may be served for it or none is cached.
pub(crate) async fn revalidate<T, E, K, C>(
    freshness: Freshness,
    outage: Option<OutageEntry<'_, K>>,
    cached: impl FnOnce(Outcome) -> C,
    fetch: impl Future<Output = Result<T, E>>,
    is_outage: impl Fn(&E) -> bool,
) -> Result<T, E>
where
    K: Hash + Eq + Send + Sync + 'static,
    C: Future<Output = Option<T>>,
{
    let mut fetch = pin!(fetch);
    let response = match decide(freshness, outage.as_ref().is_some_and(OutageEntry::is_recent)) {
        NextStep::Serve(outcome) => {
            return match cached(outcome).await {
                Some(value) => Ok(value),
                None => fetch.await,
            };
        }
        NextStep::FetchWithin(limit) => timeout(limit, fetch.as_mut()).await.ok(),
        NextStep::Fetch => Some(fetch.as_mut().await),
    };
    if may_serve_stale(response.as_ref(), is_outage)
        && let Some(value) = cached(Outcome::Stale).await
    {
        if let Some(outage) = outage {
            outage.note();
        }
        return Ok(value);
    }
    match response {
        Some(response) => response,
        None => fetch.await,
    }
}

/// Which keys an upstream recently failed to answer.
pub(crate) struct RecentOutages<K> {
    /// With the times when they were noted.
    entries: moka::sync::Cache<K, Instant>,
    ttl: Box<dyn Fn() -> Duration + Send + Sync>,
}

/// One key of [`RecentOutages`].
pub(crate) struct OutageEntry<'a, K> {
    outages: &'a RecentOutages<K>,
    key: K,
}

impl<K: Hash + Eq + Send + Sync + 'static> RecentOutages<K> {
    /// Remembers at most `max` outages, each for what `ttl` gives when it is looked up, and no longer than [`OUTAGE_TTL`].
    pub(crate) fn new(max: u64, ttl: impl Fn() -> Duration + Send + Sync + 'static) -> Self {
        let entries = moka::sync::Cache::builder().max_capacity(max).time_to_live(OUTAGE_TTL).build();
        Self { entries, ttl: Box::new(ttl) }
    }

    pub(crate) fn entry(&self, key: K) -> OutageEntry<'_, K> {
        OutageEntry { outages: self, key }
    }
}

impl<K: Hash + Eq + Send + Sync + 'static> OutageEntry<'_, K> {
    pub(crate) fn is_recent(&self) -> bool {
        self.outages.entries.get(&self.key).is_some_and(|noted| noted.elapsed() < (self.outages.ttl)())
    }

    /// Records that the upstream did not answer.
    pub(crate) fn note(self) {
        if !(self.outages.ttl)().is_zero() {
            self.outages.entries.insert(self.key, Instant::now());
        }
    }

    /// Records that the upstream answered.
    pub(crate) fn clear(&self) {
        self.outages.entries.invalidate(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use super::*;

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Failure {
        Outage,
        Refusal,
    }

    /// What a client gets for this cached value and this response of the upstream (`None`: no response).
    async fn served(
        freshness: Freshness,
        outages: &RecentOutages<()>,
        cached: bool,
        response: Option<Result<(), Failure>>,
    ) -> Result<Option<Outcome>, Failure> {
        let fetch = async {
            match response {
                Some(response) => response.map(|()| None),
                None => pending().await,
            }
        };
        let value = |outcome| ready(cached.then_some(Some(outcome)));
        revalidate(freshness, Some(outages.entry(())), value, fetch, |error| *error == Failure::Outage).await
    }

    #[test]
    fn the_decision_depends_on_freshness_and_outage() {
        for (freshness, is_outage, expected) in [
            (Freshness::Fresh, false, NextStep::Serve(Outcome::Hit)),
            (Freshness::Fresh, true, NextStep::Serve(Outcome::Hit)),
            (Freshness::Stale, false, NextStep::FetchWithin(STALE_TIMEOUT)),
            (Freshness::Stale, true, NextStep::Serve(Outcome::Stale)),
            (Freshness::Missing, false, NextStep::Fetch),
            (Freshness::Missing, true, NextStep::Fetch),
        ] {
            assert_eq!(decide(freshness, is_outage), expected, "{freshness:?} {is_outage}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_gets_the_response_or_a_stale_value() {
        use Freshness::{Fresh, Missing, Stale};
        let (outage, refusal) = (Some(Err(Failure::Outage)), Some(Err(Failure::Refusal)));
        for (freshness, cached, response, expected) in [
            (Fresh, true, None, Ok(Some(Outcome::Hit))),
            (Fresh, false, Some(Ok(())), Ok(None)),
            (Stale, true, Some(Ok(())), Ok(None)),
            (Stale, true, outage, Ok(Some(Outcome::Stale))),
            (Stale, true, None, Ok(Some(Outcome::Stale))),
            (Stale, true, refusal, Err(Failure::Refusal)),
            (Stale, false, outage, Err(Failure::Outage)),
            (Missing, false, outage, Err(Failure::Outage)),
            // The value was cached meanwhile.
            (Missing, true, outage, Ok(Some(Outcome::Stale))),
            (Missing, true, refusal, Err(Failure::Refusal)),
        ] {
            let outages = RecentOutages::new(1, || OUTAGE_TTL);
            let got = served(freshness, &outages, cached, response).await;
            assert_eq!(got, expected, "{freshness:?} {cached} {response:?}");
            let is_stale = expected == Ok(Some(Outcome::Stale));
            assert_eq!(outages.entry(()).is_recent(), is_stale, "{freshness:?} {cached} {response:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_response_is_waited_for_if_nothing_is_cached() {
        let outages = RecentOutages::<()>::new(1, || OUTAGE_TTL);
        let slow = async {
            tokio::time::sleep(STALE_TIMEOUT * 2).await;
            Ok::<_, Failure>(1)
        };
        let got = revalidate(Freshness::Stale, Some(outages.entry(())), |_| ready(None), slow, |_| true).await;
        assert_eq!((got, outages.entry(()).is_recent()), (Ok(1), false));
    }

    #[tokio::test]
    async fn stale_responses_do_not_prolong_an_outage() {
        let outages = RecentOutages::new(1, || Duration::from_millis(200));
        let outage = Some(Err(Failure::Outage));
        assert_eq!(served(Freshness::Stale, &outages, true, outage).await, Ok(Some(Outcome::Stale)));
        let noted = std::time::Instant::now();
        // While the outage is recent forebay does not ask the upstream, which would respond.
        while served(Freshness::Stale, &outages, true, Some(Ok(()))).await == Ok(Some(Outcome::Stale)) {
            assert!(noted.elapsed() < Duration::from_secs(20), "the upstream is never asked again");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    #[test]
    fn an_outage_is_forgotten_with_an_answer_or_not_remembered() {
        let outages = RecentOutages::new(1, || OUTAGE_TTL);
        outages.entry(1).note();
        assert!(outages.entry(1).is_recent() && !outages.entry(2).is_recent());
        outages.entry(1).clear();
        assert!(!outages.entry(1).is_recent());
        let none = RecentOutages::new(1, || Duration::ZERO);
        none.entry(1).note();
        assert!(!none.entry(1).is_recent());
    }
}
