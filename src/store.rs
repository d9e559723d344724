//! The object store behind forebays: what one of them has got, all of them have, also after their disks are gone.
//!
//! A [`Store`] is a handle on a bucket of S3, of Google Cloud Storage or of Azure, by the crate `object_store`. It
//! knows no cache and no registry: names go in, bytes go in and out. See docs/decisions/0036-store.md.
//!
//! What must hold: the store is believed no more than a registry, so that its caller verifies what it reads; each
//! request has a timeout and is sent once; while the store fails it is left alone ([`breaker`]), apart for reads and
//! writes, since a full store can still be read; no credential is in an error, in a log line, or in an object.

mod breaker;
mod check;
mod config;
mod credentials;
mod direct_hosts;
mod direct_uses;
mod distrust;
mod engine;
mod error;
mod error_kind;
mod get;
mod health;
mod http;
mod journal;
mod labels;
mod listing;
mod location;
mod names;
mod patient;
mod presence;
mod probe;
mod put;
mod sign;
mod status_error;
#[cfg(test)]
mod tests;

use std::{convert::Infallible, path::Path, sync::Arc, time::Duration};

use tokio::time::Instant;

use self::{
    breaker::{Breaker, Change, Pass, Weight},
    direct_hosts::DirectHosts,
    direct_uses::DirectUses,
    distrust::{Distrust, WrongObjects},
    engine::Engine,
    health::HealthLog,
    http::Connector,
    journal::Journal,
    presence::Known,
    probe::Conditions,
};
pub use self::{
    config::{Config, Credentials, UpkeepTimes},
    engine::SetupError,
    location::{Location, NoLocation, Scheme},
};
pub(crate) use self::{
    error::Error,
    error_kind::ErrorKind,
    get::Part,
    health::Health,
    labels::{Direction, StoreOperation, StoreResult, UploadResult},
    listing::Listed,
    names::{ObjectName, Pool},
    presence::Presence,
    put::IfPresent,
};
use crate::metrics::Metrics;

/// How long a request without content may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// After a deletion that failed; twice as long after each further one.
const FIRST_DELETE_PAUSE: Duration = Duration::from_secs(60);
const MAX_DELETE_PAUSE: Duration = Duration::from_secs(60 * 60);

/// A cheap handle on the store.
#[derive(Clone)]
pub struct Store(Arc<StoreInner>);

struct StoreInner {
    location: Location,
    engine: Arc<dyn Engine>,
    /// Signs URLs for clients, which may reach the store elsewhere.
    signer: Arc<dyn Engine>,
    reads: Breaker,
    writes: Breaker,
    upkeep: Breaker,
    distrust: Distrust,
    /// Those that are to be deleted.
    wrong: WrongObjects,
    direct_uses: DirectUses,
    known: Known,
    conditions: Conditions,
    journal: Journal,
    health: HealthLog,
    metrics: Metrics,
}

/// What a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lane {
    /// A client waits for it.
    Read,
    /// The look whether an upload is needed: a store that refuses all writes answers it.
    Look,
    /// The beginning of an upload in parts, without content.
    Begin,
    /// Content is uploaded, which can wait.
    Write,
    List,
    Delete,
}

impl Lane {
    /// How much a success proves, and how much must succeed after a failure.
    fn weights(self) -> (Weight, Weight) {
        match self {
            // That its head came proves little; see [`get::Body`] for the bytes.
            Self::Read | Self::Look | Self::List => (Weight::Light, Weight::Light),
            Self::Begin => (Weight::Light, Weight::Heavy),
            Self::Write | Self::Delete => (Weight::Heavy, Weight::Heavy),
        }
    }

    /// What the log calls it.
    fn as_str(self) -> &'static str {
        match self {
            Self::Read => "reads",
            Self::Look | Self::Begin | Self::Write => "writes",
            Self::List | Self::Delete => "listings and deletes",
        }
    }
}

impl Store {
    /// Sends no request. `state`: where uploads in parts are noted, so that a later start can end them; `tls`: which
    /// certificates are believed. Blocks on the files of keys.
    ///
    /// # Errors
    /// The store cannot be used as it is configured.
    pub(crate) fn new(
        config: &Config,
        state: Option<&Path>,
        tls: rustls::ClientConfig,
        metrics: Metrics,
    ) -> Result<Self, SetupError> {
        let connector = Connector::new(tls, DirectHosts::of_environment(|name| std::env::var(name).ok()))?;
        let engine = engine::open(config, config.endpoint.as_ref(), &connector)?;
        let signer = match &config.redirect_endpoint {
            Some(endpoint) => engine::open(config, Some(endpoint), &connector)?,
            None => engine.clone(),
        };
        Ok(Self::of_engine(config.url.clone(), engine, signer, Journal::new(state), metrics))
    }

    fn of_engine(
        location: Location,
        engine: Arc<dyn Engine>,
        signer: Arc<dyn Engine>,
        journal: Journal,
        metrics: Metrics,
    ) -> Self {
        let inner = Arc::new(StoreInner {
            location,
            engine,
            signer,
            reads: Breaker::of_reads(),
            writes: Breaker::of_writes(),
            upkeep: Breaker::of_upkeep(),
            distrust: Distrust::default(),
            wrong: WrongObjects::default(),
            direct_uses: DirectUses::default(),
            known: Known::default(),
            conditions: Conditions::default(),
            journal,
            health: HealthLog::default(),
            metrics,
        });
        let shown = Arc::downgrade(&inner);
        inner.metrics.before_reading(move |metrics| {
            if let Some(inner) = shown.upgrade() {
                let now = Instant::now();
                metrics.store_up(inner.reads.would_admit(now), inner.writes.would_admit(now));
            }
        });
        Self(inner)
    }

    /// Ends what an earlier run left behind, and finds out what the store can do. Returns the objects whose uploads
    /// were cut.
    pub(crate) async fn begin(&self) -> Vec<ObjectName> {
        let cut = self.abort_left_over().await;
        self.probe().await;
        cut
    }

    /// Deletes objects with wrong bytes, as they are found.
    pub(crate) async fn delete_wrong(&self) -> Infallible {
        let mut pause = FIRST_DELETE_PAUSE;
        loop {
            let name = self.0.wrong.next().await;
            // It may have been written anew.
            if !self.is_distrusted(&name) {
                continue;
            }
            match self.delete(&name).await {
                Ok(()) => pause = FIRST_DELETE_PAUSE,
                Err(error) => {
                    tracing::warn!(%name, %error, ?pause, "an object that had wrong bytes is not deleted: again after a pause");
                    self.0.wrong.add(name);
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(MAX_DELETE_PAUSE);
                }
            }
        }
    }

    /// Which store it is, for operators.
    pub(crate) fn location(&self) -> &Location {
        &self.0.location
    }

    /// How it is.
    pub(crate) fn health(&self) -> Health {
        self.0.health.now(self.0.reads.is_open(), self.0.writes.is_open())
    }

    /// Whether a read would be sent now.
    pub(crate) fn may_read(&self) -> bool {
        self.0.reads.would_admit(Instant::now())
    }

    /// How long listings and deletes have to wait; `None`: they may be sent now.
    pub(crate) fn delete_pause(&self) -> Option<Duration> {
        self.0.upkeep.pause(Instant::now())
    }

    /// How long writes have to wait; `None`: they may be sent now.
    pub(crate) fn write_pause(&self) -> Option<Duration> {
        self.0.writes.pause(Instant::now())
    }

    /// For requests that no client waits for.
    pub(crate) fn patient(&self) -> patient::Patient<'_> {
        patient::Patient(self)
    }

    /// An object had wrong bytes: it is not read again, and is deleted, so that right ones can take its place.
    pub(crate) fn distrust(&self, name: &ObjectName) {
        if self.0.distrust.note(name) {
            self.0.metrics.store_wrong_object();
            self.0.wrong.add(name.clone());
            tracing::error!(%name, "an object of the store had wrong bytes; it is deleted, and not read again");
        }
    }

    /// Whether this object had wrong bytes.
    pub(crate) fn is_distrusted(&self, name: &ObjectName) -> bool {
        self.0.distrust.has(name)
    }

    /// # Errors
    /// It was not deleted. That there is none is no error.
    pub(crate) async fn delete(&self, name: &ObjectName) -> Result<(), Error> {
        self.0.known.forget(name);
        let path = self.path(name);
        let request = object_store::ObjectStoreExt::delete(&*self.0.engine, &path);
        match self.call(Lane::Delete, StoreOperation::Delete, REQUEST_TIMEOUT, request).await {
            Err(error) if error.kind == ErrorKind::Missing => Ok(()),
            deleted => deleted,
        }
    }

    fn path(&self, name: &ObjectName) -> object_store::path::Path {
        let prefix = &self.0.location.prefix;
        match prefix.is_empty() {
            true => object_store::path::Path::from(name.as_str()),
            false => object_store::path::Path::from(format!("{prefix}/{name}")),
        }
    }

    /// What [`Store::path`] made a path of.
    fn name_of(&self, path: &object_store::path::Path) -> Option<ObjectName> {
        let (path, prefix) = (path.as_ref(), &self.0.location.prefix);
        let name = if prefix.is_empty() { path } else { path.strip_prefix(&**prefix)?.strip_prefix('/')? };
        Some(ObjectName::new(percent_encoding::percent_decode_str(name).decode_utf8().ok()?))
    }

    /// One request, unless the store is left alone.
    async fn call<T>(
        &self,
        lane: Lane,
        operation: StoreOperation,
        limit: Duration,
        request: impl Future<Output = object_store::Result<T>>,
    ) -> Result<T, Error> {
        let pass = self.admit(lane)?;
        let result = within(limit, request).await;
        let result = result.map_err(|error| error.of_place(operation));
        let (proved, failed) = lane.weights();
        let error = result.as_ref().err();
        self.count(operation, error);
        let weight = if error.is_some_and(|error| error.kind.is_outage()) { failed } else { proved };
        self.judge(lane, pass, error, weight);
        result
    }

    /// # Errors
    /// The store is left alone.
    fn admit(&self, lane: Lane) -> Result<Pass, Error> {
        let not_asked = || Error::new(ErrorKind::NotAsked, "it failed lately and is left alone for a while");
        self.breaker(lane).admits(Instant::now()).ok_or_else(not_asked)
    }

    /// Counts a result.
    fn count(&self, operation: StoreOperation, error: Option<&Error>) {
        let kind = error.map(|error| error.kind);
        if let Some(result) = kind.map_or(Some(StoreResult::Ok), ErrorKind::result) {
            self.0.metrics.store_request(operation, result);
        }
        self.0.health.note(error);
    }

    /// Draws the consequences of a result.
    fn judge(&self, lane: Lane, pass: Pass, error: Option<&Error>, weight: Weight) {
        if lane == Lane::Read && error.is_none_or(|error| error.kind == ErrorKind::Missing) {
            self.0.known.note_answer(Instant::now());
        }
        let change = self.breaker(lane).note(pass, error.map(|error| error.kind), weight, Instant::now());
        let (store, what) = (self.location(), lane.as_str());
        match (change, error) {
            (Change::Opened, Some(error)) => {
                tracing::warn!(%store, %error, "{what} of the object store fail: forebay goes on without");
            }
            (Change::Closed, _) => tracing::info!(%store, "{what} of the object store succeed again"),
            (Change::Opened | Change::None, _) => {}
        }
    }

    fn breaker(&self, lane: Lane) -> &Breaker {
        match lane {
            Lane::Read => &self.0.reads,
            Lane::Look | Lane::Begin | Lane::Write => &self.0.writes,
            Lane::List | Lane::Delete => &self.0.upkeep,
        }
    }
}

/// The result of a request to the engine, in time.
async fn within<T>(limit: Duration, request: impl Future<Output = object_store::Result<T>>) -> Result<T, Error> {
    match tokio::time::timeout(limit, request).await {
        Ok(answered) => answered.map_err(|error| Error::of_engine(&error)),
        Err(_) => Err(Error::timeout(limit)),
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Store").field(&self.0.location).finish()
    }
}
