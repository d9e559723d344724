//! Turns of the pages that look through the history.
//!
//! What must hold: however many visitors ask, and however soon they leave, few threads look at a time.

use std::sync::Arc;

use tokio::sync::Semaphore;

use super::History;

/// How many look at a time: each takes a thread for some milliseconds.
const MAX_READERS: usize = 2;

/// The turns. A cheap handle.
#[derive(Clone, Debug)]
pub(crate) struct Readers(Arc<Semaphore>);

impl Default for Readers {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(MAX_READERS)))
    }
}

impl Readers {
    /// Asks the history a question in turn; `None`: the process ends.
    pub(crate) async fn ask<T: Send + 'static>(
        &self,
        history: &History,
        question: impl FnOnce(&History) -> T + Send + 'static,
    ) -> Option<T> {
        let turn = self.0.clone().acquire_owned().await.ok()?;
        let history = history.clone();
        let work = move || {
            // Held until the work is done: the visitor may leave before that.
            let _turn = turn;
            question(&history)
        };
        tokio::task::spawn_blocking(work).await.ok()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use crate::byte_counter::ByteCounter;

    #[tokio::test]
    async fn a_reader_that_left_keeps_its_turn_until_it_is_done() {
        let (readers, history) = (Readers::default(), History::new(ByteCounter::default()));
        let (started, begun) = mpsc::channel();
        let (finish, finished) = mpsc::channel::<()>();
        let question = move |_: &History| {
            started.send(()).unwrap();
            finished.recv().unwrap();
        };
        let asking = tokio::spawn({
            let (readers, history) = (readers.clone(), history.clone());
            async move { readers.ask(&history, question).await }
        });
        tokio::task::spawn_blocking(move || begun.recv().unwrap()).await.unwrap();
        asking.abort();
        assert!(asking.await.unwrap_err().is_cancelled());
        assert_eq!(readers.0.available_permits(), MAX_READERS - 1);
        finish.send(()).unwrap();
        let all = readers.0.acquire_many(u32::try_from(MAX_READERS).unwrap()).await;
        drop(all.unwrap());
        assert_eq!(readers.ask(&history, |history| history.last_day().len()).await, Some(144));
    }
}
