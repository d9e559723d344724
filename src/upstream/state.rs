//! What all handles of one upstream share.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use http::HeaderValue;
use tokio::sync::Semaphore;

use super::{
    Access, Config, Context, CredentialSource,
    auth::{Authenticator, Cause, scope::Scope},
    client::Sender,
    endpoint::Endpoint,
    failure_log::FailureLog,
    health::HealthLog,
    identity::Registry,
    pause::Pause,
    principal::ClientCredential,
    rates::UpstreamRates,
    repositories_of_registry::RepositoriesOfRegistry,
    response::{
        document_budget::{MAX_DOCUMENTS, Share},
        gzip_guess::GzipGuesses,
        redaction,
    },
    setup_error::SetupError,
    wrong_peers::WrongPeers,
};
use crate::{
    byte_counter::ByteCounter,
    cluster::Cluster,
    metrics::Metrics,
    store::{Pool, Store},
};

pub(super) struct UpstreamState {
    name: Arc<str>,
    pub(super) registry: Registry,
    pub(super) endpoints: Vec<Arc<Endpoint>>,
    pub(super) sender: Sender,
    pub(super) authenticator: Authenticator,
    via: HeaderValue,
    /// Turns to read documents into memory.
    pub(super) documents: Semaphore,
    /// Turns to read blobs into memory whose heads are wrong. Manifests have others; the room is one.
    pub(super) judged: Semaphore,
    /// Room in memory for both.
    pub(super) room: Share,
    pub(super) guesses: Arc<GzipGuesses>,
    connections: usize,
    allows_push: bool,
    redirects: bool,
    has_credentials: bool,
    access: Access,
    /// Hosts and paths of its URLs, which its name does not tell.
    pub(super) private_names: Vec<String>,
    /// How many bytes of blobs all its endpoints have sent.
    received: Arc<AtomicU64>,
    /// How many bytes of manifests and blobs all upstreams have sent.
    content: ByteCounter,
    pub(super) failures: Arc<FailureLog>,
    rates: Arc<UpstreamRates>,
    pub(super) health: Arc<HealthLog>,
    pub(super) pause: Pause,
    pub(super) cluster: Option<Cluster>,
    pub(super) wrong_peers: WrongPeers,
    pub(super) repositories_of_registry: RepositoriesOfRegistry,
    /// The object store, and where in it the content of this upstream is.
    pub(super) store: Option<(Store, Pool)>,
    metrics: Metrics,
}

impl UpstreamState {
    pub(super) fn new(config: &Config, context: &Context) -> Result<Self, SetupError> {
        if config.urls.is_empty() {
            return Err(SetupError::NoUrl { upstream: config.name.clone() });
        }
        let health = context.health.of(&config.name);
        Ok(Self {
            name: config.name.clone(),
            registry: Registry::new(&config.name, &config.urls),
            endpoints: config.urls.iter().cloned().map(Endpoint::new).map(Arc::new).collect(),
            sender: Sender::new(config, context)?,
            authenticator: Authenticator::new(config, context)?,
            via: HeaderValue::from_str(&context.via).map_err(|_| SetupError::Via)?,
            documents: Semaphore::new(MAX_DOCUMENTS),
            judged: Semaphore::new(MAX_DOCUMENTS),
            room: Share::new(context.budget.clone()),
            guesses: Arc::default(),
            connections: config.connections.max(1),
            allows_push: config.push,
            // What is never in the store is not looked for there.
            redirects: config.redirect && config.store && context.store.is_some(),
            has_credentials: config.credential != CredentialSource::Anonymous,
            access: config.access,
            private_names: private_names(config),
            received: Arc::default(),
            content: context.content.clone(),
            failures: Arc::new(FailureLog::new(config.name.clone(), context.metrics.clone(), health.clone())),
            rates: context.rates.of(&config.name),
            health,
            pause: context.pauses.of(&config.name),
            cluster: context.cluster.clone(),
            wrong_peers: WrongPeers::default(),
            repositories_of_registry: RepositoriesOfRegistry::default(),
            store: context.store.clone().filter(|_| config.store).map(|store| (store, pool_of(config.access))),
            metrics: context.metrics.clone(),
        })
    }

    pub(super) fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Over how many connections one blob may be downloaded.
    pub(super) fn connections(&self) -> usize {
        self.connections
    }

    pub(super) fn allows_push(&self) -> bool {
        self.allows_push
    }

    /// Whether clients may be sent to the object store for its blobs.
    pub(super) fn redirects(&self) -> bool {
        self.redirects
    }

    /// Whether credentials are configured for it.
    pub(super) fn has_credentials(&self) -> bool {
        self.has_credentials
    }

    pub(super) fn access(&self) -> Access {
        self.access
    }

    pub(super) fn uses_client_credentials(&self) -> bool {
        matches!(self.access, Access::Client { .. })
    }

    /// What an Authorization header is for.
    pub(super) fn cause<'a>(&self, scope: &'a Scope, client: Option<&'a ClientCredential>) -> Cause<'a> {
        let client_ttl = match self.access {
            Access::Shared => None,
            Access::Client { ttl, .. } => Some(ttl),
        };
        Cause { scope, client, client_ttl }
    }

    /// Counts bytes of a blob that is read into memory to be judged.
    pub(super) fn note_received(&self, bytes: u64) {
        self.note_document(bytes);
        self.content.add(bytes);
        self.received.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Counts bytes of a document. They do not wait for the rate: clients wait for them before they request blobs, and
    /// so do short timeouts.
    pub(super) fn note_document(&self, bytes: u64) {
        self.metrics.upstream_received(&self.name, bytes);
        self.rates.inbound.note(bytes);
    }

    /// The counter of bytes of manifests and blobs.
    pub(super) fn content(&self) -> &ByteCounter {
        &self.content
    }

    pub(super) fn rates(&self) -> &Arc<UpstreamRates> {
        &self.rates
    }

    /// The counter of bytes of blobs.
    pub(super) fn received(&self) -> &Arc<AtomicU64> {
        &self.received
    }

    /// Whether one of its URLs may be that of a forebay: before the first response, each may be.
    pub(super) fn may_be_mirror(&self) -> bool {
        !self.endpoints.iter().all(|endpoint| endpoint.is_registry())
    }

    /// forebay's own value of `Via`.
    pub(super) fn via(&self) -> &HeaderValue {
        &self.via
    }

    pub(super) fn metrics(&self) -> &Metrics {
        &self.metrics
    }
}

fn pool_of(access: Access) -> Pool {
    match access {
        Access::Shared => Pool::Shared,
        Access::Client { .. } => Pool::Clients,
    }
}

fn private_names(config: &Config) -> Vec<String> {
    let names = config.urls.iter().flat_map(|url| url.host_str().into_iter().chain(redaction::names_in(url.path())));
    names.filter(|name| !name.eq_ignore_ascii_case(&config.name)).map(str::to_owned).collect()
}
