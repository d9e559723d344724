//! What receives a response: a connection of HTTP/1 or a stream of HTTP/2, and how fast it takes bytes.
//!
//! A client's own time is the time in which forebay has bytes ready for it and the client does not take them. Only own time
//! counts: a client that waits for forebay is not slow.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::{Mutex, MutexGuard};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// The shortest own time by which a client's rate is judged.
pub(crate) const RATE_WINDOW: Duration = Duration::from_secs(10);
/// Of waits that are nearer together than this, one is remembered.
const SPACING: Duration = Duration::from_secs(1);

/// A cheap handle on a recipient.
pub type Recipient = Arc<RecipientState>;

/// The state of a [`Recipient`].
#[derive(Debug, Default)]
pub struct RecipientState {
    pub(crate) meter: RateMeter,
    /// Resets it in the middle of its response.
    pub(crate) end: CancellationToken,
    /// The connection of a stream. Bytes queued for a stream that was reset are freed only by the next write to the
    /// connection: never, if the client does not read.
    pub(crate) connection: Option<Recipient>,
}

/// Measures how many bytes a client takes in each second of its own time.
#[derive(Debug, Default)]
pub(crate) struct RateMeter {
    taken: AtomicU64,
    waits: Mutex<Waits>,
}

#[derive(Debug, Default)]
struct Waits {
    /// The client's own time before the current wait.
    own: Duration,
    /// Since when forebay has been waiting for the client.
    since: Option<Instant>,
    /// When the last wait ended.
    until: Option<Instant>,
    marks: Marks,
}

/// The beginnings of waits: the client's own time and the bytes it had taken by then. The last one is always kept.
#[derive(Debug, Default)]
struct Marks(VecDeque<(Duration, u64)>);

impl RateMeter {
    /// The client took bytes.
    pub(crate) fn took(&self, bytes: u64) {
        self.taken.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Forebay waits for the client. Called again within one wait, it changes nothing.
    pub(crate) fn waits(&self) {
        let mut waits = self.lock();
        if waits.since.is_none() {
            waits.since = Some(Instant::now());
            let mark = (waits.own, self.taken());
            waits.marks.push(mark);
        }
    }

    /// Forebay waits for the client no more.
    pub(crate) fn goes_on(&self) {
        let mut waits = self.lock();
        if let Some(since) = waits.since.take() {
            let now = Instant::now();
            waits.own = waits.own.saturating_add(now.saturating_duration_since(since));
            waits.until = Some(now);
        }
    }

    /// The client's own time in total.
    pub(crate) fn own(&self, now: Instant) -> Duration {
        self.lock().own(now)
    }

    /// Bytes per second of the client's own time, over the last `window` of it or a little more. `None`: forebay does not wait
    /// for it now, or has not waited for a whole `window` since its own time was `begun`.
    pub(crate) fn rate(&self, now: Instant, begun: Duration, window: Duration) -> Option<u64> {
        let waits = self.lock();
        waits.since?;
        let own = waits.own(now);
        (own.saturating_sub(begun) >= window).then(|| waits.marks.rate(own, self.taken(), window))
    }

    /// The same, where a shorter own time counts as a `window`, and also while forebay does not wait for the client. 0 if
    /// forebay has not waited for it for a `window`: then its speed is not known.
    pub(crate) fn lately(&self, now: Instant, window: Duration) -> u64 {
        let waits = self.lock();
        let is_known =
            waits.since.is_some() || waits.until.is_some_and(|until| now.saturating_duration_since(until) < window);
        if is_known { waits.marks.rate(waits.own(now), self.taken(), window) } else { 0 }
    }

    fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, Waits> {
        self.waits.lock()
    }
}

impl Waits {
    fn own(&self, now: Instant) -> Duration {
        self.own.saturating_add(self.since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since)))
    }
}

impl Marks {
    fn push(&mut self, mark: (Duration, u64)) {
        let (own, _) = mark;
        let marks = &mut self.0;
        if marks.len() >= 2 && marks[marks.len() - 1].0 < marks[marks.len() - 2].0 + SPACING {
            marks.pop_back();
        }
        marks.push_back(mark);
        // Marks before one that is old enough are not needed.
        while marks.len() >= 2 && own.saturating_sub(marks[1].0) >= RATE_WINDOW {
            marks.pop_front();
        }
    }

    fn rate(&self, own: Duration, taken: u64, window: Duration) -> u64 {
        let is_old = |(since, _): &&(Duration, u64)| own.saturating_sub(*since) >= window;
        let Some((since, before)) = self.0.iter().rev().find(is_old).or(self.0.front()) else { return 0 };
        let millis = own.saturating_sub(*since).max(window).as_millis().max(1);
        u64::try_from(u128::from(taken.saturating_sub(*before)) * 1000 / millis).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: Duration = Duration::ZERO;

    /// Steps of bytes and then own time, in milliseconds; the last wait goes on.
    async fn after(meter: &RateMeter, steps: &[(u64, u64)]) {
        for (bytes, millis) in steps {
            meter.goes_on();
            meter.took(*bytes);
            meter.waits();
            tokio::time::advance(Duration::from_millis(*millis)).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_is_judged_by_its_last_ten_seconds() {
        for (steps, expected) in [
            (&[][..], None),
            (&[(1000, 9_999)], None),
            // Bytes that a buffer took before the first wait do not count.
            (&[(1 << 30, 10_000)], Some(0)),
            (&[(0, 5_000), (1000, 5_000)], Some(100)),
            (&[(0, 10_000), (1000, 10_000)], Some(0)),
            (&[(0, 10_000), (1000, 9_000)], Some(1000 / 19)),
            (&[(1 << 30, 500), (1 << 30, 400), (0, 10_000)], Some(0)),
            (&[(0, 1_000); 100], Some(0)),
            (&[(1000, 1_000); 100], Some(900)),
            (&[(10, 10); 5_000], Some(999)),
        ] {
            let meter = RateMeter::default();
            after(&meter, steps).await;
            assert_eq!(meter.rate(Instant::now(), NONE, RATE_WINDOW), expected, "{steps:?}");
            assert!(meter.lock().marks.0.len() <= 13, "{steps:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_waits_for_forebay_has_no_rate() {
        let meter = RateMeter::default();
        after(&meter, &[(0, 60_000)]).await;
        meter.goes_on();
        assert_eq!(meter.rate(Instant::now(), NONE, RATE_WINDOW), None);
        tokio::time::advance(Duration::from_secs(60)).await;
        let begun = meter.own(Instant::now());
        assert_eq!(begun, Duration::from_secs(60), "time in which it waits is not its own");
        // Its new reading is not a window old.
        after(&meter, &[(0, 9_999)]).await;
        assert_eq!(meter.rate(Instant::now(), begun, RATE_WINDOW), None);
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(meter.rate(Instant::now(), begun, RATE_WINDOW), Some(0));
    }

    #[tokio::test(start_paused = true)]
    async fn the_rate_of_late_counts_at_once_and_after_a_wait() {
        for (steps, idle, expected) in [
            (&[][..], 0, 0),
            (&[(1 << 30, 5_000)], 0, 0),
            (&[(0, 1_000), (10_000, 1_000)], 0, 1000),
            (&[(0, 10_000), (10_000, 9_000)], 0, 526),
            (&[(0, 1_000), (10_000, 1_000)], 9_999, 1000),
            (&[(0, 1_000), (10_000, 1_000)], 10_000, 0),
        ] {
            let meter = RateMeter::default();
            after(&meter, steps).await;
            if idle > 0 {
                meter.goes_on();
                tokio::time::advance(Duration::from_millis(idle)).await;
            }
            assert_eq!(meter.lately(Instant::now(), RATE_WINDOW), expected, "{steps:?} {idle}");
        }
    }
}
