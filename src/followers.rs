//! Those who follow what happens.
//!
//! What must hold: without followers an event costs one load; a follower that does not read in time loses what it did
//! not read, learns how much that was, and holds no one up.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicUsize, Ordering},
};

use bytes::Bytes;
use tokio::sync::broadcast::{
    self,
    error::{RecvError, TryRecvError},
};

/// How many events wait for the slowest follower.
const MAX_WAITING: usize = 1024;

/// An event.
#[derive(Debug)]
pub(crate) struct Happening<T> {
    pub event: T,
    written: OnceLock<Bytes>,
}

/// All followers of one kind of events.
pub(crate) struct Followers<T> {
    sender: broadcast::Sender<Arc<Happening<T>>>,
    count: Arc<AtomicUsize>,
}

/// One that follows what happens, until it is dropped.
pub(crate) struct Follower<T> {
    receiver: broadcast::Receiver<Arc<Happening<T>>>,
    _counted: Counted,
}

/// What a follower learns.
#[derive(Debug)]
pub(crate) enum Followed<T> {
    Event(Arc<Happening<T>>),
    /// It did not read in time, and so many events are left out.
    LeftOut(u64),
}

/// Counts a follower as long as this lives.
struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl<T> Default for Followers<T> {
    fn default() -> Self {
        Self { sender: broadcast::Sender::new(MAX_WAITING), count: Arc::default() }
    }
}

impl<T> Followers<T> {
    pub(crate) fn follow(&self) -> Follower<T> {
        let receiver = self.sender.subscribe();
        self.count.fetch_add(1, Ordering::Relaxed);
        Follower { receiver, _counted: Counted(self.count.clone()) }
    }

    /// Tells all followers of an event, which is made for them alone.
    pub(crate) fn tell(&self, event: impl FnOnce() -> T) {
        // The channel would take a lock.
        if self.count.load(Ordering::Relaxed) > 0 {
            let happening = Happening { event: event(), written: OnceLock::new() };
            // The last follower may have gone meanwhile.
            let _ = self.sender.send(Arc::new(happening));
        }
    }
}

impl<T> Happening<T> {
    /// How clients read it: written once for all followers, by the first one.
    pub(crate) fn written(&self, write: impl FnOnce(&T) -> Bytes) -> Bytes {
        self.written.get_or_init(|| write(&self.event)).clone()
    }
}

impl<T> Follower<T> {
    /// What happens next; `None`: nothing more, since what it followed is gone. It may be dropped while it waits.
    pub(crate) async fn next(&mut self) -> Option<Followed<T>> {
        match self.receiver.recv().await {
            Ok(happening) => Some(Followed::Event(happening)),
            Err(RecvError::Lagged(left_out)) => Some(Followed::LeftOut(left_out)),
            Err(RecvError::Closed) => None,
        }
    }

    /// The same, if it has happened already.
    pub(crate) fn next_now(&mut self) -> Option<Followed<T>> {
        match self.receiver.try_recv() {
            Ok(happening) => Some(Followed::Event(happening)),
            Err(TryRecvError::Lagged(left_out)) => Some(Followed::LeftOut(left_out)),
            Err(TryRecvError::Empty | TryRecvError::Closed) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_followers_nothing_waits_for_one() {
        let (followers, event) = (Followers::default(), Arc::new(()));
        drop(followers.follow());
        followers.tell(|| -> Arc<()> { panic!("there is no follower") });
        assert_eq!(followers.count.load(Ordering::Relaxed), 0);
        let follower = followers.follow();
        assert_eq!(followers.count.load(Ordering::Relaxed), 1);
        followers.tell(|| event.clone());
        assert_eq!(Arc::strong_count(&event), 2, "it waits for the follower");
        drop(follower);
        assert_eq!(followers.count.load(Ordering::Relaxed), 0);
    }
}
