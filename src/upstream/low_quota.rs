//! Principals whose rate limit at an upstream is nearly used up.

use std::{
    collections::HashMap,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::Instant;

use super::{principal::Principal, response::rate_limit::RateLimit};

/// The longest window that is believed.
const MAX_WINDOW: Duration = Duration::from_secs(24 * 60 * 60);
/// The window of a limit that announces none.
const DEFAULT_WINDOW: Duration = Duration::from_secs(6 * 60 * 60);
/// How many principals are kept.
const MAX_PRINCIPALS: usize = 1024;

/// The principals for which less than a tenth of the limit is left at one URL of an upstream.
#[derive(Debug, Default)]
pub(in crate::upstream) struct LowQuota {
    /// Until when; the key `None` is forebay itself.
    until: Mutex<HashMap<Option<Principal>, Instant>>,
    /// Whether there is any: most hosts announce no limit, and each request for a tag reads this.
    any: AtomicBool,
}

impl LowQuota {
    pub(in crate::upstream) fn note(&self, principal: Option<Principal>, announced: RateLimit) {
        let RateLimit { limit: Some(limit), remaining: Some(remaining), window } = announced else { return };
        let is_low = remaining.saturating_mul(10) < limit;
        if !is_low && !self.any.load(Ordering::Relaxed) {
            return;
        }
        let now = Instant::now();
        let mut all = self.until.lock();
        all.remove(&principal);
        if is_low {
            all.retain(|_, until| now < *until);
            if all.len() < MAX_PRINCIPALS {
                all.insert(principal, now + window.unwrap_or(DEFAULT_WINDOW).min(MAX_WINDOW));
            }
        }
        self.any.store(!all.is_empty(), Ordering::Relaxed);
    }

    /// By the last announcement, until its window ends.
    pub(in crate::upstream) fn is_low(&self, principal: Option<Principal>) -> bool {
        self.any.load(Ordering::Relaxed)
            && self.until.lock().get(&principal).is_some_and(|until| Instant::now() < *until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn less_than_a_tenth_is_low_for_as_long_as_its_window() {
        let quota = LowQuota::default();
        let told =
            |limit, remaining, seconds| RateLimit { limit, remaining, window: Some(Duration::from_secs(seconds)) };
        for (limit, remaining, is_low) in [
            (Some(100), Some(10), false),
            (Some(100), Some(9), true),
            // No new announcement.
            (None, Some(50), true),
            (Some(100), None, true),
            (Some(100), Some(100), false),
            (Some(1), Some(0), true),
        ] {
            quota.note(None, told(limit, remaining, 60));
            assert_eq!(quota.is_low(None), is_low, "{remaining:?} of {limit:?}");
        }
        // Another principal has another limit.
        assert!(!quota.is_low(Some(Principal::ANONYMOUS)));
        quota.note(Some(Principal::ANONYMOUS), told(Some(100), Some(90), 60));
        assert!(quota.is_low(None));
        tokio::time::advance(Duration::from_secs(60)).await;
        assert!(!quota.is_low(None));
    }
}
