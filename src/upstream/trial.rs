//! Whether forebay's own credential is shown, once its upstream has refused it.
//!
//! What must hold: a credential that was refused is shown again after a pause that grows, and not before; another one is shown
//! at once. Until one was taken, requests show it one after the other, so that the first refusal spares the rest.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout},
};

use super::credential::Credential;

/// How long a credential is not shown after it was refused; twice as long after each time.
const MIN_PAUSE: Duration = Duration::from_secs(10);
const MAX_PAUSE: Duration = Duration::from_secs(600);
/// How long a request waits for the verdict that another one brings. A realm that hangs is no verdict.
const TURN_TIMEOUT: Duration = Duration::from_secs(2);

/// What the upstream said of forebay's credentials.
#[derive(Debug)]
pub(super) struct Trial {
    standing: Mutex<Standing>,
    turn: Arc<Semaphore>,
}

#[derive(Debug, Default)]
enum Standing {
    #[default]
    Unknown,
    Taken,
    Refused {
        credential: Arc<Credential>,
        until: Instant,
        pause: Duration,
    },
}

/// Held while a credential is shown that was not taken yet.
#[derive(Debug)]
pub(super) struct Turn {
    _permit: OwnedSemaphorePermit,
}

impl Trial {
    pub(super) fn new() -> Self {
        Self { standing: Mutex::default(), turn: Arc::new(Semaphore::new(1)) }
    }

    /// To be held while the credential is shown. `None`: it was taken before, or none came in time.
    pub(super) async fn turn(&self) -> Option<Turn> {
        if self.is_taken() {
            return None;
        }
        let turn = timeout(TURN_TIMEOUT, self.turn.clone().acquire_owned()).await;
        turn.ok()?.ok().map(|permit| Turn { _permit: permit })
    }

    /// Whether the credential was taken when it was last shown.
    pub(super) fn is_taken(&self) -> bool {
        self.with(|standing| matches!(standing, Standing::Taken))
    }

    /// For how long this one is not to be shown.
    pub(super) fn withheld(&self, shown: &Credential) -> Option<Duration> {
        self.with(|standing| match standing {
            Standing::Refused { credential, until, .. } if **credential == *shown => {
                until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
            }
            _ => None,
        })
    }

    /// It was refused. Whether that is news.
    pub(super) fn refused(&self, shown: &Arc<Credential>) -> bool {
        let now = Instant::now();
        self.with(|standing| {
            let (pause, is_news) = match standing {
                Standing::Refused { credential, until, .. } if credential == shown && now < *until => return false,
                Standing::Refused { credential, pause, .. } if credential == shown => {
                    ((*pause * 2).min(MAX_PAUSE), false)
                }
                _ => (MIN_PAUSE, true),
            };
            *standing = Standing::Refused { credential: shown.clone(), until: now + pause, pause };
            is_news
        })
    }

    /// It was taken. Whether the one before was refused.
    pub(super) fn taken(&self) -> bool {
        self.with(|standing| matches!(std::mem::replace(standing, Standing::Taken), Standing::Refused { .. }))
    }

    fn with<T>(&self, act: impl FnOnce(&mut Standing) -> T) -> T {
        act(&mut self.standing.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;
    use crate::upstream::credential::Secret;

    fn password(password: &str) -> Arc<Credential> {
        Arc::new(Credential::Password { username: "me".to_owned(), password: Secret::new(password.to_owned()) })
    }

    #[tokio::test(start_paused = true)]
    async fn a_refused_credential_is_shown_again_after_growing_pauses() {
        let (trial, old, new) = (Trial::new(), password("old"), password("new"));
        assert_eq!(trial.withheld(&old), None);
        for (seconds, is_news) in [(10, true), (20, false), (40, false), (80, false), (160, false), (320, false)] {
            assert_eq!(trial.refused(&old), is_news);
            // Of requests that were on their way together, one counts.
            assert!(!trial.refused(&old));
            assert_eq!(trial.withheld(&old), Some(Duration::from_secs(seconds)));
            assert_eq!(trial.withheld(&new), None);
            tokio::time::advance(Duration::from_secs(seconds)).await;
            assert_eq!(trial.withheld(&old), None);
        }
        for _ in 0..2 {
            trial.refused(&old);
            assert_eq!(trial.withheld(&old), Some(MAX_PAUSE));
            tokio::time::advance(MAX_PAUSE).await;
        }
        assert!(trial.taken() && !trial.taken());
        assert!(trial.refused(&new));
        assert_eq!(trial.withheld(&new), Some(MIN_PAUSE));
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_not_taken_is_shown_one_by_one() {
        let trial = Trial::new();
        let turn = trial.turn().await.unwrap();
        assert!(trial.turn().now_or_never().is_none());
        // A verdict that does not come holds up nothing for good.
        assert!(trial.turn().await.is_none());
        drop(turn);
        assert!(trial.turn().await.is_some());
        trial.taken();
        assert!(trial.turn().await.is_none());
    }
}
