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

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use moka::{ops::compute::Op, policy::EvictionPolicy, sync::Cache};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::evidence::{self, Evidence};
use crate::{
    cache::{
        Documents,
        flights::{Circle, Flights},
        writes::Writes,
    },
    oci::{Accept, AcceptClass, Digest, Reference, Repository},
    peer::{Shares, TrustedNetworks},
    upstream::{Access, Asker, Error, ErrorKind, Registry, Upstream},
};

/// How many askers' rights to a repository are remembered, how many digests of repositories, and how many refusals.
const MOST: u64 = 100_000;
/// How many questions are on their way at a time, each with a password in hand. Beyond it is somebody who guesses.
const MOST_QUESTIONS: u64 = 1024;
/// How long a client waits for the upstream when a former answer could do.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long an upstream that could not answer an asker is not asked by it where a former answer can do.
const TROUBLE_TTL: Duration = Duration::from_secs(5);
/// How long a refusal is remembered, at most: who has the wrong password asks again and again.
const REFUSAL_TTL: Duration = Duration::from_secs(2);

/// What a client wants of a repository.
#[derive(Clone, Debug)]
pub enum Subject {
    /// With the digest that the cache has for it, where it is a tag.
    Manifest(Reference, Accept, Option<Digest>),
    /// With the size of the one that is cached.
    Blob(Digest, Option<u64>),
}

/// On what terms a client may have what it wants.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Admission {
    /// The size that the blob must have, where only its content proves that the upstream gives it.
    pub announced: Option<u64>,
    /// The digest that the tag has for this client: what is cached under another one is not for it.
    pub told: Option<Digest>,
    /// When the upstream was asked, where only the manifest that it sends proves that it gives it: [`Proofs::sent`].
    pub unproven: Option<Instant>,
}

/// An asker and a repository, or a login, where there is none; or no more of the repository than one manifest.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Right {
    registry: Registry,
    asker: Asker,
    repository: Option<Repository>,
    manifest: Option<Digest>,
}

/// What the upstream said last, and when it was asked.
#[derive(Clone, Copy)]
struct Word {
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
struct Place {
    registry: Registry,
    repository: Repository,
    digest: Digest,
    is_blob: bool,
}

/// When a repository was last said to have a digest, and to whom first.
#[derive(Clone, Copy)]
struct Told {
    at: Instant,
    to: Asker,
}

/// What is asked on behalf of one asker; whoever is the same and wants the same waits for the same answer.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Question {
    right: Right,
    subject: Option<(Reference, Option<AcceptClass>)>,
    /// It is asked for requests that must not wait for what others ask.
    circle: bool,
}

/// A cheap handle.
#[derive(Clone)]
pub struct Proofs(Arc<Shared>);

struct Shared {
    rights: Cache<Right, Word>,
    places: Cache<Place, Told>,
    /// Refusals of a moment ago.
    refused: Cache<Question, Refused>,
    /// Askers whom an upstream could not answer a moment ago.
    troubled: Cache<(Registry, Asker), ()>,
    /// Changes made through us: what was refused before one may be given after it.
    writes: Writes,
    questions: Flights<Question, Result<Admission, Error>>,
    places_for_questions: Shares,
    documents: Documents,
}

/// What a former answer is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Standing {
    Nothing,
    /// Should the upstream not be able to answer.
    InOutage,
    Fresh,
}

/// How long a yes holds.
#[derive(Clone, Copy)]
struct Terms {
    ttl: Duration,
    grace: Duration,
}

impl Proofs {
    /// Questions run as tasks of `tasks` and end with `shutdown`; refusals are remembered for `negative_ttl` and some
    /// seconds at most.
    pub fn new(
        negative_ttl: Duration,
        trusted: TrustedNetworks,
        tasks: TaskTracker,
        shutdown: CancellationToken,
    ) -> Self {
        let expiring = || Cache::builder().max_capacity(MOST);
        Self(Arc::new(Shared {
            rights: remembering(),
            places: remembering(),
            refused: expiring().time_to_live(negative_ttl.min(REFUSAL_TTL)).build(),
            troubled: Cache::builder().max_capacity(MOST).time_to_live(TROUBLE_TTL).build(),
            writes: Writes::default(),
            questions: Flights::new(tasks, shutdown),
            places_for_questions: Shares::new(MOST_QUESTIONS, trusted),
            documents: Documents::default(),
        }))
    }

    /// Lets an asker have something of a repository; anybody, where the upstream's clients are all the same to it.
    ///
    /// # Errors
    /// What the upstream says to this asker, or why it cannot be asked.
    pub async fn admit(
        &self,
        upstream: &Upstream,
        repository: &Repository,
        subject: &Subject,
        peer: IpAddr,
    ) -> Result<Admission, Error> {
        let Some((asker, terms)) = terms(upstream) else { return Ok(Admission::default()) };
        let right = Right::of(upstream, asker, Some(repository));
        let of_repository = terms.judge_right(self.age(&right));
        let known = subject.manifest();
        let of_manifest = known.map(|digest| terms.judge_right(self.age_of_one(&right, digest)));
        let former =
            Admission { told: known.filter(|_| of_manifest > Some(of_repository)).cloned(), ..Admission::default() };
        let of_right = of_repository.max(of_manifest.unwrap_or(Standing::Nothing));
        let standing = match subject.place(upstream, repository) {
            Some(place) => of_right.min(terms.judge_place(self.0.places.get(&place).map(|told| told.at.elapsed()))),
            None => of_right,
        };
        if standing == Standing::Fresh {
            return Ok(former);
        }
        let question =
            Question { right: right.clone(), subject: Some(subject.named()), circle: upstream.may_be_circle() };
        let (proofs, by, of, what) = (self.clone(), upstream.clone(), repository.clone(), subject.clone());
        let had_right = of_repository == Standing::Fresh;
        self.ask(question, upstream, asker, (standing, former), peer, async move {
            let asked = Instant::now();
            let told = what.ask(&by, &of, &proofs.0.documents).await;
            // Here, and not by who waits: that one may have left, or been content with a former answer.
            match &told {
                Ok(Evidence::Right) => {
                    proofs.note(right, Word { asked, yes: true });
                    if let Some(place) = what.place(&by, &of) {
                        proofs.0.places.insert(place, Told { at: asked, to: asker });
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
                    proofs.note(right, Word { asked, yes: false });
                }
                Err(_) => {}
            }
            told.map(|evidence| match evidence {
                Evidence::Announced(len) => Admission { announced: Some(len), ..Admission::default() },
                Evidence::Right | Evidence::Tag { .. } => Admission::default(),
            })
        })
        .await
    }

    /// The upstream says that a tag has this digest. `is_proof`: it sent the manifest, or the cache has just that for the tag.
    fn admit_tag(
        &self,
        upstream: &Upstream,
        repository: &Repository,
        digest: &Digest,
        is_proof: bool,
        asked: Instant,
    ) -> Admission {
        let told = Admission { told: Some(digest.clone()), ..Admission::default() };
        let Some((asker, terms)) = terms(upstream) else { return told };
        let place = place_of(upstream, repository, digest);
        let by_another = self.0.places.get(&place).filter(|told| told.to != asker).is_some_and(|told| {
            let right = Right::of(upstream, told.to, Some(repository));
            terms.judge_right(self.age(&right)) >= Standing::InOutage
        });
        if by_another {
            self.note(Right::of(upstream, asker, Some(repository)), Word { asked, yes: true });
        } else if is_proof {
            self.sent(upstream, repository, digest, asked);
        } else {
            return Admission { unproven: Some(asked), ..told };
        }
        told
    }

    /// The upstream gave this client this manifest, by a tag that it was asked about at `asked`.
    pub fn sent(&self, upstream: &Upstream, repository: &Repository, digest: &Digest, asked: Instant) {
        let Some((asker, _)) = terms(upstream) else { return };
        let right = Right { manifest: Some(digest.clone()), ..Right::of(upstream, asker, Some(repository)) };
        self.note(right, Word { asked, yes: true });
        let place = place_of(upstream, repository, digest);
        self.0
            .places
            .entry(place)
            .and_upsert_with(|former| Told { at: asked, to: former.map_or(asker, |former| former.into_value().to) });
    }

    /// Whether the upstream takes what this asker showed, for `docker login`.
    ///
    /// # Errors
    /// What the upstream says, or why it cannot be asked.
    pub async fn log_in(&self, upstream: &Upstream, peer: IpAddr) -> Result<(), Error> {
        let Some((asker, terms)) = terms(upstream) else { return Ok(()) };
        let right = Right::of(upstream, asker, None);
        let standing = terms.judge_right(self.age(&right));
        if standing == Standing::Fresh {
            return Ok(());
        }
        let question = Question { right: right.clone(), subject: None, circle: upstream.may_be_circle() };
        let (proofs, by) = (self.clone(), upstream.clone());
        self.ask(question, upstream, asker, (standing, Admission::default()), peer, async move {
            let asked = Instant::now();
            let told = by.ping().await;
            match &told {
                Ok(()) => proofs.note(right, Word { asked, yes: true }),
                Err(error) if is_refusal(error) => proofs.note(right, Word { asked, yes: false }),
                Err(_) => {}
            }
            told.map(|()| Admission::default())
        })
        .await
        .map(drop)
    }

    /// The upstream refused this asker something of this repository that was asked for otherwise.
    pub fn refused(&self, upstream: &Upstream, repository: &Repository) {
        if let Some((asker, _)) = terms(upstream) {
            let right = Right::of(upstream, asker, Some(repository));
            self.note(right, Word { asked: Instant::now(), yes: false });
        }
    }

    /// When the upstream was asked for what it refused this asker of a repository, or of a login, if that is its last word.
    pub fn refused_at(&self, upstream: &Upstream, repository: Option<&Repository>) -> Option<Instant> {
        let (asker, _) = terms(upstream)?;
        let right = Right::of(upstream, asker, repository);
        self.0.rights.get(&right).filter(|word| !word.yes).map(|word| word.asked)
    }

    /// Something was made or deleted in a repository: what was not there may be, and the other way round.
    pub fn changed(&self, upstream: &Upstream, repository: &Repository, deleted: Option<&Digest>) {
        if !upstream.decides_by_client() {
            return;
        }
        self.0.writes.note(upstream.name(), repository);
        for is_blob in [false, true] {
            if let Some(digest) = deleted.cloned() {
                let (registry, repository) = (upstream.registry().clone(), repository.clone());
                self.0.places.invalidate(&Place { registry, repository, digest, is_blob });
            }
        }
    }

    /// What the upstream says, or a yes of before where that does.
    async fn ask(
        &self,
        question: Question,
        upstream: &Upstream,
        asker: Asker,
        (standing, former): (Standing, Admission),
        peer: IpAddr,
        asking: impl Future<Output = Result<Admission, Error>> + Send + 'static,
    ) -> Result<Admission, Error> {
        let troubled = (upstream.registry().clone(), asker);
        let is_good = standing >= Standing::InOutage;
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
            let answer = asking.await.map_err(|Circle| Error::new(ErrorKind::TooManyRequests, why).retry_at_once())?;
            return answer.unwrap_or_else(given_up);
        }
        match tokio::time::timeout(PATIENCE, asking).await {
            Ok(Err(Circle)) => {}
            Ok(Ok(Some(Err(error)))) if error.kind.is_outage() => {}
            Ok(Ok(answer)) => return answer.unwrap_or_else(given_up),
            Err(_) => {}
        }
        self.0.troubled.insert(troubled, ());
        Ok(former)
    }

    /// The word that was asked for last counts, whenever it came.
    fn note(&self, right: Right, word: Word) {
        self.0.rights.entry(right).and_compute_with(|former| match former {
            Some(former) if former.value().asked > word.asked => Op::Nop,
            Some(_) | None => Op::Put(word),
        });
    }

    /// How old a yes is, if that is what was said last.
    fn age(&self, right: &Right) -> Option<Duration> {
        self.0.rights.get(right).filter(|word| word.yes).map(|word| word.asked.elapsed())
    }

    /// The same of a right to one manifest. A later refusal of anything of the repository ends it.
    fn age_of_one(&self, of_repository: &Right, manifest: &Digest) -> Option<Duration> {
        let right = Right { manifest: Some(manifest.clone()), ..of_repository.clone() };
        let word = self.0.rights.get(&right).filter(|word| word.yes)?;
        let refused = self.0.rights.get(of_repository).filter(|last| !last.yes && last.asked >= word.asked);
        refused.is_none().then(|| word.asked.elapsed())
    }
}

impl Right {
    fn of(upstream: &Upstream, asker: Asker, repository: Option<&Repository>) -> Self {
        Self { registry: upstream.registry().clone(), asker, repository: repository.cloned(), manifest: None }
    }
}

impl Question {
    /// Under which a refusal is remembered.
    fn of_refused(&self) -> Self {
        Self { circle: false, ..self.clone() }
    }
}

impl Subject {
    fn named(&self) -> (Reference, Option<AcceptClass>) {
        match self {
            Self::Manifest(reference, accept, _) => (reference.clone(), Some(accept.class())),
            Self::Blob(digest, _) => (Reference::Digest(digest.clone()), None),
        }
    }

    /// The manifest that the cache would give.
    fn manifest(&self) -> Option<&Digest> {
        match self {
            Self::Blob(..) => None,
            Self::Manifest(Reference::Digest(digest), ..) => Some(digest),
            Self::Manifest(Reference::Tag(_), _, known) => known.as_ref(),
        }
    }

    /// The digest that has to be the repository's; a tag is asked about.
    fn place(&self, upstream: &Upstream, repository: &Repository) -> Option<Place> {
        match self {
            Self::Blob(digest, _) => Some(Place { is_blob: true, ..place_of(upstream, repository, digest) }),
            Self::Manifest(Reference::Digest(digest), ..) => Some(place_of(upstream, repository, digest)),
            Self::Manifest(Reference::Tag(_), ..) => None,
        }
    }

    /// Asks the upstream for just this.
    async fn ask(
        &self,
        upstream: &Upstream,
        repository: &Repository,
        documents: &Documents,
    ) -> Result<Evidence, Error> {
        match self {
            Self::Blob(digest, cached) => evidence::of_blob(upstream, repository, digest, *cached).await,
            Self::Manifest(reference, accept, _) => {
                evidence::of_manifest(upstream, repository, reference, accept, documents).await
            }
        }
    }
}

impl Terms {
    fn judge_right(self, age: Option<Duration>) -> Standing {
        judge(age, self.ttl, self.grace)
    }

    /// That a repository has something is for nobody in particular and no matter of seconds; it is asked for again early
    /// enough to hold in an outage.
    fn judge_place(self, age: Option<Duration>) -> Standing {
        judge(age, (self.grace / 2).max(self.ttl), self.grace)
    }
}

/// Who asks, and how long a yes holds; `None` where that is not what decides.
fn terms(upstream: &Upstream) -> Option<(Asker, Terms)> {
    match upstream.access() {
        Access::Client { ttl, grace } => Some((upstream.asker().unwrap_or(Asker::NOBODY), Terms { ttl, grace })),
        Access::Shared => None,
    }
}

fn place_of(upstream: &Upstream, repository: &Repository, manifest: &Digest) -> Place {
    let (registry, repository, digest) = (upstream.registry().clone(), repository.clone(), manifest.clone());
    Place { registry, repository, digest, is_blob: false }
}

fn is_refusal(error: &Error) -> bool {
    matches!(error.kind, ErrorKind::Unauthorized | ErrorKind::Denied)
}

fn judge(age: Option<Duration>, ttl: Duration, grace: Duration) -> Standing {
    match age {
        Some(age) if age < ttl => Standing::Fresh,
        Some(age) if age < grace => Standing::InOutage,
        Some(_) | None => Standing::Nothing,
    }
}

fn remembering<K: std::hash::Hash + Eq + Send + Sync + 'static, V: Clone + Send + Sync + 'static>() -> Cache<K, V> {
    // The default policy refuses newcomers, who would be asked for again and again.
    Cache::builder().max_capacity(MOST).eviction_policy(EvictionPolicy::lru()).build()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use super::*;
    use crate::{
        metrics::Metrics,
        oci::Algorithm,
        upstream::{Config, Context, CredentialSource},
    };

    fn upstream(port: u16, ttl: Duration) -> Upstream {
        let config = Config {
            name: "a.example".into(),
            urls: vec![format!("http://127.0.0.1:{port}").parse().unwrap()],
            aliases: vec![],
            hosts: vec![],
            default: false,
            library: false,
            realms: vec![],
            ca: None,
            credential: CredentialSource::Anonymous,
            access: Access::Client { ttl, grace: Duration::from_secs(3600) },
            connections: 1,
            push: true,
        };
        Upstream::new(
            &config,
            Context { metrics: Metrics::new().unwrap(), via: "1.1 test".into(), budget: Default::default() },
        )
        .unwrap()
    }

    fn proofs() -> Proofs {
        Proofs::new(Duration::ZERO, TrustedNetworks::default(), TaskTracker::new(), CancellationToken::new())
    }

    fn peer(number: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, number])
    }

    fn right(upstream: &Upstream) -> Right {
        let (registry, repository) = (upstream.registry().clone(), Some("team/a".parse().unwrap()));
        Right { registry, asker: Asker::NOBODY, repository, manifest: None }
    }

    #[test]
    fn the_word_that_was_asked_for_last_counts() {
        let (proofs, right) = (proofs(), right(&upstream(1, Duration::from_secs(60))));
        let earlier = Instant::now();
        let later = earlier + Duration::from_millis(1);
        proofs.note(right.clone(), Word { asked: later, yes: false });
        proofs.note(right.clone(), Word { asked: earlier, yes: true });
        assert_eq!(proofs.age(&right), None);
        proofs.note(right.clone(), Word { asked: later, yes: true });
        assert!(proofs.age(&right).is_some());
    }

    #[test]
    fn a_deleted_digest_is_the_repositorys_no_longer() {
        let (proofs, upstream) = (proofs(), upstream(1, Duration::from_secs(60)));
        let (repository, digest) = ("team/a".parse().unwrap(), Digest::of(Algorithm::Sha256, b"a"));
        let place = Subject::Blob(digest.clone(), None).place(&upstream, &repository).unwrap();
        proofs.0.places.insert(place.clone(), Told { at: Instant::now(), to: Asker::NOBODY });
        proofs.changed(&upstream, &repository, None);
        assert!(proofs.0.places.contains_key(&place));
        proofs.changed(&upstream, &repository, Some(&digest));
        assert!(!proofs.0.places.contains_key(&place));
    }

    /// A registry that answers this, and how often it was asked.
    async fn registry(status: &'static str) -> (u16, Arc<AtomicUsize>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let asked = Arc::new(AtomicUsize::new(0));
        let count = asked.clone();
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") && stream.read_buf(&mut head).await.unwrap() > 0 {}
                count.fetch_add(1, Ordering::Relaxed);
                let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        (port, asked)
    }

    fn blob() -> Subject {
        Subject::Blob(Digest::of(Algorithm::Sha256, b"a"), Some(1))
    }

    /// What is remembered for seconds is asked for again on a machine that is slow enough, but not each time.
    #[tokio::test]
    async fn a_refusal_and_an_outage_are_remembered_for_a_moment() {
        let repository = "team/a".parse().unwrap();
        for (status, is_known, told) in [
            ("403 Forbidden", false, Err(ErrorKind::Denied)),
            ("404 Not Found", false, Err(ErrorKind::NotFound)),
            ("503 Service Unavailable", true, Ok(Admission::default())),
        ] {
            let (port, asked) = registry(status).await;
            let (trusted, tasks) = (TrustedNetworks::default(), TaskTracker::new());
            let proofs = Proofs::new(Duration::from_secs(60), trusted, tasks, CancellationToken::new());
            let upstream = upstream(port, Duration::ZERO);
            let place = blob().place(&upstream, &repository).unwrap();
            if is_known {
                proofs.note(right(&upstream), Word { asked: Instant::now(), yes: true });
                proofs.0.places.insert(place, Told { at: Instant::now(), to: Asker::NOBODY });
            }
            for _ in 0..20 {
                let answer = proofs.admit(&upstream, &repository, &blob(), peer(1)).await;
                assert_eq!(answer.map_err(|error| error.kind), told, "{status}");
            }
            let asked = asked.load(Ordering::Relaxed);
            assert!((1..=5).contains(&asked), "{status}: asked {asked} times");
        }
    }

    #[tokio::test]
    async fn a_login_that_the_upstream_cannot_judge_leaves_its_last_word() {
        let (port, _) = registry("503 Service Unavailable").await;
        let (proofs, upstream) = (proofs(), upstream(port, Duration::ZERO));
        let login = Right { repository: None, ..right(&upstream) };
        proofs.note(login.clone(), Word { asked: Instant::now(), yes: true });
        assert!(proofs.log_in(&upstream, peer(1)).await.is_ok());
        assert!(proofs.age(&login).is_some() && proofs.refused_at(&upstream, None).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_in_a_circle_waits_for_no_other_for_ever() {
        let (proofs, upstream) = (proofs(), upstream(1, Duration::ZERO));
        let ask = |circle| {
            let question = Question { right: right(&upstream), subject: None, circle };
            let none = (Standing::Nothing, Admission::default());
            proofs.ask(question, &upstream, Asker::NOBODY, none, peer(1), async {
                tokio::time::sleep(Duration::from_secs(600)).await;
                Ok(Admission::default())
            })
        };
        let (first, second) = tokio::join!(ask(true), ask(true));
        let second = second.unwrap_err();
        assert_eq!((first.unwrap(), second.kind), (Admission::default(), ErrorKind::TooManyRequests));
        assert_eq!(second.retry_after, Some(Duration::from_secs(1)));
        let (first, second) = tokio::join!(ask(false), ask(false));
        assert_eq!((first.unwrap(), second.unwrap()), (Admission::default(), Admission::default()));
    }

    /// To whom may read the rest it says that this is not there; to others it may be how they are refused.
    #[tokio::test]
    async fn a_404_ends_a_right_unless_that_is_fresh() {
        let (port, _) = registry("404 Not Found").await;
        for (ttl, stays) in [(Duration::from_secs(60), true), (Duration::ZERO, false)] {
            let (proofs, upstream) = (proofs(), upstream(port, ttl));
            let (right, repository) = (right(&upstream), "team/a".parse().unwrap());
            proofs.note(right.clone(), Word { asked: Instant::now(), yes: true });
            let told = proofs.admit(&upstream, &repository, &blob(), peer(1)).await;
            assert_eq!(told.unwrap_err().kind, ErrorKind::NotFound);
            assert_eq!(proofs.age(&right).is_some(), stays, "{ttl:?}");
        }
    }

    /// One address leaves questions to others, and is told when to come again.
    #[tokio::test]
    async fn questions_in_flight_are_shared_by_addresses() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let upstream = upstream(listener.local_addr().unwrap().port(), Duration::ZERO);
        let mut proofs = proofs();
        Arc::get_mut(&mut proofs.0).unwrap().places_for_questions = Shares::new(4, TrustedNetworks::default());
        let ask = |number: u8, of: u8| {
            let (proofs, upstream) = (proofs.clone(), upstream.clone());
            let repository = format!("team/a{number}").parse().unwrap();
            async move { proofs.admit(&upstream, &repository, &blob(), peer(of)).await.unwrap_err() }
        };
        let mut held = Vec::new();
        for (number, of) in [(1, 1), (2, 1), (3, 1), (4, 2)] {
            if number == 4 {
                let refused = ask(9, 1).await;
                assert_eq!(refused.kind, ErrorKind::TooManyRequests);
                assert_eq!(refused.retry_after, Some(Duration::from_secs(1)));
            }
            tokio::spawn(ask(number, of));
            // The question has its place before it is sent.
            held.push(listener.accept().await.unwrap());
        }
        assert_eq!(ask(9, 3).await.kind, ErrorKind::TooManyRequests, "the whole binds for all");
    }

    #[test]
    fn a_yes_is_fresh_then_good_for_an_outage_then_nothing() {
        let (ttl, grace) = (Duration::from_secs(60), Duration::from_secs(3600));
        for (age, expected) in [
            (None, Standing::Nothing),
            (Some(0), Standing::Fresh),
            (Some(59), Standing::Fresh),
            (Some(60), Standing::InOutage),
            (Some(3599), Standing::InOutage),
            (Some(3600), Standing::Nothing),
        ] {
            assert_eq!(judge(age.map(Duration::from_secs), ttl, grace), expected, "{age:?}");
        }
        assert_eq!(judge(Some(Duration::ZERO), Duration::ZERO, Duration::ZERO), Standing::Nothing);
    }

    #[test]
    fn a_place_is_asked_for_again_when_half_the_grace_is_over() {
        for (ttl, age, expected) in [
            (60, 1799, Standing::Fresh),
            (60, 1800, Standing::InOutage),
            (60, 3599, Standing::InOutage),
            (60, 3600, Standing::Nothing),
            (3000, 2999, Standing::Fresh),
            (3000, 3000, Standing::InOutage),
        ] {
            let terms = Terms { ttl: Duration::from_secs(ttl), grace: Duration::from_secs(3600) };
            assert_eq!(terms.judge_place(Some(Duration::from_secs(age))), expected, "{age} of {ttl}");
        }
    }
}
