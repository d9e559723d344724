//! Upstreams whose parts are not to be trusted, for a while.
//!
//! A blob that was put together from several answers and proved wrong may be right when it is read in one go: some
//! upstreams answer ranges with the right head and the wrong bytes. Which of the two it was nobody can tell, so the
//! next fills from there do without ranges.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// For how long.
const SPAN: Duration = Duration::from_secs(600);

/// Until when which upstream gets no ranges; by name, so there are no more than the configuration has.
#[derive(Default)]
pub(super) struct Distrust(Mutex<HashMap<Arc<str>, Instant>>);

impl Distrust {
    /// A blob of this upstream that was put together from parts was wrong.
    pub fn note(&self, upstream: &Arc<str>) {
        self.entries().insert(upstream.clone(), Instant::now() + SPAN);
    }

    /// Whether blobs of this upstream are to be read in one go.
    pub fn covers(&self, upstream: &Arc<str>) -> bool {
        let mut entries = self.entries();
        entries.retain(|_, until| *until > Instant::now());
        entries.contains_key(upstream)
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<Arc<str>, Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_ends_and_concerns_one_upstream() {
        let distrust = Distrust::default();
        let (bad, good) = (Arc::from("bad"), Arc::from("good"));
        assert!(!distrust.covers(&bad));
        distrust.note(&bad);
        assert!(distrust.covers(&bad) && !distrust.covers(&good));
        tokio::time::advance(SPAN).await;
        assert!(!distrust.covers(&bad));
    }
}
