//! Loads what the configuration names: upstreams, routes, keys.

use std::path::Path;

use super::error::Error;
use crate::{
    admin::TokenFile,
    auth::{self, AccessControl},
    cache::{DiskStore, DownloadResult},
    config::Config,
    metrics::Metrics,
    oci::HostPattern,
    push::Seal,
    registry::{Table, via},
    route::{AllowedHosts, Routes},
    state_dir::{self, StateDirectory},
    transport::ReloadableTls,
    upstream::{self, Context, FailureCause, HealthTable, RateTable, ReadBudget, TokenResult, Upstream, proxy},
};

/// Loads all that the configuration names, and returns the upstreams in the file's order. An error here keeps [`App::start`] from
/// starting, or a reload from taking effect.
///
/// [`App::start`]: super::App::start
///
/// # Errors
/// The first key whose value cannot be used.
pub fn check(config: &Config) -> Result<Vec<Upstream>, Error> {
    config.server.tls.as_ref().map(ReloadableTls::prepare).transpose()?;
    config.admin.token_file.as_deref().map(TokenFile::load).transpose()?;
    AccessControl::load(&config.access)?;
    auth::check_push_users(&config.access)?;
    Seal::check(&config.push)?;
    config.state_directory.as_deref().map_or(Ok(()), state_dir::check)?;
    DiskStore::check(&config.cache)?;
    upstreams(config, &upstream_context(Metrics::new()?, "forebay-check"))
}

/// What all upstreams share. `pseudonym`: the name of this process in `Via`.
pub(super) fn upstream_context(metrics: Metrics, pseudonym: &str) -> Context {
    Context {
        metrics,
        via: via(pseudonym).into(),
        budget: ReadBudget::default(),
        rates: RateTable::default(),
        health: HealthTable::default(),
    }
}

/// Routes, upstreams and the key of upload URLs: all that requests are routed by.
pub(super) fn table(config: &Config, context: &Context) -> Result<Table, Error> {
    let upstreams = upstreams(config, context)?;
    for upstream in &upstreams {
        context.metrics.upstream_configured::<TokenResult, DownloadResult, FailureCause>(upstream.name());
    }
    Seal::check(&config.push)?;
    let pushes = config.upstreams.iter().any(|upstream| upstream.push);
    let seal = if pushes { Some(seal(config)?) } else { None };
    let hosts = allowed_hosts(config, &config.server.allowed_hosts);
    Ok(Table { routes: Routes::new(config.upstreams.iter().zip(upstreams)), hosts, seal })
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
    config.state_directory.as_deref().filter(|_| config.rules.hold_tags())
}

fn seal(config: &Config) -> Result<Seal, Error> {
    if let Some(file) = &config.push.key_file {
        return Ok(Seal::read(file)?);
    }
    let state = StateDirectory::open(config.state_directory.as_deref().ok_or(Error::NoState)?)?;
    Seal::kept(&state, &config.cache.directory).map_err(Error::StateKey)
}

fn upstreams(config: &Config, context: &Context) -> Result<Vec<Upstream>, Error> {
    let build = |(index, config): (usize, &upstream::Config)| {
        let upstream = Upstream::new(config, context.clone());
        upstream
            .and_then(|upstream| upstream.check_credentials().map(|()| upstream))
            .map_err(|source| Error::Upstream { index, name: config.name.clone(), source })
    };
    proxy::check()?;
    config.upstreams.iter().enumerate().map(build).collect()
}
