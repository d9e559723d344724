//! The peers that may have the content and the URLs of an upstream, in the order in which they are tried.
//!
//! A list of URLs is a failover list: the next one is tried when one cannot answer. A 404 is an answer. A URL that
//! failed goes to the end of the list for a while, but is never left out: when all have failed lately, all are still
//! tried. After that while one request probes it; for the others it stays at the end until the probe has been answered.

use std::sync::Arc;

use tokio::time::Instant;

use super::{
    endpoint::Endpoint,
    error::{Error, ErrorKind},
    principal::Principal,
    state::UpstreamState,
};

/// The attempts of one operation, over the endpoints in their order.
pub(super) struct Attempts<'a> {
    left: std::vec::IntoIter<&'a Arc<Endpoint>>,
    failure: Option<Error>,
    /// The failure is a peer's.
    is_of_peer: bool,
    /// Whether a failure says nothing about the endpoint.
    best_effort: bool,
}

impl<'a> Attempts<'a> {
    pub(super) fn new(endpoints: &'a [Arc<Endpoint>], best_effort: bool) -> Self {
        let now = Instant::now();
        let mut order: Vec<&'a Arc<Endpoint>> = endpoints.iter().collect();
        // The sort is stable: otherwise the order of the configuration holds.
        order.sort_by_key(|endpoint| endpoint.is_cooling(now));
        Self { left: order.into_iter(), failure: None, is_of_peer: false, best_effort }
    }

    /// The endpoint that a request would try first now.
    pub(super) fn first(endpoints: &'a [Arc<Endpoint>]) -> Option<&'a Arc<Endpoint>> {
        let now = Instant::now();
        endpoints.iter().min_by_key(|endpoint| endpoint.is_cooling(now))
    }

    /// The endpoint to try next, or why none is left.
    pub(super) fn next(&mut self) -> Result<&'a Arc<Endpoint>, Error> {
        let Some(endpoint) = self.left.next() else {
            let none = || Error::new(ErrorKind::Unavailable, "the upstream has no URL");
            return Err(self.failure.take().unwrap_or_else(none));
        };
        if !self.best_effort {
            endpoint.picked(Instant::now());
        }
        Ok(endpoint)
    }

    fn skip_peers(&mut self) {
        self.keep(|endpoint| endpoint.peer().is_none());
    }

    /// An operator has paused the upstream, and peers ask it, too.
    fn leave_all_but_store(&mut self) {
        self.keep(|endpoint| endpoint.store().is_some());
    }

    fn keep(&mut self, is_kept: impl Fn(&Endpoint) -> bool) {
        let left: Vec<&'a Arc<Endpoint>> = self.left.by_ref().filter(|endpoint| is_kept(endpoint)).collect();
        self.left = left.into_iter();
    }

    /// Notes the result of `endpoint`. `None`: it could not answer, try the next.
    pub(super) fn settle<T>(&mut self, endpoint: &Endpoint, result: Result<T, Error>) -> Option<Result<T, Error>> {
        match result {
            // The registry's own answer counts.
            Err(_) if endpoint.store().is_some() => None,
            // forebay's own lack of memory or descriptors, and a pause, are the same for every endpoint.
            Err(error) if is_without_request(&error) => Some(Err(error)),
            // The owner keeps the registry's limit for all of the cluster.
            Err(error) if endpoint.peer().is_some() && error.kind == ErrorKind::TooManyRequests => Some(Err(error)),
            // All URLs are one registry with the same accounts.
            Err(error) if error.kind == ErrorKind::OurCredentials => {
                endpoint.answered();
                Some(Err(error))
            }
            Err(error) if error.kind.is_outage() || error.kind == ErrorKind::Loop => {
                // A loop depends on the client: for others this endpoint may be good. An endpoint without a request has
                // not failed again.
                if error.kind != ErrorKind::Loop && !self.best_effort && error.open_circuit.is_none() {
                    endpoint.failed();
                }
                // Of several failures, the one with a time to retry is the most useful, and a loop the least; otherwise
                // that of the first endpoint.
                let usefulness = |kind| match kind {
                    ErrorKind::TooManyRequests => 2,
                    ErrorKind::Loop => 0,
                    _ => 1,
                };
                let is_of_peer = endpoint.peer().is_some();
                let is_better = |known: &Error| usefulness(known.kind) < usefulness(error.kind);
                // What the registry itself says is better than what a peer says of it.
                let is_taken =
                    self.failure.as_ref().is_none_or(|known| !is_of_peer && (self.is_of_peer || is_better(known)));
                if is_taken {
                    (self.failure, self.is_of_peer) = (Some(error), is_of_peer);
                }
                // The next peer is for one that is dead. One that is alive has asked the registry in vain.
                if endpoint.peer().is_some_and(|peer| peer.is_alive()) {
                    self.skip_peers();
                }
                None
            }
            answer => {
                endpoint.answered();
                Some(answer)
            }
        }
    }
}

impl UpstreamState {
    /// Runs `attempt` on one endpoint after the other, until one answers.
    ///
    /// A failure of a `best_effort` request says nothing about the upstream.
    pub(super) async fn each_endpoint<T, F>(
        &self,
        endpoints: &[Arc<Endpoint>],
        best_effort: bool,
        attempt: impl Fn(Arc<Endpoint>) -> F,
    ) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let admitted = self.pause.admit(self.name());
        let mut attempts = Attempts::new(endpoints, best_effort);
        if admitted.is_err() {
            // What is in the store is served like what is cached.
            attempts.leave_all_but_store();
        }
        let mut is_registry_asked = false;
        let result = loop {
            let endpoint = match attempts.next() {
                Ok(endpoint) => endpoint,
                Err(error) => break Err(admitted.err().unwrap_or(error)),
            };
            is_registry_asked |= endpoint.is_upstreams();
            // Boxed, here and further in: a future contains those that it awaits, so that a download's would be larger
            // than a thread's stack.
            let result = Box::pin(attempt(endpoint.clone())).await;
            if let Err(error) = &result
                && !best_effort
                && endpoint.is_upstreams()
            {
                self.failures.note(error);
            }
            if let Some(result) = attempts.settle(endpoint, result) {
                break result;
            }
        };
        // The upstream got no request.
        if !is_registry_asked || result.as_ref().is_err_and(is_without_request) {
            return result;
        }
        let is_down = result.as_ref().is_err_and(is_down);
        if !(is_down && best_effort) {
            self.failures.settle(is_down);
        }
        result
    }

    /// Whether the rate limit of this principal is nearly used up, at the URL that is tried first.
    pub(super) fn is_near_rate_limit(&self, principal: Option<Principal>) -> bool {
        self.endpoints.iter().any(|endpoint| endpoint.low_quota.is_low(principal))
            && Attempts::first(&self.endpoints).is_some_and(|endpoint| endpoint.low_quota.is_low(principal))
    }
}

/// Whether the upstream got no request, so that nothing is known of it.
fn is_without_request(error: &Error) -> bool {
    matches!(error.kind, ErrorKind::Exhausted | ErrorKind::Paused)
}

/// An upstream that answers 429, or refuses forebay's credentials, is up.
fn is_down(error: &Error) -> bool {
    error.kind.is_outage() && !matches!(error.kind, ErrorKind::TooManyRequests | ErrorKind::OurCredentials)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use reqwest::Url;

    use super::{
        super::endpoint::{COOL_DOWN, MAX_COOL_DOWN},
        *,
    };

    fn endpoints(urls: &[&str]) -> Vec<Arc<Endpoint>> {
        urls.iter().map(|url| Arc::new(Endpoint::new(Url::parse(url).unwrap()))).collect()
    }

    fn order(endpoints: &[Arc<Endpoint>]) -> Vec<&str> {
        let mut attempts = Attempts::new(endpoints, false);
        std::iter::from_fn(|| attempts.next().ok()).map(|endpoint| endpoint.base().host_str().unwrap()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_url_comes_last_for_a_while() {
        let endpoints = endpoints(&["http://a", "http://b", "http://c"]);
        assert_eq!(order(&endpoints), ["a", "b", "c"]);
        endpoints[0].failed();
        assert_eq!(order(&endpoints), ["b", "c", "a"]);
        endpoints[1].failed();
        assert_eq!(order(&endpoints), ["c", "a", "b"]);
        endpoints[2].failed();
        assert_eq!(order(&endpoints), ["a", "b", "c"]);
        endpoints[1].answered();
        assert_eq!(order(&endpoints), ["b", "a", "c"]);
        tokio::time::advance(COOL_DOWN).await;
        assert_eq!(order(&endpoints), ["a", "b", "c"]);
    }

    #[tokio::test(start_paused = true)]
    async fn one_request_probes_a_url_after_its_pause() {
        let endpoints = endpoints(&["http://a", "http://b"]);
        let first = || Attempts::new(&endpoints, false).next().unwrap().base().host_str().unwrap();
        for seconds in [10, 20, 40, 60, 60] {
            endpoints[0].failed();
            // A straggler changes nothing.
            endpoints[0].failed();
            tokio::time::advance(Duration::from_secs(seconds - 1)).await;
            assert_eq!(first(), "b", "{seconds}");
            tokio::time::advance(Duration::from_secs(1)).await;
            assert_eq!([first(), first(), first()], ["a", "b", "b"], "{seconds}");
        }
        // The last probe never came back: another one follows.
        tokio::time::advance(MAX_COOL_DOWN).await;
        assert_eq!([first(), first()], ["a", "b"]);
        endpoints[0].answered();
        assert_eq!([first(), first()], ["a", "a"]);
        endpoints[0].failed();
        tokio::time::advance(COOL_DOWN).await;
        assert_eq!(first(), "a");
    }

    #[tokio::test]
    async fn the_most_useful_failure_is_returned() {
        use ErrorKind::{Denied, Loop, NotFound, Protocol, Timeout, TooManyRequests, Unavailable};
        for (kinds, told) in [
            (&[Unavailable, Timeout][..], Unavailable),
            (&[Unavailable, TooManyRequests, Timeout], TooManyRequests),
            (&[TooManyRequests, Unavailable], TooManyRequests),
            (&[Protocol, NotFound], NotFound),
            (&[Denied, Unavailable], Denied),
            (&[Loop, NotFound], NotFound),
            (&[Loop, Timeout], Timeout),
            (&[Unavailable, Loop], Unavailable),
            (&[Loop, Loop], Loop),
        ] {
            let urls: Vec<_> = (0..kinds.len()).map(|index| format!("http://h{index}")).collect();
            let endpoints = endpoints(&urls.iter().map(String::as_str).collect::<Vec<_>>());
            let mut attempts = Attempts::new(&endpoints, false);
            let mut answers = kinds.iter().map(|&kind| Err::<(), _>(Error::new(kind, "no")));
            let error = loop {
                match attempts.next() {
                    Err(error) => break error,
                    Ok(endpoint) => {
                        if let Some(answer) = attempts.settle(endpoint, answers.next().unwrap()) {
                            break answer.unwrap_err();
                        }
                    }
                }
            };
            assert_eq!(error.kind, told, "{kinds:?}");
        }
    }
}
