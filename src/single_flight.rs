//! One question at a time: whoever asks while an answer is on its way gets the same answer.
//!
//! The asking runs as a task of its own, so that it ends although its first asker left.

use std::{collections::HashMap, hash::Hash, sync::Arc, time::Duration};

use parking_lot::{Mutex, MutexGuard};

use tokio::{sync::watch, time::timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// How long a request that came by forebays waits for what may wait for it, in case they stand in a row and not in a circle.
pub(crate) const CYCLE_TIMEOUT: Duration = Duration::from_secs(2);

/// What a request waits for may wait for that request.
#[derive(Debug)]
pub(crate) struct WaitCycle;

/// Questions on their way, by what is asked.
pub(crate) struct SingleFlight<K, V> {
    tasks: TaskTracker,
    shutdown: CancellationToken,
    under_way: Arc<Mutex<HashMap<K, Pending<V>>>>,
}

/// An answer that is on its way. `None` until it is there.
pub(crate) struct Pending<V>(watch::Receiver<Option<V>>);

impl<V> Clone for Pending<V> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<V: Clone> Pending<V> {
    /// The answer; `None` when whoever was to give it is gone (the process ends).
    pub(crate) async fn answer(mut self) -> Option<V> {
        self.0.wait_for(Option::is_some).await.ok().and_then(|answer| answer.clone())
    }

    /// The same, for a request that must not wait for ever where others ask by way of the same mirrors (`may_be_loop`).
    pub(crate) async fn answer_unless(self, may_be_loop: bool) -> Result<Option<V>, WaitCycle> {
        match may_be_loop {
            true => timeout(CYCLE_TIMEOUT, self.answer()).await.map_err(|_| WaitCycle),
            false => Ok(self.answer().await),
        }
    }
}

impl<K, V> SingleFlight<K, V>
where
    K: Clone + Eq + Hash + Send + 'static,
    V: Clone + Send + Sync + 'static,
{
    /// Questions run as tasks of `tasks` and end, unanswered, with `shutdown`.
    pub(crate) fn new(tasks: TaskTracker, shutdown: CancellationToken) -> Self {
        Self { tasks, shutdown, under_way: Arc::default() }
    }

    /// Joins the question `key`, or asks it; whether this one asked.
    pub(crate) fn join<F>(&self, key: K, ask: impl FnOnce() -> F) -> (Pending<V>, bool)
    where
        F: Future<Output = V> + Send + 'static,
    {
        let mut under_way = lock(&self.under_way);
        if let Some(flight) = under_way.get(&key) {
            return (flight.clone(), false);
        }
        let (sender, receiver) = watch::channel(None);
        let flight = Pending(receiver);
        under_way.insert(key.clone(), flight.clone());
        drop(under_way);
        let landed = RemoveOnDrop { key, under_way: self.under_way.clone() };
        let asking = ask();
        let shutdown = self.shutdown.clone();
        self.tasks.spawn(async move {
            let answer = tokio::select! {
                () = shutdown.cancelled() => return,
                answer = asking => answer,
            };
            // Whoever comes now asks anew; whoever waits gets the answer.
            drop(landed);
            sender.send_replace(Some(answer));
        });
        (flight, true)
    }
}

/// Takes the question off the list, also when its task is dropped or panics.
struct RemoveOnDrop<K: Eq + Hash, V> {
    key: K,
    under_way: Arc<Mutex<HashMap<K, Pending<V>>>>,
}

impl<K: Eq + Hash, V> Drop for RemoveOnDrop<K, V> {
    fn drop(&mut self) {
        lock(&self.under_way).remove(&self.key);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::Notify;

    use super::*;

    #[tokio::test]
    async fn fifty_askers_one_question() {
        let flights = SingleFlight::new(TaskTracker::new(), CancellationToken::new());
        let (asked, gate) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
        let ask = || {
            let (asked, gate) = (asked.clone(), gate.clone());
            async move {
                gate.notified().await;
                asked.fetch_add(1, Ordering::SeqCst)
            }
        };
        let joined: Vec<_> = (0..50).map(|_| flights.join("tag", ask)).collect();
        assert_eq!(joined.iter().filter(|(_, asks)| *asks).count(), 1);
        gate.notify_one();
        for (flight, _) in joined {
            assert_eq!(flight.answer().await, Some(0));
        }
        assert_eq!(asked.load(Ordering::SeqCst), 1);
        let (again, asks) = flights.join("tag", ask);
        gate.notify_one();
        assert_eq!((again.answer().await, asks), (Some(1), true), "an answer is not kept");
    }

    #[tokio::test]
    async fn a_panic_is_no_answer_and_blocks_nobody() {
        let flights = SingleFlight::<_, u32>::new(TaskTracker::new(), CancellationToken::new());
        let (flight, _) = flights.join(1, || async { panic!("on purpose") });
        assert_eq!(flight.answer().await, None);
        let (flight, asks) = flights.join(1, || async { 7 });
        assert_eq!((flight.answer().await, asks), (Some(7), true));
    }
}
