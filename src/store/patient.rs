//! Requests that no client waits for: those that keep the store in order.
//!
//! What must hold: while the store is left alone they wait, and go on where they were; one that the store refuses again
//! and again is given up, and so are all in an outage that does not end.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep};

use super::{IfPresent, Lane, Store, error::Error, error_kind::ErrorKind, listing::Page, names::ObjectName};

/// How long a request waits for a store that fails.
const MAX_OUTAGE: Duration = Duration::from_secs(60 * 60);
/// How often a write or a deletion is sent: another one may succeed.
const MAX_SENT: u32 = 4;
/// The shortest wait while the store is left alone.
const MIN_PAUSE: Duration = Duration::from_millis(200);

/// The store, for requests that can wait. Each waits an hour at most.
pub(crate) struct Patient<'a>(pub(super) &'a Store);

impl Patient<'_> {
    /// # Errors
    /// As [`Store::list`].
    pub(crate) async fn list(&self, prefix: &str, token: Option<&str>) -> Result<Page, Error> {
        self.until_done(Lane::List, u32::MAX, || self.0.list(prefix, token.map(str::to_owned))).await
    }

    /// # Errors
    /// As [`Store::get_small`].
    pub(crate) async fn get_small(&self, name: &ObjectName, max: usize, limit: Duration) -> Result<Bytes, Error> {
        self.until_done(Lane::Read, u32::MAX, || self.0.get_small(name, max, limit)).await
    }

    /// # Errors
    /// As [`Store::put`]; the request was sent four times.
    pub(crate) async fn put(&self, name: &ObjectName, content: &Bytes, present: IfPresent) -> Result<(), Error> {
        self.until_done(Lane::Write, MAX_SENT, || self.0.put(name, content.clone(), present)).await
    }

    /// # Errors
    /// As [`Store::delete`]; the request was sent four times.
    pub(crate) async fn delete(&self, name: &ObjectName) -> Result<(), Error> {
        self.until_done(Lane::Delete, MAX_SENT, || self.0.delete(name)).await
    }

    async fn until_done<T, R>(&self, lane: Lane, max_sent: u32, request: impl Fn() -> R) -> Result<T, Error>
    where
        R: Future<Output = Result<T, Error>>,
    {
        let (end, mut sent) = (Instant::now() + MAX_OUTAGE, 0);
        loop {
            let error = match request().await {
                Err(error) => error,
                done => return done,
            };
            let was_asked = error.kind != ErrorKind::NotAsked;
            sent += u32::from(was_asked);
            if (was_asked && !error.is_of_store()) || sent >= max_sent || Instant::now() >= end {
                return Err(error);
            }
            sleep(self.0.breaker(lane).pause(Instant::now()).unwrap_or_default().max(MIN_PAUSE)).await;
        }
    }
}
