//! What upstreams that decide by their clients' own credentials have said of whom.
//!
//! What must hold: nothing of such an upstream is served from here but to an asker for whom it has said yes for that
//! repository within `access_ttl`, and nothing by its digest but where it has said that this repository has it. It says
//! so when asked, by this asker and with nothing but its credentials, for just what is wanted. When it cannot be asked, what
//! it said holds for `access_grace`, and no longer. A no ends it, whoever waits for it, and no yes that was asked for
//! before brings it back.
//!
//! What the upstream answers by a tag may be anything, such as the manifest of a notice that a client is refused. So it is a right to
//! that manifest alone, which the upstream has to send to this very client or the cache has for the tag; unless another client that may read the
//! repository has shown that the digest is one of it.
//!
//! That a repository has a digest is the upstream's word alone: who may push can list any digest in a manifest. All of
//! it is in memory; a restart asks again. What one asker provokes is nothing to the others.

pub(crate) mod evidence;

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use moka::{ops::compute::Op, policy::EvictionPolicy, sync::Cache};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::evidence::Evidence;
use crate::{
    cache::write_counter::WriteCounters,
    oci::{Accept, AcceptClass, Digest, Reference, Repository},
    offload::Offload,
    peer::{Shares, TrustedNetworks},
    single_flight::{SingleFlight, WaitCycle},
    upstream::{Access, Error, ErrorKind, Principal, Registry, Upstream},
};

/// How many askers' rights to a repository are remembered, how many digests of repositories, and how many refusals.
const MAX_GRANTS: u64 = 100_000;
/// How many questions are on their way at a time, each with a password in hand. Beyond it is somebody who guesses.
const MAX_QUESTIONS: u64 = 1024;
/// How long a client waits for the upstream when a former answer could do.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long an upstream that could not answer an asker is not asked by it where a former answer can do.
const TROUBLE_TTL: Duration = Duration::from_secs(5);
/// How long a refusal is remembered, at most: who has the wrong password asks again and again.
const REFUSAL_TTL: Duration = Duration::from_secs(2);

/// What a client wants of a repository.
#[derive(Clone, Debug)]
pub enum Resource {
    /// With the digest that the cache has for it, where it is a tag.
    Manifest { reference: Reference, accept: Accept, cached: Option<Digest> },
    /// With the size of the one that is cached.
    Blob { digest: Digest, cached_len: Option<u64> },
}

/// On what terms a client may have what it wants.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grant {
    /// The size that the blob must have, where only its content proves that the upstream gives it.
    pub announced: Option<u64>,
    /// The digest that the tag has for this client: what is cached under another one is not for it.
    pub tag_digest: Option<Digest>,
    /// When the upstream was asked, where only the manifest that it sends proves that it gives it: [`Grants::sent`].
    pub unproven: Option<Instant>,
}

/// An asker and a repository, or a login, where there is none; or no more of the repository than one manifest.
#[derive(Clone, PartialEq, Eq, Hash)]
struct GrantKey {
    registry: Registry,
    asker: Principal,
    repository: Option<Repository>,
    manifest: Option<Digest>,
}

/// What the upstream said last, and when it was asked.
#[derive(Clone, Copy)]
struct Answered {
    asked: Instant,
    yes: bool,
}

/// What the upstream would not give.
#[derive(Clone)]
struct Refused {
    error: Arc<Error>,
    /// How many changes had been made through us to the repository when it was asked.
    writes: u64,
}

/// A digest in a repository, as a manifest or as a blob.
#[derive(Clone, PartialEq, Eq, Hash)]
struct ContentLocation {
    registry: Registry,
    repository: Repository,
    digest: Digest,
    is_blob: bool,
}

/// When a repository was last said to have a digest, and to whom first.
#[derive(Clone, Copy)]
struct GrantSource {
    at: Instant,
    to: Principal,
}

/// What is asked on behalf of one asker; whoever is the same and wants the same waits for the same answer.
#[derive(Clone, PartialEq, Eq, Hash)]
struct GrantQuery {
    right: GrantKey,
    subject: Option<(Reference, Option<AcceptClass>)>,
    /// It is asked for requests that must not wait for what others ask.
    circle: bool,
}

/// A cheap handle.
#[derive(Clone)]
pub struct Grants(Arc<GrantsInner>);

struct GrantsInner {
    rights: Cache<GrantKey, Answered>,
    places: Cache<ContentLocation, GrantSource>,
    /// Refusals of a moment ago.
    refused: Cache<GrantQuery, Refused>,
    /// Askers whom an upstream could not answer a moment ago.
    troubled: Cache<(Registry, Principal), ()>,
    /// Changes made through us: what was refused before one may be given after it.
    writes: WriteCounters,
    questions: SingleFlight<GrantQuery, Result<Grant, Error>>,
    places_for_questions: Shares,
    documents: Offload,
}

/// What a former answer is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Validity {
    Nothing,
    /// Should the upstream not be able to answer.
    InOutage,
    Fresh,
}

/// How long a yes holds.
#[derive(Clone, Copy)]
struct GrantTtl {
    ttl: Duration,
    grace: Duration,
}

impl Grants {
    /// Questions run as tasks of `tasks` and end with `shutdown`; refusals are remembered for `negative_ttl` and some
    /// seconds at most.
    pub fn new(
        negative_ttl: Duration,
        trusted: TrustedNetworks,
        tasks: TaskTracker,
        shutdown: CancellationToken,
    ) -> Self {
        // A registry's words count as well.
        let weight = |_: &GrantQuery, refused: &Refused| {
            let words = refused.error.refusal().map_or(0, |refusal| refusal.size());
            u32::try_from(words / 1024 + 1).unwrap_or(u32::MAX)
        };
        let refused = Cache::builder().max_capacity(MAX_GRANTS).weigher(weight);
        Self(Arc::new(GrantsInner {
            rights: remembering(),
            places: remembering(),
            refused: refused.time_to_live(negative_ttl.min(REFUSAL_TTL)).build(),
            troubled: Cache::builder().max_capacity(MAX_GRANTS).time_to_live(TROUBLE_TTL).build(),
            writes: WriteCounters::default(),
            questions: SingleFlight::new(tasks, shutdown),
            places_for_questions: Shares::new(MAX_QUESTIONS, trusted),
            documents: Offload::default(),
        }))
    }

    /// Lets an asker have something of a repository; anybody, where the upstream's clients are all the same to it.
    ///
    /// # Errors
    /// What the upstream says to this asker, or why it cannot be asked.
    pub async fn authorize(
        &self,
        upstream: &Upstream,
        repository: &Repository,
        subject: &Resource,
        peer: IpAddr,
    ) -> Result<Grant, Error> {
        let Some((asker, terms)) = terms(upstream) else { return Ok(Grant::default()) };
        let right = GrantKey::of(upstream, asker, Some(repository));
        let of_repository = terms.judge_right(self.age(&right));
        let known = subject.manifest();
        let of_manifest = known.map(|digest| terms.judge_right(self.age_of_one(&right, digest)));
        let former =
            Grant { tag_digest: known.filter(|_| of_manifest > Some(of_repository)).cloned(), ..Grant::default() };
        let of_right = of_repository.max(of_manifest.unwrap_or(Validity::Nothing));
        let standing = match subject.place(upstream, repository) {
            Some(place) => of_right.min(terms.judge_place(self.age_of_place(&place))),
            None => of_right,
        };
        if standing == Validity::Fresh {
            return Ok(former);
        }
        let question =
            GrantQuery { right: right.clone(), subject: Some(subject.named()), circle: upstream.may_be_loop() };
        let (proofs, by, of, what) = (self.clone(), upstream.clone(), repository.clone(), subject.clone());
        let had_right = of_repository == Validity::Fresh;
        self.ask(question, upstream, asker, (standing, former), peer, async move {
            let asked = Instant::now();
            let (told, waited) = what
                .ask(&by, &of, &proofs.0.documents)
                .await
                .map_or_else(|error| (Err(error), Duration::ZERO), |(evidence, waited)| (Ok(evidence), waited));
            let asked = asked.checked_sub(waited).unwrap_or(asked);
            // Here, and not by who waits: that one may have left, or been content with a former answer.
            match &told {
                Ok(Evidence::MayRead) => {
                    proofs.note(right, Answered { asked, yes: true });
                    if let Some(place) = what.place(&by, &of) {
                        proofs.0.places.insert(place, GrantSource { at: asked, to: asker });
                    }
                }
                Ok(Evidence::Tag { digest, sent }) => {
                    let is_proof = *sent || what.manifest() == Some(digest);
                    return Ok(proofs.admit_tag(&by, &of, digest, is_proof, asked));
                }
                Ok(Evidence::Announced(_)) => {}
                // For who may read the rest, it is this that is not there; for others, that may be how they are refused.
                Err(error) if error.kind == ErrorKind::NotFound && had_right => {
                    what.place(&by, &of).into_iter().for_each(|place| proofs.0.places.invalidate(&place));
                }
                Err(error) if error.kind == ErrorKind::NotFound || is_refusal(error) => {
                    proofs.note(right, Answered { asked, yes: false });
                }
                Err(_) => {}
            }
            told.map(|evidence| match evidence {
                Evidence::Announced(len) => Grant { announced: Some(len), ..Grant::default() },
                Evidence::MayRead | Evidence::Tag { .. } => Grant::default(),
            })
        })
        .await
    }

    /// Whether what the upstream said before would let this asker have a manifest in an outage.
    pub fn holds_in_outage(&self, upstream: &Upstream, repository: &Repository, digest: &Digest) -> bool {
        let Some((asker, terms)) = terms(upstream) else { return true };
        let right = GrantKey::of(upstream, asker, Some(repository));
        let of_right = terms.judge_right(self.age(&right)).max(terms.judge_right(self.age_of_one(&right, digest)));
        let of_place = terms.judge_place(self.age_of_place(&place_of(upstream, repository, digest)));
        of_right.min(of_place) >= Validity::InOutage
    }

    /// The upstream says that a tag has this digest. `is_proof`: it sent the manifest, or the cache has just that for the tag.
    fn admit_tag(
        &self,
        upstream: &Upstream,
        repository: &Repository,
        digest: &Digest,
        is_proof: bool,
        asked: Instant,
    ) -> Grant {
        let told = Grant { tag_digest: Some(digest.clone()), ..Grant::default() };
        let Some((asker, terms)) = terms(upstream) else { return told };
        let place = place_of(upstream, repository, digest);
        let by_another = self.0.places.get(&place).filter(|told| told.to != asker).is_some_and(|told| {
            let right = GrantKey::of(upstream, told.to, Some(repository));
            terms.judge_right(self.age(&right)) >= Validity::InOutage
        });
        if by_another {
            self.note(GrantKey::of(upstream, asker, Some(repository)), Answered { asked, yes: true });
        } else if is_proof {
            self.note_manifest_sent(upstream, repository, digest, asked);
        } else {
            return Grant { unproven: Some(asked), ..told };
        }
        told
    }

    /// The upstream gave this client this manifest, by a tag that it was asked about at `asked`.
    pub fn note_manifest_sent(&self, upstream: &Upstream, repository: &Repository, digest: &Digest, asked: Instant) {
        let Some((asker, _)) = terms(upstream) else { return };
        let right = GrantKey { manifest: Some(digest.clone()), ..GrantKey::of(upstream, asker, Some(repository)) };
        self.note(right, Answered { asked, yes: true });
        let place = place_of(upstream, repository, digest);
        self.0.places.entry(place).and_upsert_with(|former| GrantSource {
            at: asked,
            to: former.map_or(asker, |former| former.into_value().to),
        });
    }

    /// Whether the upstream takes what this asker showed, for `docker login`.
    ///
    /// # Errors
    /// What the upstream says, or why it cannot be asked.
    pub async fn log_in(&self, upstream: &Upstream, peer: IpAddr) -> Result<(), Error> {
        let Some((asker, terms)) = terms(upstream) else { return Ok(()) };
        let right = GrantKey::of(upstream, asker, None);
        let standing = terms.judge_right(self.age(&right));
        if standing == Validity::Fresh {
            return Ok(());
        }
        let question = GrantQuery { right: right.clone(), subject: None, circle: upstream.may_be_loop() };
        let (proofs, by) = (self.clone(), upstream.clone());
        self.ask(question, upstream, asker, (standing, Grant::default()), peer, async move {
            let asked = Instant::now();
            let told = by.ping().await;
            match &told {
                Ok(()) => proofs.note(right, Answered { asked, yes: true }),
                Err(error) if is_refusal(error) => proofs.note(right, Answered { asked, yes: false }),
                Err(_) => {}
            }
            told.map(|()| Grant::default())
        })
        .await
        .map(drop)
    }

    /// The upstream refused this asker something of this repository that was asked for otherwise.
    pub fn note_refusal(&self, upstream: &Upstream, repository: &Repository) {
        if let Some((asker, _)) = terms(upstream) {
            let right = GrantKey::of(upstream, asker, Some(repository));
            self.note(right, Answered { asked: Instant::now(), yes: false });
        }
    }

    /// When the upstream was asked for what it refused this asker of a repository, or of a login, if that is its last word.
    pub fn last_refusal(&self, upstream: &Upstream, repository: Option<&Repository>) -> Option<Instant> {
        let (asker, _) = terms(upstream)?;
        let right = GrantKey::of(upstream, asker, repository);
        self.0.rights.get(&right).filter(|word| !word.yes).map(|word| word.asked)
    }

    /// Something was made or deleted in a repository: what was not there may be, and the other way round.
    pub fn note_write(&self, upstream: &Upstream, repository: &Repository, deleted: Option<&Digest>) {
        if !upstream.uses_client_credentials() {
            return;
        }
        self.0.writes.note(upstream.name(), repository);
        for is_blob in [false, true] {
            if let Some(digest) = deleted.cloned() {
                let (registry, repository) = (upstream.registry().clone(), repository.clone());
                self.0.places.invalidate(&ContentLocation { registry, repository, digest, is_blob });
            }
        }
    }

    /// What the upstream says, or a yes of before where that does.
    async fn ask(
        &self,
        question: GrantQuery,
        upstream: &Upstream,
        asker: Principal,
        (standing, former): (Validity, Grant),
        peer: IpAddr,
        asking: impl Future<Output = Result<Grant, Error>> + Send + 'static,
    ) -> Result<Grant, Error> {
        let troubled = (upstream.registry().clone(), asker);
        let is_good = standing >= Validity::InOutage;
        if is_good && self.0.troubled.contains_key(&troubled) {
            return Ok(former);
        }
        let writes = self.0.writes.of(upstream.name(), question.right.repository.as_ref());
        if let Some(refused) = self.0.refused.get(&question.of_refused()).filter(|refused| refused.writes == writes) {
            return Err((*refused.error).clone());
        }
        let shared = self.0.clone();
        let (key, circle) = (question.of_refused(), question.circle);
        let (flight, leads) = self.0.questions.join(question, || async move {
            let Ok(_place) = shared.places_for_questions.take(peer, 1) else {
                let why = "too many clients' rights are being asked for, or too many for this address";
                return Err(Error::new(ErrorKind::TooManyRequests, why).retry_at_once());
            };
            let told = asking.await;
            if let Err(error) = &told
                && (is_refusal(error) || error.kind == ErrorKind::NotFound)
            {
                shared.refused.insert(key, Refused { error: Arc::new(error.clone()), writes });
            }
            told
        });
        let given_up = || Err(Error::new(ErrorKind::Unavailable, "the question was given up"));
        let asking = flight.answer_unless(circle && !leads);
        if !is_good {
            let why = "mirrors that may wait for this request ask the same";
            let answer =
                asking.await.map_err(|WaitCycle| Error::new(ErrorKind::TooManyRequests, why).retry_at_once())?;
            return answer.unwrap_or_else(given_up);
        }
        match tokio::time::timeout(PATIENCE, asking).await {
            Ok(Err(WaitCycle)) => {}
            Ok(Ok(Some(Err(error)))) if error.kind.is_outage() => {}
            Ok(Ok(answer)) => return answer.unwrap_or_else(given_up),
            Err(_) => {}
        }
        self.0.troubled.insert(troubled, ());
        Ok(former)
    }

    /// The word that was asked for last counts, whenever it came.
    fn note(&self, right: GrantKey, word: Answered) {
        self.0.rights.entry(right).and_compute_with(|former| match former {
            Some(former) if former.value().asked > word.asked => Op::Nop,
            Some(_) | None => Op::Put(word),
        });
    }

    /// How old a yes is, if that is what was said last.
    fn age(&self, right: &GrantKey) -> Option<Duration> {
        self.0.rights.get(right).filter(|word| word.yes).map(|word| word.asked.elapsed())
    }

    /// The same of a right to one manifest. A later refusal of anything of the repository ends it.
    fn age_of_one(&self, of_repository: &GrantKey, manifest: &Digest) -> Option<Duration> {
        let right = GrantKey { manifest: Some(manifest.clone()), ..of_repository.clone() };
        let word = self.0.rights.get(&right).filter(|word| word.yes)?;
        let refused = self.0.rights.get(of_repository).filter(|last| !last.yes && last.asked >= word.asked);
        refused.is_none().then(|| word.asked.elapsed())
    }

    fn age_of_place(&self, place: &ContentLocation) -> Option<Duration> {
        self.0.places.get(place).map(|told| told.at.elapsed())
    }
}

impl GrantKey {
    fn of(upstream: &Upstream, asker: Principal, repository: Option<&Repository>) -> Self {
        Self { registry: upstream.registry().clone(), asker, repository: repository.cloned(), manifest: None }
    }
}

impl GrantQuery {
    /// Under which a refusal is remembered.
    fn of_refused(&self) -> Self {
        Self { circle: false, ..self.clone() }
    }
}

impl Resource {
    fn named(&self) -> (Reference, Option<AcceptClass>) {
        match self {
            Self::Manifest { reference, accept, .. } => (reference.clone(), Some(accept.class())),
            Self::Blob { digest, .. } => (Reference::Digest(digest.clone()), None),
        }
    }

    /// What the cache has for a tag.
    pub fn cached_digest(&self) -> Option<&Digest> {
        match self {
            Self::Manifest { reference: Reference::Tag(_), cached, .. } => cached.as_ref(),
            Self::Manifest { reference: Reference::Digest(_), .. } | Self::Blob { .. } => None,
        }
    }

    /// The manifest that the cache would give.
    fn manifest(&self) -> Option<&Digest> {
        match self {
            Self::Blob { .. } => None,
            Self::Manifest { reference: Reference::Digest(digest), .. } => Some(digest),
            Self::Manifest { reference: Reference::Tag(_), cached, .. } => cached.as_ref(),
        }
    }

    /// The digest that has to be the repository's; a tag is asked about.
    fn place(&self, upstream: &Upstream, repository: &Repository) -> Option<ContentLocation> {
        match self {
            Self::Blob { digest, .. } => {
                Some(ContentLocation { is_blob: true, ..place_of(upstream, repository, digest) })
            }
            Self::Manifest { reference: Reference::Digest(digest), .. } => Some(place_of(upstream, repository, digest)),
            Self::Manifest { reference: Reference::Tag(_), .. } => None,
        }
    }

    /// Asks the upstream for just this.
    async fn ask(
        &self,
        upstream: &Upstream,
        repository: &Repository,
        documents: &Offload,
    ) -> Result<(Evidence, Duration), Error> {
        match self {
            Self::Blob { digest, cached_len } => evidence::of_blob(upstream, repository, digest, *cached_len).await,
            Self::Manifest { reference, accept, .. } => {
                evidence::of_manifest(upstream, repository, reference, accept, documents).await
            }
        }
    }
}

impl GrantTtl {
    fn judge_right(self, age: Option<Duration>) -> Validity {
        judge(age, self.ttl, self.grace)
    }

    /// That a repository has something is for nobody in particular and no matter of seconds; it is asked for again early
    /// enough to hold in an outage.
    fn judge_place(self, age: Option<Duration>) -> Validity {
        judge(age, (self.grace / 2).max(self.ttl), self.grace)
    }
}

/// Who asks, and how long a yes holds; `None` where that is not what decides.
fn terms(upstream: &Upstream) -> Option<(Principal, GrantTtl)> {
    match upstream.access() {
        Access::Client { ttl, grace } => {
            Some((upstream.principal().unwrap_or(Principal::ANONYMOUS), GrantTtl { ttl, grace }))
        }
        Access::Shared => None,
    }
}

fn place_of(upstream: &Upstream, repository: &Repository, manifest: &Digest) -> ContentLocation {
    let (registry, repository, digest) = (upstream.registry().clone(), repository.clone(), manifest.clone());
    ContentLocation { registry, repository, digest, is_blob: false }
}

fn is_refusal(error: &Error) -> bool {
    matches!(error.kind, ErrorKind::Unauthorized | ErrorKind::Denied)
}

fn judge(age: Option<Duration>, ttl: Duration, grace: Duration) -> Validity {
    match age {
        Some(age) if age < ttl => Validity::Fresh,
        Some(age) if age < grace => Validity::InOutage,
        Some(_) | None => Validity::Nothing,
    }
}

fn remembering<K: std::hash::Hash + Eq + Send + Sync + 'static, V: Clone + Send + Sync + 'static>() -> Cache<K, V> {
    // The default policy refuses newcomers, who would be asked for again and again.
    Cache::builder().max_capacity(MAX_GRANTS).eviction_policy(EvictionPolicy::lru()).build()
}

#[cfg(test)]
mod tests;
