//! The composition root: out of a configuration, the running mirror; its reload and its end.
//!
//! What must hold: every task has an owner here and ends before [`App::drain`] returns. A reload that fails
//! changes nothing.

use std::{
    collections::hash_map::RandomState,
    hash::{BuildHasher, Hasher},
    io,
    net::SocketAddr,
    path::Path,
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use tokio::task::JoinHandle;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    admin::{self, Readiness},
    auth::{self, AccessControl, Grants, PasswordAttempts},
    cache::{BlobCache, DiskStore, DownloadResult, Images, Lists, ManifestCache, Scrub, storage},
    config::Config,
    metrics::{self, Metrics},
    oci::HostPattern,
    peer::TrustedNetworks,
    push::{Caches, Deletions, KeyError, Seal},
    registry::{Authentication, Contents, Instance, ResponseMemory, Service, Table, via},
    route::{AllowedHosts, Routes},
    state_dir::{self, StateDirectory},
    transport::{ListenError, Listener, ReloadableTls, TlsError},
    upstream::{
        self, Context, NoRandomSource, PrincipalKey, ReadBudget, SetupError, TokenResult, Upstream,
        proxy::{self, ProxyError},
    },
};

/// How long fills and other tasks may take to end once they are told to.
const END_TIMEOUT: Duration = Duration::from_secs(10);

/// Why the mirror does not start, or a reload changes nothing.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the metrics cannot be registered")]
    Metrics(#[from] metrics::Error),
    #[error("the cache cannot be used")]
    Cache(#[from] storage::OpenError),
    #[error("upstream[{index}] ({name})")]
    Upstream { index: usize, name: Arc<str>, source: SetupError },
    #[error("access")]
    Access(#[from] auth::Error),
    #[error("push.key_file")]
    PushKey(#[from] KeyError),
    #[error("state_directory")]
    State(#[from] state_dir::Error),
    #[error("state_directory")]
    StateKey(#[source] KeyError),
    #[error("state_directory must be given: this user has no home directory")]
    NoState,
    #[error(transparent)]
    Proxy(#[from] ProxyError),
    #[error("server.tls")]
    Tls(#[from] TlsError),
    #[error("clients cannot be told apart")]
    Randomness(#[from] NoRandomSource),
    #[error("cannot listen")]
    Listen(#[from] ListenError),
    #[error("cannot listen on the admin address {address}")]
    Admin { address: SocketAddr, source: io::Error },
}

impl Error {
    /// Whether the configuration, or a file that it names, is wrong: trying again cannot help. The message begins
    /// with the key then.
    pub fn is_configuration(&self) -> bool {
        match self {
            Self::Upstream { .. }
            | Self::Access(_)
            | Self::PushKey(_)
            | Self::NoState
            | Self::Proxy(_)
            | Self::StateKey(KeyError::Short { .. })
            | Self::Tls(_) => true,
            Self::State(error) => error.is_configuration(),
            Self::Cache(error) => error.is_configuration(),
            Self::Metrics(_) | Self::StateKey(_) | Self::Randomness(_) | Self::Listen(_) | Self::Admin { .. } => false,
        }
    }
}

/// Sockets of a service manager: used instead of the configured addresses.
#[derive(Debug, Default)]
pub struct Inherited {
    pub registry: Vec<std::net::TcpListener>,
    pub admin: Option<std::net::TcpListener>,
}

/// The running mirror.
pub struct App {
    /// As it was at the start.
    config: Config,
    service: Arc<Service>,
    tls: Option<ReloadableTls>,
    metrics: Metrics,
    readiness: Readiness,
    trusted: TrustedNetworks,
    budget: ReadBudget,
    admin_hosts: Arc<ArcSwap<AllowedHosts>>,
    local_addrs: Vec<SocketAddr>,
    admin_addr: SocketAddr,
    /// Accept no more, finish what runs.
    stop: CancellationToken,
    /// Responses are finished: end fills and everything else.
    end: CancellationToken,
    serving: JoinHandle<()>,
    tasks: TaskTracker,
}

impl App {
    /// Starts serving. No upstream is asked: one that is down does not keep what is cached from being served.
    pub async fn start(config: Config, inherited: Inherited) -> Result<Self, Error> {
        let metrics = Metrics::new()?;
        let tasks = TaskTracker::new();
        let (stop, end) = (CancellationToken::new(), CancellationToken::new());
        let store = DiskStore::open(&config.cache, metrics.clone())?;
        let [a, b, c, d, ..] = RandomState::new().build_hasher().finish().to_le_bytes();
        let instance = Instance::new(u32::from_le_bytes([a, b, c, d]));
        let trusted = TrustedNetworks::new(config.server.trusted_networks.clone());
        let images = Images::default();
        let budget = ReadBudget::default();
        let manifests = ManifestCache::new(
            &config.cache,
            store.clone(),
            metrics.clone(),
            tasks.clone(),
            end.clone(),
            images.clone(),
        );
        let scrub = Scrub::new(&config.cache, store.clone(), metrics.clone());
        let blobs = BlobCache::new(
            &config.cache,
            store.clone(),
            metrics.clone(),
            tasks.clone(),
            end.clone(),
            images,
            trusted.clone(),
        );
        let caches = Caches {
            lists: Lists::new(&config.cache, manifests.clone(), tasks.clone(), end.clone()),
            manifests,
            blobs,
            deletions: Deletions::kept(deletions_in(&config)),
            grants: Grants::new(config.cache.negative_ttl, trusted.clone(), tasks.clone(), end.clone()),
        };
        let auth = Authentication {
            access: Arc::new(ArcSwap::from_pointee(AccessControl::load(&config.access)?.trusting(trusted.clone()))),
            attempts: PasswordAttempts::new(trusted.clone()),
            principals: PrincipalKey::generate()?,
        };
        let table = table(&config, &metrics, instance.pseudonym(), &budget)?;
        let memory = ResponseMemory::new(trusted.clone(), store.readers().clone());
        let contents = Contents { caches, scrub: scrub.clone(), memory };
        let service = Arc::new(Service::new(table, auth, contents, instance, metrics.clone()));
        let tls = config.server.tls.as_ref().map(ReloadableTls::load).transpose()?;
        let listener =
            Listener::bind(&config.server, inherited.registry, tls.clone(), metrics.clone())?.trusting(trusted.clone());
        let admin = admin_listener(&config.admin, inherited.admin)?;
        let local_addrs = listener.local_addrs();
        let admin_addr = address_of(&admin).map_err(|source| Error::Admin { address: config.admin.listen, source })?;

        warn_of_open_content(&config);
        warn_of_push_users(&config);
        let readiness = Readiness::default();
        tasks.spawn(store.clone().keep_uses(end.clone()));
        tasks.spawn(async move { store.scan().await });
        tasks.spawn(scrub.run(end.clone()));
        if let Some(tls) = &tls {
            tasks.spawn(tls.clone().watch(metrics.clone(), end.clone()));
        }
        tasks.spawn(auth::watch(service.auth.access.clone(), metrics.clone(), end.clone()));
        let admin_hosts = Arc::new(ArcSwap::from_pointee(allowed_hosts(&config, &config.admin.allowed_hosts)));
        let hosts = admin_hosts.clone();
        tasks.spawn(admin::run(admin, metrics.clone(), readiness.clone(), hosts, end.clone()));
        let serving = tokio::spawn(listener.run(service.clone(), stop.clone()));
        readiness.set_ready();
        Ok(Self {
            config,
            service,
            tls,
            metrics,
            readiness,
            trusted,
            budget,
            admin_hosts,
            local_addrs,
            admin_addr,
            stop,
            end,
            serving,
            tasks,
        })
    }

    /// Where the registry listens.
    pub fn local_addrs(&self) -> Vec<SocketAddr> {
        self.local_addrs.clone()
    }

    /// Where `/metrics`, `/healthz` and `/readyz` are.
    pub fn admin_addr(&self) -> SocketAddr {
        self.admin_addr
    }

    /// Counts a reload that ended before there was a configuration: a file that is gone, or makes no sense.
    pub fn reload_failed(&self) {
        self.metrics.reload("config", false);
    }

    /// Takes upstreams, users and TLS files over from a new configuration. All of it, or on an error nothing.
    pub fn reload(&self, config: Config) -> Result<(), Error> {
        let reloaded = self.try_reload(&config);
        self.metrics.reload("config", reloaded.is_ok());
        reloaded
    }

    fn try_reload(&self, config: &Config) -> Result<(), Error> {
        let table = table(config, &self.metrics, self.service.instance.pseudonym(), &self.budget)?;
        let access = AccessControl::load(&config.access)?.trusting(self.trusted.clone());
        let tls = config.server.tls.as_ref().map(ReloadableTls::prepare).transpose()?;
        if let (Some(running), Some(tls)) = (&self.tls, &tls) {
            running.may_become(tls)?;
        }
        // From here on nothing fails.
        if let Some(state) = deletions_in(config) {
            self.service.caches.deletions.keep(state);
        }
        if let (Some(running), Some(tls)) = (&self.tls, tls) {
            running.replace(tls);
        }
        self.service.table.store(Arc::new(table));
        self.trusted.set(config.server.trusted_networks.clone());
        self.admin_hosts.store(Arc::new(allowed_hosts(config, &config.admin.allowed_hosts)));
        warn_of_open_content(config);
        warn_of_push_users(config);
        self.service.auth.access.store(Arc::new(access));
        for section in fixed_at_start(&self.config, config) {
            tracing::warn!(section, "this section is not what runs; it takes effect at the next start");
        }
        Ok(())
    }

    /// Accepts no more, lets responses finish for `drain_timeout`, ends everything else, and returns when nothing
    /// runs any more.
    pub async fn drain(self) {
        self.readiness.set_draining();
        self.stop.cancel();
        if let Err(error) = self.serving.await {
            tracing::error!(%error, "the listener ended badly");
        }
        self.end.cancel();
        self.tasks.close();
        if tokio::time::timeout(END_TIMEOUT, self.tasks.wait()).await.is_err() {
            tracing::warn!(tasks = self.tasks.len(), "some tasks did not end in time");
        }
    }
}

/// The sections of `new` that a reload cannot give to an app that was started with `running`. That configuration is
/// what still runs of them, however many reloads there were since.
fn fixed_at_start(running: &Config, new: &Config) -> Vec<&'static str> {
    let mut server = new.server.clone();
    server.trusted_networks.clone_from(&running.server.trusted_networks);
    server.allowed_hosts.clone_from(&running.server.allowed_hosts);
    if let (Some(_), Some(_)) = (&running.server.tls, &server.tls) {
        // Other files are taken over; only whether there is TLS at all is not.
        server.tls.clone_from(&running.server.tls);
    }
    let sections = [
        ("server", server != running.server),
        ("admin", new.admin.listen != running.admin.listen),
        ("cache", new.cache != running.cache),
    ];
    sections.into_iter().filter_map(|(section, changed)| changed.then_some(section)).collect()
}

/// Builds what is built of files, and gives the upstreams in the file's order: what is found wrong here keeps
/// [`App::start`] from starting or, as a certificate that has expired, a reload from being taken over.
///
/// # Errors
/// The first that is wrong, by its key.
pub fn check(config: &Config) -> Result<Vec<Upstream>, Error> {
    config.server.tls.as_ref().map(ReloadableTls::check).transpose()?;
    AccessControl::load(&config.access)?;
    auth::check_push_users(&config.access)?;
    Seal::check(&config.push)?;
    config.state_directory.as_deref().map_or(Ok(()), state_dir::check)?;
    DiskStore::check(&config.cache)?;
    upstreams(config, &Metrics::new()?, "forebay-check", &ReadBudget::default())
}

fn table(config: &Config, metrics: &Metrics, pseudonym: &str, budget: &ReadBudget) -> Result<Table, Error> {
    let upstreams = upstreams(config, metrics, pseudonym, budget)?;
    for upstream in &upstreams {
        metrics.upstream_configured::<TokenResult, DownloadResult>(upstream.name());
    }
    Seal::check(&config.push)?;
    let pushes = config.upstreams.iter().any(|upstream| upstream.push);
    let seal = if pushes { Some(seal(config)?) } else { None };
    let hosts = allowed_hosts(config, &config.server.allowed_hosts);
    Ok(Table { routes: Routes::new(config.upstreams.iter().zip(upstreams)), hosts, seal })
}

fn allowed_hosts(config: &Config, allowed: &[HostPattern]) -> AllowedHosts {
    AllowedHosts::new(config.upstreams.iter().flat_map(|upstream| &upstream.hosts).chain(allowed))
}

/// Where deletions are kept. Where nothing is pushed, nothing is deleted, and no state directory needed.
fn deletions_in(config: &Config) -> Option<&Path> {
    let pushes = config.upstreams.iter().any(|upstream| upstream.push);
    config.state_directory.as_deref().filter(|_| pushes)
}

fn seal(config: &Config) -> Result<Seal, Error> {
    if let Some(file) = &config.push.key_file {
        return Ok(Seal::read(file)?);
    }
    let state = StateDirectory::open(config.state_directory.as_deref().ok_or(Error::NoState)?)?;
    Seal::kept(&state, &config.cache.directory).map_err(Error::StateKey)
}

/// What an upstream gave while its content was open to all is still so: nothing says which blobs those are.
fn warn_of_open_content(config: &Config) {
    for upstream in config.upstreams.iter().filter(|upstream| upstream.access != upstream::Access::Shared) {
        let tags = config.cache.directory.join("tags").join(&*upstream.name);
        if tags.exists() {
            tracing::warn!(
                upstream = %upstream.name,
                tags = %tags.display(),
                "what was cached of this upstream before its access was \"client\" can still be had by its digest: \
                 stop forebay and remove blobs, manifests and tags from the cache directory if that is not for everybody"
            );
        }
    }
}

/// A user who is named and not there may not push; that keeps no other user from pulling.
fn warn_of_push_users(config: &Config) {
    if let Err(error) = auth::check_push_users(&config.access) {
        tracing::warn!(error = &error as &dyn std::error::Error, "access.push_users is not what it seems to be");
    }
}

fn upstreams(config: &Config, metrics: &Metrics, pseudonym: &str, budget: &ReadBudget) -> Result<Vec<Upstream>, Error> {
    let build = |(index, config): (usize, &upstream::Config)| {
        let context = Context { metrics: metrics.clone(), via: via(pseudonym).into(), budget: budget.clone() };
        let upstream = Upstream::new(config, context);
        upstream
            .and_then(|upstream| upstream.check_credentials().map(|()| upstream))
            .map_err(|source| Error::Upstream { index, name: config.name.clone(), source })
    };
    proxy::check()?;
    config.upstreams.iter().enumerate().map(build).collect()
}

fn admin_listener(
    config: &admin::Config,
    inherited: Option<std::net::TcpListener>,
) -> Result<tokio::net::TcpListener, Error> {
    let listen = || {
        let listener = match inherited {
            Some(listener) => listener,
            None => std::net::TcpListener::bind(config.listen)?,
        };
        listener.set_nonblocking(true)?;
        tokio::net::TcpListener::from_std(listener)
    };
    listen().map_err(|source| Error::Admin { address: config.listen, source })
}

fn address_of(listener: &tokio::net::TcpListener) -> io::Result<SocketAddr> {
    listener.local_addr()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::Overrides, transport::TlsConfig};

    #[test]
    fn what_a_reload_cannot_change_is_told_and_nothing_else() {
        let overrides = Overrides { cache_dir: Some("/cache".into()), ..Overrides::default() };
        let base = Config::parse("", "/forebay.toml".as_ref(), overrides).unwrap();
        let with = |change: &dyn Fn(&mut Config)| {
            let mut config = base.clone();
            change(&mut config);
            config
        };
        let files = |name: &str| Some(TlsConfig { certificate: name.into(), key: "key".into(), client_ca: None });
        let (a, b) = (with(&|config| config.server.tls = files("a")), with(&|config| config.server.tls = files("b")));
        for (running, new, expected) in [
            (&base, base.clone(), &[][..]),
            (&base, with(&|config| config.access.htpasswd = Some("users".into())), &[]),
            (&base, with(&|config| config.server.max_connections = 7), &["server"]),
            (
                &base,
                with(&|config| (config.admin.listen.set_port(7), config.cache.max_size = 7).1),
                &["admin", "cache"],
            ),
            (&base, with(&|config| config.server.trusted_networks = vec!["10.0.0.1".parse().unwrap()]), &[]),
            (&base, with(&|config| config.server.allowed_hosts = vec!["mirror.lan".parse().unwrap()]), &[]),
            (&base, with(&|config| config.admin.allowed_hosts = vec!["mirror.lan".parse().unwrap()]), &[]),
            (&a, b.clone(), &[]),
            (&a, with(&|config| (config.server.tls = files("b"), config.server.clear_http = false).1), &["server"]),
            (&a, base.clone(), &["server"]),
            (&base, a.clone(), &["server"]),
        ] {
            assert_eq!(fixed_at_start(running, &new), expected, "{:?} {:?}", running.server, new.server);
        }
    }
}
