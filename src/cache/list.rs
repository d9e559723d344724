//! Lists: the tags of a repository, the catalog, and the referrers of a digest.
//!
//! A list may change at any time. A request for tags or the catalog is always sent to the upstream. Referrers, which
//! clients request with every pull that they verify, are fresh for `tag_ttl`. The upstream's last response is in memory
//! and is served if the upstream is down, is slow, or answers 429 or 5xx ([`revalidate`](super::revalidate)).
//!
//! An upstream without a referrers endpoint has referrers in a tag, which is a manifest ([`ReferrersTag`]). Where
//! pushes are allowed, clients maintain that tag themselves and are told that there is no endpoint.
//!
//! What must hold: a response is served only for the same query by the same client; once a change made through forebay
//! is answered, no client gets a list from before it; memory is bounded, whatever clients request.

mod error;
mod query;
mod referrers_filter;
mod referrers_tag;
mod served;
mod shared_bodies;
mod store;
mod tagged;
mod validate;

use std::{future::ready, sync::Arc, time::Instant};

use bytes::Bytes;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::Instrument as _;

pub(crate) use self::{
    error::ListError,
    query::{List, ListRequest},
    referrers_tag::ReferrersTag,
    served::ServedList,
};
use self::{
    query::{ListKey, ListQuery},
    referrers_filter::ReferrersFilter,
    shared_bodies::SharedBodies,
    store::{ListAnswer, ListStore},
};
use super::{
    ManifestCache, ReloadableConfig,
    freshness::Freshness,
    outcome::Outcome,
    revalidate::{OutageEntry, revalidate},
};
use crate::{
    oci::Repository,
    single_flight::{SingleFlight, WaitCycle},
    upstream::{self, ErrorKind},
};

/// The result of a request for a list.
pub(crate) enum ListLookup {
    Served(ServedList),
    /// The upstream has no referrers endpoint. Its referrers are in a tag, which the client must be allowed to read.
    ReferrersTag(Box<ReferrersTag>),
}

/// The lists of the cache. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Lists(Arc<ListsInner>);

struct ListsInner {
    store: ListStore,
    requests: SingleFlight<ListQuery, Result<ListAnswer, upstream::Error>>,
    manifests: ManifestCache,
    filter: ReferrersFilter,
    bodies: SharedBodies,
}

impl Lists {
    /// Upstream requests run as tasks of `tasks` and end with `shutdown`.
    pub(crate) fn new(
        config: ReloadableConfig,
        manifests: ManifestCache,
        tasks: TaskTracker,
        shutdown: CancellationToken,
    ) -> Self {
        let (store, requests) = (ListStore::new(config), SingleFlight::new(tasks, shutdown));
        let (filter, bodies) = Default::default();
        Self(Arc::new(ListsInner { store, requests, manifests, filter, bodies }))
    }

    /// A list from the upstream or the cache.
    ///
    /// `last_refusal`: when forebay sent the latest request that the upstream refused for this client in that
    /// repository, if the upstream has granted none since. No older list is served.
    pub(crate) async fn get(
        &self,
        request: &ListRequest,
        last_refusal: impl Fn() -> Option<Instant>,
    ) -> Result<ListLookup, ListError> {
        let query = self.query(request);
        let read = || self.0.store.get(&query.key, request.upstream.access(), last_refusal());
        let (_, freshness) = read();
        let cached = |outcome| ready(read().0.map(|answer| (answer, outcome)));
        // Each request is sent, so an outage is not remembered.
        let outage = None::<OutageEntry<'_, ListKey>>;
        let fetch = self.fetch_joined(request, &query);
        let (answer, outcome) = revalidate(freshness, outage, cached, fetch, ListError::is_outage).await?;
        match answer {
            ListAnswer::List { headers, body } => Ok(ListLookup::Served(ServedList { headers, body, outcome })),
            // On a 200 a client that attaches a manifest assumes that the upstream maintains referrers, and leaves out
            // the tag.
            ListAnswer::NoEndpoint | ListAnswer::NoReferrers if request.upstream.allows_push() => {
                Err(ListError::NoEndpoint)
            }
            ListAnswer::NoEndpoint => {
                ReferrersTag::of(request, query).map(|tag| ListLookup::ReferrersTag(Box::new(tag)))
            }
            ListAnswer::NoReferrers => {
                ReferrersTag::of(request, query).map(|tag| ListLookup::Served(tag.empty(outcome)))
            }
        }
    }

    /// Records that a client pushed or deleted a manifest or a tag in this repository; or a blob, which may create a
    /// repository.
    pub(crate) fn note_write(&self, upstream: &Arc<str>, repository: &Repository) {
        self.0.store.forget_repository(upstream, repository);
    }

    fn query(&self, request: &ListRequest) -> ListQuery {
        let key = request.key();
        ListQuery { writes: self.0.store.writes(&key), may_cycle: request.upstream.may_be_loop(), key }
    }

    /// The upstream's response to a request; concurrent equal requests share one.
    async fn fetch_joined(&self, request: &ListRequest, query: &ListQuery) -> Result<(ListAnswer, Outcome), ListError> {
        let flight = self.0.requests.run(query.clone(), query.may_cycle, || {
            let (lists, request, query) = (self.clone(), request.clone(), query.clone());
            let span = request.upstream.trace().span();
            async move { lists.fetch(&request, &query).await }.instrument(span)
        });
        let flight = request.upstream.trace().wait(flight).await.map_err(|WaitCycle| ListError::WaitCycle)?;
        let answer = flight.response.ok_or(ListError::Abandoned)?;
        let answer = answer.map_err(|source| ListError::Upstream { operation: request.list.operation(), source })?;
        let outcome = match (flight.is_leader, request.list.is_cacheable()) {
            (false, _) => Outcome::Joined,
            (true, true) => Outcome::Miss,
            (true, false) => Outcome::Bypass,
        };
        Ok((answer, outcome))
    }

    async fn fetch(&self, request: &ListRequest, query: &ListQuery) -> Result<ListAnswer, upstream::Error> {
        let store = &self.0.store;
        // A caller that looked into the cache before the last response, and would send its request after it, needs no
        // second request.
        if let (Some(answer), Freshness::Fresh) = store.get(&query.key, request.upstream.access(), None) {
            return Ok(answer);
        }
        let ListRequest { upstream, list, .. } = request;
        let (operation, path) = (list.operation(), request.path_and_query());
        let sent = Instant::now();
        let expected = list.clone();
        let is_list = Arc::new(move |body: &Bytes| validate::is_list(&expected, body));
        match upstream.forward(operation, list.repository(), &path, &list.accept(), is_list).await {
            Ok(page) => {
                let body = self.0.bodies.share(&query.key, &page.body);
                let answer = ListAnswer::List { headers: page.headers, body };
                let sent = sent.checked_sub(page.resident_time).unwrap_or(sent);
                store.note(query, sent, &answer);
                Ok(answer)
            }
            Err(error) if list.is_cacheable() && has_no_endpoint(error.kind) => {
                store.note(query, sent, &ListAnswer::NoEndpoint);
                Ok(ListAnswer::NoEndpoint)
            }
            Err(error) => {
                if !error.kind.is_outage() {
                    store.forget(&query.key);
                }
                Err(error)
            }
        }
    }
}

/// Whether an error says that the upstream does not know the referrers path: registries older than the endpoint answer
/// 404, and some 405, 400 or 406.
fn has_no_endpoint(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::NotFound | ErrorKind::Unsupported | ErrorKind::Rejected { status: 400 | 406 })
}
