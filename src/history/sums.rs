//! Sums of the last hour by minutes, of the last day by intervals of ten minutes, and of all the time since the start
//! (pure).
//!
//! What must hold: time is that since the start, by a clock that nothing sets; what is older than a window is in no sum of
//! it, also when nothing was added meanwhile.

use std::time::Duration;

use super::FinishedRequest;
use crate::cache::Outcome;

const MINUTES: usize = 60;
const SECONDS_PER_MINUTE: u64 = 60;
/// How many intervals a day has: those of this hour and of the 23 before it.
pub(super) const INTERVALS: usize = 144;
pub(super) const SECONDS_PER_INTERVAL: u64 = 600;
const INTERVALS_PER_HOUR: u64 = 6;

/// What is counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sums {
    /// Pulls that clients got a manifest for.
    pub pulls: u64,
    /// Those of them whose manifest came out of the cache.
    pub hits: u64,
    /// Bytes of manifests and blobs that clients got.
    pub sent: u64,
    /// Those of them that came out of the cache.
    pub cached: u64,
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
        let sent = if request.has_content() && request.status < 400 { request.sent } else { 0 };
        Self {
            pulls: is_served.into(),
            hits: (is_served && is_hit).into(),
            sent,
            cached: if is_hit { sent } else { 0 },
            received: 0,
            errors: request.is_error().into(),
        }
    }

    pub(super) fn plus(self, other: Self) -> Self {
        Self {
            pulls: self.pulls.saturating_add(other.pulls),
            hits: self.hits.saturating_add(other.hits),
            sent: self.sent.saturating_add(other.sent),
            cached: self.cached.saturating_add(other.cached),
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
    intervals: [Span; INTERVALS],
    since_start: Sums,
}

/// The sums of one minute or one interval.
#[derive(Clone, Copy, Debug, Default)]
struct Span {
    /// Which one since the start.
    number: u64,
    sums: Sums,
}

impl Default for RecentSums {
    fn default() -> Self {
        let intervals = [Span::default(); INTERVALS];
        Self { minutes: [Span::default(); MINUTES], intervals, since_start: Sums::default() }
    }
}

impl RecentSums {
    /// Counts something at a time after the start.
    pub(super) fn add(&mut self, at: Duration, sums: Sums) {
        add_to(&mut self.minutes, at.as_secs() / SECONDS_PER_MINUTE, sums);
        add_to(&mut self.intervals, interval(at), sums);
        self.since_start = self.since_start.plus(sums);
    }

    /// The sums of a window that ends at `now`.
    pub(super) fn within(&self, window: Window, now: Duration) -> Sums {
        match window {
            Window::Hour => {
                let first = (now.as_secs() / SECONDS_PER_MINUTE).saturating_sub(MINUTES as u64 - 1);
                since(&self.minutes, first)
            }
            Window::Day => since(&self.intervals, first_interval(now)),
            Window::SinceStart => self.since_start,
        }
    }

    /// Adds the sums of each interval of a day that ends at `now`, the oldest first.
    pub(super) fn add_day_to(&self, day: &mut [Sums; INTERVALS], now: Duration) {
        let first = first_interval(now);
        for Span { number, sums } in &self.intervals {
            let place = number.checked_sub(first).and_then(|place| usize::try_from(place).ok());
            if let Some(sum) = place.and_then(|place| day.get_mut(place)) {
                *sum = sum.plus(*sums);
            }
        }
    }
}

/// The number of the interval since the start.
pub(super) fn interval(at: Duration) -> u64 {
    at.as_secs() / SECONDS_PER_INTERVAL
}

/// The first interval of a day that ends at `now`: a day is this hour and the 23 before it.
pub(super) fn first_interval(now: Duration) -> u64 {
    (interval(now) / INTERVALS_PER_HOUR).saturating_sub(23) * INTERVALS_PER_HOUR
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

/// The sum of the spans from `first` on.
fn since(spans: &[Span], first: u64) -> Sums {
    spans.iter().filter(|span| span.number >= first).fold(Sums::default(), |sum, span| sum.plus(span.sums))
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
    fn a_day_has_its_intervals_in_their_order() {
        let mut sums = RecentSums::default();
        let day = |sums: &RecentSums, now| {
            let mut day = [Sums::default(); INTERVALS];
            sums.add_day_to(&mut day, now);
            day.map(|sums| sums.pulls)
        };
        sums.add(Duration::ZERO, pulls(1));
        sums.add(MINUTE * 10, pulls(2));
        assert_eq!(day(&sums, MINUTE * 19)[..3], [1, 2, 0]);
        sums.add(HOUR * 23, pulls(4));
        let told = day(&sums, HOUR * 23 + MINUTE * 59);
        assert_eq!((told[0], told[1], told[138]), (1, 2, 4));
        // The first hour is over a day ago.
        let told = day(&sums, HOUR * 24);
        assert_eq!((told[0], told[132], told.iter().sum::<u64>()), (0, 4, 4));
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
