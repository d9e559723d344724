//! `POST /api/v1/explain`: why a pull of an image is slow, or fails.
//!
//! What must hold: it asks what a client's `HEAD` asks, by the same rules of addresses, trust and credentials; it keeps
//! nothing of the answer, and changes nothing of what is cached; two run at a time, and each ends.

mod meaning;
mod steps;

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use futures_util::{StreamExt as _, stream};
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::{
    sync::{Semaphore, mpsc},
    time::timeout,
};

use self::{
    meaning::{Found, Pull},
    steps::RulesStep,
};
use super::{
    events::{Event, events},
    response::{ApiBody, ApiError},
};
use crate::{
    cache::{ManifestCache, ManifestRequest},
    history::{Filter, History},
    oci::{Accept, MediaTypeKind, Reference},
    route::{ImageRoute, NameError, RouteError, Routes, resolve_image},
    rule::{CurrentRules, Pattern},
    store,
    upstream::{Error, ErrorKind, Upstream},
};

/// How many run at a time.
const MAX_EXPLANATIONS: usize = 2;
/// How long one may take: a client of the control socket is served for 60 s.
const EXPLAIN_TIMEOUT: Duration = Duration::from_secs(50);
/// How many requests of clients for the image are told.
const MAX_REQUESTS: usize = 3;
/// How many events wait for the client.
const MAX_WAITING: usize = 8;

/// The upstreams and how names find them; replaced at a reload.
pub(crate) type CurrentRoutes = Arc<ArcSwap<Routes<Upstream>>>;

/// Explains pulls. A cheap handle.
#[derive(Clone)]
pub(crate) struct Explanations {
    routes: CurrentRoutes,
    rules: CurrentRules,
    manifests: ManifestCache,
    history: History,
    /// The object store, where there is one.
    store: Option<Arc<store::Config>>,
    turns: Arc<Semaphore>,
}

/// The body of a request.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Question {
    image: String,
}

impl Explanations {
    pub(crate) fn new(routes: CurrentRoutes, rules: CurrentRules, manifests: ManifestCache, history: History) -> Self {
        Self { routes, rules, manifests, history, store: None, turns: Arc::new(Semaphore::new(MAX_EXPLANATIONS)) }
    }

    /// With the object store to which clients may be redirected.
    pub(crate) fn with_store(self, store: Option<&store::Config>) -> Self {
        Self { store: store.cloned().map(Arc::new), ..self }
    }

    /// Explains a pull. It ends if the client leaves.
    pub(super) fn run(&self, Question { image }: Question) -> Result<Response<ApiBody>, ApiError> {
        let route = match resolve_image(&self.routes.load(), &image) {
            Ok(route) => Ok(route),
            Err(NameError::Route(RouteError::UnknownUpstream(name))) => Err(name),
            Err(error) => return Err(ApiError::new(StatusCode::BAD_REQUEST, error.to_string())),
        };
        let Ok(turn) = self.turns.clone().try_acquire_owned() else {
            let why = format!("{MAX_EXPLANATIONS} pulls are being explained; try again soon");
            return Err(ApiError::new(StatusCode::TOO_MANY_REQUESTS, why));
        };
        let (steps, told) = mpsc::channel(MAX_WAITING);
        let this = self.clone();
        // Both are dropped with the response.
        let work = stream::once(async move {
            let _turn = turn;
            this.explain(&image, route, &Telling(steps)).await;
        });
        let told = stream::unfold(told, async |mut told| told.recv().await.map(|event| (Some(event), told)));
        let all = stream::select(told, work.map(|()| None));
        Ok(events(all.filter_map(async |event| event)))
    }

    async fn explain(&self, image: &str, route: Result<ImageRoute<Upstream>, String>, telling: &Telling) {
        let route = match route {
            Ok(route) => route,
            Err(name) => {
                let problem = format!("no upstream is configured for {name}");
                telling.step(steps::no_route(&problem)).await;
                let meaning = format!("{problem}: add it to the configuration, or pull from the registry itself");
                return telling.done(image, Pull::Fails, &meaning).await;
            }
        };
        telling.step(steps::route(&route, self.store.as_deref())).await;
        let RulesStep { data, denied_by, held_by } = steps::rules(&self.rules.get(), &route);
        telling.step(data).await;
        if let Some(rule) = denied_by {
            telling.step(self.requests(&route).await).await;
            return telling.done(image, Pull::Fails, &format!("the rule {rule} denies it")).await;
        }
        let ImageRoute { upstream, repository, reference, .. } = &route;
        let accept = accept();
        let tell = |step| async move { telling.step(steps::of_upstream(&step)).await };
        let head = in_time(upstream.explain_manifest(repository, reference, &accept, tell)).await;
        let request = ManifestRequest {
            upstream: upstream.clone(),
            repository: repository.clone(),
            accept: accept.clone(),
            tag_digest: None,
        };
        let cached = self.manifests.peek(&request, reference).await;
        telling.step(steps::cache(&cached)).await;
        telling.step(self.requests(&route).await).await;
        let (account, place) = (upstream.account(), upstream.credential_place());
        let found = Found {
            image: &full_name(&route),
            upstream: upstream.name(),
            account: account.as_deref(),
            place: place.as_deref(),
            has_credentials: upstream.has_credentials(),
            by_client: upstream.uses_client_credentials(),
            head: head.as_ref(),
            cached: &cached,
        };
        let (pull, mut meaning) = found.judge();
        if let Some(rule) = held_by {
            meaning +=
                &format!("; the rule {rule} holds the tag, so that clients may get an earlier digest, or none yet");
        }
        telling.done(image, pull, &meaning).await;
    }

    /// The latest requests of clients for this very tag or digest. Only callers who see all of them may ask.
    async fn requests(&self, route: &ImageRoute<Upstream>) -> Value {
        let image = Pattern::typed(&full_name(route), |name| name == &**route.upstream.name()).ok();
        let (history, filter) = (self.history.clone(), Filter { of_clients: true, image, ..Filter::default() });
        // To look through a full history takes some milliseconds.
        let looking = tokio::task::spawn_blocking(move || history.requests(&filter, None, MAX_REQUESTS).items);
        steps::requests(&looking.await.unwrap_or_default())
    }
}

/// What an upstream answers, if that does not take too long: a client would be served what is cached.
async fn in_time<T>(asking: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    let late = || Error::new(ErrorKind::Timeout, format!("no answer within {} s", EXPLAIN_TIMEOUT.as_secs()));
    timeout(EXPLAIN_TIMEOUT, Box::pin(asking)).await.unwrap_or_else(|_| Err(late()))
}

/// How the steps reach the client.
struct Telling(mpsc::Sender<Event>);

impl Telling {
    async fn step(&self, data: Value) {
        self.tell(Event { name: "progress", data }).await;
    }

    async fn done(&self, image: &str, pull: Pull, meaning: &str) {
        let data = json!({ "image": image, "pull": pull.as_str(), "meaning": meaning });
        self.tell(Event { name: "done", data }).await;
    }

    async fn tell(&self, event: Event) {
        // The client has left: the work is dropped with the response.
        let _ = self.0.send(event).await;
    }
}

/// The name by which the registry itself has the image.
fn full_name(route: &ImageRoute<Upstream>) -> String {
    let ImageRoute { upstream, repository, reference, .. } = route;
    let mark = match reference {
        Reference::Tag(_) => ':',
        Reference::Digest(_) => '@',
    };
    format!("{}/{repository}{mark}{reference}", upstream.name())
}

/// What clients accept that pull images.
fn accept() -> Accept {
    let kinds =
        [MediaTypeKind::OciIndex, MediaTypeKind::OciManifest, MediaTypeKind::DockerList, MediaTypeKind::DockerManifest];
    let values = kinds.map(|kind| (header::ACCEPT, HeaderValue::from_static(kind.as_str())));
    Accept::from_headers(&values.into_iter().collect::<HeaderMap>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_upstream_that_hangs_has_not_answered_in_time() {
        let hung = in_time(std::future::pending::<Result<(), Error>>()).await;
        assert_eq!(hung.unwrap_err().kind, ErrorKind::Timeout);
        assert!(in_time(std::future::ready(Ok(()))).await.is_ok());
    }
}
