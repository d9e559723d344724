//! How many pulls a run may spend, and how many it has.

use std::sync::atomic::{AtomicU32, Ordering};

use crate::upstream::Upstream;

/// The registry that is known to count pulls before it has told a limit.
const DOCKER_HUB: &str = "docker.io";

/// The pulls of one run.
#[derive(Debug)]
pub(super) struct PullLimit {
    most: Option<u32>,
    spent: AtomicU32,
}

impl PullLimit {
    pub(super) fn new(most: Option<u32>) -> Self {
        Self { most, spent: AtomicU32::new(0) }
    }

    pub(super) fn is_limited(&self) -> bool {
        self.most.is_some()
    }

    /// Whether a GET of a manifest may be sent to this upstream. If it counts, it is spent now.
    pub(super) fn may_spend(&self, upstream: &Upstream) -> bool {
        !counts_pulls(upstream) || self.spend()
    }

    /// Whether nothing is left for this upstream.
    pub(super) fn is_used_up(&self, upstream: &Upstream) -> bool {
        counts_pulls(upstream) && self.most.is_some_and(|most| self.spent() >= most)
    }

    /// A GET was sent that could not be foreseen.
    pub(super) fn note_spent(&self, upstream: &Upstream) {
        if counts_pulls(upstream) {
            self.spent.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn spent(&self) -> u32 {
        self.spent.load(Ordering::Relaxed)
    }

    fn spend(&self) -> bool {
        let next = |spent: u32| (self.most.is_none_or(|most| spent < most)).then(|| spent.saturating_add(1));
        self.spent.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).is_ok()
    }
}

/// Whether GETs of manifests are pulls that the upstream counts. Its HEADs are not.
///
/// Source: Docker documentation, "Docker Hub usage and limits", section "Pull attribution".
fn counts_pulls(upstream: &Upstream) -> bool {
    **upstream.name() == *DOCKER_HUB || upstream.health().pulls.is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::{Config, Context};

    #[tokio::test]
    async fn a_limit_is_spent_by_counted_pulls_alone() {
        let upstream = |name| Upstream::new(&Config::at(name, &["https://a.test"]), Context::of_test()).unwrap();
        let (hub, other) = (upstream("docker.io"), upstream("ghcr.io"));
        let limit = PullLimit::new(Some(2));
        assert!(limit.may_spend(&hub) && limit.may_spend(&other) && !limit.is_used_up(&hub));
        assert!(limit.may_spend(&hub) && limit.is_used_up(&hub));
        assert!(!limit.may_spend(&hub) && limit.may_spend(&other) && !limit.is_used_up(&other));
        assert_eq!(limit.spent(), 2);
        limit.note_spent(&hub);
        assert_eq!(limit.spent(), 3);
        let none = PullLimit::new(None);
        assert!((0..9).all(|_| none.may_spend(&hub)) && none.spent() == 9 && !none.is_used_up(&hub));
        assert!(!PullLimit::new(Some(0)).may_spend(&hub));
    }
}
