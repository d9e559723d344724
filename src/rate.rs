//! Rates in bytes per second, which several transfers share.
//!
//! What must hold: all transfers together move no more than the rate, beyond one [burst](BytesPerSecond::burst). A
//! transfer waits for one [share](BytesPerSecond::share) at a time, and shares are given in the order of their requests:
//! so the transfers take turns, and none of them starves. A rate that is not set costs one load of an atomic.
//!
//! [`bucket`] computes the waits, and has no clock of its own. [`hold_clock`] tells the time that a rate took from
//! other timeouts.

mod bucket;
mod bytes_per_second;
mod hold_clock;

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use parking_lot::Mutex;
use tokio::{
    sync::{Notify, Semaphore},
    time::{Instant, sleep},
};

use self::bucket::Bucket;
pub use self::bytes_per_second::BytesPerSecond;
pub(crate) use self::hold_clock::{Hold, HoldClock, OwnTime};

/// A cheap handle on a rate, which may be set, changed and removed while transfers use it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rate(Arc<RateState>);

#[derive(Debug)]
struct RateState {
    /// In bytes per second; 0: no rate is set.
    rate: AtomicU64,
    bucket: Mutex<Bucket>,
    /// Held by the transfer that waits for the bucket; the others wait for this turn, in order.
    turn: Semaphore,
    /// The rate was set, changed or removed.
    changed: Notify,
}

impl Default for RateState {
    fn default() -> Self {
        Self {
            rate: AtomicU64::new(0),
            bucket: Mutex::new(Bucket::full()),
            turn: Semaphore::const_new(1),
            changed: Notify::const_new(),
        }
    }
}

impl Rate {
    /// Sets the rate, or removes it. Transfers that wait learn of it at once.
    pub(crate) fn set(&self, rate: Option<BytesPerSecond>) {
        {
            let mut bucket = self.0.bucket.lock();
            let before = self.0.rate.swap(rate.map_or(0, BytesPerSecond::get), Ordering::Relaxed);
            bucket.change(Instant::now(), BytesPerSecond::new(before), rate);
        }
        self.0.changed.notify_waiters();
    }

    pub(crate) fn get(&self) -> Option<BytesPerSecond> {
        match self.0.rate.load(Ordering::Relaxed) {
            0 => None,
            rate => BytesPerSecond::new(rate),
        }
    }

    pub(crate) fn is_set(&self) -> bool {
        self.0.rate.load(Ordering::Relaxed) != 0
    }

    /// Whether it holds nothing back, and a transfer that begins has a whole burst.
    pub(crate) fn is_full(&self, now: Instant) -> bool {
        self.0.bucket.lock().is_full(now) && self.0.turn.available_permits() > 0
    }

    /// How many bytes a transfer may [take](Self::take) at a time.
    pub(crate) fn share(&self) -> u64 {
        self.get().map_or(u64::MAX, BytesPerSecond::share)
    }

    /// Waits until so many bytes, at most a [share](Self::share), may move. Only where it has to wait, it calls `hold`, and
    /// drops the value when the wait is over. A caller that stops waiting takes nothing.
    pub(crate) async fn take<G: Send>(&self, bytes: u64, hold: impl FnOnce() -> G + Send) {
        if !self.try_take(bytes) {
            // On the heap: nearly all transfers have no rate.
            Box::pin(self.wait_and_take(bytes, hold())).await;
        }
    }

    /// Bytes moved that must not wait, such as documents. Transfers that come later wait for them, but no longer than for
    /// one burst.
    pub(crate) fn note(&self, bytes: u64) {
        if let Some(rate) = self.get() {
            self.0.bucket.lock().note(rate, Instant::now(), bytes);
        }
    }

    /// Takes the bytes if no other transfer waits and the bucket has them.
    fn try_take(&self, bytes: u64) -> bool {
        let Some(rate) = self.get() else { return true };
        let Ok(_turn) = self.0.turn.try_acquire() else { return false };
        let (mut bucket, now) = (self.0.bucket.lock(), Instant::now());
        let has_them = bucket.wait(rate, now, bytes).is_zero();
        if has_them {
            bucket.spend(rate, now, bytes);
        }
        has_them
    }

    async fn wait_and_take<G>(&self, bytes: u64, _hold: G) {
        // The semaphore is never closed.
        let _turn = self.0.turn.acquire().await;
        loop {
            let changed = self.0.changed.notified();
            let Some(rate) = self.get() else { return };
            let wait = self.0.bucket.lock().wait(rate, Instant::now(), bytes);
            // The wait is computed once: bytes that are noted meanwhile delay the transfers behind this one.
            tokio::select! {
                () = sleep(wait), if !wait.is_zero() => {}
                () = changed, if !wait.is_zero() => continue,
                else => {}
            }
            return self.0.bucket.lock().spend(rate, Instant::now(), bytes);
        }
    }
}

#[cfg(test)]
mod tests;
