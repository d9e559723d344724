//! `POST /api/v1/images/refresh`: asks the upstream now what tags name.

use std::sync::Arc;

use futures_util::{StreamExt as _, stream};
use http::{Response, StatusCode};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

use super::{
    access::Caller,
    events::{Event, events},
    response::{ApiBody, ApiError},
};
use crate::{
    cache::{Inventory, ManifestCache, NotRefreshed, Pins, Visibility, inventory::ImageName},
    error_chain::ErrorChain,
    oci::{Digest, Reference},
    rule::{Pattern, Subject},
    upstream::Upstream,
};

/// How many tags one request refreshes.
const MAX_TAGS: usize = 1000;

/// Which tags are refreshed: a name, or a pattern of tags in the cache.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RefreshRequest {
    #[serde(rename = "match")]
    pattern: String,
}

/// Has forebay ask upstreams. A cheap handle.
#[derive(Clone)]
pub(crate) struct Refreshes {
    manifests: ManifestCache,
    inventory: Inventory,
    pins: Pins,
    tasks: TaskTracker,
    /// One at a time.
    turn: Arc<Semaphore>,
}

/// What came of one tag.
#[derive(Debug)]
struct Outcome {
    result: &'static str,
    before: Option<Digest>,
    now: Option<Digest>,
    problem: Option<String>,
}

impl Refreshes {
    pub(crate) fn new(manifests: ManifestCache, inventory: Inventory, pins: Pins, tasks: TaskTracker) -> Self {
        Self { manifests, inventory, pins, tasks, turn: Arc::new(Semaphore::new(1)) }
    }

    /// Refreshes one tag after the other; the rest is left if the operator leaves.
    pub(super) async fn run(
        &self,
        request: RefreshRequest,
        upstreams: Arc<Vec<Upstream>>,
        caller: Caller,
    ) -> Result<Response<ApiBody>, ApiError> {
        let is_upstream = |name: &str| upstreams.iter().any(|upstream| **upstream.name() == *name);
        let (pattern, text) = Pattern::typed_in_full(&request.pattern, is_upstream)
            .map_err(|error| ApiError::new(StatusCode::BAD_REQUEST, format!("match: {error}")))?;
        let busy = |_| ApiError::new(StatusCode::TOO_MANY_REQUESTS, "another refresh is running; try again soon");
        let turn = self.turn.clone().try_acquire_owned().map_err(busy)?;
        let names = self.names(pattern, &text).await?;
        tracing::info!(caller = caller.as_str(), pattern = text, tags = names.len(), "an operator refreshed tags");
        let refreshes = self.clone();
        let outcomes = stream::iter(names).then(move |name| {
            let (refreshes, upstreams) = (refreshes.clone(), upstreams.clone());
            async move {
                let outcome = refreshes.refresh(&upstreams, &name).await;
                (name, outcome)
            }
        });
        let (mut asked, mut changed, mut failed) = (0u64, 0u64, 0u64);
        let told = outcomes.map(Some).chain(stream::iter([None])).map(move |outcome| {
            let _turn = &turn;
            let Some((name, Outcome { result, before, now, problem })) = outcome else {
                return Event { name: "done", data: json!({ "tags": asked, "changed": changed, "failed": failed }) };
            };
            asked += 1;
            changed += u64::from(result == "changed");
            failed += u64::from(problem.is_some());
            let digest = |digest: &Option<Digest>| digest.as_ref().map(|digest| digest.as_str().to_owned());
            let data = json!({
                "name": name.to_string(), "result": result, "before": digest(&before), "digest": digest(&now),
                "problem": problem,
            });
            Event { name: "image", data }
        });
        Ok(events(told))
    }

    /// The tags that a pattern matches, or the one that it names, in the cache or not.
    async fn names(&self, pattern: Pattern, text: &str) -> Result<Vec<ImageName>, ApiError> {
        let refused = |why: &str| Err(ApiError::new(StatusCode::BAD_REQUEST, format!("match: {why}")));
        if !text.contains('*') {
            return match ImageName::parse(Visibility::Shared, text) {
                Ok(name) if matches!(name.reference, Reference::Tag(_)) => Ok(vec![name]),
                Ok(_) => refused("a digest never means anything else: name a tag"),
                Err(_) => refused("this is no name of an image"),
            };
        }
        if !self.inventory.until_read().await {
            let why = "the images on disk are still being read; try again in a moment";
            return Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, why.to_owned()));
        }
        let matches = move |name: &ImageName| {
            let subject = || Subject::reference(&name.upstream, &name.repository, &name.reference);
            matches!(name.reference, Reference::Tag(_)) && pattern.matches(&subject())
        };
        let mut names = self.inventory.names(matches).await;
        names.sort_by_cached_key(ToString::to_string);
        match names.len() {
            0..=MAX_TAGS => Ok(names),
            more => refused(&format!("{more} tags match, and {MAX_TAGS} at most are refreshed at a time")),
        }
    }

    async fn refresh(&self, upstreams: &[Upstream], name: &ImageName) -> Outcome {
        let failed = |result, problem: String| Outcome { result, before: None, now: None, problem: Some(problem) };
        let Some(upstream) = upstreams.iter().find(|upstream| *upstream.name() == name.upstream) else {
            return failed("refused", format!("there is no upstream {}", name.upstream));
        };
        if upstream.uses_client_credentials() || name.visibility == Visibility::PerClient {
            let why = "this upstream authorizes each client (access = \"client\"): a client's next pull asks it";
            return failed("refused", why.to_owned());
        }
        let Reference::Tag(tag) = name.reference.clone() else {
            return failed("refused", "this is no tag".to_owned());
        };
        // As a task of its own: it is not left half done when the operator leaves.
        let (manifests, upstream, repository) = (self.manifests.clone(), upstream.clone(), name.repository.clone());
        let (pins, name) = (self.pins.clone(), name.clone());
        let asked = self
            .tasks
            .spawn(async move { manifests.refresh(&upstream, &repository, &tag, || pins.is_pinned(&name)).await });
        match asked.await {
            Ok(Ok(refreshed)) => Outcome {
                result: if refreshed.before.as_ref() == Some(&refreshed.now) { "unchanged" } else { "changed" },
                before: refreshed.before,
                now: Some(refreshed.now),
                problem: None,
            },
            Ok(Err(error)) => {
                let failure = failed("failed", ErrorChain(&error).to_string());
                match error {
                    NotRefreshed::Manifest(_) => failure,
                    NotRefreshed::Gone { before } => Outcome { result: "gone", before: Some(before), ..failure },
                    NotRefreshed::Imported | NotRefreshed::Pinned => Outcome { result: "kept", ..failure },
                }
            }
            Err(_) => failed("failed", "forebay is about to end".to_owned()),
        }
    }
}
