//! Downloads that no client waits for: they continue while they advance and no client needs their space.
//!
//! What must hold: a download without clients ends, whatever its upstream does; a download that a client has joined is
//! left alone. One rule applies to all: forebay ends a download that receives less than [`MIN_ADVANCE`] bytes in
//! [`ADVANCE_TIMEOUT`], or that has not received its last byte [`MAX_TIME`] after the last client left.

use std::{
    cmp::Reverse,
    convert::Infallible,
    pin::pin,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::time::{Instant, timeout};

use super::{Download, Downloads};
use crate::cache::{
    make_room::enough,
    storage::{Short, lru_index::allocated},
};

/// forebay ends a download without clients when it receives less than [`MIN_ADVANCE`] bytes in this time.
const ADVANCE_TIMEOUT: Duration = Duration::from_secs(30);
/// In bytes. A download from an upstream that sends more than about 2 KiB/s advances.
const MIN_ADVANCE: u64 = 64 * 1024;
/// The longest time a download continues without clients, however fast it advances. Its bytes are kept, and the next
/// client's download resumes after them.
const MAX_TIME: Duration = Duration::from_secs(30 * 60);
/// How long a request for space waits for a cancelled download to end. After this time it does without that space.
pub(super) const ENDED_TIMEOUT: Duration = Duration::from_secs(2);

/// Cancels the download when it has no subscribers and does not advance. Never returns; drop it with the download.
pub(super) async fn watch(downloads: &Downloads, download: &Arc<Download>) -> Infallible {
    let mut subscribers = download.subscribers.subscribe();
    loop {
        // The download owns the sender, so both waits end only by a change of the number.
        drop(subscribers.wait_for(|subscribers| *subscribers == 0).await);
        let joined =
            while_it_advances(subscribers.wait_for(|subscribers| *subscribers > 0), || download.advance()).await;
        if joined.is_none() && downloads.give_up_without_clients(download) {
            tracing::info!(digest = %download.source.digest, "a download without clients that hardly advances is cancelled");
        }
    }
}

/// Waits for `end` as long as a download without clients may continue; `received` is [`Download::advance`].
pub(crate) async fn while_it_advances<T>(
    end: impl Future<Output = T>,
    received: impl Fn() -> Option<u64>,
) -> Option<T> {
    let mut end = pin!(end);
    let (mut before, mut begun) = (received(), Instant::now());
    loop {
        if let Ok(value) = timeout(ADVANCE_TIMEOUT, &mut end).await {
            return Some(value);
        }
        let now = received();
        if now.is_none() {
            begun = Instant::now();
        }
        if stands_still(before, now) || begun.elapsed() >= MAX_TIME {
            return None;
        }
        before = now;
    }
}

/// A download without clients; its space can be freed for other downloads.
pub(super) struct Idle<F> {
    pub download: F,
    /// Whether a client has requested the blob.
    pub wanted: bool,
    /// Reserved bytes that have not arrived yet; all reserved bytes.
    pub missing: u64,
    pub reserved: u64,
}

/// The downloads to cancel so that enough space becomes free: first those that no client has requested, then those with
/// the most bytes missing. None if all of them, together with the space that slow readers hold, free too little.
pub(super) fn to_give_up<F>(mut idle: Vec<Idle<F>>, short: Short) -> Vec<F> {
    idle.retain(|idle| idle.reserved > 0);
    let all = idle.iter().fold(0_u64, |sum, idle| sum.saturating_add(idle.reserved));
    if all.saturating_add(short.kept) < short.missing {
        return Vec::new();
    }
    idle.sort_by_key(|idle| (idle.wanted, Reverse(idle.missing)));
    let chosen = enough(idle, short.missing.min(all), |idle| idle.reserved).unwrap_or_default();
    chosen.into_iter().map(|idle| idle.download).collect()
}

impl Download {
    /// How many clients and prefetches have joined the download and not left.
    pub(super) fn subscribers(&self) -> usize {
        *self.subscribers.borrow()
    }

    /// Whether any subscriber is a client.
    pub(super) fn has_clients(&self) -> bool {
        self.subscribers() > self.prefetch_subscribers.load(Ordering::SeqCst)
    }

    /// The space that cancelling this download frees, if it still has bytes to receive; before it has its file nothing
    /// is reserved.
    pub(super) fn idle(self: &Arc<Self>) -> Option<Idle<Arc<Self>>> {
        if self.has_clients() || self.advance().is_none() || self.cancel.is_cancelled() {
            return None;
        }
        let (here, reserved) = self.here_and_reserved();
        let (download, wanted) = (self.clone(), self.is_wanted());
        Some(Idle { download, wanted, missing: reserved.saturating_sub(here), reserved })
    }

    /// The space that this cancelled download will free when it ends; `None` once it has taken `ENDED_TIMEOUT` to end.
    pub(super) fn leaving(&self) -> Option<u64> {
        let is_leaving = self.cancel.is_cancelled() && !self.is_complete();
        let goes = is_leaving && self.leaving_since.get_or_init(Instant::now).elapsed() < ENDED_TIMEOUT;
        goes.then(|| self.here_and_reserved().1)
    }

    fn here_and_reserved(&self) -> (u64, u64) {
        let state = self.state();
        let here = state.chunks.written();
        let reserved = state.file.as_ref().map_or(0, |_| allocated(state.chunks.room().max(here)));
        (here, reserved)
    }

    /// A number that grows with each byte that the upstream sends, with each byte of an earlier download that is checked,
    /// and while the rate of the upstream holds bytes back; `None` when the upstream has nothing left to send.
    pub(crate) fn advance(&self) -> Option<u64> {
        let awaits_bytes = {
            let state = self.state();
            !state.chunks.is_whole() && !state.is_over()
        };
        let came = self.received() + self.skipped.load(Ordering::Relaxed);
        awaits_bytes.then(|| came + self.checked.load(Ordering::Relaxed) + advance_of(self.holds.held()))
    }
}

/// What counts as received for a time in which a rate held bytes back: a download that is held back for half of
/// [`ADVANCE_TIMEOUT`] advances.
fn advance_of(held: Duration) -> u64 {
    let halves = held.as_millis().saturating_mul(2).saturating_mul(u128::from(MIN_ADVANCE));
    u64::try_from(halves / ADVANCE_TIMEOUT.as_millis()).unwrap_or(u64::MAX)
}

/// Whether too few bytes arrived in between. The number can decrease: hashing restarts at 0 once the bytes of an
/// earlier download are discarded.
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
            // The bytes of an earlier download were hashed, then discarded.
            (Some(1 << 30), Some(0), false),
            // The blob is being verified, or was until now.
            (Some(7), None, false),
            (None, Some(7), false),
            (None, None, false),
        ] {
            assert_eq!(stands_still(before, now), still, "{before:?} {now:?}");
        }
    }

    #[test]
    fn a_download_that_a_rate_holds_back_advances() {
        for (before, held, still) in [(0, 0, true), (0, 14, true), (0, 15, false), (3600, 30, false), (3600, 1, true)] {
            let [before, now] = [before, before + held].map(|held| Some(advance_of(Duration::from_secs(held))));
            assert_eq!(stands_still(before, now), still, "{before:?} {held}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_does_not_advance_is_given_up() {
        use std::{future::pending, sync::atomic::AtomicU64};
        use tokio::time::sleep;

        assert_eq!(while_it_advances(async { 7 }, || Some(0)).await, Some(7));
        let growing = |by: u64| {
            let sum = AtomicU64::new(0);
            move || Some(sum.fetch_add(by, Ordering::Relaxed))
        };
        let given_up_after = async |by: u64| {
            let begun = Instant::now();
            assert_eq!(while_it_advances(pending::<()>(), growing(by)).await, None);
            begun.elapsed()
        };
        assert_eq!(given_up_after(0).await, ADVANCE_TIMEOUT);
        // A trickle does not count as progress, and a slow stream does not continue for hours.
        assert_eq!(given_up_after(MIN_ADVANCE - 1).await, ADVANCE_TIMEOUT);
        assert_eq!(given_up_after(MIN_ADVANCE).await, MAX_TIME);
        assert_eq!(given_up_after(1 << 40).await, MAX_TIME);
        let nearly = MAX_TIME - Duration::from_secs(1);
        assert_eq!(while_it_advances(sleep(nearly), growing(MIN_ADVANCE)).await, Some(()));
        // While all bytes have arrived and only the end is pending, and after that.
        assert_eq!(while_it_advances(sleep(MAX_TIME * 10), || None).await, Some(()));
        let begun = Instant::now();
        let flow = growing(MIN_ADVANCE);
        let received = || flow().filter(|_| begun.elapsed() > MAX_TIME);
        assert_eq!(while_it_advances(pending::<()>(), received).await, None);
        assert_eq!(begun.elapsed(), MAX_TIME * 2);
    }

    #[test]
    fn what_is_given_up_for_the_room_that_clients_need() {
        // As (wanted, received, reserved).
        let three = [(true, 9, 10), (true, 1, 10), (false, 9, 10)];
        for (downloads, missing, kept, expected) in [
            (&three[..], 1, 0, &[2][..]),
            (&three, 10, 0, &[2]),
            (&three, 11, 0, &[2, 1]),
            (&three, 30, 0, &[2, 1, 0]),
            // Slow readers hold some of the space as well. No download is cancelled if it would not help.
            (&three, 31, 0, &[]),
            (&three, 31, 1, &[2, 1, 0]),
            (&three, 5, 5, &[2]),
            (&three, 0, 0, &[]),
            (&three, u64::MAX, 0, &[]),
            (&[], 1, 1, &[]),
            // A small download precedes those that are sufficient; the last of these are spared first.
            (&[(false, 0, 4), (true, 0, 100)], 100, 0, &[1]),
            (&[(false, 0, 4), (true, 0, 100)], 101, 0, &[0, 1]),
            (&[(false, 0, 6), (true, 9, 10), (true, 0, 10)], 10, 0, &[2]),
            (&[(false, 0, 6), (true, 4, 6), (true, 0, 3)], 9, 0, &[0, 2]),
            // A download that has nothing reserved yet.
            (&[(false, 0, 0), (true, 0, 1)], 1, 0, &[1]),
            (&[(true, 0, u64::MAX), (true, 0, u64::MAX - 1)], u64::MAX, u64::MAX, &[0]),
        ] {
            let idle = downloads.iter().enumerate().map(|(download, &(wanted, here, reserved))| Idle {
                download,
                wanted,
                missing: reserved - here,
                reserved,
            });
            assert_eq!(to_give_up(idle.collect(), Short { missing, kept }), expected, "{downloads:?} {missing} {kept}");
        }
    }
}
