//! What an upstream has had enough of: after a 429 that says how long, one question at a time.
//!
//! What must hold: only the host and the principal that got the 429, and the kind of request that did, are held back; each
//! request that waits has its turn in time, or an answer that says when to come again. Docker Hub counts the GETs of manifests,
//! and answers HEADs and blobs all the while.

use std::{collections::HashMap, sync::Arc, time::Duration};

use parking_lot::Mutex;

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout},
};

use super::Principal;
use crate::oci::Operation;

/// For how long a limit is believed at most.
const MAX_LIMIT: Duration = Duration::from_secs(60 * 60);
/// How long a request waits for its turn.
const TURN_TIMEOUT: Duration = Duration::from_secs(10);
/// How many limits are kept at a time.
const MAX_LIMITS: usize = 1024;

/// Whose requests of which kind are counted together.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Counted {
    pub host: String,
    /// `None`: ours.
    pub principal: Option<Principal>,
    pub operation: Operation,
    pub is_head: bool,
}

#[derive(Debug, Default)]
pub(super) struct Throttle(Mutex<HashMap<Counted, Limit>>);

#[derive(Clone, Debug)]
struct Limit {
    until: Instant,
    turn: Arc<Semaphore>,
}

/// Held by the one request that is asked while a limit lasts.
#[derive(Debug)]
pub(super) struct ThrottleTurn {
    _permit: Option<OwnedSemaphorePermit>,
}

impl Throttle {
    /// To be held until the answer is there.
    ///
    /// # Errors
    /// No turn came in time: how long the limit lasts.
    pub(super) async fn turn(&self, counted: &Counted) -> Result<ThrottleTurn, Duration> {
        let Some(Limit { until, turn }) = self.current(counted) else { return Ok(ThrottleTurn { _permit: None }) };
        let left = until.saturating_duration_since(Instant::now());
        match timeout(TURN_TIMEOUT.min(left), turn.acquire_owned()).await {
            // The semaphore is never closed.
            Ok(permit) => Ok(ThrottleTurn { _permit: permit.ok() }),
            // It is over.
            Err(_) if left <= TURN_TIMEOUT => Ok(ThrottleTurn { _permit: None }),
            Err(_) => Err(until.saturating_duration_since(Instant::now())),
        }
    }

    /// A 429 said to come back after so long.
    pub(super) fn note(&self, counted: Counted, retry_after: Duration) {
        let now = Instant::now();
        let until = now + retry_after.min(MAX_LIMIT);
        self.with(|limits| {
            limits.retain(|_, limit| now < limit.until);
            if let Some(limit) = limits.get_mut(&counted) {
                limit.until = limit.until.max(until);
            } else if limits.len() < MAX_LIMITS {
                limits.insert(counted, Limit { until, turn: Arc::new(Semaphore::new(1)) });
            }
        });
    }

    fn current(&self, counted: &Counted) -> Option<Limit> {
        self.with(|limits| limits.get(counted).filter(|limit| Instant::now() < limit.until).cloned())
    }

    fn with<T>(&self, act: impl FnOnce(&mut HashMap<Counted, Limit>) -> T) -> T {
        act(&mut self.0.lock())
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    fn counted(host: &str, operation: Operation, is_head: bool) -> Counted {
        Counted { host: host.to_owned(), principal: None, operation, is_head }
    }

    #[tokio::test(start_paused = true)]
    async fn one_request_at_a_time_while_a_limit_lasts() {
        let limits = Throttle::default();
        let pulls = counted("a", Operation::Manifest, false);
        limits.note(pulls.clone(), Duration::from_secs(60));
        let first = limits.turn(&pulls).await.unwrap();
        assert!(limits.turn(&pulls).now_or_never().is_none());
        for other in [
            counted("a", Operation::Manifest, true),
            counted("a", Operation::Blob, false),
            counted("b", Operation::Manifest, false),
            Counted { principal: Some(Principal::ANONYMOUS), ..pulls.clone() },
        ] {
            let both = [limits.turn(&other).await, limits.turn(&other).await];
            assert!(both.iter().all(Result::is_ok), "{other:?}");
        }
        // A request that waits in vain is told when to come again.
        assert_eq!(limits.turn(&pulls).await.unwrap_err(), Duration::from_secs(50));
        drop(first);
        let second = limits.turn(&pulls).await.unwrap();
        tokio::time::advance(Duration::from_secs(45)).await;
        // The end of the limit is a turn as well.
        assert!(limits.turn(&pulls).await.is_ok());
        assert!(limits.turn(&pulls).now_or_never().is_some());
        drop(second);
    }
}
