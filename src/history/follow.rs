//! Those who follow what happens.
//!
//! What must hold: without followers an addition costs one load; a follower that does not read in time loses what it
//! did not read, learns how much that was, and holds no one up.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicUsize, Ordering},
};

use bytes::Bytes;
use tokio::sync::broadcast::{
    self,
    error::{RecvError, TryRecvError},
};

use super::FinishedRequest;

/// How many requests wait for the slowest follower.
const MAX_WAITING: usize = 1024;

/// A request that has ended.
#[derive(Debug)]
pub(crate) struct Happening {
    pub request: Arc<FinishedRequest>,
    written: OnceLock<Bytes>,
}

/// All followers.
pub(super) struct Followers {
    sender: broadcast::Sender<Arc<Happening>>,
    count: Arc<AtomicUsize>,
}

/// One that follows what happens, until it is dropped.
pub(crate) struct Follower {
    receiver: broadcast::Receiver<Arc<Happening>>,
    _counted: Counted,
}

/// What a follower learns.
#[derive(Clone, Debug)]
pub(crate) enum Followed {
    Request(Arc<Happening>),
    /// It did not read in time, and so many requests are left out.
    LeftOut(u64),
}

/// Counts a follower as long as this lives.
struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Default for Followers {
    fn default() -> Self {
        Self { sender: broadcast::Sender::new(MAX_WAITING), count: Arc::default() }
    }
}

impl Followers {
    pub(super) fn follow(&self) -> Follower {
        let receiver = self.sender.subscribe();
        self.count.fetch_add(1, Ordering::Relaxed);
        Follower { receiver, _counted: Counted(self.count.clone()) }
    }

    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Tells all followers of a request.
    pub(super) fn tell(&self, request: &Arc<FinishedRequest>) {
        // The channel would take a lock.
        if self.count.load(Ordering::Relaxed) > 0 {
            let happening = Happening { request: request.clone(), written: OnceLock::new() };
            // The last follower may have gone meanwhile.
            let _ = self.sender.send(Arc::new(happening));
        }
    }
}

impl Happening {
    /// How clients read it: written once for all followers, by the first one.
    pub(crate) fn written(&self, write: impl FnOnce(&FinishedRequest) -> Bytes) -> Bytes {
        self.written.get_or_init(|| write(&self.request)).clone()
    }
}

impl Follower {
    /// What happens next; `None`: nothing more, since the history is gone.
    pub(crate) async fn next(&mut self) -> Option<Followed> {
        match self.receiver.recv().await {
            Ok(happening) => Some(Followed::Request(happening)),
            Err(RecvError::Lagged(left_out)) => Some(Followed::LeftOut(left_out)),
            Err(RecvError::Closed) => None,
        }
    }

    /// The same, if it has happened already.
    pub(crate) fn next_now(&mut self) -> Option<Followed> {
        match self.receiver.try_recv() {
            Ok(happening) => Some(Followed::Request(happening)),
            Err(TryRecvError::Lagged(left_out)) => Some(Followed::LeftOut(left_out)),
            Err(TryRecvError::Empty | TryRecvError::Closed) => None,
        }
    }
}
