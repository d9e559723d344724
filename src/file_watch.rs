//! Watches files whose new content is used while the process runs.
//!
//! Contents are compared, not times and not notifications: that works with the symbolic links that Kubernetes and certbot
//! swap, and on network file systems.
//!
//! What must hold: new content is used only if two reads in a row found it, so that a half-written file is never used. An error
//! is reported once, and only if two reads in a row found it: two files that belong together are replaced one after the other.

use std::{fmt::Display, time::Duration};

use tokio_util::sync::CancellationToken;

/// How often files are read.
pub(crate) const POLL_INTERVAL: Duration = Duration::from_secs(2);

/// A SHA-256 of files: equal if nothing changed.
pub(crate) type Fingerprint = [u8; 32];

/// Content that differs from the content in use, read and found good.
pub(crate) struct Changed<T> {
    pub(crate) fingerprint: Fingerprint,
    pub(crate) content: T,
}

/// Reads files at each `interval` until `shutdown`. `read` blocks, and gives `None` if the files are those in use; `handle` is
/// given the content to use, or the error to report.
pub(crate) async fn watch<T: Send + 'static, E: Display + Send + 'static>(
    interval: Duration,
    shutdown: CancellationToken,
    read: impl Fn() -> Result<Option<Changed<T>>, E> + Clone + Send + 'static,
    handle: impl Fn(Result<T, E>),
) {
    let mut repetition = Repetition::default();
    while tokio::time::timeout(interval, shutdown.cancelled()).await.is_err() {
        // The runtime is ending, and this task with it.
        let Ok(result) = tokio::task::spawn_blocking(read.clone()).await else { return };
        if let Some(result) = repetition.next(result) {
            handle(result);
        }
    }
}

/// What the last reads found.
#[derive(Default)]
struct Repetition {
    changed: Option<Fingerprint>,
    error: Option<String>,
    is_reported: bool,
}

impl Repetition {
    /// The content to use or the error to report, if this read and the last one agree.
    fn next<T, E: Display>(&mut self, read: Result<Option<Changed<T>>, E>) -> Option<Result<T, E>> {
        let last = self.changed.take();
        match read {
            Ok(None) => {
                *self = Self::default();
                None
            }
            Ok(Some(Changed { fingerprint, content })) if last == Some(fingerprint) => {
                *self = Self::default();
                Some(Ok(content))
            }
            Ok(Some(Changed { fingerprint, .. })) => {
                self.changed = Some(fingerprint);
                None
            }
            Err(error) => {
                let text = error.to_string();
                let is_repeated = self.error.as_ref() == Some(&text);
                let is_reported = std::mem::replace(&mut self.is_reported, is_repeated);
                self.error = Some(text);
                (is_repeated && !is_reported).then_some(Err(error))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Read = Result<Option<u8>, &'static str>;

    /// What each of several reads in a row leads to.
    fn results(reads: &[Read]) -> Vec<Option<Result<u8, &'static str>>> {
        let mut repetition = Repetition::default();
        let changed = |content: u8| Changed { fingerprint: [content; 32], content };
        reads.iter().map(|read| repetition.next(read.map(|content| content.map(changed)))).collect()
    }

    #[test]
    fn content_is_used_once_two_reads_found_it() {
        let reads = [Ok(None), Ok(Some(1)), Ok(Some(2)), Ok(Some(2)), Ok(None)];
        assert_eq!(results(&reads), [None, None, None, Some(Ok(2)), None]);
        for between in [Ok(None), Err("a")] {
            assert_eq!(results(&[Ok(Some(1)), between, Ok(Some(1))]), [None; 3], "{between:?}");
        }
    }

    #[test]
    fn an_error_is_reported_once_two_reads_found_it() {
        let reads = ["a", "a", "a", "b", "b", "a"].map(Err);
        assert_eq!(results(&reads), [None, Some(Err("a")), None, None, Some(Err("b")), None]);
        let over = [Err("a"), Err("a"), Ok(None), Err("a"), Err("a")];
        assert_eq!(results(&over), [None, Some(Err("a")), None, None, Some(Err("a"))]);
    }

    #[tokio::test(start_paused = true)]
    async fn files_are_read_until_the_shutdown() {
        let shutdown = CancellationToken::new();
        let read = || Ok::<_, String>(Some(Changed { fingerprint: [1; 32], content: () }));
        let (ends, handled) = (shutdown.clone(), std::cell::Cell::new(0));
        let handle = |result: Result<(), String>| {
            assert_eq!(result, Ok(()));
            handled.set(handled.get() + 1);
            if handled.get() == 3 {
                ends.cancel();
            }
        };
        watch(POLL_INTERVAL, shutdown, read, handle).await;
        assert_eq!(handled.get(), 3);
    }
}
