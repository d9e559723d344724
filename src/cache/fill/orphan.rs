//! Fills that no client waits for: they go on as long as they advance.
//!
//! What must hold: a fill without members ends, whatever its upstream does; one that a client has joined is left alone.

use std::{
    convert::Infallible,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::time::timeout;

use super::{Fill, Fills};

/// A fill without members, or with none but a prefetch, is given up when less than [`MIN_ADVANCE`] bytes come in this time.
pub const ADVANCE_TIMEOUT: Duration = Duration::from_secs(30);
/// In bytes. An upstream that is quicker than about 2 KiB/s advances.
pub const MIN_ADVANCE: u64 = 64 * 1024;

/// Gives up a fill that has no members and does not advance. Never ends; drop it with the fill.
pub(super) async fn watch(fills: &Fills, fill: &Arc<Fill>) -> Infallible {
    let mut members = fill.members.subscribe();
    loop {
        // The sender lives in the fill, so both waits end by the number alone.
        drop(members.wait_for(|members| *members == 0).await);
        let before = fill.advance();
        let joined = timeout(ADVANCE_TIMEOUT, members.wait_for(|members| *members > 0)).await.is_ok();
        if !joined && stands_still(before, fill.advance()) && fills.give_up_orphan(fill) {
            tracing::info!(digest = %fill.source.digest, "a fill without clients that hardly advances is given up");
        }
    }
}

impl Fill {
    /// How many have joined it and not left.
    pub(super) fn members(&self) -> usize {
        *self.members.borrow()
    }

    /// A number that grows with each byte that the upstream sends, and with each that is hashed of what an earlier fill
    /// left; `None` when the upstream has nothing to send any more.
    pub fn advance(&self) -> Option<u64> {
        let (awaits_bytes, left) = {
            let state = self.state();
            let is_missing = state.total.is_none_or(|total| state.written.end_of_run(0) < total);
            (is_missing && !state.is_over(), state.left)
        };
        let came = self.received() + self.skipped.load(Ordering::Relaxed);
        awaits_bytes.then(|| came + self.hash.hashed().min(left))
    }
}

/// Whether too little came in between. What is hashed counts anew once what an earlier fill left is given up, so that the
/// number may become less.
fn stands_still(before: Option<u64>, now: Option<u64>) -> bool {
    before.zip(now).is_some_and(|(before, now)| now.abs_diff(before) < MIN_ADVANCE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_still() {
        for (before, now, still) in [
            (Some(0), Some(0), true),
            (Some(7), Some(7 + MIN_ADVANCE - 1), true),
            (Some(7), Some(7 + MIN_ADVANCE), false),
            // What an earlier fill left was hashed, and given up.
            (Some(1 << 30), Some(0), false),
            // It is being verified, or was until now.
            (Some(7), None, false),
            (None, Some(7), false),
            (None, None, false),
        ] {
            assert_eq!(stands_still(before, now), still, "{before:?} {now:?}");
        }
    }
}
