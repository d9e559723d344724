//! Whether forebay's own credential is shown, once its upstream has refused it.
//!
//! What must hold: a credential that was refused is shown again after a pause that grows, and not before; another one is shown
//! at once. Until one was taken, requests show it one after the other, so that the first refusal spares the rest: a request
//! that gets no turn does not show it. Where nothing but a repository refused it, one request for another repository may show it
//! in the pause.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout},
};

use super::{super::error::ErrorKind, credential::Credential};
use crate::oci::Repository;

/// How long a credential is not shown after it was refused; twice as long after each time.
const MIN_PAUSE: Duration = Duration::from_secs(10);
const MAX_PAUSE: Duration = Duration::from_secs(600);
/// How long a request waits for the verdict that another one brings: longer than an answer may take, so that where none
/// comes the next request has its turn.
const TURN_TIMEOUT: Duration = Duration::from_secs(45);
/// The same where the last verdict is known, and is a refusal.
const LATER_TURN_TIMEOUT: Duration = Duration::from_secs(2);

/// What the upstream said of forebay's credentials.
#[derive(Debug)]
pub(in crate::upstream) struct CredentialTrial {
    standing: Mutex<Standing>,
    turn: Arc<Semaphore>,
}

#[derive(Debug, Default)]
enum Standing {
    #[default]
    Unknown,
    Taken(Arc<Credential>),
    Refused {
        credential: Arc<Credential>,
        until: Instant,
        pause: Duration,
        /// Where nothing but a repository refused it: that repository, until another one did so, too.
        at: Option<Repository>,
    },
}

/// Held while a credential is shown that was not taken yet.
#[derive(Debug)]
pub(in crate::upstream) struct TrialTurn {
    _permit: OwnedSemaphorePermit,
}

impl CredentialTrial {
    pub(in crate::upstream) fn new() -> Self {
        Self { standing: Mutex::default(), turn: Arc::new(Semaphore::new(1)) }
    }

    /// To be held while this one is shown. `None`: it was taken, before or meanwhile.
    ///
    /// # Errors
    /// None came in time.
    pub(in crate::upstream) async fn turn(&self, shown: &Credential) -> Result<Option<TrialTurn>, ErrorKind> {
        if self.is_taken(shown) {
            return Ok(None);
        }
        let (limit, kind) = match self.was_refused(shown) {
            true => (LATER_TURN_TIMEOUT, ErrorKind::OurCredentials),
            false => (TURN_TIMEOUT, ErrorKind::Timeout),
        };
        let permit = timeout(limit, self.turn.clone().acquire_owned()).await;
        if self.is_taken(shown) {
            return Ok(None);
        }
        // The semaphore is never closed.
        permit.map(|permit| permit.ok().map(|permit| TrialTurn { _permit: permit })).map_err(|_| kind)
    }

    /// Whether this one was taken when one was last shown.
    pub(in crate::upstream) fn is_taken(&self, shown: &Credential) -> bool {
        self.with(|standing| matches!(standing, Standing::Taken(credential) if **credential == *shown))
    }

    fn was_refused(&self, shown: &Credential) -> bool {
        self.with(|standing| matches!(standing, Standing::Refused { credential, .. } if **credential == *shown))
    }

    /// For how long this one is not to be shown, in a request for this repository.
    pub(in crate::upstream) fn withheld(
        &self,
        shown: &Credential,
        repository: Option<&Repository>,
    ) -> Option<Duration> {
        self.with(|standing| match standing {
            Standing::Refused { credential, until, at, .. } if **credential == *shown => {
                let is_elsewhere = at.as_ref().zip(repository).is_some_and(|(at, repository)| at != repository);
                until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero() && !is_elsewhere)
            }
            _ => None,
        })
    }

    /// It was refused; `at`: by nothing but this repository. Whether that is news.
    pub(in crate::upstream) fn refused(&self, shown: &Arc<Credential>, at: Option<&Repository>) -> bool {
        let now = Instant::now();
        self.with(|standing| {
            let (pause, is_news) = match standing {
                Standing::Refused { credential, until, at: first, .. } if credential == shown && now < *until => {
                    if first.as_ref() != at {
                        *first = None;
                    }
                    return false;
                }
                Standing::Refused { credential, pause, .. } if credential == shown => {
                    ((*pause * 2).min(MAX_PAUSE), false)
                }
                _ => (MIN_PAUSE, true),
            };
            *standing = Standing::Refused { credential: shown.clone(), until: now + pause, pause, at: at.cloned() };
            is_news
        })
    }

    /// It was taken. Whether the one before was refused.
    pub(in crate::upstream) fn taken(&self, shown: &Arc<Credential>) -> bool {
        let taken = Standing::Taken(shown.clone());
        self.with(|standing| matches!(std::mem::replace(standing, taken), Standing::Refused { .. }))
    }

    fn with<T>(&self, act: impl FnOnce(&mut Standing) -> T) -> T {
        act(&mut self.standing.lock())
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;
    use crate::upstream::auth::credential::Secret;

    fn password(password: &str) -> Arc<Credential> {
        Arc::new(Credential::Password { username: "me".to_owned(), password: Secret::new(password.to_owned()) })
    }

    #[tokio::test(start_paused = true)]
    async fn a_refused_credential_is_shown_again_after_growing_pauses() {
        let (trial, old, new) = (CredentialTrial::new(), password("old"), password("new"));
        assert_eq!(trial.withheld(&old, None), None);
        for (seconds, is_news) in [(10, true), (20, false), (40, false), (80, false), (160, false), (320, false)] {
            assert_eq!(trial.refused(&old, None), is_news);
            // Of requests that were on their way together, one counts.
            assert!(!trial.refused(&old, None));
            assert_eq!(trial.withheld(&old, None), Some(Duration::from_secs(seconds)));
            assert_eq!(trial.withheld(&new, None), None);
            tokio::time::advance(Duration::from_secs(seconds)).await;
            assert_eq!(trial.withheld(&old, None), None);
        }
        for _ in 0..2 {
            trial.refused(&old, None);
            assert_eq!(trial.withheld(&old, None), Some(MAX_PAUSE));
            tokio::time::advance(MAX_PAUSE).await;
        }
        assert!(trial.taken(&old) && !trial.taken(&old));
        assert!(trial.refused(&new, None));
        assert_eq!(trial.withheld(&new, None), Some(MIN_PAUSE));
    }

    /// So that a client that polls what is forbidden keeps no other one out.
    #[tokio::test(start_paused = true)]
    async fn in_a_pause_another_repository_may_refuse_it_once() {
        let (trial, shown) = (CredentialTrial::new(), password("old"));
        let [forbidden, other, third]: [Repository; 3] =
            ["forbidden", "other", "third"].map(|name| name.parse().unwrap());
        for _ in 0..2 {
            trial.refused(&shown, Some(&forbidden));
            // It does so again: that is no news of another one.
            trial.refused(&shown, Some(&forbidden));
            let is_withheld = |repository| trial.withheld(&shown, repository).is_some();
            assert_eq!([Some(&forbidden), Some(&other), None].map(is_withheld), [true, false, true]);
            trial.refused(&shown, Some(&other));
            assert_eq!([&forbidden, &other, &third].map(|one| is_withheld(Some(one))), [true; 3]);
            tokio::time::advance(Duration::from_secs(20)).await;
            assert!(!is_withheld(Some(&forbidden)));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_not_taken_is_shown_one_by_one() {
        let (trial, old, new) = (CredentialTrial::new(), password("old"), password("new"));
        let turn = trial.turn(&old).await.unwrap();
        assert!(turn.is_some() && trial.turn(&old).now_or_never().is_none());
        // While none came, no other request shows it.
        assert_eq!(trial.turn(&old).await.unwrap_err(), ErrorKind::Timeout);
        trial.refused(&old, None);
        assert_eq!(trial.turn(&old).await.unwrap_err(), ErrorKind::OurCredentials);
        drop(turn);
        assert!(trial.turn(&old).await.unwrap().is_some());
        // Another one may be wrong, too.
        trial.taken(&old);
        let turn = trial.turn(&new).await.unwrap();
        assert!(turn.is_some() && trial.turn(&old).await.unwrap().is_none());
        let (waited, ()) = tokio::join!(trial.turn(&new), async { drop((trial.taken(&new), turn)) });
        assert!(waited.unwrap().is_none(), "all go on at once");
    }
}
