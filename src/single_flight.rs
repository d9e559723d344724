//! One request at a time for equal keys: a caller that arrives while a request is in flight gets the same response.
//!
//! Each request runs in a task of its own, so it completes even if its first caller disconnects.

use std::{collections::HashMap, hash::Hash, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{sync::watch, time::timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// How long a request that came through other mirrors waits for a request that may wait for it. The mirrors may form a
/// chain, which answers in time, or a cycle, which never does.
pub(crate) const CYCLE_TIMEOUT: Duration = Duration::from_secs(2);

/// The request in flight may itself wait for this caller.
#[derive(Debug)]
pub(crate) struct WaitCycle;

/// The requests in flight, by key.
pub(crate) struct SingleFlight<K, V> {
    tasks: TaskTracker,
    shutdown: CancellationToken,
    in_flight: Arc<Mutex<HashMap<K, Pending<V>>>>,
}

/// A response that may be on its way: `None` until it has arrived.
type Pending<V> = watch::Receiver<Option<V>>;

/// What a caller got from a request in flight.
pub(crate) struct Flight<V> {
    /// `None` if the request ended without a response: it panicked, or the process shuts down.
    pub response: Option<V>,
    /// Whether this caller started the request.
    pub is_leader: bool,
}

impl<K, V> SingleFlight<K, V>
where
    K: Clone + Eq + Hash + Send + 'static,
    V: Clone + Send + Sync + 'static,
{
    /// Requests run as tasks of `tasks` and end, without a response, with `shutdown`.
    pub(crate) fn new(tasks: TaskTracker, shutdown: CancellationToken) -> Self {
        Self { tasks, shutdown, in_flight: Arc::default() }
    }

    /// Starts a request, or joins the one in flight, and waits for its response.
    ///
    /// `may_cycle`: the caller came through other mirrors, so the request in flight may wait for this caller.
    ///
    /// # Errors
    /// [`WaitCycle`] if such a caller joined a request that did not end within [`CYCLE_TIMEOUT`].
    pub(crate) async fn run<F>(
        &self,
        key: K,
        may_cycle: bool,
        request: impl FnOnce() -> F,
    ) -> Result<Flight<V>, WaitCycle>
    where
        F: Future<Output = V> + Send + 'static,
    {
        let (pending, is_leader) = self.join(key, request);
        let response = match may_cycle && !is_leader {
            true => timeout(CYCLE_TIMEOUT, response(pending)).await.map_err(|_| WaitCycle)?,
            false => response(pending).await,
        };
        Ok(Flight { response, is_leader })
    }

    /// Joins the request `key`, or starts it; and whether this call started it.
    fn join<F>(&self, key: K, request: impl FnOnce() -> F) -> (Pending<V>, bool)
    where
        F: Future<Output = V> + Send + 'static,
    {
        let mut in_flight = self.in_flight.lock();
        if let Some(pending) = in_flight.get(&key) {
            return (pending.clone(), false);
        }
        let (sender, pending) = watch::channel(None);
        in_flight.insert(key.clone(), pending.clone());
        drop(in_flight);
        let entry = RemoveOnDrop { key, in_flight: self.in_flight.clone() };
        let request = request();
        let shutdown = self.shutdown.clone();
        self.tasks.spawn(async move {
            let response = tokio::select! {
                () = shutdown.cancelled() => return,
                response = request => response,
            };
            // From here on a caller starts a new request; those that joined this one get its response.
            drop(entry);
            sender.send_replace(Some(response));
        });
        (pending, true)
    }
}

async fn response<V: Clone>(mut pending: Pending<V>) -> Option<V> {
    pending.wait_for(Option::is_some).await.ok().and_then(|response| response.clone())
}

/// Removes a request from the map, also when its task is dropped or panics.
struct RemoveOnDrop<K: Eq + Hash, V> {
    key: K,
    in_flight: Arc<Mutex<HashMap<K, Pending<V>>>>,
}

impl<K: Eq + Hash, V> Drop for RemoveOnDrop<K, V> {
    fn drop(&mut self) {
        self.in_flight.lock().remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::Notify;

    use super::*;

    #[tokio::test]
    async fn fifty_equal_requests_are_one() {
        let flights = SingleFlight::new(TaskTracker::new(), CancellationToken::new());
        let (sent, gate) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
        let request = || {
            let (sent, gate) = (sent.clone(), gate.clone());
            async move {
                gate.notified().await;
                sent.fetch_add(1, Ordering::SeqCst)
            }
        };
        let joined: Vec<_> = (0..50).map(|_| flights.join("tag", request)).collect();
        assert_eq!(joined.iter().filter(|(_, is_leader)| *is_leader).count(), 1);
        gate.notify_one();
        for (pending, _) in joined {
            assert_eq!(response(pending).await, Some(0));
        }
        assert_eq!(sent.load(Ordering::SeqCst), 1);
        gate.notify_one();
        let again = flights.run("tag", false, request).await.unwrap();
        assert_eq!((again.response, again.is_leader), (Some(1), true), "a response is not kept");
    }

    #[tokio::test]
    async fn a_panic_gives_no_response_and_blocks_no_caller() {
        let flights = SingleFlight::<_, u32>::new(TaskTracker::new(), CancellationToken::new());
        let first = flights.run(1, false, || async { panic!("on purpose") }).await.unwrap();
        assert_eq!(first.response, None);
        let second = flights.run(1, false, || async { 7 }).await.unwrap();
        assert_eq!((second.response, second.is_leader), (Some(7), true));
    }

    #[tokio::test(start_paused = true)]
    async fn only_a_joiner_in_a_cycle_stops_waiting() {
        let flights = SingleFlight::new(TaskTracker::new(), CancellationToken::new());
        let request = || tokio::time::sleep(CYCLE_TIMEOUT * 10);
        let (leader, joiner, direct) =
            tokio::join!(flights.run(1, true, request), flights.run(1, true, request), flights.run(1, false, request));
        assert!(leader.unwrap().response.is_some() && joiner.is_err() && direct.unwrap().response.is_some());
    }
}
