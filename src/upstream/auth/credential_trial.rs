//! Whether forebay may send its own credential, once the upstream has refused it.
//!
//! What must hold: forebay sends a refused credential again only after a pause; each further refusal doubles the pause.
//! It sends another credential at once. Until the upstream has accepted a credential, requests send it one after the
//! other, so that the first refusal spares the other requests: a request that gets no turn does not send it. If only
//! one repository refused it, one request for another repository may send it during the pause.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout},
};

use super::{super::error::ErrorKind, credential::Credential};
use crate::oci::Repository;

/// How long forebay does not send a credential after its first refusal.
const MIN_PAUSE: Duration = Duration::from_secs(10);
const MAX_PAUSE: Duration = Duration::from_secs(600);
/// How long a request waits for its turn. This is longer than a response may take, so that a request without a response
/// does not cost the next request its turn.
const TURN_TIMEOUT: Duration = Duration::from_secs(45);
/// The same after a refusal.
const TURN_TIMEOUT_AFTER_REFUSAL: Duration = Duration::from_secs(2);

/// Whether the upstream accepts forebay's credential.
#[derive(Debug)]
pub(in crate::upstream) struct CredentialTrial {
    state: Mutex<TrialState>,
    turn: Arc<Semaphore>,
}

#[derive(Debug, Default)]
enum TrialState {
    #[default]
    Unknown,
    Accepted(Arc<Credential>),
    Refused {
        credential: Arc<Credential>,
        until: Instant,
        pause: Duration,
        /// The repository that refused it, if only one did.
        at: Option<Repository>,
    },
}

/// Held while a request sends a credential that the upstream has not accepted yet.
#[derive(Debug)]
pub(in crate::upstream) struct TrialTurn {
    _permit: OwnedSemaphorePermit,
}

impl CredentialTrial {
    pub(in crate::upstream) fn new() -> Self {
        Self { state: Mutex::default(), turn: Arc::new(Semaphore::new(1)) }
    }

    /// Waits for the turn to send this credential. `None`: no turn is needed, since the upstream has accepted it.
    ///
    /// # Errors
    /// The turn did not come in time.
    pub(in crate::upstream) async fn turn(&self, credential: &Credential) -> Result<Option<TrialTurn>, ErrorKind> {
        if self.is_accepted(credential) {
            return Ok(None);
        }
        let (limit, kind) = match self.was_refused(credential) {
            true => (TURN_TIMEOUT_AFTER_REFUSAL, ErrorKind::OurCredentials),
            false => (TURN_TIMEOUT, ErrorKind::Timeout),
        };
        let permit = timeout(limit, self.turn.clone().acquire_owned()).await;
        if self.is_accepted(credential) {
            return Ok(None);
        }
        // The semaphore is never closed.
        permit.map(|permit| permit.ok().map(|permit| TrialTurn { _permit: permit })).map_err(|_| kind)
    }

    /// Whether the upstream accepted this credential when forebay last sent one.
    pub(in crate::upstream) fn is_accepted(&self, sent: &Credential) -> bool {
        matches!(&*self.state.lock(), TrialState::Accepted(credential) if **credential == *sent)
    }

    fn was_refused(&self, sent: &Credential) -> bool {
        matches!(&*self.state.lock(), TrialState::Refused { credential, .. } if **credential == *sent)
    }

    /// How long forebay must not send this credential in a request for this repository; `None`: it may send it.
    pub(in crate::upstream) fn withheld(&self, sent: &Credential, repository: Option<&Repository>) -> Option<Duration> {
        match &*self.state.lock() {
            TrialState::Refused { credential, until, at, .. } if **credential == *sent => {
                let is_elsewhere = at.as_ref().zip(repository).is_some_and(|(at, repository)| at != repository);
                until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero() && !is_elsewhere)
            }
            _ => None,
        }
    }

    /// Notes a refusal; `at`: the only repository that refused the credential.
    pub(in crate::upstream) fn note_refused(&self, sent: &Arc<Credential>, at: Option<&Repository>) {
        let now = Instant::now();
        let mut state = self.state.lock();
        let pause = match &mut *state {
            TrialState::Refused { credential, until, at: first, .. } if credential == sent && now < *until => {
                if first.as_ref() != at {
                    *first = None;
                }
                return;
            }
            TrialState::Refused { credential, pause, .. } if credential == sent => (*pause * 2).min(MAX_PAUSE),
            _ => MIN_PAUSE,
        };
        *state = TrialState::Refused { credential: sent.clone(), until: now + pause, pause, at: at.cloned() };
    }

    /// Notes that the upstream accepted the credential. Returns whether the upstream refused the previous one.
    pub(in crate::upstream) fn note_accepted(&self, sent: &Arc<Credential>) -> bool {
        let before = std::mem::replace(&mut *self.state.lock(), TrialState::Accepted(sent.clone()));
        matches!(before, TrialState::Refused { .. })
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
    async fn a_refused_credential_is_sent_again_after_growing_pauses() {
        let (trial, old, new) = (CredentialTrial::new(), password("old"), password("new"));
        assert_eq!(trial.withheld(&old, None), None);
        for seconds in [10, 20, 40, 80, 160, 320] {
            trial.note_refused(&old, None);
            // Of concurrent refusals, one counts.
            trial.note_refused(&old, None);
            assert_eq!(trial.withheld(&old, None), Some(Duration::from_secs(seconds)));
            assert_eq!(trial.withheld(&new, None), None);
            tokio::time::advance(Duration::from_secs(seconds)).await;
            assert_eq!(trial.withheld(&old, None), None);
        }
        for _ in 0..2 {
            trial.note_refused(&old, None);
            assert_eq!(trial.withheld(&old, None), Some(MAX_PAUSE));
            tokio::time::advance(MAX_PAUSE).await;
        }
        assert!(trial.note_accepted(&old) && !trial.note_accepted(&old));
        trial.note_refused(&new, None);
        assert_eq!(trial.withheld(&new, None), Some(MIN_PAUSE));
    }

    /// A client that polls a forbidden repository must not block the others.
    #[tokio::test(start_paused = true)]
    async fn in_a_pause_another_repository_may_refuse_it_once() {
        let (trial, sent) = (CredentialTrial::new(), password("old"));
        let [forbidden, other, third]: [Repository; 3] =
            ["forbidden", "other", "third"].map(|name| name.parse().unwrap());
        for _ in 0..2 {
            trial.note_refused(&sent, Some(&forbidden));
            // A second refusal by the same repository changes nothing.
            trial.note_refused(&sent, Some(&forbidden));
            let is_withheld = |repository| trial.withheld(&sent, repository).is_some();
            assert_eq!([Some(&forbidden), Some(&other), None].map(is_withheld), [true, false, true]);
            trial.note_refused(&sent, Some(&other));
            assert_eq!([&forbidden, &other, &third].map(|one| is_withheld(Some(one))), [true; 3]);
            tokio::time::advance(Duration::from_secs(20)).await;
            assert!(!is_withheld(Some(&forbidden)));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_request_at_a_time_sends_an_unproven_credential() {
        let (trial, old, new) = (CredentialTrial::new(), password("old"), password("new"));
        let turn = trial.turn(&old).await.unwrap();
        assert!(turn.is_some() && trial.turn(&old).now_or_never().is_none());
        // Without a turn, no other request sends it.
        assert_eq!(trial.turn(&old).await.unwrap_err(), ErrorKind::Timeout);
        trial.note_refused(&old, None);
        assert_eq!(trial.turn(&old).await.unwrap_err(), ErrorKind::OurCredentials);
        drop(turn);
        assert!(trial.turn(&old).await.unwrap().is_some());
        // A new credential may be wrong, too.
        trial.note_accepted(&old);
        let turn = trial.turn(&new).await.unwrap();
        assert!(turn.is_some() && trial.turn(&old).await.unwrap().is_none());
        let (waited, ()) = tokio::join!(trial.turn(&new), async { drop((trial.note_accepted(&new), turn)) });
        assert!(waited.unwrap().is_none(), "all go on at once");
    }
}
