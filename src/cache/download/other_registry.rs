//! For how long a client of another registry waits for a download.
//!
//! What must hold: nothing that is not verified, no error and no long wait comes from one registry to the clients of
//! another. They can have the blob from their own, so they wait only while it pays.

use std::time::Duration;

use tokio::time::timeout;

use super::Download;

/// How often a client looks whether the download brings something.
const INTERVAL: Duration = Duration::from_secs(1);
/// What would not be complete within as many more intervals is not waited for; and none is for more than these.
const MAX_INTERVALS: u64 = 3;

impl Download {
    /// Waits for the end as long as that is near; whether all bytes are here and right.
    pub(crate) async fn ends_soon(&self) -> bool {
        for _ in 0..MAX_INTERVALS {
            let before = self.received();
            if let Ok(ended) = timeout(INTERVAL, self.end()).await {
                return ended.is_ok();
            }
            let missing = {
                let state = self.state();
                state.total.map(|total| total.saturating_sub(state.written.end_of_run(0)))
            };
            if !is_near(missing, self.received() - before) {
                return false;
            }
        }
        false
    }
}

/// Whether bytes that come as they did in the last interval are soon all here. What is missing is not known before the
/// upstream has told the size.
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
            // It is being verified.
            (Some(0), 0, true),
            (Some(300), 100, true),
            (Some(301), 100, false),
            (Some(1 << 30), 1, false),
        ] {
            assert_eq!(is_near(missing, gained), near, "{missing:?} {gained}");
        }
    }
}
