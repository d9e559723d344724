//! The URLs of an upstream, in the order in which they are tried.
//!
//! A list of URLs is a failover list: the next one is asked when one cannot answer. An answer that
//! merely disappoints, such as 404, is an answer. A URL that failed goes to the end of the list for
//! a while, but is never left out: when all have failed lately, all are still tried. After the while
//! one request probes it; for the others it stays at the end until the probe has been answered.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;

use reqwest::Url;
use tokio::time::Instant;

use super::{
    auth::Scheme,
    client::redirect_walk::First,
    error::{Error, ErrorKind},
    response::rate_limit::Scarcity,
};

/// How long a URL that failed stays behind the others; twice as long after every probe that failed.
const COOL_DOWN: Duration = Duration::from_secs(10);
const MAX_COOL_DOWN: Duration = Duration::from_secs(60);

/// How long it is believed that an endpoint asks nobody who they are.
const OPEN_TTL: Duration = Duration::from_secs(60);

/// One URL of an upstream, and what was learned of it.
#[derive(Debug)]
pub(super) struct Endpoint {
    base: Url,
    /// Small and synchronous, never held across an await.
    learned: Mutex<Learned>,
    /// For whom little is left of its limit.
    pub(super) scarcity: Scarcity,
}

#[derive(Debug, Default)]
struct Learned {
    cooling: Option<Cooling>,
    scheme: Option<Scheme>,
    /// When a change was last accepted from nobody in particular.
    open: Option<Instant>,
    kind: EndpointKind,
}

/// What answers there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum EndpointKind {
    #[default]
    Unknown,
    /// No forebay, as far as its answers tell.
    Registry,
    /// A forebay: it may wait for us. Once told, this is not forgotten.
    Mirror,
}

#[derive(Clone, Copy, Debug)]
struct Cooling {
    until: Instant,
    span: Duration,
    /// Whether a request was let through to see how it is by now.
    probed: bool,
}

impl Endpoint {
    pub(super) fn new(base: Url) -> Self {
        Self { base, learned: Mutex::default(), scarcity: Scarcity::default() }
    }

    pub(super) fn base(&self) -> &Url {
        &self.base
    }

    /// The URL of `path_and_query`, which is what follows `/v2/`. A path in the endpoint's own URL
    /// stays in front of `/v2/`.
    pub(super) fn url(&self, path_and_query: &str) -> Result<Url, Error> {
        let (path, query) = match path_and_query.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (path_and_query, None),
        };
        let root = format!("{}/v2/", self.base.path().trim_end_matches('/'));
        let whole = format!("{root}{path}");
        let mut url = self.base.clone();
        url.set_path(&whole);
        url.set_query(query);
        url.set_fragment(None);
        // The URL standard resolves dot segments; a path that had any has gone somewhere else.
        if url.path().len() < whole.len() || !url.path().starts_with(&root) {
            return Err(Error::new(ErrorKind::NotFound, "the path has dot segments in it"));
        }
        Ok(url)
    }

    /// It answered so.
    pub(super) fn note_answer(&self, First { status, by_mirror }: First) {
        // A mirror that refuses a connection, or has no way to its upstream, may say so without its name.
        let is_telling = status.is_success() || status.is_redirection() || matches!(status.as_u16(), 401 | 404);
        self.with(|learned| match learned.kind {
            _ if by_mirror => learned.kind = EndpointKind::Mirror,
            EndpointKind::Unknown if is_telling => learned.kind = EndpointKind::Registry,
            EndpointKind::Unknown | EndpointKind::Registry | EndpointKind::Mirror => {}
        });
    }

    /// Whether it is known to be no forebay.
    pub(super) fn is_registry(&self) -> bool {
        self.with(|learned| learned.kind == EndpointKind::Registry)
    }

    pub(super) fn scheme(&self) -> Option<Scheme> {
        self.with(|learned| learned.scheme.clone())
    }

    pub(super) fn learn(&self, scheme: Option<Scheme>) {
        self.with(|learned| learned.scheme = scheme);
    }

    /// A change was accepted from nobody in particular.
    pub(super) fn note_open(&self) {
        self.with(|learned| learned.open = Some(Instant::now()));
    }

    pub(super) fn forget_open(&self) {
        self.with(|learned| learned.open = None);
    }

    /// Whether changes need no credentials, as far as is known.
    pub(super) fn is_open(&self) -> bool {
        self.with(|learned| learned.open.is_some_and(|noted| noted.elapsed() < OPEN_TTL))
    }

    /// It could not answer: the others come first for a while.
    pub(super) fn failed(&self) {
        self.with(|learned| {
            // Of many requests that fail together only a probe makes the span longer.
            let span = match learned.cooling {
                None => COOL_DOWN,
                Some(cooling) if cooling.probed => (cooling.span * 2).min(MAX_COOL_DOWN),
                Some(cooling) => cooling.span,
            };
            learned.cooling = Some(Cooling { until: Instant::now() + span, span, probed: false });
        });
    }

    /// It is asked now. If it has cooled down, this request is the probe; should its asker leave before
    /// the answer, the next probe comes after another span.
    fn picked(&self, now: Instant) {
        self.with(|learned| {
            if let Some(cooling) = &mut learned.cooling
                && cooling.until <= now
            {
                cooling.until = now + cooling.span;
                cooling.probed = true;
            }
        });
    }

    /// It answered.
    fn answered(&self) {
        self.with(|learned| learned.cooling = None);
    }

    fn is_cooling(&self, now: Instant) -> bool {
        self.with(|learned| learned.cooling.is_some_and(|cooling| now < cooling.until))
    }

    fn with<T>(&self, act: impl FnOnce(&mut Learned) -> T) -> T {
        // Nothing panics while it holds the lock, and every state of it is a valid one.
        act(&mut self.learned.lock())
    }
}

/// The attempts of one operation, over the endpoints in their order.
pub(super) struct Attempts<'a> {
    left: std::vec::IntoIter<&'a Arc<Endpoint>>,
    failure: Option<Error>,
    /// What fails says nothing about the endpoint.
    quiet: bool,
}

impl<'a> Attempts<'a> {
    pub(super) fn new(endpoints: &'a [Arc<Endpoint>]) -> Self {
        let now = Instant::now();
        let mut order: Vec<&'a Arc<Endpoint>> = endpoints.iter().collect();
        // Stable: among those that cool, and among those that do not, the order of the file holds.
        order.sort_by_key(|endpoint| endpoint.is_cooling(now));
        Self { left: order.into_iter(), failure: None, quiet: false }
    }

    /// The endpoint that a request would ask first now.
    pub(super) fn first(endpoints: &'a [Arc<Endpoint>]) -> Option<&'a Arc<Endpoint>> {
        let now = Instant::now();
        endpoints.iter().min_by_key(|endpoint| endpoint.is_cooling(now))
    }

    /// For what is asked in addition to a request that is under way: an upstream that has enough of it may be well.
    pub(super) fn quiet(self, quiet: bool) -> Self {
        Self { quiet, ..self }
    }

    /// The endpoint to try next, or why none is left.
    pub(super) fn next(&mut self) -> Result<&'a Arc<Endpoint>, Error> {
        let Some(endpoint) = self.left.next() else {
            let none = || Error::new(ErrorKind::Unavailable, "the upstream has no URL");
            return Err(self.failure.take().unwrap_or_else(none));
        };
        if !self.quiet {
            endpoint.picked(Instant::now());
        }
        Ok(endpoint)
    }

    /// Takes note of what `endpoint` gave. `None`: it could not answer, try the next.
    pub(super) fn settle<T>(&mut self, endpoint: &Endpoint, result: Result<T, Error>) -> Option<Result<T, Error>> {
        match result {
            // Another endpoint takes as much of what we have not.
            Err(error) if error.kind == ErrorKind::Exhausted => Some(Err(error)),
            // All of them are one registry, and have one opinion of us.
            Err(error) if error.kind == ErrorKind::OurCredentials => {
                endpoint.answered();
                Some(Err(error))
            }
            Err(error) if error.kind.is_outage() || error.kind == ErrorKind::Loop => {
                // A circle is a matter of who asks: for others the way over this endpoint may be good.
                // What was not asked has not failed anew.
                if error.kind != ErrorKind::Loop && !self.quiet && error.resting.is_none() {
                    endpoint.failed();
                }
                // Of several failures the one that tells when to come back is the most useful, and the
                // one that explains nothing but itself the least; else that of the endpoint the
                // operator put first.
                let usefulness = |kind| match kind {
                    ErrorKind::TooManyRequests => 2,
                    ErrorKind::Loop => 0,
                    _ => 1,
                };
                if self.failure.as_ref().is_none_or(|known| usefulness(known.kind) < usefulness(error.kind)) {
                    self.failure = Some(error);
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

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoints(urls: &[&str]) -> Vec<Arc<Endpoint>> {
        urls.iter().map(|url| Arc::new(Endpoint::new(Url::parse(url).unwrap()))).collect()
    }

    #[test]
    fn what_is_no_mirror_is_known_by_its_answers() {
        let first = |status: u16, by_mirror| First { status: status.try_into().unwrap(), by_mirror };
        for (answers, is_registry) in [
            (&[][..], false),
            (&[first(200, false)], true),
            (&[first(307, false)], true),
            (&[first(401, false)], true),
            (&[first(503, false)], false),
            (&[first(421, false)], false),
            (&[first(404, true)], false),
            (&[first(200, false), first(200, true)], false),
            (&[first(200, true), first(200, false)], false),
        ] {
            let endpoint = Endpoint::new(Url::parse("http://a").unwrap());
            answers.iter().for_each(|answer| endpoint.note_answer(*answer));
            assert_eq!(endpoint.is_registry(), is_registry);
        }
    }

    fn order(endpoints: &[Arc<Endpoint>]) -> Vec<&str> {
        let mut attempts = Attempts::new(endpoints);
        std::iter::from_fn(|| attempts.next().ok()).map(|endpoint| endpoint.base().host_str().unwrap()).collect()
    }

    #[test]
    fn urls() {
        for (base, rest, url) in [
            ("https://ghcr.io", "", "https://ghcr.io/v2/"),
            ("https://ghcr.io/", "a/manifests/1", "https://ghcr.io/v2/a/manifests/1"),
            ("https://h.lan:8443/prefix", "a/blobs/sha256:00", "https://h.lan:8443/prefix/v2/a/blobs/sha256:00"),
            ("https://h.lan/a/b/", "_catalog?n=5&last=x%2Fy", "https://h.lan/a/b/v2/_catalog?n=5&last=x%2Fy"),
        ] {
            assert_eq!(endpoints(&[base])[0].url(rest).unwrap().as_str(), url);
        }
        for rest in ["../admin", "a/../../admin", "a/%2e%2e/%2e%2e/x", "a/./b"] {
            assert!(endpoints(&["https://ghcr.io/p"])[0].url(rest).is_err(), "{rest}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_failed_comes_last_for_a_while() {
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
    async fn one_request_probes_what_has_cooled_down() {
        let endpoints = endpoints(&["http://a", "http://b"]);
        let first = || Attempts::new(&endpoints).next().unwrap().base().host_str().unwrap();
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
    async fn the_most_useful_failure_is_told() {
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
            let mut attempts = Attempts::new(&endpoints);
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
