//! How long a rate has held something back. Timeouts for others leave that time out: it is forebay's own.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::time::{Instant, sleep};

/// The shortest sleep of [`OwnTime::reaches`]: while something is held back, no time that counts passes.
const MIN_SLEEP: Duration = Duration::from_millis(1);

/// The time in which something was held back, of one transfer or of several together.
#[derive(Debug, Default)]
pub(crate) struct HoldClock {
    holds: Mutex<Holds>,
    /// Runs while this one runs.
    outer: Option<Arc<HoldClock>>,
}

#[derive(Debug, Default)]
struct Holds {
    /// How many holds there are now, and since when there is one.
    count: usize,
    since: Option<Instant>,
    /// The time before.
    before: Duration,
}

/// The clock runs until this is dropped.
#[derive(Debug)]
pub(crate) struct Hold(Arc<HoldClock>);

impl HoldClock {
    /// A clock that `outer` follows.
    pub(crate) fn within(outer: &Arc<Self>) -> Self {
        Self { outer: Some(outer.clone()), ..Self::default() }
    }

    /// Runs the clock.
    pub(crate) fn hold(self: &Arc<Self>) -> Hold {
        self.begin();
        Hold(self.clone())
    }

    /// How long it has run.
    pub(crate) fn held(&self) -> Duration {
        let holds = self.holds.lock();
        holds.before.saturating_add(holds.since.map_or(Duration::ZERO, |since| since.elapsed()))
    }

    fn begin(&self) {
        {
            let mut holds = self.holds.lock();
            holds.count += 1;
            holds.since.get_or_insert_with(Instant::now);
        }
        if let Some(outer) = &self.outer {
            outer.begin();
        }
    }

    fn end(&self) {
        {
            let mut holds = self.holds.lock();
            holds.count = holds.count.saturating_sub(1);
            if holds.count == 0
                && let Some(since) = holds.since.take()
            {
                holds.before = holds.before.saturating_add(since.elapsed());
            }
        }
        if let Some(outer) = &self.outer {
            outer.end();
        }
    }
}

/// The time since a moment in which nothing was held back.
#[derive(Debug)]
pub(crate) struct OwnTime {
    clock: Arc<HoldClock>,
    begun: Instant,
    held_before: Duration,
}

impl OwnTime {
    /// From now on.
    pub(crate) fn begin(clock: &Arc<HoldClock>) -> Self {
        Self { clock: clock.clone(), begun: Instant::now(), held_before: clock.held() }
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.begun.elapsed().saturating_sub(self.clock.held().saturating_sub(self.held_before))
    }

    /// Ends once so much of it has passed.
    pub(crate) async fn reaches(&self, limit: Duration) {
        loop {
            let elapsed = self.elapsed();
            if elapsed >= limit {
                return;
            }
            sleep((limit - elapsed).max(MIN_SLEEP)).await;
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.0.end();
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn holds_at_the_same_time_count_once() {
        let outer = Arc::new(HoldClock::default());
        let [first, second] = [(); 2].map(|()| Arc::new(HoldClock::within(&outer)));
        let hold = first.hold();
        advance(SECOND).await;
        assert_eq!((first.held(), outer.held()), (SECOND, SECOND));
        let both = second.hold();
        advance(SECOND).await;
        drop(hold);
        advance(SECOND).await;
        drop(both);
        advance(SECOND).await;
        assert_eq!((first.held(), second.held(), outer.held()), (SECOND * 2, SECOND * 2, SECOND * 3));
    }

    #[tokio::test(start_paused = true)]
    async fn time_that_a_rate_takes_does_not_count() {
        let clock = Arc::new(HoldClock::default());
        let (begun, own) = (Instant::now(), OwnTime::begin(&clock));
        let held = async {
            sleep(SECOND).await;
            let hold = clock.hold();
            sleep(SECOND * 60).await;
            drop(hold);
        };
        tokio::join!(own.reaches(SECOND * 3), held);
        assert_eq!((begun.elapsed().as_secs(), own.elapsed().as_secs()), (63, 3));
        let begun = Instant::now();
        OwnTime::begin(&clock).reaches(SECOND * 3).await;
        assert_eq!(begun.elapsed().as_secs(), 3);
    }
}
