//! What upstreams that decide by their clients' own credentials have said of whom.
//!
//! What must hold: nothing of such an upstream is served from here but to an asker for whom it has said yes for that
//! repository within `access_ttl`, and nothing by its digest but where it has said that this repository has it. It says
//! so when asked, by this asker and with nothing but its credentials, for just what is wanted. When it cannot be asked, what
//! it said holds for `access_grace`, and no longer. What it refuses is forgotten at once.
//!
//! That a repository has a digest is the upstream's word alone: who may push can list any digest in a manifest. All of
//! it is in memory; a restart asks again.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use moka::{policy::EvictionPolicy, sync::Cache};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    cache::flights::Flights,
    oci::{Accept, AcceptClass, Digest, Reference, Repository},
    upstream::{Access, Asker, Error, ErrorKind, Upstream},
};

/// How many askers' rights to a repository are remembered, how many digests of repositories, and how many logins.
const MOST: u64 = 100_000;
/// How long a client waits for the upstream when a former answer could do.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long an upstream that could not answer is left alone where a former answer can do.
const TROUBLE_TTL: Duration = Duration::from_secs(5);

/// What a client wants of a repository.
#[derive(Clone, Debug)]
pub enum Subject {
    Manifest(Reference, Accept),
    Blob(Digest),
}

/// An asker and a repository, or a login, where there is none.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Right {
    upstream: Arc<str>,
    asker: Asker,
    repository: Option<Repository>,
}

/// A digest in a repository, as a manifest or as a blob.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Place {
    upstream: Arc<str>,
    repository: Repository,
    digest: Digest,
    is_blob: bool,
}

/// What is asked on behalf of one asker; whoever is the same and wants the same waits for the same answer.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Question {
    right: Right,
    subject: Option<(Reference, Option<AcceptClass>)>,
}

/// A cheap handle.
#[derive(Clone)]
pub struct Proofs(Arc<Shared>);

struct Shared {
    rights: Cache<Right, Instant>,
    places: Cache<Place, Instant>,
    /// Upstreams that could not answer a moment ago.
    troubled: Cache<Arc<str>, ()>,
    questions: Flights<Question, Result<Option<Digest>, Error>>,
}

/// What a former answer is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Standing {
    Nothing,
    /// Should the upstream not be able to answer.
    InOutage,
    Fresh,
}

impl Proofs {
    /// Questions run as tasks of `tasks` and end with `shutdown`.
    pub fn new(tasks: TaskTracker, shutdown: CancellationToken) -> Self {
        Self(Arc::new(Shared {
            rights: remembering(),
            places: remembering(),
            troubled: Cache::builder().max_capacity(MOST).time_to_live(TROUBLE_TTL).build(),
            questions: Flights::new(tasks, shutdown),
        }))
    }

    /// Whether this asker may have this without anybody being asked. Waits for nothing.
    pub fn knows(&self, upstream: &Upstream, repository: &Repository, subject: &Subject) -> bool {
        let Some((asker, ttl, grace)) = terms(upstream) else { return true };
        let right = Right { upstream: upstream.name().clone(), asker, repository: Some(repository.clone()) };
        self.standing(upstream, &right, repository, subject, ttl, grace) == Standing::Fresh
    }

    /// Lets an asker have something of a repository; anybody, where the upstream's clients are all the same to it.
    ///
    /// # Errors
    /// What the upstream says to this asker, or why it cannot be asked.
    pub async fn admit(&self, upstream: &Upstream, repository: &Repository, subject: &Subject) -> Result<(), Error> {
        let Some((asker, ttl, grace)) = terms(upstream) else { return Ok(()) };
        let right = Right { upstream: upstream.name().clone(), asker, repository: Some(repository.clone()) };
        let standing = self.standing(upstream, &right, repository, subject, ttl, grace);
        if standing == Standing::Fresh {
            return Ok(());
        }
        let had_right = judge(self.age(&right), ttl, grace) == Standing::Fresh;
        let question = Question { right: right.clone(), subject: Some(subject.named()) };
        let (by, of, what) = (upstream.clone(), repository.clone(), subject.clone());
        let asking = self.ask(question, upstream, standing, async move { what.ask(&by, &of).await });
        match asking.await {
            Some(Ok(told)) => {
                self.0.rights.insert(right, Instant::now());
                if let Some(place) = place(upstream, repository, subject, told) {
                    self.0.places.insert(place, Instant::now());
                }
                Ok(())
            }
            Some(Err(error)) if error.kind.is_outage() => Err(error),
            Some(Err(error)) => {
                // For who may read the rest, it is this that is not there; for others, that may be how they are refused.
                if error.kind != ErrorKind::NotFound || !had_right {
                    self.0.rights.invalidate(&right);
                } else if let Some(place) = place(upstream, repository, subject, None) {
                    self.0.places.invalidate(&place);
                }
                Err(error)
            }
            None => Ok(()),
        }
    }

    /// Whether the upstream takes what this asker showed, for `docker login`.
    ///
    /// # Errors
    /// What the upstream says, or why it cannot be asked.
    pub async fn log_in(&self, upstream: &Upstream) -> Result<(), Error> {
        let Some((asker, ttl, grace)) = terms(upstream) else { return Ok(()) };
        let right = Right { upstream: upstream.name().clone(), asker, repository: None };
        let standing = judge(self.age(&right), ttl, grace);
        if standing == Standing::Fresh {
            return Ok(());
        }
        let question = Question { right: right.clone(), subject: None };
        let by = upstream.clone();
        match self.ask(question, upstream, standing, async move { by.ping().await.map(|()| None) }).await {
            Some(Ok(_)) => {
                self.0.rights.insert(right, Instant::now());
                Ok(())
            }
            Some(Err(error)) => {
                if !error.kind.is_outage() {
                    self.0.rights.invalidate(&right);
                }
                Err(error)
            }
            None => Ok(()),
        }
    }

    /// What the upstream says; `None` when it cannot be asked and a former answer does.
    async fn ask(
        &self,
        question: Question,
        upstream: &Upstream,
        standing: Standing,
        asking: impl Future<Output = Result<Option<Digest>, Error>> + Send + 'static,
    ) -> Option<Result<Option<Digest>, Error>> {
        let may_wait = standing < Standing::InOutage;
        if !may_wait && self.0.troubled.contains_key(upstream.name()) {
            return None;
        }
        let (flight, _) = self.0.questions.join(question, || asking);
        let answer = if may_wait { Ok(flight.answer().await) } else { timeout(flight.answer()).await };
        match answer {
            Ok(Some(Err(error))) if error.kind.is_outage() && !may_wait => {}
            Ok(Some(answer)) => return Some(answer),
            // The process ends, and nobody was asked.
            Ok(None) => return Some(Err(Error::new(ErrorKind::Unavailable, "the question was given up"))),
            Err(_) => {}
        }
        self.0.troubled.insert(upstream.name().clone(), ());
        None
    }

    fn standing(
        &self,
        upstream: &Upstream,
        right: &Right,
        repository: &Repository,
        subject: &Subject,
        ttl: Duration,
        grace: Duration,
    ) -> Standing {
        let of_right = judge(self.age(right), ttl, grace);
        match place(upstream, repository, subject, None) {
            // It is not a matter of days that a repository has something, and it is for nobody in particular.
            Some(place) => of_right.min(judge(self.0.places.get(&place).map(|at| at.elapsed()), grace, grace)),
            None => of_right,
        }
    }

    fn age(&self, right: &Right) -> Option<Duration> {
        self.0.rights.get(right).map(|at| at.elapsed())
    }
}

impl Subject {
    fn named(&self) -> (Reference, Option<AcceptClass>) {
        match self {
            Self::Manifest(reference, accept) => (reference.clone(), Some(accept.class())),
            Self::Blob(digest) => (Reference::Digest(digest.clone()), None),
        }
    }

    /// Asks the upstream for just this; the digest, where it names one.
    async fn ask(&self, upstream: &Upstream, repository: &Repository) -> Result<Option<Digest>, Error> {
        match self {
            Self::Blob(digest) => upstream.head_blob(repository, digest).await.map(|_| None),
            Self::Manifest(reference, accept) => match upstream.head_manifest(repository, reference, accept).await {
                // Some registries know only GET, or say 404 to a HEAD of what they would first have to fetch themselves.
                Err(error) if matches!(error.kind, ErrorKind::Unsupported | ErrorKind::NotFound) => {
                    upstream.get_manifest(repository, reference, accept).await.map(|body| body.digest)
                }
                head => head.map(|head| head.digest),
            },
        }
    }
}

/// Who asks, and how long a yes holds; `None` where that is not what decides.
fn terms(upstream: &Upstream) -> Option<(Asker, Duration, Duration)> {
    match upstream.access() {
        Access::Client { ttl, grace } => Some((upstream.asker().unwrap_or(Asker::NOBODY), ttl, grace)),
        Access::Shared => None,
    }
}

/// The digest that has to be the repository's; `told`: the one that a tag means.
fn place(upstream: &Upstream, repository: &Repository, subject: &Subject, told: Option<Digest>) -> Option<Place> {
    let (digest, is_blob) = match subject {
        Subject::Blob(digest) => (digest.clone(), true),
        Subject::Manifest(Reference::Digest(digest), _) => (digest.clone(), false),
        Subject::Manifest(Reference::Tag(_), _) => (told?, false),
    };
    Some(Place { upstream: upstream.name().clone(), repository: repository.clone(), digest, is_blob })
}

fn judge(age: Option<Duration>, ttl: Duration, grace: Duration) -> Standing {
    match age {
        Some(age) if age < ttl => Standing::Fresh,
        Some(age) if age < grace => Standing::InOutage,
        Some(_) | None => Standing::Nothing,
    }
}

fn remembering<K: std::hash::Hash + Eq + Send + Sync + 'static>() -> Cache<K, Instant> {
    // The default policy refuses newcomers, who would be asked for again and again.
    Cache::builder().max_capacity(MOST).eviction_policy(EvictionPolicy::lru()).build()
}

async fn timeout<T>(work: impl Future<Output = T>) -> Result<T, tokio::time::error::Elapsed> {
    tokio::time::timeout(PATIENCE, work).await
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
