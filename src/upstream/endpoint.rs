//! One URL of an upstream, and what was learned about it.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use reqwest::Url;
use tokio::time::Instant;

use super::{
    auth::Scheme,
    client::follow_redirects::OriginResponse,
    error::{Error, ErrorKind},
    low_quota::LowQuota,
    store_object::StoreObject,
};
use crate::cluster::Peer;

/// How long a URL that failed comes after the others; twice as long after every failed probe.
pub(super) const COOL_DOWN: Duration = Duration::from_secs(10);
pub(super) const MAX_COOL_DOWN: Duration = Duration::from_secs(60);

/// How long an endpoint counts as open after it accepted a push without credentials.
const OPEN_TTL: Duration = Duration::from_secs(60);

/// One URL of an upstream, and what was learned about it.
#[derive(Debug)]
pub(super) struct Endpoint {
    base: Url,
    /// Set if it is not the registry's.
    other: Option<Other>,
    learned: Mutex<Learned>,
    /// Principals whose rate limit is nearly used up.
    pub(super) low_quota: LowQuota,
}

/// An endpoint that is not the registry's.
#[derive(Debug)]
enum Other {
    Peer(Arc<Peer>),
    Store(StoreObject),
}

#[derive(Debug, Default)]
struct Learned {
    cooling: Option<Cooling>,
    scheme: Option<Scheme>,
    /// When a push without credentials was last accepted.
    open: Option<Instant>,
    kind: EndpointKind,
}

/// Which software responds there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum EndpointKind {
    #[default]
    Unknown,
    /// No forebay, by its responses.
    Registry,
    /// A forebay, which may wait for this one. Once seen, this is not forgotten.
    Mirror,
}

#[derive(Clone, Copy, Debug)]
struct Cooling {
    until: Instant,
    span: Duration,
    /// Whether a probe was sent since it failed.
    probed: bool,
}

impl Endpoint {
    pub(super) fn new(base: Url) -> Self {
        Self { base, other: None, learned: Mutex::default(), low_quota: LowQuota::default() }
    }

    /// The one of a peer, for one request: what it does says nothing about the registry.
    pub(super) fn of_peer(peer: Arc<Peer>) -> Self {
        let base = peer.base().clone();
        Self { other: Some(Other::Peer(peer)), ..Self::new(base) }
    }

    /// The one of an object of the store, for one request.
    pub(super) fn of_store(object: StoreObject) -> Option<Self> {
        let base = object.url()?;
        Some(Self { other: Some(Other::Store(object)), ..Self::new(base) })
    }

    pub(super) fn peer(&self) -> Option<&Arc<Peer>> {
        match &self.other {
            Some(Other::Peer(peer)) => Some(peer),
            Some(Other::Store(_)) | None => None,
        }
    }

    pub(super) fn store(&self) -> Option<&StoreObject> {
        match &self.other {
            Some(Other::Store(object)) => Some(object),
            Some(Other::Peer(_)) | None => None,
        }
    }

    /// Whether it is one of the upstream's own URLs.
    pub(super) fn is_upstreams(&self) -> bool {
        self.other.is_none()
    }

    pub(super) fn base(&self) -> &Url {
        &self.base
    }

    /// The URL of `path_and_query`, which follows `/v2/`. A path in the endpoint's own URL stays in front of `/v2/`.
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
        // The URL standard resolves dot segments: such a path would lead outside of `/v2/`.
        if url.path().len() < whole.len() || !url.path().starts_with(&root) {
            return Err(Error::new(ErrorKind::NotFound, "the path has dot segments in it"));
        }
        Ok(url)
    }

    /// Notes who responded.
    pub(super) fn note_response(&self, OriginResponse { status, by_mirror }: OriginResponse) {
        // A mirror that refuses a connection, or cannot reach its upstream, may respond without its name.
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

    /// Notes that a push without credentials was accepted.
    pub(super) fn note_open(&self) {
        self.with(|learned| learned.open = Some(Instant::now()));
    }

    pub(super) fn forget_open(&self) {
        self.with(|learned| learned.open = None);
    }

    /// Whether pushes need no credentials, as far as is known.
    pub(super) fn is_open(&self) -> bool {
        self.with(|learned| learned.open.is_some_and(|noted| noted.elapsed() < OPEN_TTL))
    }

    /// Notes that it could not answer: the others come first for a while.
    pub(super) fn failed(&self) {
        self.with(|learned| {
            // Of requests that fail together, only a probe makes the span longer.
            let span = match learned.cooling {
                None => COOL_DOWN,
                Some(cooling) if cooling.probed => (cooling.span * 2).min(MAX_COOL_DOWN),
                Some(cooling) => cooling.span,
            };
            learned.cooling = Some(Cooling { until: Instant::now() + span, span, probed: false });
        });
    }

    /// Notes that a request is sent to it now. If it has cooled down, this request is the probe; if its client leaves
    /// before the response, the next probe comes after another span.
    pub(super) fn picked(&self, now: Instant) {
        self.with(|learned| {
            if let Some(cooling) = &mut learned.cooling
                && cooling.until <= now
            {
                cooling.until = now + cooling.span;
                cooling.probed = true;
            }
        });
    }

    /// Notes that it answered.
    pub(super) fn answered(&self) {
        self.with(|learned| learned.cooling = None);
    }

    pub(super) fn is_cooling(&self, now: Instant) -> bool {
        self.with(|learned| learned.cooling.is_some_and(|cooling| now < cooling.until))
    }

    fn with<T>(&self, act: impl FnOnce(&mut Learned) -> T) -> T {
        act(&mut self.learned.lock())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(url: &str) -> Endpoint {
        Endpoint::new(Url::parse(url).unwrap())
    }

    #[test]
    fn registries_are_known_by_their_responses() {
        let first = |status: u16, by_mirror| OriginResponse { status: status.try_into().unwrap(), by_mirror };
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
            let endpoint = endpoint("http://a");
            answers.iter().for_each(|answer| endpoint.note_response(*answer));
            assert_eq!(endpoint.is_registry(), is_registry);
        }
    }

    #[test]
    fn the_path_of_a_request_is_kept_below_v2() {
        for (base, rest, url) in [
            ("https://ghcr.io", "", "https://ghcr.io/v2/"),
            ("https://ghcr.io/", "a/manifests/1", "https://ghcr.io/v2/a/manifests/1"),
            ("https://h.lan:8443/prefix", "a/blobs/sha256:00", "https://h.lan:8443/prefix/v2/a/blobs/sha256:00"),
            ("https://h.lan/a/b/", "_catalog?n=5&last=x%2Fy", "https://h.lan/a/b/v2/_catalog?n=5&last=x%2Fy"),
        ] {
            assert_eq!(endpoint(base).url(rest).unwrap().as_str(), url);
        }
        for rest in ["../admin", "a/../../admin", "a/%2e%2e/%2e%2e/x", "a/./b"] {
            assert!(endpoint("https://ghcr.io/p").url(rest).is_err(), "{rest}");
        }
    }
}
