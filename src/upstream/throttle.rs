//! Rate limits: after a 429 with `Retry-After`, only one request at a time is sent.
//!
//! What must hold: only requests of the same kind, for the same principal and host as the one that got the 429, are
//! held back; each waiting request gets its turn in time, or an error that says when to retry. Docker Hub counts the
//! GETs of manifests, and serves HEADs and blobs meanwhile.

use std::{collections::HashMap, sync::Arc, time::Duration};

use http::Method;
use parking_lot::Mutex;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout},
};

use super::{client::outbound_request::OutboundRequest, principal::Principal};
use crate::oci::Operation;

/// The longest limit that is believed.
const MAX_LIMIT: Duration = Duration::from_secs(60 * 60);
/// How long a request waits for its turn.
const TURN_TIMEOUT: Duration = Duration::from_secs(10);
/// How many limits are kept.
const MAX_LIMITS: usize = 1024;

/// Requests that count against one limit.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct ThrottleKey {
    pub host: String,
    /// `None`: forebay itself.
    pub principal: Option<Principal>,
    pub operation: Operation,
    pub is_head: bool,
}

#[derive(Debug, Default)]
pub(super) struct Throttle(Mutex<HashMap<ThrottleKey, Limit>>);

#[derive(Clone, Debug)]
struct Limit {
    until: Instant,
    turn: Arc<Semaphore>,
}

/// Held by the one request that is sent while a limit lasts.
#[derive(Debug)]
pub(super) struct ThrottleTurn {
    _permit: Option<OwnedSemaphorePermit>,
}

impl ThrottleKey {
    pub(super) fn of(request: &OutboundRequest<'_>) -> Self {
        let OutboundRequest { url, principal, operation, method, .. } = request;
        let host =
            format!("{}:{}", url.host_str().unwrap_or_default(), url.port_or_known_default().unwrap_or_default());
        Self { host, principal: *principal, operation: *operation, is_head: *method == Method::HEAD }
    }
}

impl Throttle {
    /// To be held until the response.
    ///
    /// # Errors
    /// No turn came in time. The error is how long the limit still lasts.
    pub(super) async fn turn(&self, key: &ThrottleKey) -> Result<ThrottleTurn, Duration> {
        let Some(Limit { until, turn }) = self.current(key) else { return Ok(ThrottleTurn { _permit: None }) };
        let left = until.saturating_duration_since(Instant::now());
        match timeout(TURN_TIMEOUT.min(left), turn.acquire_owned()).await {
            // The semaphore is never closed.
            Ok(permit) => Ok(ThrottleTurn { _permit: permit.ok() }),
            // The limit has ended.
            Err(_) if left <= TURN_TIMEOUT => Ok(ThrottleTurn { _permit: None }),
            Err(_) => Err(until.saturating_duration_since(Instant::now())),
        }
    }

    /// Notes a 429 with this `Retry-After`.
    pub(super) fn note(&self, key: ThrottleKey, retry_after: Duration) {
        let now = Instant::now();
        let until = now + retry_after.min(MAX_LIMIT);
        self.with(|limits| {
            limits.retain(|_, limit| now < limit.until);
            if let Some(limit) = limits.get_mut(&key) {
                limit.until = limit.until.max(until);
            } else if limits.len() < MAX_LIMITS {
                limits.insert(key, Limit { until, turn: Arc::new(Semaphore::new(1)) });
            }
        });
    }

    fn current(&self, key: &ThrottleKey) -> Option<Limit> {
        self.with(|limits| limits.get(key).filter(|limit| Instant::now() < limit.until).cloned())
    }

    fn with<T>(&self, act: impl FnOnce(&mut HashMap<ThrottleKey, Limit>) -> T) -> T {
        act(&mut self.0.lock())
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    fn counted(host: &str, operation: Operation, is_head: bool) -> ThrottleKey {
        ThrottleKey { host: host.to_owned(), principal: None, operation, is_head }
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
            ThrottleKey { principal: Some(Principal::ANONYMOUS), ..pulls.clone() },
        ] {
            let both = [limits.turn(&other).await, limits.turn(&other).await];
            assert!(both.iter().all(Result::is_ok), "{other:?}");
        }
        // A request without a turn gets the time to retry.
        assert_eq!(limits.turn(&pulls).await.unwrap_err(), Duration::from_secs(50));
        drop(first);
        let second = limits.turn(&pulls).await.unwrap();
        tokio::time::advance(Duration::from_secs(45)).await;
        // The end of the limit is a turn, too.
        assert!(limits.turn(&pulls).await.is_ok());
        assert!(limits.turn(&pulls).now_or_never().is_some());
        drop(second);
    }
}
