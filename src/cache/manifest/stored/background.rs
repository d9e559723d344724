//! Writes to the object store, which no client waits for.
//!
//! What must hold: what waits has a bound in bytes, and few are sent at a time; what finds no room is left out.

use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// How many bytes may wait or be under way.
const MAX_BYTES: usize = 32 * 1024 * 1024;
/// What a write weighs beside its bytes.
const WRITE: usize = 2 * 1024;
/// How many are sent at a time.
const MAX_AT_ONCE: usize = 4;
/// The unit in which bytes are counted.
const UNIT: usize = 1024;

pub(super) struct Background {
    room: Arc<Semaphore>,
    turns: Arc<Semaphore>,
    tasks: TaskTracker,
    end: CancellationToken,
}

impl Background {
    /// Writes run as tasks of `tasks`, and end with `end`.
    pub(super) fn new(tasks: TaskTracker, end: CancellationToken) -> Self {
        let (room, turns) = (Arc::new(Semaphore::new(MAX_BYTES / UNIT)), Arc::new(Semaphore::new(MAX_AT_ONCE)));
        Self { room, turns, tasks, end }
    }

    /// Runs a write of so many bytes when it is its turn; returns whether there is room for it.
    pub(super) fn run(&self, bytes: usize, write: impl Future<Output = ()> + Send + 'static) -> bool {
        let weight = u32::try_from((bytes + WRITE).div_ceil(UNIT)).unwrap_or(u32::MAX);
        let Ok(room) = self.room.clone().try_acquire_many_owned(weight) else { return false };
        let (turns, end) = (self.turns.clone(), self.end.clone());
        self.tasks.spawn(async move {
            let write = async {
                let _turn = turns.acquire_owned().await;
                write.await;
            };
            end.run_until_cancelled(write).await;
            drop(room);
        });
        true
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn what_waits_to_be_written_has_a_bound() {
        let background = Background::new(TaskTracker::new(), CancellationToken::new());
        let half = MAX_BYTES / 2 - WRITE;
        let (done, waits) = oneshot::channel::<()>();
        assert!(background.run(half, async move { drop(waits.await) }));
        assert!(background.run(half, async {}));
        assert!(!background.run(half, async {}), "there is no room for a third");
        done.send(()).unwrap();
        background.tasks.close();
        background.tasks.wait().await;
        assert!(background.run(half, async {}), "there is room again");
    }
}
