//! How long a client of another registry waits for a download.
//!
//! What must hold: no unverified content, no error and no long wait passes from one registry to the clients of another.
//! These clients can get the blob from their own registry, so they wait only while that is quicker.

use std::time::Duration;

use tokio::time::timeout;

use super::Download;

/// How often a client checks whether the download advances.
const INTERVAL: Duration = Duration::from_secs(1);
/// A client waits for at most this many intervals, and only for a download that would be complete within as many more.
const MAX_INTERVALS: u64 = 3;

impl Download {
    /// Waits for the end of the download while the end is near. Returns whether all bytes are in the file and verified.
    pub(crate) async fn ends_soon(&self) -> bool {
        for _ in 0..MAX_INTERVALS {
            let before = self.received();
            if let Ok(ended) = timeout(INTERVAL, self.end()).await {
                return ended.is_ok();
            }
            let missing = {
                let state = self.state();
                state.total().map(|total| total.saturating_sub(state.chunks.front()))
            };
            if !is_near(missing, self.received() - before) {
                return false;
            }
        }
        false
    }
}

/// Whether the missing bytes will soon be complete at the rate of the last interval. The number of missing bytes is
/// unknown until the upstream has sent the size.
fn is_near(missing: Option<u64>, gained: u64) -> bool {
    missing.is_some_and(|missing| missing <= gained.saturating_mul(MAX_INTERVALS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_worth_waiting_for() {
        for (missing, gained, near) in [
            (None, 0, false),
            (None, 1 << 30, false),
            (Some(1), 0, false),
            // The blob is being verified.
            (Some(0), 0, true),
            (Some(300), 100, true),
            (Some(301), 100, false),
            (Some(1 << 30), 1, false),
        ] {
            assert_eq!(is_near(missing, gained), near, "{missing:?} {gained}");
        }
    }
}
