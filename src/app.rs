//! Composes the running mirror out of a configuration; reloads and drains it.
//!
//! What must hold: every task is owned here and ends before [`App::drain`] returns. A reload that fails changes nothing: it first
//! prepares all values that can fail, and then replaces all of them.

pub mod check;
mod error;
mod fixed_keys;
mod loading;
mod object_store;
mod reloadable;
mod running;
mod warnings;

use std::{
    collections::hash_map::RandomState,
    hash::{BuildHasher, Hasher},
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use tokio::{sync::Notify, task::JoinHandle};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    admin::{
        self, AdminListener, AdminToken, Readiness, TokenFile,
        api::{Api, CurrentRoutes, CurrentUpstreams, Explanations, Refreshes, Sources, StatusSources, UpstreamTests},
        control,
        control_socket::{ControlSocket, SocketError},
    },
    auth::{self, AccessControl, Grants, LoginFailure, PasswordAttempts},
    cache::{
        BlobCache, CacheContext, DiskStore, Exports, ImageVerification, Images, Imports, Inventory, Lists,
        ManifestCache, ObjectSources, Pins, Removal, Scrub, Upkeep, UploadQueue,
    },
    cluster::{PeerPlace, PeerResult, RefusedProof},
    config::{Config, Loaded},
    history::{History, Readers},
    metrics::Metrics,
    peer::TrustedNetworks,
    push::{Caches, Deletions},
    registry::{Authentication, ClientRates, Contents, Instance, Redirects, ResponseMemory, Service, Table},
    route::AllowedHosts,
    transport::{HandshakeFailure, Listener, ReloadableTls, bind},
    upstream::{Context, PrincipalKey, Registry, Upstream},
    warm::{WarmJobs, WarmSources, Warmer},
};

pub use self::{
    error::Error,
    fixed_keys::is_fixed_at_start,
    loading::{Checked, check},
    object_store::StorePing,
};
use self::{
    fixed_keys::{FixedKey, keep_fixed},
    loading::{allowed_hosts, cluster, deletions_in, first_seen_in, table, upstream_context},
    reloadable::Reloadable,
    running::Running,
    warnings::tell_zero_copy,
};

/// How long downloads and other tasks may take to end after the drain.
const END_TIMEOUT: Duration = Duration::from_secs(10);

/// Sockets of a service manager, used in place of the configured addresses.
#[derive(Debug, Default)]
pub struct Inherited {
    pub registry: Vec<std::net::TcpListener>,
    pub admin: Option<std::net::TcpListener>,
}

/// The running mirror.
pub struct App {
    /// The configuration of the start.
    config: Config,
    reloadable: Reloadable,
    running: Running,
    service: Arc<Service>,
    tls: Option<ReloadableTls>,
    metrics: Metrics,
    readiness: Readiness,
    trusted: TrustedNetworks,
    /// What all upstreams share.
    upstream_context: Context,
    /// The upstreams that operators are told of.
    upstreams: CurrentUpstreams,
    inventory: Inventory,
    routes: CurrentRoutes,
    warm_jobs: WarmJobs,
    /// Of the object store, if there is one.
    upkeep: Option<Upkeep>,
    admin_hosts: Arc<ArcSwap<AllowedHosts>>,
    admin_token: AdminToken,
    /// Notified: other rules are in force.
    rules_changed: Arc<Notify>,
    /// Cancelled: accept no more connections, finish running responses.
    stop: CancellationToken,
    /// Cancelled after that: end downloads and all other tasks.
    end: CancellationToken,
    serving: JoinHandle<()>,
    tasks: TaskTracker,
}

impl App {
    /// Starts serving. It sends no request to upstreams, so that cached content is served also while one is down.
    /// Serves the control socket, and warns of what of the configuration cannot work.
    ///
    /// # Errors
    /// The configuration, or a file, directory or address that it names, cannot be used.
    pub async fn start(loaded: impl Into<Loaded>, inherited: Inherited) -> Result<Self, Error> {
        let loaded = loaded.into();
        let config = loaded.config.clone();
        let metrics = Metrics::new()?;
        metrics.clients_may_fail::<LoginFailure, HandshakeFailure>();
        let store = DiskStore::open(&config.cache, metrics.clone())?;
        let instance = instance();
        let trusted = TrustedNetworks::new(config.server.trusted_networks.clone());
        let cluster = cluster(&config)?;
        let objects = object_store::store(&config, &metrics)?;
        let uploads = objects.as_ref().map(|_| UploadQueue::new(metrics.clone()));
        let upstream_context = Context {
            cluster: cluster.clone(),
            store: objects.clone(),
            ..upstream_context(metrics.clone(), instance.pseudonym())
        };
        let scrub = Scrub::new(&config.cache, store.clone(), metrics.clone());
        let inventory = Inventory::new(store.clone());
        if let Some(state) = &config.state_directory {
            inventory.keep(state);
        }
        let pins = Pins::load(config.state_directory.as_deref(), store.clone(), inventory.clone())?;
        let images = (inventory.clone(), pins.clone());
        let mut context = CacheContext::new(&config.cache, (store.clone(), metrics.clone()), trusted.clone(), images);
        context.objects = ObjectSources {
            store: objects.clone(),
            uploads: uploads.clone(),
            cluster: cluster.clone(),
            state: config.state_directory.clone(),
        };
        context.rules.set(config.rules.clone());
        let CacheContext { config: cache, tasks, end, rules, .. } = context.clone();
        let caches = caches(&config, context);
        let auth = authentication(&config, &trusted)?;
        let table = table(&config, &upstream_context)?;
        upstream_context.rates.set(&config.upstreams);
        let upstreams = CurrentUpstreams::default();
        upstreams.store(all_upstreams(&table));
        inventory.set_registries(registries(&table));
        let routes = CurrentRoutes::new(ArcSwap::from_pointee(table.routes.clone()));
        let history = History::new(upstream_context.content.clone());
        let explanations = Explanations::new(routes.clone(), rules, caches.manifests.clone(), history.clone())
            .with_store(config.store.as_ref());
        let warmer = Warmer::new(WarmSources {
            routes: routes.clone(),
            manifests: caches.manifests.clone(),
            blobs: caches.blobs.clone(),
            store: store.clone(),
            inventory: inventory.clone(),
            pins: pins.clone(),
            metrics: metrics.clone(),
        });
        let warm_jobs = WarmJobs::default();
        warm_jobs.set(&config.warm);
        let downloads = caches.blobs.downloads().clone();
        let client_rates = ClientRates::new(trusted.clone());
        client_rates.set(config.access.client_rate);
        let memory = ResponseMemory::new(trusted.clone(), store.readers().clone());
        let tls = config.server.tls.as_ref().map(ReloadableTls::load).transpose()?;
        let presence = object_store::presence(&config, objects.as_ref(), (&tasks, &end));
        if let Some(presence) = &presence {
            caches.blobs.redirects_by(presence.clone());
        }
        let contents = Contents {
            caches,
            scrub: scrub.clone(),
            memory,
            client_rates,
            tls: tls.clone(),
            cluster: cluster.clone(),
            redirects: presence.map(|presence| Redirects::new(presence, tasks.clone(), end.clone())),
        };
        let disk = store.clone();
        tasks.spawn(history.clone().keep_sums(move || disk.status().usage.total(), end.clone()));
        let service = Arc::new(Service::new(table, auth, contents, instance, metrics.clone(), history.clone()));
        let listener =
            Listener::bind(&config.server, inherited.registry, tls.clone(), metrics.clone())?.trusting(trusted.clone());
        let connections = listener.connection_limit();
        let reloadable = Reloadable { cache, store: store.clone(), scrub: scrub.clone(), connections };
        let admin = admin_listener(&config.admin, inherited.admin)?;
        let admin_addr = address_of(&admin).map_err(|source| Error::Admin { address: config.admin.listen, source })?;
        let admin_token = AdminToken::default();
        admin_token.set(config.admin.token_file.as_deref().map(TokenFile::load).transpose()?);
        let readiness = Readiness::default();
        let running = Running::new(&loaded, listener.local_addrs(), admin_addr);
        let caches = &service.caches;
        let removal = Removal::new(
            (store.clone(), caches.manifests.clone(), caches.blobs.clone()),
            (inventory.clone(), pins.clone()),
            (tasks.clone(), end.clone()),
        );
        let refreshes = Refreshes::new(caches.manifests.clone(), inventory.clone(), pins.clone(), tasks.clone());
        let verification =
            ImageVerification::new(scrub.clone(), (store.clone(), inventory.clone()), (tasks.clone(), end.clone()));
        let api = Api::new(Sources {
            config: running.document.clone(),
            upstreams: upstreams.clone(),
            status: StatusSources {
                started: running.started,
                readiness: readiness.clone(),
                store: store.clone(),
                tls: tls.clone(),
                metrics: metrics.clone(),
                history: history.clone(),
                inventory: inventory.clone(),
                pins: pins.clone(),
                warm_jobs: warm_jobs.clone(),
                cluster: cluster.clone(),
                objects: objects.clone().zip(uploads.clone()),
            },
            tests: UpstreamTests::default(),
            history,
            downloads,
            inventory: inventory.clone(),
            explanations,
            pins: pins.clone(),
            warmer: warmer.clone(),
            exports: Exports::new(store.clone(), service.caches.manifests.clone(), service.caches.blobs.clone()),
            imports: Imports::new(
                (store.clone(), pins.clone()),
                (service.caches.manifests.clone(), service.caches.blobs.clone()),
                (tasks.clone(), removal.turn()),
            ),
            removal,
            refreshes,
            verification,
            cluster: cluster.clone(),
        });
        serve_control(&config, api.clone(), (&tasks, &end))?;
        tell_zero_copy(&config.cache.directory);
        running.warn(&loaded, &config);
        let admin_hosts = Arc::new(ArcSwap::from_pointee(allowed_hosts(&config, &config.admin.allowed_hosts)));
        tasks.spawn(store.clone().keep_uses(end.clone()));
        let keeping = object_store::Keeping {
            disk: &store,
            blobs: &service.caches.blobs,
            cluster: cluster.as_ref(),
            metrics: &metrics,
        };
        let upkeep = object_store::keep(&config, objects.zip(uploads), keeping, (&tasks, &end));
        let rules_changed = Arc::new(Notify::new());
        let (manifests, changed, over) = (service.caches.manifests.clone(), rules_changed.clone(), end.clone());
        let pins_of_start = pins.clone();
        tasks.spawn(async move {
            // Before anything can be evicted.
            manifests.hold_by_rules().await;
            let held = over.run_until_cancelled(hold_by_changed_rules(&manifests, &changed));
            tokio::join!(store.scan_then(move || pins_of_start.begin()), held);
        });
        if let Some(cluster) = cluster {
            metrics.in_cluster::<PeerPlace, PeerResult, RefusedProof>();
            let seen = cluster.clone();
            metrics.before_reading(move |metrics| {
                let health = seen.health();
                metrics.cluster_members(health.members - health.dead.len(), health.dead.len(), health.is_member);
            });
            let over = end.clone();
            tasks.spawn(async move {
                over.run_until_cancelled(cluster.watch()).await;
            });
        }
        tasks.spawn(inventory.clone().run(end.clone()));
        tasks.spawn(pins.run(end.clone()));
        let (jobs, over) = (warm_jobs.clone(), end.clone());
        tasks.spawn(async move { over.run_until_cancelled(jobs.run(warmer)).await });
        tasks.spawn(scrub.run(end.clone()));
        if let Some(tls) = &tls {
            let served = tls.clone();
            metrics.before_reading(move |metrics| {
                served.expiry().into_iter().for_each(|at| metrics.certificate_expiry(at))
            });
            tasks.spawn(tls.clone().watch(metrics.clone(), end.clone()));
        }
        tasks.spawn(auth::watch(service.auth.access.clone(), metrics.clone(), end.clone()));
        tasks.spawn(admin_token.clone().watch(metrics.clone(), end.clone()));
        let operators = AdminListener {
            metrics: metrics.clone(),
            readiness: readiness.clone(),
            hosts: admin_hosts.clone(),
            api,
            token: admin_token.clone(),
            readers: Readers::default(),
        };
        tasks.spawn(operators.run(admin, end.clone()));
        let stop = CancellationToken::new();
        let serving = tokio::spawn(listener.run(service.clone(), stop.clone()));
        metrics.config_read(true);
        readiness.set_ready();
        Ok(Self {
            config,
            reloadable,
            running,
            service,
            tls,
            metrics,
            readiness,
            trusted,
            upstream_context,
            upstreams,
            inventory,
            routes,
            warm_jobs,
            upkeep,
            admin_hosts,
            admin_token,
            rules_changed,
            stop,
            end,
            serving,
            tasks,
        })
    }

    /// Where the registry listens.
    pub fn local_addrs(&self) -> Vec<SocketAddr> {
        self.running.registry.clone()
    }

    /// Where `/metrics`, `/healthz` and `/readyz` are.
    pub fn admin_addr(&self) -> SocketAddr {
        self.running.admin
    }

    /// Counts a reload whose configuration could not be loaded.
    pub fn reload_failed(&self) {
        self.metrics.reload("config", false);
    }

    /// Takes what a reload changes from a new configuration: all of it, or on an error nothing. Names each other key that
    /// differs in the log. Blocks.
    ///
    /// # Errors
    /// A file that the configuration names cannot be used.
    pub fn reload(&self, loaded: impl Into<Loaded>) -> Result<(), Error> {
        let reloaded = self.try_reload(&loaded.into());
        self.metrics.reload("config", reloaded.is_ok());
        reloaded
    }

    fn try_reload(&self, loaded: &Loaded) -> Result<(), Error> {
        let config = &loaded.config;
        let table = table(config, &self.upstream_context)?;
        let token = config.admin.token_file.as_deref().map(TokenFile::load).transpose()?;
        let access = AccessControl::load(&config.access)?.trusting(self.trusted.clone());
        let tls = config.server.tls.as_ref().map(ReloadableTls::prepare).transpose()?;
        if let (Some(running), Some(tls)) = (&self.tls, &tls) {
            running.may_become(tls)?;
        }
        // From here on nothing fails.
        let mut start = self.config.clone();
        // An earlier reload may have taken other files over.
        start.server.tls = self.tls.as_ref().map(ReloadableTls::files);
        let (config, fixed) = keep_fixed(&start, config.clone());
        if let Some(state) = deletions_in(&config) {
            self.service.caches.deletions.keep(state);
        }
        if let Some(state) = first_seen_in(&config) {
            self.service.caches.manifests.keep_first_seen(state);
        }
        if let (Some(running), Some(tls)) = (&self.tls, tls) {
            running.replace(tls);
        }
        self.replace_rules(&config);
        self.upstreams.store(all_upstreams(&table));
        self.inventory.set_registries(registries(&table));
        self.routes.store(Arc::new(table.routes.clone()));
        self.warm_jobs.set(&config.warm);
        self.upkeep.iter().for_each(|upkeep| upkeep.set_upstreams(&config.upstreams));
        self.service.table.store(Arc::new(table));
        self.upstream_context.rates.set(&config.upstreams);
        self.upstream_context.health.keep(&config.upstreams);
        self.upstream_context.pauses.keep(&config.upstreams, &self.metrics);
        self.admin_token.set(token);
        self.service.client_rates.set(config.access.client_rate);
        self.trusted.set(config.server.trusted_networks.clone());
        self.admin_hosts.store(Arc::new(allowed_hosts(&config, &config.admin.allowed_hosts)));
        self.service.auth.access.store(Arc::new(access));
        self.reloadable.take(&config, &self.service.caches, &self.tasks);
        self.running.publish(&config, loaded, Some(SystemTime::now()));
        self.running.warn(loaded, &config);
        fixed.iter().for_each(FixedKey::warn);
        Ok(())
    }

    /// Puts the rules of a configuration into force.
    fn replace_rules(&self, config: &Config) {
        self.service.caches.manifests.set_rules(config.rules.clone());
        self.rules_changed.notify_one();
    }

    /// Tells probes of readiness that this process is going to drain. It goes on accepting connections.
    pub fn announce_drain(&self) {
        self.readiness.set_draining();
    }

    /// Accepts no more connections, lets responses finish for `drain_timeout`, and returns when all tasks have ended.
    pub async fn drain(self) {
        self.readiness.set_draining();
        self.stop.cancel();
        if let Err(error) = self.serving.await {
            tracing::error!(%error, "the listener failed");
        }
        self.end.cancel();
        self.tasks.close();
        if tokio::time::timeout(END_TIMEOUT, self.tasks.wait()).await.is_err() {
            tracing::warn!(tasks = self.tasks.len(), "some tasks did not end in time");
        }
    }
}

/// Holds what the rules serve, anew after each change. One after the other, so that the last rules decide, and any number of
/// reloads meanwhile is one more turn.
async fn hold_by_changed_rules(manifests: &ManifestCache, changed: &Notify) {
    loop {
        changed.notified().await;
        manifests.hold_by_rules().await;
    }
}

/// A random name of this process among the mirrors that a request may pass.
fn instance() -> Instance {
    let [a, b, c, d, ..] = RandomState::new().build_hasher().finish().to_le_bytes();
    Instance::new(u32::from_le_bytes([a, b, c, d]))
}

fn authentication(config: &Config, trusted: &TrustedNetworks) -> Result<Authentication, Error> {
    let access = AccessControl::load(&config.access)?.trusting(trusted.clone());
    Ok(Authentication {
        access: Arc::new(ArcSwap::from_pointee(access)),
        attempts: PasswordAttempts::new(trusted.clone()),
        principals: PrincipalKey::generate()?,
    })
}

fn caches(config: &Config, context: CacheContext) -> Caches {
    let images = Images::default();
    let CacheContext { config: cache, tasks, end, trusted, .. } = context.clone();
    let manifests = ManifestCache::new(context.clone(), images.clone());
    if let Some(state) = first_seen_in(config) {
        manifests.keep_first_seen(state);
    }
    Caches {
        lists: Lists::new(cache.clone(), manifests.clone(), tasks.clone(), end.clone()),
        manifests,
        blobs: BlobCache::new(context, images),
        deletions: Deletions::kept(deletions_in(config)),
        grants: Grants::new(&cache, trusted, tasks, end),
    }
}

/// The upstreams that requests are routed to.
fn all_upstreams(table: &Table) -> Arc<Vec<Upstream>> {
    Arc::new(table.routes.upstreams().cloned().collect())
}

fn registries(table: &Table) -> Vec<Registry> {
    table.routes.upstreams().map(|upstream| upstream.registry().clone()).collect()
}

/// Opens the control socket, and serves it as one of `tasks` until `end`. Blocks.
fn serve_control(config: &Config, api: Api, (tasks, end): (&TaskTracker, &CancellationToken)) -> Result<(), Error> {
    if let Some((socket, listener)) = ControlSocket::open(&config.admin, config.state_directory.as_deref())? {
        let listener = tokio::net::UnixListener::from_std(listener);
        let listener = listener.map_err(|source| SocketError::Io { path: socket.path().to_owned(), source })?;
        tasks.spawn(control::run((socket, listener), api, end.clone()));
    }
    Ok(())
}

fn admin_listener(
    config: &admin::Config,
    inherited: Option<std::net::TcpListener>,
) -> Result<tokio::net::TcpListener, Error> {
    let listen = || {
        let listener = match inherited {
            Some(listener) => listener,
            None => bind(config.listen, &[])?,
        };
        listener.set_nonblocking(true)?;
        tokio::net::TcpListener::from_std(listener)
    };
    listen().map_err(|source| Error::Admin { address: config.listen, source })
}

fn address_of(listener: &tokio::net::TcpListener) -> io::Result<SocketAddr> {
    listener.local_addr()
}
