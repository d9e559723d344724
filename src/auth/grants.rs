//! Which clients an upstream has granted what, for upstreams that authorize each client by the client's own
//! credentials.
//!
//! What must hold: forebay serves cached content of such an upstream only to a client to which the upstream granted the
//! repository within `access_ttl`; and content by its digest only if the upstream confirmed that the repository has it.
//! The upstream grants by answering a request for exactly this resource that carries this client's credentials alone.
//! While the upstream fails, its grants hold for `access_grace` and no longer. A refusal ends a grant, even if the
//! client that caused it has disconnected, and no grant that was requested before the refusal restores it.
//!
//! A tag's response may be anything, such as a manifest with a notice for clients that are refused. So it grants that
//! manifest alone, and only if the upstream sent the manifest to this client, or the cache has it for the tag; unless
//! another client that may read the repository has shown that the repository has the digest.
//!
//! Only the upstream says that a repository has a digest: a client that may push can list any digest in a manifest.
//! Grants are in memory; after a restart forebay asks the upstream again. A client affects no other client's grants.

pub(crate) mod evidence;
mod keys;
mod resource;
mod ttl;

use std::{
    future::ready,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use moka::{ops::compute::Op, sync::Cache};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::Instrument as _;

pub(crate) use self::resource::Resource;
use self::{
    evidence::Evidence,
    keys::{ContentLocation, GrantKey, GrantQuery},
    ttl::client_of,
};
use crate::{
    bounded_cache,
    cache::{
        NegativeTtl, ReloadableConfig,
        freshness::Freshness,
        revalidate::{OUTAGE_TTL, RecentOutages, revalidate},
        write_counter::WriteCounters,
    },
    oci::{Digest, Repository},
    offload::Offload,
    peer::{Shares, TrustedNetworks},
    single_flight::{SingleFlight, WaitCycle},
    upstream::{Error, ErrorKind, Principal, Registry, Upstream},
};

/// How many grants, digests of repositories, and refusals forebay remembers.
const MAX_GRANTS: u64 = 100_000;
/// How many requests for grants are in flight at a time, each with a password. Only clients that guess cause more.
const MAX_REQUESTS: u64 = 1024;
/// How long a refusal is remembered at most: a client with a wrong password repeats its request again and again.
const REFUSAL_TTL: Duration = Duration::from_secs(2);

/// Under which conditions a client may have a resource.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Grant {
    /// The length that the blob must have, if only its content proves that the upstream gives it.
    pub announced: Option<u64>,
    /// The digest that the tag has for this client. The client does not get a manifest cached under another digest.
    pub tag_digest: Option<Digest>,
    /// When forebay sent its request, if only the manifest itself proves the grant: [`Grants::note_manifest_sent`].
    pub unproven: Option<Instant>,
}

/// The upstream's last response to a client.
#[derive(Clone, Copy)]
struct Verdict {
    /// When forebay sent the request.
    sent: Instant,
    is_granted: bool,
}

/// A recent refusal or 404.
#[derive(Clone)]
struct RecentRefusal {
    error: Arc<Error>,
    /// How many changes forebay had made to the repository when it sent the request.
    writes: u64,
}

/// When the upstream last confirmed that a repository has a digest, and to which client first.
#[derive(Clone, Copy)]
struct Confirmation {
    sent: Instant,
    first_client: Principal,
}

/// Cheap to clone.
#[derive(Clone)]
pub(crate) struct Grants(Arc<GrantsInner>);

struct GrantsInner {
    verdicts: Cache<GrantKey, Verdict>,
    locations: Cache<ContentLocation, Confirmation>,
    refusals: Cache<GrantQuery, RecentRefusal>,
    outages: RecentOutages<(Registry, Principal)>,
    /// Changes made through forebay: the upstream may grant after a change what it refused before.
    writes: WriteCounters,
    requests: SingleFlight<GrantQuery, Result<Grant, Error>>,
    request_slots: Shares,
    documents: Offload,
}

impl Grants {
    /// Upstream requests run as tasks of `tasks` and end with `shutdown`. Refusals are remembered for `negative_ttl`,
    /// at most [`REFUSAL_TTL`].
    pub(crate) fn new(
        config: &ReloadableConfig,
        trusted: TrustedNetworks,
        tasks: TaskTracker,
        shutdown: CancellationToken,
    ) -> Self {
        let refusals =
            Cache::builder().max_capacity(MAX_GRANTS).weigher(|_, refusal: &RecentRefusal| refusal.error.weight());
        Self(Arc::new(GrantsInner {
            verdicts: bounded_cache::lru_of(MAX_GRANTS),
            locations: bounded_cache::lru_of(MAX_GRANTS),
            refusals: refusals.expire_after(NegativeTtl { config: config.clone(), most: REFUSAL_TTL }).build(),
            outages: RecentOutages::new(MAX_GRANTS, || OUTAGE_TTL),
            writes: WriteCounters::default(),
            requests: SingleFlight::new(tasks, shutdown),
            request_slots: Shares::new(MAX_REQUESTS, trusted),
            documents: Offload::default(),
        }))
    }

    /// Authorizes a client for a resource of a repository. Grants everything if the upstream does not authorize each
    /// client.
    ///
    /// # Errors
    /// The upstream's refusal of this client, or why the upstream cannot be asked.
    pub(crate) async fn authorize(
        &self,
        upstream: &Upstream,
        repository: &Repository,
        resource: &Resource,
        peer: IpAddr,
    ) -> Result<Grant, Error> {
        let Some((principal, ttl)) = client_of(upstream) else { return Ok(Grant::default()) };
        let key = GrantKey::of(upstream, principal, Some(repository));
        let for_repository = ttl.judge_grant(self.age(&key));
        let manifest = resource.manifest();
        let for_manifest = manifest.map(|digest| ttl.judge_grant(self.age_for_manifest(&key, digest)));
        let tag_digest = manifest.filter(|_| for_manifest > Some(for_repository)).cloned();
        let grant = Grant { tag_digest, ..Grant::default() };
        let granted = for_repository.max(for_manifest.unwrap_or(Freshness::Missing));
        let freshness = match resource.location(upstream, repository) {
            Some(location) => granted.min(ttl.judge_location(self.age_of_location(&location))),
            None => granted,
        };
        // A hit builds no request.
        if freshness == Freshness::Fresh {
            return Ok(grant);
        }
        // What a peer says proves nothing about a client.
        let upstream = &upstream.without_peers();
        let query = GrantQuery { grant: key, resource: Some(resource.key()), may_cycle: upstream.may_be_loop() };
        let had_grant = for_repository == Freshness::Fresh;
        let check = self.clone().check(upstream.clone(), repository.clone(), resource.clone(), had_grant);
        self.revalidate(query, upstream, (freshness, grant), peer, check).await
    }

    /// Whether the upstream accepts this client's credentials, for `docker login`.
    ///
    /// # Errors
    /// The upstream's refusal, or why it cannot be asked.
    pub(crate) async fn log_in(&self, upstream: &Upstream, peer: IpAddr) -> Result<(), Error> {
        let Some((principal, ttl)) = client_of(upstream) else { return Ok(()) };
        let key = GrantKey::of(upstream, principal, None);
        let freshness = ttl.judge_grant(self.age(&key));
        if freshness == Freshness::Fresh {
            return Ok(());
        }
        let query = GrantQuery { grant: key.clone(), resource: None, may_cycle: upstream.may_be_loop() };
        let (grants, client) = (self.clone(), upstream.clone());
        let check = async move {
            let sent = Instant::now();
            let response = client.ping().await;
            match &response {
                Ok(()) => grants.note(key, Verdict { sent, is_granted: true }),
                Err(error) if is_refusal(error) => grants.note(key, Verdict { sent, is_granted: false }),
                Err(_) => {}
            }
            response.map(|()| Grant::default())
        };
        self.revalidate(query, upstream, (freshness, Grant::default()), peer, check).await.map(drop)
    }

    /// Whether earlier grants allow this client a manifest while the upstream fails.
    pub(crate) fn holds_in_outage(&self, upstream: &Upstream, repository: &Repository, digest: &Digest) -> bool {
        let Some((principal, ttl)) = client_of(upstream) else { return true };
        let key = GrantKey::of(upstream, principal, Some(repository));
        let granted = ttl.judge_grant(self.age(&key)).max(ttl.judge_grant(self.age_for_manifest(&key, digest)));
        let location = ContentLocation::of_manifest(upstream, repository, digest);
        granted.min(ttl.judge_location(self.age_of_location(&location))) >= Freshness::Stale
    }

    /// Notes that the upstream sent this client this manifest for a tag, in response to a request of `sent`.
    pub(crate) fn note_manifest_sent(
        &self,
        upstream: &Upstream,
        repository: &Repository,
        digest: &Digest,
        sent: Instant,
    ) {
        let Some((principal, _)) = client_of(upstream) else { return };
        let key = GrantKey::of(upstream, principal, Some(repository)).of_manifest(digest);
        self.note(key, Verdict { sent, is_granted: true });
        let location = ContentLocation::of_manifest(upstream, repository, digest);
        self.0.locations.entry(location).and_upsert_with(|entry| Confirmation {
            sent,
            first_client: entry.map_or(principal, |entry| entry.into_value().first_client),
        });
    }

    /// Notes that the upstream refused this client a request for this repository that was not sent from here.
    pub(crate) fn note_refusal(&self, upstream: &Upstream, repository: &Repository) {
        if let Some((principal, _)) = client_of(upstream) {
            let key = GrantKey::of(upstream, principal, Some(repository));
            self.note(key, Verdict { sent: Instant::now(), is_granted: false });
        }
    }

    /// When forebay sent the request that the upstream refused this client for a repository, or a login, if it has
    /// granted no later one.
    pub(crate) fn last_refusal(&self, upstream: &Upstream, repository: Option<&Repository>) -> Option<Instant> {
        let (principal, _) = client_of(upstream)?;
        let key = GrantKey::of(upstream, principal, repository);
        self.0.verdicts.get(&key).filter(|verdict| !verdict.is_granted).map(|verdict| verdict.sent)
    }

    /// Notes that content was created or deleted in a repository: a 404 may have ended, and a digest may be gone.
    pub(crate) fn note_write(&self, upstream: &Upstream, repository: &Repository, deleted: Option<&Digest>) {
        if !upstream.uses_client_credentials() {
            return;
        }
        self.0.writes.note(upstream.name(), repository);
        if let Some(digest) = deleted {
            self.0.locations.invalidate(&ContentLocation::of_manifest(upstream, repository, digest));
            self.0.locations.invalidate(&ContentLocation::of_blob(upstream, repository, digest));
        }
    }

    /// Asks the upstream for a resource, and notes what the response proves: here, and not in the client's own request,
    /// which may have ended or been served by a stale grant. `had_grant`: the client had a fresh grant for the
    /// repository.
    async fn check(
        self,
        upstream: Upstream,
        repository: Repository,
        resource: Resource,
        had_grant: bool,
    ) -> Result<Grant, Error> {
        let Some((principal, _)) = client_of(&upstream) else { return Ok(Grant::default()) };
        let key = GrantKey::of(&upstream, principal, Some(&repository));
        let location = resource.location(&upstream, &repository);
        let sent = Instant::now();
        let (evidence, waited) = match resource.check(&upstream, &repository, &self.0.documents).await {
            Ok(checked) => checked,
            Err(error) => {
                // To a client with a grant, a 404 says that the content is missing. To others it may be the refusal.
                if error.kind == ErrorKind::NotFound && had_grant {
                    location.iter().for_each(|location| self.0.locations.invalidate(location));
                } else if error.kind == ErrorKind::NotFound || is_refusal(&error) {
                    self.note(key, Verdict { sent, is_granted: false });
                }
                return Err(error);
            }
        };
        let sent = sent.checked_sub(waited).unwrap_or(sent);
        match evidence {
            Evidence::MayRead => {
                self.note(key, Verdict { sent, is_granted: true });
                if let Some(location) = location {
                    self.0.locations.insert(location, Confirmation { sent, first_client: principal });
                }
                Ok(Grant::default())
            }
            Evidence::Tag { digest, is_sent } => {
                let is_proof = is_sent || resource.manifest() == Some(&digest);
                Ok(self.grant_tag(&upstream, &repository, digest, is_proof, sent))
            }
            Evidence::Announced(len) => Ok(Grant { announced: Some(len), ..Grant::default() }),
        }
    }

    /// Notes that a tag has this digest at the upstream. `is_proof`: the upstream sent the manifest, or the cache has
    /// it for the tag.
    fn grant_tag(
        &self,
        upstream: &Upstream,
        repository: &Repository,
        digest: Digest,
        is_proof: bool,
        sent: Instant,
    ) -> Grant {
        let grant = Grant { tag_digest: Some(digest.clone()), ..Grant::default() };
        let Some((principal, ttl)) = client_of(upstream) else { return grant };
        let location = ContentLocation::of_manifest(upstream, repository, &digest);
        let confirmed = self.0.locations.get(&location).filter(|confirmed| confirmed.first_client != principal);
        let is_confirmed_for_another = confirmed.is_some_and(|confirmed| {
            let other = GrantKey::of(upstream, confirmed.first_client, Some(repository));
            ttl.judge_grant(self.age(&other)) >= Freshness::Stale
        });
        if is_confirmed_for_another {
            let key = GrantKey::of(upstream, principal, Some(repository));
            self.note(key, Verdict { sent, is_granted: true });
        } else if is_proof {
            self.note_manifest_sent(upstream, repository, &digest, sent);
        } else {
            return Grant { unproven: Some(sent), ..grant };
        }
        grant
    }

    /// The upstream's response to `check`, or the cached grant in an outage.
    async fn revalidate(
        &self,
        query: GrantQuery,
        upstream: &Upstream,
        (freshness, grant): (Freshness, Grant),
        peer: IpAddr,
        check: impl Future<Output = Result<Grant, Error>> + Send + 'static,
    ) -> Result<Grant, Error> {
        let outage = self.0.outages.entry((upstream.registry().clone(), query.grant.principal));
        let cached = |_| ready((freshness >= Freshness::Stale).then_some(grant));
        let check = check.instrument(upstream.trace().span());
        let fetch = upstream.trace().wait(self.check_joined(query, upstream.name(), peer, check));
        revalidate(freshness, Some(outage), cached, fetch, |error: &Error| error.kind.is_outage()).await
    }

    /// The response to a check that equal requests share. A recent refusal counts.
    async fn check_joined(
        &self,
        query: GrantQuery,
        upstream: &Arc<str>,
        peer: IpAddr,
        check: impl Future<Output = Result<Grant, Error>> + Send + 'static,
    ) -> Result<Grant, Error> {
        let writes = self.0.writes.of(upstream, query.grant.repository.as_ref());
        let refusal_key = query.refusal_key();
        if let Some(refusal) = self.0.refusals.get(&refusal_key).filter(|refusal| refusal.writes == writes) {
            return Err((*refusal.error).clone());
        }
        let (inner, may_cycle) = (self.0.clone(), query.may_cycle);
        let flight = self.0.requests.run(query, may_cycle, || async move {
            let Ok(_slot) = inner.request_slots.take(peer, 1) else {
                let message = "too many requests for clients' grants are in flight, or too many of this address";
                return Err(Error::new(ErrorKind::TooManyRequests, message).retry_at_once());
            };
            let checked = check.await;
            if let Err(error) = &checked
                && (is_refusal(error) || error.kind == ErrorKind::NotFound)
            {
                inner.refusals.insert(refusal_key, RecentRefusal { error: Arc::new(error.clone()), writes });
            }
            checked
        });
        let flight = flight.await.map_err(|WaitCycle| {
            let message = "mirrors that may wait for this request have sent the same request";
            Error::new(ErrorKind::TooManyRequests, message).retry_at_once()
        })?;
        let abandoned = || Err(Error::new(ErrorKind::Unavailable, "the request for the client's grant was abandoned"));
        flight.response.unwrap_or_else(abandoned)
    }

    /// The response to the request that was sent last counts, whenever it arrives.
    fn note(&self, key: GrantKey, verdict: Verdict) {
        self.0.verdicts.entry(key).and_compute_with(|entry| match entry {
            Some(entry) if entry.value().sent > verdict.sent => Op::Nop,
            Some(_) | None => Op::Put(verdict),
        });
    }

    /// The age of a grant, if the upstream's last response was one.
    fn age(&self, key: &GrantKey) -> Option<Duration> {
        self.0.verdicts.get(key).filter(|verdict| verdict.is_granted).map(|verdict| verdict.sent.elapsed())
    }

    /// The age of a grant for one manifest. A later refusal of anything in the repository ends it.
    fn age_for_manifest(&self, of_repository: &GrantKey, manifest: &Digest) -> Option<Duration> {
        let verdict = self.0.verdicts.get(&of_repository.of_manifest(manifest)).filter(|verdict| verdict.is_granted)?;
        let last = self.0.verdicts.get(of_repository);
        let is_refused = last.is_some_and(|last| !last.is_granted && last.sent >= verdict.sent);
        (!is_refused).then(|| verdict.sent.elapsed())
    }

    fn age_of_location(&self, location: &ContentLocation) -> Option<Duration> {
        self.0.locations.get(location).map(|confirmed| confirmed.sent.elapsed())
    }
}

fn is_refusal(error: &Error) -> bool {
    matches!(error.kind, ErrorKind::Unauthorized | ErrorKind::Denied)
}

#[cfg(test)]
mod tests;
