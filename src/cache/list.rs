//! Lists: the tags of a repository, the catalogue, and what refers to a digest.
//!
//! A list is the upstream's word and changes at any time. Tags and the catalogue are asked for each time; referrers, which
//! are asked for with every pull that is verified, are believed for `tag_ttl`. What the upstream said last is kept in
//! memory, and given when it cannot say it again: it is down, slow, or answers 429 or 5xx. An upstream without an endpoint
//! for referrers has them in a tag, which is a manifest like any other; where pushes are taken, clients keep that tag
//! themselves, and are told that there is no endpoint.
//!
//! What must hold: an answer is for who asked the same in the same name; once a change made through us is answered,
//! nobody is told what was so before it; memory is bounded, whatever is asked.

mod query;
mod referrers_filter;
mod referrers_tag;
mod shared_bodies;
mod store;
mod validate;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::HeaderMap;
use tokio::time::timeout;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{
    query::ListQuery,
    referrers_filter::Filter,
    shared_bodies::Bodies,
    store::{ListAnswer, ListStore},
};
pub(crate) use self::{
    query::{List, ListRequest},
    referrers_tag::ReferrersTag,
};
use super::{Config, ManifestCache, ManifestError, freshness::Freshness};
use crate::{
    cache::Outcome,
    oci::{Operation, Repository},
    single_flight::{SingleFlight, WaitCycle},
    upstream::{self, ErrorKind},
};

/// How long a client waits for the upstream when there is a former answer at hand.
const STALE_PATIENCE: Duration = Duration::from_secs(3);

/// Why a list cannot be had.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ListError {
    #[error("the upstream cannot give the list")]
    Upstream {
        /// What was asked for.
        operation: Operation,
        source: upstream::Error,
    },
    #[error("the upstream has no endpoint for referrers, and its clients keep the tag that has them")]
    NoEndpoint,
    #[error("the tag that has the referrers cannot be had")]
    Tag(#[source] ManifestError),
    #[error("the list is asked for by mirrors that may wait for this request")]
    WaitCycle,
    #[error("the request was given up")]
    Abandoned,
}

/// A list to send.
#[derive(Clone, Debug)]
pub struct ServedList {
    /// What the upstream said of it; a `Link` is as a client has to ask the upstream.
    pub headers: HeaderMap,
    pub body: Bytes,
    pub outcome: Outcome,
}

/// What came of a question.
pub enum ListLookup {
    Served(ServedList),
    /// The upstream has no endpoint for referrers. The tag that has them is a manifest, with what that takes to be read.
    ReferrersTag(ReferrersTag),
}

/// A cheap handle on the lists of the cache.
#[derive(Clone)]
pub struct Lists(Arc<ListsInner>);

struct ListsInner {
    answers: ListStore,
    questions: SingleFlight<ListQuery, Result<ListAnswer, upstream::Error>>,
    manifests: ManifestCache,
    filter: Filter,
    bodies: Bodies,
}

impl Lists {
    /// Questions run as tasks of `tasks` and end with `shutdown`.
    pub fn new(config: &Config, manifests: ManifestCache, tasks: TaskTracker, shutdown: CancellationToken) -> Self {
        let (answers, questions) = (ListStore::new(config), SingleFlight::new(tasks, shutdown));
        let (filter, bodies) = Default::default();
        Self(Arc::new(ListsInner { answers, questions, manifests, filter, bodies }))
    }

    /// A list, from the upstream or, where that cannot be asked or need not be, as it was. `refused`: when the upstream was
    /// asked for what it refused this asker of that repository last, if that is its last word; no list of before is given.
    pub async fn get(
        &self,
        wanted: &ListRequest,
        refused: impl Fn() -> Option<Instant>,
    ) -> Result<ListLookup, ListError> {
        let key = wanted.key();
        let circle = wanted.upstream.may_be_loop();
        let question = ListQuery { writes: self.0.answers.writes(&key), circle, key };
        let (answer, outcome) = self.answer(wanted, &question, refused).await?;
        match answer {
            ListAnswer::List { headers, body } => Ok(ListLookup::Served(ServedList { headers, body, outcome })),
            // By a 200, a client that attaches something takes it that the upstream keeps referrers, and leaves out the tag.
            ListAnswer::NoEndpoint | ListAnswer::NoReferrers if wanted.upstream.allows_push() => {
                Err(ListError::NoEndpoint)
            }
            ListAnswer::NoEndpoint => ReferrersTag::of(wanted, question).map(ListLookup::ReferrersTag),
            ListAnswer::NoReferrers => {
                ReferrersTag::of(wanted, question).map(|tag| ListLookup::Served(tag.none(outcome)))
            }
        }
    }

    /// A manifest, or with it a tag, was put or deleted in this repository; or a blob, with which a repository may begin.
    pub fn note_write(&self, upstream: &Arc<str>, repository: &Repository) {
        self.0.answers.forget_repository(upstream, repository);
    }

    async fn answer(
        &self,
        wanted: &ListRequest,
        question: &ListQuery,
        refused: impl Fn() -> Option<Instant>,
    ) -> Result<(ListAnswer, Outcome), ListError> {
        let ListsInner { answers, questions, .. } = &*self.0;
        let access = wanted.upstream.access();
        let key = &question.key;
        let (kept, freshness) = answers.get(key, access, refused());
        if let (Some(answer), Freshness::Fresh) = (&kept, freshness) {
            return Ok((answer.clone(), Outcome::Hit));
        }
        let (flight, leads) = questions.join(question.clone(), || {
            let (lists, wanted, question) = (self.clone(), wanted.clone(), question.clone());
            async move { lists.ask(&wanted, &question).await }
        });
        let circle = question.circle && !leads;
        let asking = flight.clone().answer_unless(circle);
        let asked = match kept {
            Some(_) => timeout(STALE_PATIENCE, asking).await.ok(),
            None => Some(asking.await),
        };
        // Looked for again: what was kept may have been changed through us meanwhile, or refused.
        let asked = match (asked, answers.get(key, access, refused()).0) {
            (Some(Ok(Some(Err(error)))), Some(answer)) if error.kind.is_outage() => {
                return Ok((answer, Outcome::Stale));
            }
            (Some(Err(WaitCycle)) | None, Some(answer)) => return Ok((answer, Outcome::Stale)),
            (None, None) => flight.answer_unless(circle).await,
            (Some(asked), _) => asked,
        };
        let asked = asked.map_err(|WaitCycle| ListError::WaitCycle)?.ok_or(ListError::Abandoned)?;
        let answer = asked.map_err(|source| ListError::Upstream { operation: wanted.list.operation(), source })?;
        let outcome = match (leads, wanted.list.is_trusted()) {
            (false, _) => Outcome::Joined,
            (true, true) => Outcome::Miss,
            (true, false) => Outcome::Bypass,
        };
        Ok((answer, outcome))
    }

    async fn ask(&self, wanted: &ListRequest, question: &ListQuery) -> Result<ListAnswer, upstream::Error> {
        let answers = &self.0.answers;
        // Whoever looked before the last answer came, and asks after that, need not ask again.
        if let (Some(answer), Freshness::Fresh) = answers.get(&question.key, wanted.upstream.access(), None) {
            return Ok(answer);
        }
        let ListRequest { upstream, list, .. } = wanted;
        let (operation, path) = (list.operation(), wanted.path_and_query());
        let asked = Instant::now();
        let of = list.clone();
        let is_list = Arc::new(move |body: &Bytes| validate::is_list(&of, body));
        match upstream.forward(operation, list.repository(), &path, &list.accept(), is_list).await {
            Ok(page) => {
                let body = self.0.bodies.share(&question.key, &page.body);
                let answer = ListAnswer::List { headers: page.headers, body };
                let asked = asked.checked_sub(page.resident_time).unwrap_or(asked);
                answers.note(question, asked, &answer);
                Ok(answer)
            }
            Err(error) if list.is_trusted() && has_no_endpoint(error.kind) => {
                answers.note(question, asked, &ListAnswer::NoEndpoint);
                Ok(ListAnswer::NoEndpoint)
            }
            Err(error) => {
                if !error.kind.is_outage() {
                    answers.forget(&question.key);
                }
                Err(error)
            }
        }
    }
}

/// Whether a refusal says that an upstream does not know the path, whatever stands in it: registries older than the
/// endpoint say 404, and some 405, 400 or 406.
fn has_no_endpoint(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::NotFound | ErrorKind::Unsupported | ErrorKind::Rejected { status: 400 | 406 })
}
