//! The control API: what operators ask of the running forebay, and what they have it do.
//!
//! One handler serves the control socket and the admin listener; [`access`] decides what each caller may do. Each resource is
//! a file below this one.
//!
//! What must hold: a request names a resource, and the resource says what it needs before anything of it is read.

pub(crate) mod access;
mod changes;
mod cluster;
mod du;
mod events;
mod explain;
mod export;
mod follower_places;
mod happenings;
mod image_name;
mod images;
mod import;
mod json_body;
pub(super) mod parameters;
mod pins;
mod refresh;
mod removal;
mod requests;
mod response;
pub(super) mod status;
pub(super) mod transfers;
mod turns;
mod upstream_pause;
mod upstream_test;
pub(super) mod upstreams;
mod verify;
mod warm;

use std::{borrow::Cow, sync::Arc};

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, request::Parts};
use hyper::body::Incoming;
use percent_encoding::percent_decode_str;
use tokio_util::sync::CancellationToken;

use self::{
    access::{Caller, Need, Sight, admit},
    changes::Seen,
    follower_places::FollowerPlaces,
    happenings::Happenings,
    parameters::Parameters,
    response::{json, text},
    turns::Turns,
};
pub(crate) use self::{
    explain::{CurrentRoutes, Explanations},
    refresh::Refreshes,
    response::{ApiBody, ApiError, boxed, error},
    status::StatusSources,
    upstream_test::UpstreamTests,
};
use crate::{
    cache::{Downloads, Exports, ImageVerification, Imports, Inventory, Pins, Removal},
    cluster::Cluster,
    history::History,
    upstream::Upstream,
    warm::Warmer,
};

/// Below which all resources are.
pub(crate) const ROOT: &str = "/api/v1/";

/// The running configuration as JSON: the composition root makes it, and makes it anew at a reload. A cheap handle.
#[derive(Clone, Debug, Default)]
pub(crate) struct ConfigDocument(Arc<ArcSwap<ConfigTexts>>);

#[derive(Debug, Default)]
struct ConfigTexts {
    whole: Bytes,
    /// Without what names images of upstreams that authorize each client.
    shared: Bytes,
}

impl ConfigDocument {
    /// `shared`: for readers who may not know all images.
    pub(crate) fn set(&self, whole: Bytes, shared: Bytes) {
        self.0.store(Arc::new(ConfigTexts { whole, shared }));
    }

    fn for_sight(&self, sight: Sight) -> Bytes {
        let texts = self.0.load();
        if sight.of_clients { texts.whole.clone() } else { texts.shared.clone() }
    }
}

/// The configured upstreams in the order of the file; replaced at a reload.
pub(crate) type CurrentUpstreams = Arc<ArcSwap<Vec<Upstream>>>;

/// What the API tells of, and changes.
pub(crate) struct Sources {
    pub config: ConfigDocument,
    pub upstreams: CurrentUpstreams,
    pub status: StatusSources,
    pub tests: UpstreamTests,
    pub history: History,
    pub downloads: Downloads,
    pub inventory: Inventory,
    pub explanations: Explanations,
    pub pins: Pins,
    pub warmer: Warmer,
    pub exports: Exports,
    pub imports: Imports,
    pub removal: Removal,
    pub refreshes: Refreshes,
    pub verification: ImageVerification,
    /// The cluster that this forebay belongs to.
    pub cluster: Option<Cluster>,
}

/// The handler of the API. A cheap handle.
#[derive(Clone)]
pub(crate) struct Api {
    sources: Arc<Sources>,
    places: Arc<FollowerPlaces>,
    turns: Arc<Turns>,
}

/// What a request is about.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Resource<'a> {
    Config,
    Cluster,
    Status,
    Upstreams,
    Requests,
    Pulls,
    Events,
    Transfers,
    Images,
    /// By the name, as it stands in the path.
    Image(&'a str),
    Pins,
    RemoveImages,
    PinImages,
    UnpinImages,
    RefreshImages,
    VerifyImages,
    DiskUsage,
    Explain,
    Export,
    Import,
    /// By the name of the upstream.
    UpstreamTest(Cow<'a, str>),
    UpstreamPause(Cow<'a, str>),
    UpstreamResume(Cow<'a, str>),
    Warm,
}

/// What a request does to a resource.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Action<'a> {
    resource: Resource<'a>,
    need: Need,
}

/// What there is, for a request that names something else.
const RESOURCES: &str = "cluster, config, du, events, explain, export, images, images/{name}, \
    images/pin|unpin|refresh|verify, import, pins, pulls, requests, status, transfers, upstreams, \
    upstreams/{name}/test|pause|resume and warm";

impl<'a> Action<'a> {
    /// What the request is for.
    fn of(method: &Method, path: &'a str) -> Result<Self, ApiError> {
        let path = path.strip_prefix(ROOT).unwrap_or_default();
        let parts: Vec<&str> = path.split('/').collect();
        // An image may have such a name as well: that is read.
        let is_post = method == Method::POST;
        let (resource, need) = match *parts {
            ["config"] => (Resource::Config, Need::Read),
            ["cluster"] => (Resource::Cluster, Need::Read),
            ["status"] => (Resource::Status, Need::Read),
            ["upstreams"] => (Resource::Upstreams, Need::Read),
            ["images"] if method == Method::DELETE => (Resource::RemoveImages, Need::Change),
            ["images"] => (Resource::Images, Need::Read),
            ["images", "pin"] if is_post => (Resource::PinImages, Need::Change),
            ["images", "unpin"] if is_post => (Resource::UnpinImages, Need::Change),
            ["images", "refresh"] if is_post => (Resource::RefreshImages, Need::Change),
            ["images", "verify"] if is_post => (Resource::VerifyImages, Need::Change),
            ["images", ..] => (Resource::Image(path.strip_prefix("images/").unwrap_or_default()), Need::Read),
            ["pins"] => (Resource::Pins, Need::Read),
            ["du"] => (Resource::DiskUsage, Need::Read),
            // It may spend pulls, and answers a GET all the same: what it gives is the resource.
            ["export"] if is_post || method == Method::GET => {
                return Ok(Self { resource: Resource::Export, need: Need::Change });
            }
            ["export"] => return Err(ApiError::method("GET, POST")),
            ["import"] => (Resource::Import, Need::Change),
            ["explain"] => (Resource::Explain, Need::Change),
            ["warm"] => (Resource::Warm, Need::Change),
            ["upstreams", name, verb @ ("test" | "pause" | "resume")] => {
                let name = percent_decode_str(name).decode_utf8();
                let name = name.map_err(|_| ApiError::new(StatusCode::BAD_REQUEST, "the name is no UTF-8"))?;
                let resource = match verb {
                    "pause" => Resource::UpstreamPause(name),
                    "resume" => Resource::UpstreamResume(name),
                    _ => Resource::UpstreamTest(name),
                };
                (resource, Need::Change)
            }
            ["requests"] => (Resource::Requests, Need::Read),
            ["pulls"] => (Resource::Pulls, Need::Read),
            ["events"] => (Resource::Events, Need::Read),
            ["transfers"] => (Resource::Transfers, Need::Read),
            _ => {
                let why = format!("there is no such resource; below {ROOT} there are {RESOURCES}");
                return Err(ApiError::new(StatusCode::NOT_FOUND, why));
            }
        };
        match (need, method) {
            (Need::Read, &Method::GET | &Method::HEAD) | (Need::Change, &Method::POST) => Ok(Self { resource, need }),
            (Need::Change, &Method::DELETE) if resource == Resource::RemoveImages => Ok(Self { resource, need }),
            (Need::Read, _) if resource == Resource::Images => Err(ApiError::method("GET, HEAD, DELETE")),
            (Need::Read, _) => Err(ApiError::method("GET, HEAD")),
            (Need::Change, _) => Err(ApiError::method("POST")),
        }
    }
}

impl Api {
    pub(crate) fn new(sources: Sources) -> Self {
        Self { sources: Arc::new(sources), places: Arc::default(), turns: Arc::default() }
    }

    pub(super) fn sources(&self) -> &Sources {
        &self.sources
    }

    /// Responds to a request by this caller. `until`: what is cancelled when the caller may not read any more.
    pub(crate) async fn respond(
        &self,
        request: Request<Incoming>,
        caller: Caller,
        until: CancellationToken,
    ) -> Response<ApiBody> {
        let (head, body) = request.into_parts();
        self.answer((&head, body), caller, until).await.unwrap_or_else(|refused| error(&refused))
    }

    async fn answer(
        &self,
        (head, body): (&Parts, Incoming),
        caller: Caller,
        until: CancellationToken,
    ) -> Result<Response<ApiBody>, ApiError> {
        let action = Action::of(&head.method, head.uri.path())?;
        let query = head.uri.query();
        let sight = match admit(caller, action.need) {
            Ok(sight) => sight,
            // The client learns it although it is sending an archive.
            Err(denied) if action.resource == Resource::Import => return Ok(import::refuse(&denied.into(), body)),
            Err(denied) => return Err(denied.into()),
        };
        let Sources {
            config,
            upstreams,
            status,
            tests,
            history,
            downloads,
            inventory,
            explanations,
            pins,
            warmer,
            exports,
            imports,
            removal,
            refreshes,
            verification,
            cluster: of_cluster,
        } = &*self.sources;
        let upstreams = upstreams.load_full();
        let turn = self.turns.take(caller);
        let no_parameters = || Parameters::parse(query, &[]).map(drop).map_err(ApiError::from);
        let of_history = || requests::Query::parse(query, sight, &upstreams);
        let is_upstream = |name: &str| upstreams.iter().any(|upstream| **upstream.name() == *name);
        let is_of_clients = |upstream: &Upstream| upstream.uses_client_credentials() && !sight.of_clients;
        let is_hidden =
            |name: &str| upstreams.iter().any(|upstream| **upstream.name() == *name && is_of_clients(upstream));
        match action.resource {
            Resource::Config => no_parameters().map(|()| text(StatusCode::OK, config.for_sight(sight))),
            Resource::Cluster => {
                cluster::answer((of_cluster.as_ref(), status.object_store()), query, turn.await?).await
            }
            Resource::Status => no_parameters().map(|()| json(&status.document(&upstreams, sight))),
            Resource::Upstreams => no_parameters().map(|()| json(&upstreams::document(&upstreams))),
            Resource::UpstreamTest(name) => no_parameters().and_then(|()| tests.run(&upstreams, &name)),
            Resource::UpstreamPause(name) => no_parameters().and_then(|()| upstream_pause::pause(&upstreams, &name)),
            Resource::UpstreamResume(name) => no_parameters().and_then(|()| upstream_pause::resume(&upstreams, &name)),
            Resource::Explain => {
                no_parameters()?;
                explanations.run(json_body::read(&head.headers, body).await?)
            }
            Resource::Warm => {
                no_parameters()?;
                let wanted = json_body::read_within(&head.headers, body, warm::MAX_BODY).await?;
                warm::run(warmer, wanted, caller)
            }
            Resource::Requests => requests::requests(history.clone(), of_history()?, turn.await?).await,
            Resource::Pulls => requests::pulls(history.clone(), of_history()?, turn.await?).await,
            Resource::Events => {
                let filter = requests::filter_of_events(query, sight, &upstreams)?;
                let place = self.places.take(caller)?;
                let (upstreams, store) = (self.sources.upstreams.clone(), status.store.clone());
                let look = move || Seen::now(store.evicted(), &upstreams.load());
                Ok(Happenings::new(history.follow(), downloads.follow(), look, filter).respond(place, until))
            }
            Resource::Transfers => {
                no_parameters()?;
                transfers::transfers(history.clone(), downloads.clone(), sight, turn).await
            }
            Resource::Images => images::page(inventory, images::query(query, sight, is_upstream)?, turn.await?).await,
            Resource::Image(name) => {
                let part = images::part(query)?;
                images::details((inventory, pins), (name, part), sight, is_upstream, turn.await?).await
            }
            Resource::Pins => {
                no_parameters()?;
                pins::list(pins, is_hidden, turn.await?).await
            }
            Resource::RemoveImages => removal::remove(removal, query, upstreams.clone(), caller, is_upstream).await,
            Resource::PinImages => {
                no_parameters()?;
                pins::pin(pins, json_body::read(&head.headers, body).await?, caller, is_upstream).await
            }
            Resource::UnpinImages => {
                no_parameters()?;
                pins::unpin(pins, json_body::read(&head.headers, body).await?, caller, is_upstream).await
            }
            Resource::Import => Ok(import::import(imports, (query, &head.headers, body), &upstreams).await),
            Resource::Export => {
                let wanted = match head.method {
                    Method::POST => {
                        no_parameters()?;
                        export::wanted(json_body::read_within(&head.headers, body, export::MAX_BODY).await?)?
                    }
                    _ => export::query(query)?,
                };
                export::export(exports, wanted, &upstreams).await
            }
            Resource::RefreshImages => {
                no_parameters()?;
                refreshes.run(json_body::read(&head.headers, body).await?, upstreams.clone(), caller).await
            }
            Resource::VerifyImages => {
                no_parameters()?;
                let request = json_body::read(&head.headers, body).await?;
                verify::verify(verification, request, caller, is_upstream).await
            }
            Resource::DiskUsage => {
                no_parameters()?;
                du::usage(inventory, status.store.status().max_bytes, sight, turn.await?).await
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_says_what_it_needs_before_it_is_served() {
        fn of(method: Method, path: &str) -> Result<(Resource<'_>, Need), ApiError> {
            Action::of(&method, path).map(|action| (action.resource, action.need))
        }
        for (path, resource) in [
            ("config", Resource::Config),
            ("status", Resource::Status),
            ("upstreams", Resource::Upstreams),
            ("requests", Resource::Requests),
            ("pulls", Resource::Pulls),
            ("events", Resource::Events),
            ("transfers", Resource::Transfers),
            ("images", Resource::Images),
            ("images/docker.io/library/node:22", Resource::Image("docker.io/library/node:22")),
            ("pins", Resource::Pins),
            ("du", Resource::DiskUsage),
        ] {
            let path = format!("{ROOT}{path}");
            assert_eq!(of(Method::GET, &path), Ok((resource.clone(), Need::Read)));
            assert_eq!(of(Method::HEAD, &path), Ok((resource.clone(), Need::Read)));
            if resource == Resource::Images {
                assert_eq!(of(Method::POST, &path), Err(ApiError::method("GET, HEAD, DELETE")));
                assert_eq!(of(Method::DELETE, &path), Ok((Resource::RemoveImages, Need::Change)));
                continue;
            }
            assert_eq!(of(Method::POST, &path), Err(ApiError::method("GET, HEAD")));
            assert_eq!(of(Method::DELETE, &path), Err(ApiError::method("GET, HEAD")));
        }
        for (path, resource) in [
            ("images/pin", Resource::PinImages),
            ("images/unpin", Resource::UnpinImages),
            ("images/refresh", Resource::RefreshImages),
            ("images/verify", Resource::VerifyImages),
        ] {
            let (name, path) = (path.strip_prefix("images/").unwrap(), format!("{ROOT}{path}"));
            assert_eq!(of(Method::POST, &path), Ok((resource, Need::Change)));
            assert_eq!(of(Method::GET, &path), Ok((Resource::Image(name), Need::Read)));
        }
        assert_eq!(of(Method::POST, "/api/v1/import"), Ok((Resource::Import, Need::Change)));
        assert_eq!(of(Method::GET, "/api/v1/export"), Ok((Resource::Export, Need::Change)));
        assert_eq!(of(Method::POST, "/api/v1/export"), Ok((Resource::Export, Need::Change)));
        assert_eq!(of(Method::HEAD, "/api/v1/export"), Err(ApiError::method("GET, POST")));
        let test = "/api/v1/upstreams/harbor%2Elan:8443/test";
        assert_eq!(of(Method::POST, test), Ok((Resource::UpstreamTest("harbor.lan:8443".into()), Need::Change)));
        assert_eq!(of(Method::GET, test), Err(ApiError::method("POST")));
        assert_eq!(of(Method::POST, "/api/v1/explain"), Ok((Resource::Explain, Need::Change)));
        assert_eq!(of(Method::GET, "/api/v1/explain"), Err(ApiError::method("POST")));
        assert_eq!(of(Method::POST, "/api/v1/warm"), Ok((Resource::Warm, Need::Change)));
        assert_eq!(of(Method::GET, "/api/v1/warm"), Err(ApiError::method("POST")));
        let (pause, resume) = ("/api/v1/upstreams/quay.io/pause", "/api/v1/upstreams/quay.io/resume");
        assert_eq!(of(Method::POST, pause), Ok((Resource::UpstreamPause("quay.io".into()), Need::Change)));
        assert_eq!(of(Method::POST, resume), Ok((Resource::UpstreamResume("quay.io".into()), Need::Change)));
        for path in ["/api/v1/", "/api/v1", "/metrics", "/api/v1/config/", "/api/v1//config", "/api/v2/config"] {
            assert_eq!(of(Method::GET, path).unwrap_err().status, StatusCode::NOT_FOUND, "{path}");
        }
    }
}
