//! Upstreams whose ranges forebay does not trust for a while.
//!
//! A blob that was assembled from several responses and proved wrong may be right when it is read in one response: some
//! upstreams answer ranges with the right headers and the wrong bytes. The two cases look the same, so the next
//! downloads from that upstream do without ranges.

use std::{collections::HashMap, time::Duration};

use parking_lot::{Mutex, MutexGuard};

use tokio::time::Instant;

use crate::upstream::Registry;

/// How long a suspension lasts.
const SPAN: Duration = Duration::from_secs(600);

/// When the suspension of each registry ends. There are no more entries than recent configurations had registries.
#[derive(Default)]
pub(super) struct RangeSuspensions(Mutex<HashMap<Registry, Instant>>);

impl RangeSuspensions {
    /// Records that a blob of this upstream that was assembled from ranges was wrong.
    pub(super) fn note(&self, registry: &Registry) {
        self.entries().insert(registry.clone(), Instant::now() + SPAN);
    }

    /// Whether blobs of this upstream are to be read in one response.
    pub(super) fn covers(&self, registry: &Registry) -> bool {
        let mut entries = self.entries();
        entries.retain(|_, until| *until > Instant::now());
        entries.contains_key(registry)
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<Registry, Instant>> {
        self.0.lock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_ends_and_concerns_one_upstream() {
        let range_suspensions = RangeSuspensions::default();
        let registry = |name: &str, url: &str| Registry::new(&name.into(), &[url.parse().unwrap()]);
        let (bad, good) = (registry("bad", "https://a"), registry("good", "https://b"));
        assert!(!range_suspensions.covers(&bad));
        range_suspensions.note(&bad);
        assert!(range_suspensions.covers(&bad) && !range_suspensions.covers(&good));
        assert!(!range_suspensions.covers(&registry("bad", "https://c")), "a reload gave its name to another");
        tokio::time::advance(SPAN).await;
        assert!(!range_suspensions.covers(&bad));
    }
}
