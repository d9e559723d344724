//! Sums of the last hour by minutes, of the last day by hours, and of all the time since the start (pure).
//!
//! What must hold: time is that since the start, by a clock that nothing sets; what is older than a window is in no sum of
//! it, also when nothing was added meanwhile.

use std::time::Duration;

use super::FinishedRequest;
use crate::cache::Outcome;

const MINUTES: usize = 60;
const HOURS: usize = 24;
const SECONDS_PER_MINUTE: u64 = 60;
const SECONDS_PER_HOUR: u64 = 3600;

/// What is counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sums {
    /// Pulls that clients got a manifest for.
    pub pulls: u64,
    /// Those of them whose manifest came out of the cache.
    pub hits: u64,
    /// Bytes of manifests and blobs that clients got.
    pub sent: u64,
    /// Bytes of manifests and blobs that upstreams sent.
    pub received: u64,
    /// Requests whose clients did not get what they asked for.
    pub errors: u64,
}

/// How far back sums go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Window {
    /// This minute and the 59 before it.
    Hour,
    /// This hour and the 23 before it.
    Day,
    SinceStart,
}

impl Sums {
    pub(super) fn of(request: &FinishedRequest) -> Self {
        let is_served = request.is_pull && request.status < 400;
        let is_hit = matches!(request.outcome, Outcome::Hit | Outcome::Revalidated | Outcome::Stale);
        Self {
            pulls: is_served.into(),
            hits: (is_served && is_hit).into(),
            sent: if request.has_content() && request.status < 400 { request.sent } else { 0 },
            received: 0,
            errors: request.is_error().into(),
        }
    }

    pub(super) fn plus(self, other: Self) -> Self {
        Self {
            pulls: self.pulls.saturating_add(other.pulls),
            hits: self.hits.saturating_add(other.hits),
            sent: self.sent.saturating_add(other.sent),
            received: self.received.saturating_add(other.received),
            errors: self.errors.saturating_add(other.errors),
        }
    }

    /// Bytes that clients got and no upstream had to send. Negative where upstreams sent what no client has requested yet.
    pub fn saved(self) -> i64 {
        i64::try_from(i128::from(self.sent) - i128::from(self.received)).unwrap_or(i64::MAX)
    }
}

/// Sums by time.
#[derive(Debug)]
pub(super) struct RecentSums {
    minutes: [Span; MINUTES],
    hours: [Span; HOURS],
    since_start: Sums,
}

/// The sums of one minute or one hour.
#[derive(Clone, Copy, Debug, Default)]
struct Span {
    /// Which one since the start.
    number: u64,
    sums: Sums,
}

impl Default for RecentSums {
    fn default() -> Self {
        Self { minutes: [Span::default(); MINUTES], hours: [Span::default(); HOURS], since_start: Sums::default() }
    }
}

impl RecentSums {
    /// Counts something at a time after the start.
    pub(super) fn add(&mut self, at: Duration, sums: Sums) {
        add_to(&mut self.minutes, at.as_secs() / SECONDS_PER_MINUTE, sums);
        add_to(&mut self.hours, at.as_secs() / SECONDS_PER_HOUR, sums);
        self.since_start = self.since_start.plus(sums);
    }

    /// The sums of a window that ends at `now`.
    pub(super) fn within(&self, window: Window, now: Duration) -> Sums {
        match window {
            Window::Hour => latest(&self.minutes, now.as_secs() / SECONDS_PER_MINUTE),
            Window::Day => latest(&self.hours, now.as_secs() / SECONDS_PER_HOUR),
            Window::SinceStart => self.since_start,
        }
    }
}

/// Adds to the span with this number, which takes the place of an older one. What comes too late for its span, because a
/// thread was held up, is left out.
fn add_to(spans: &mut [Span], number: u64, sums: Sums) {
    let place = (number % spans.len() as u64) as usize;
    let Some(span) = spans.get_mut(place) else { return };
    if span.number < number {
        *span = Span { number, sums: Sums::default() };
    }
    if span.number == number {
        span.sums = span.sums.plus(sums);
    }
}

/// The sum of the span `now` and those before it, as many as there are places.
fn latest(spans: &[Span], now: u64) -> Sums {
    let is_recent = |span: &&Span| now.saturating_sub(span.number) < spans.len() as u64;
    spans.iter().filter(is_recent).fold(Sums::default(), |sum, span| sum.plus(span.sums))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);
    const HOUR: Duration = Duration::from_secs(3600);

    fn pulls(pulls: u64) -> Sums {
        Sums { pulls, ..Sums::default() }
    }

    #[test]
    fn sums_forget_what_is_older_than_their_window() {
        let mut sums = RecentSums::default();
        let mut check = |now: Duration, added: u64, expected: [u64; 3]| {
            sums.add(now, pulls(added));
            let told = [Window::Hour, Window::Day, Window::SinceStart].map(|window| sums.within(window, now).pulls);
            assert_eq!(told, expected, "{now:?}");
        };
        check(Duration::ZERO, 1, [1, 1, 1]);
        check(MINUTE * 59, 2, [3, 3, 3]);
        check(MINUTE * 60, 4, [6, 7, 7]);
        // A quiet hour, and a quiet day.
        check(MINUTE * 180, 0, [0, 7, 7]);
        check(HOUR * 23, 8, [8, 15, 15]);
        check(HOUR * 24, 0, [0, 12, 15]);
        check(HOUR * 100, 16, [16, 16, 31]);
    }

    #[test]
    fn what_comes_too_late_is_in_no_newer_minute() {
        let mut sums = RecentSums::default();
        sums.add(MINUTE * 60, pulls(1));
        sums.add(MINUTE * 59, pulls(2));
        // Its place has the sixtieth minute now.
        sums.add(Duration::ZERO, pulls(4));
        assert_eq!(sums.within(Window::Hour, MINUTE * 60).pulls, 3);
        assert_eq!(sums.within(Window::SinceStart, MINUTE * 60).pulls, 7);
    }

    #[test]
    fn saved_may_be_negative_and_never_overflows() {
        for (sent, received, saved) in
            [(10, 3, 7), (3, 10, -7), (u64::MAX, 0, i64::MAX), (u64::MAX, u64::MAX, 0), (0, 5, -5)]
        {
            assert_eq!(Sums { sent, received, ..Sums::default() }.saved(), saved);
        }
    }

    proptest! {
        /// Against a list of all that was added.
        #[test]
        fn sums_are_those_of_the_events_in_the_window(
            steps in proptest::collection::vec((0_u64..4000, 0_u64..100), 0..60)
        ) {
            let (mut sums, mut now, mut all) = (RecentSums::default(), 0, Vec::new());
            for (pause, count) in steps {
                now += pause;
                sums.add(Duration::from_secs(now), pulls(count));
                all.push((now, count));
                for (window, unit, spans) in [(Window::Hour, 60, 60), (Window::Day, 3600, 24)] {
                    let expected: u64 =
                        all.iter().filter(|(at, _)| now / unit - at / unit < spans).map(|(_, count)| count).sum();
                    prop_assert_eq!(sums.within(window, Duration::from_secs(now)).pulls, expected);
                }
            }
        }
    }
}
