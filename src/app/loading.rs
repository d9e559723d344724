//! Loads what the configuration names: upstreams, routes, keys.

use std::path::Path;

use super::{
    error::Error,
    object_store::{self, StorePing},
};
use crate::{
    admin::TokenFile,
    auth::{self, AccessControl},
    byte_counter::ByteCounter,
    cache::{DiskStore, DownloadResult},
    cluster::{Cluster, ClusterKey},
    config::Config,
    metrics::Metrics,
    oci::HostPattern,
    push::Seal,
    registry::{Table, via},
    route::{AllowedHosts, Routes},
    setup::Offer,
    state_dir::{self, StateDirectory},
    transport::ReloadableTls,
    upstream::{
        self, Context, FailureCause, HealthTable, PauseTable, RateTable, ReadBudget, TokenResult, Upstream, proxy,
    },
};

/// What of a configuration can be used.
pub struct Checked {
    /// The upstreams that could be set up, in the file's order.
    pub upstreams: Vec<Upstream>,
    /// The object store.
    pub store: Option<StorePing>,
    /// Every key whose value, or whose file, cannot be used.
    pub errors: Vec<Error>,
}

/// Loads all that the configuration names. Each of the errors would keep [`App::start`] from starting, or a reload from
/// taking effect; those end at the first one. Blocks.
///
/// [`App::start`]: super::App::start
pub fn check(config: &Config) -> Checked {
    let access = AccessControl::load(&config.access).and_then(|_| auth::check_push_users(&config.access));
    let token_file = config.admin.token_file.as_deref().map_or(Ok(()), |file| TokenFile::load(file).map(drop));
    let objects = Metrics::new().map_err(Error::from).and_then(|metrics| object_store::store(config, &metrics));
    let (objects, objects_checked) = match objects {
        Ok(objects) => (objects, Ok(())),
        Err(error) => (None, Err(error)),
    };
    let checks: [Result<(), Error>; 8] = [
        token_file.map_err(Error::from),
        access.map_err(Error::from),
        Seal::check(&config.push).map_err(Error::from),
        config.state_directory.as_deref().map_or(Ok(()), state_dir::check).map_err(Error::from),
        DiskStore::check(&config.cache).map_err(Error::from),
        proxy::check().map_err(Error::from),
        cluster(config).map(drop),
        objects_checked,
    ];
    let mut errors: Vec<Error> = checks.into_iter().filter_map(Result::err).collect();
    errors.extend(config.server.tls.iter().flat_map(ReloadableTls::check).map(Error::from));
    let mut upstreams = Vec::new();
    match Metrics::new() {
        Ok(metrics) => {
            let context = upstream_context(metrics, "forebay-check");
            for (index, config) in config.upstreams.iter().enumerate() {
                let error = |source| Error::Upstream { index, name: config.name.clone(), source };
                match Upstream::new(config, context.clone()) {
                    Ok(upstream) => upstreams.push(upstream),
                    Err(source) => errors.push(error(source)),
                }
                errors.extend(Upstream::check_credentials(config).err().map(error));
            }
        }
        Err(error) => errors.push(error.into()),
    }
    Checked { upstreams, store: objects.map(StorePing::new), errors }
}

/// What all upstreams share. `pseudonym`: the name of this process in `Via`.
pub(super) fn upstream_context(metrics: Metrics, pseudonym: &str) -> Context {
    Context {
        metrics,
        via: via(pseudonym).into(),
        budget: ReadBudget::default(),
        rates: RateTable::default(),
        health: HealthTable::default(),
        content: ByteCounter::default(),
        pauses: PauseTable::default(),
        cluster: None,
        store: None,
    }
}

/// Routes, upstreams and the key of upload URLs: all that requests are routed by.
pub(super) fn table(config: &Config, context: &Context) -> Result<Table, Error> {
    let upstreams = upstreams(config, context)?;
    for upstream in &upstreams {
        context.metrics.upstream_configured::<TokenResult, DownloadResult, FailureCause>(upstream.name());
        if upstream.redirects() {
            context.metrics.clients_may_be_redirected(upstream.name());
        }
    }
    Seal::check(&config.push)?;
    let pushes = config.upstreams.iter().any(|upstream| upstream.push);
    let seal = if pushes { Some(seal(config, context.cluster.as_ref())?) } else { None };
    let hosts = allowed_hosts(config, &config.server.allowed_hosts);
    let has_private = upstreams.iter().any(Upstream::uses_client_credentials);
    let (offer, page) = (Offer::new(&config.upstreams, &config.access), config.server.page);
    let routes = Routes::new(config.upstreams.iter().zip(upstreams));
    Ok(Table { routes, has_private, hosts, seal, offer, page })
}

/// The hosts that listeners on loopback addresses answer to.
pub(super) fn allowed_hosts(config: &Config, allowed: &[HostPattern]) -> AllowedHosts {
    AllowedHosts::new(config.upstreams.iter().flat_map(|upstream| &upstream.hosts).chain(allowed))
}

/// Where deletions are recorded; `None`: no upstream allows pushes, so nothing is deleted.
pub(super) fn deletions_in(config: &Config) -> Option<&Path> {
    let pushes = config.upstreams.iter().any(|upstream| upstream.push);
    config.state_directory.as_deref().filter(|_| pushes)
}

/// Where the times are kept when tags were first seen; `None`: no rule needs them.
pub(super) fn first_seen_in(config: &Config) -> Option<&Path> {
    config.state_directory.as_deref()
}

/// `cluster`: the one that this forebay is in. A reload changes neither it nor its key.
fn seal(config: &Config, cluster: Option<&Cluster>) -> Result<Seal, Error> {
    if let Some(file) = &config.push.key_file {
        return Ok(Seal::read(file)?);
    }
    if let Some(cluster) = cluster {
        return Ok(Seal::of_cluster(cluster.key())?);
    }
    let state = StateDirectory::open(config.state_directory.as_deref().ok_or(Error::NoState)?)?;
    Seal::kept(&state, &config.cache.directory).map_err(Error::StateKey)
}

fn upstreams(config: &Config, context: &Context) -> Result<Vec<Upstream>, Error> {
    let build = |(index, config): (usize, &upstream::Config)| {
        let upstream = Upstream::check_credentials(config).and_then(|()| Upstream::new(config, context.clone()));
        upstream.map_err(|source| Error::Upstream { index, name: config.name.clone(), source })
    };
    proxy::check()?;
    config.upstreams.iter().enumerate().map(build).collect()
}

/// The cluster of the configuration.
///
/// # Errors
/// The key, or the CAs, cannot be read; or a peer's name is no name of a host.
pub(super) fn cluster(config: &Config) -> Result<Option<Cluster>, Error> {
    let Some(cluster) = &config.cluster else { return Ok(None) };
    let key = ClusterKey::read(&cluster.key_file)
        .map_err(|source| Error::ClusterKey { path: cluster.key_file.clone(), source })?;
    let tls = upstream::peer_tls(cluster.ca.as_deref()).map_err(Error::ClusterTls)?;
    Ok(Some(Cluster::new(cluster, key, config.server.listen.clone(), tls)?))
}
