//! Parses large documents off the threads that serve clients, and few at a time.
//!
//! Upstreams send documents of up to 16 MiB; to parse or to hash one takes a tenth of a second.

use std::sync::Arc;

use tokio::sync::Semaphore;

/// Longer documents are parsed on the blocking pool, in bytes.
const MAX_ON_THREAD: usize = 64 * 1024;
/// How many large documents are parsed at a time.
const MAX_TURNS: usize = 2;

/// Turns to parse large documents. A cheap handle.
#[derive(Clone)]
pub(crate) struct Offload(Arc<Semaphore>);

impl Default for Offload {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(MAX_TURNS)))
    }
}

impl Offload {
    /// Runs `work`, which parses or hashes a document of `len` bytes; `None` if the process ends.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        len: usize,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        if len <= MAX_ON_THREAD {
            return Some(work());
        }
        let turn = self.0.clone().acquire_owned().await.ok()?;
        // The turn ends with the work, not with the request, whose client may leave.
        let work = move || {
            let read = work();
            drop(turn);
            read
        };
        tokio::task::spawn_blocking(work).await.ok()
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{
            atomic::{AtomicUsize, Ordering},
            mpsc,
        },
        thread,
    };

    use super::*;

    #[tokio::test]
    async fn a_large_document_is_read_off_the_serving_thread() {
        let (documents, here) = (Offload::default(), thread::current().id());
        for (len, same) in [(0, true), (MAX_ON_THREAD, true), (MAX_ON_THREAD + 1, false)] {
            let read = documents.read(len, || thread::current().id()).await;
            assert_eq!(read == Some(here), same, "{len}");
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_turn_lasts_as_long_as_its_work() {
        let (documents, running) = (Offload::default(), Arc::new(AtomicUsize::new(0)));
        let mut ends = Vec::new();
        for expected in 1..=MAX_TURNS {
            let (end, ended) = mpsc::channel::<()>();
            let (of_work, counted) = (running.clone(), documents.clone());
            let reading = tokio::spawn(async move {
                let work = move || {
                    of_work.fetch_add(1, Ordering::SeqCst);
                    let _ = ended.recv();
                };
                counted.read(MAX_ON_THREAD + 1, work).await
            });
            while running.load(Ordering::SeqCst) < expected {
                tokio::task::yield_now().await;
            }
            // Its client leaves.
            reading.abort();
            assert!(reading.await.unwrap_err().is_cancelled());
            ends.push(end);
        }
        assert_eq!(documents.0.available_permits(), 0);
        drop(ends);
        assert_eq!(documents.read(MAX_ON_THREAD + 1, || 7).await, Some(7));
    }
}
