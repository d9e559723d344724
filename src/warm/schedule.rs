//! When a job runs (pure).
//!
//! What must hold: a fleet of forebays with one configuration does not ask at once.

use std::{
    fmt,
    str::FromStr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// The seconds of a day of UTC, which has no leap seconds here.
const DAY: u64 = 24 * 60 * 60;
/// The longest random delay.
const MAX_DELAY: Duration = Duration::from_secs(10 * 60);
/// One in so many of the time between runs is the longest random delay.
const DELAY_PART: u32 = 10;

/// When a job runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Schedule {
    /// After the start, and so long after each beginning of a run.
    Every(Duration),
    /// At this time of each day, in UTC.
    At(TimeOfDay),
}

/// A minute of the day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeOfDay {
    hour: u8,
    minute: u8,
}

/// A text that is no time of the day.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("write a time of UTC such as \"02:00\", from \"00:00\" to \"23:59\"")]
pub struct NoTime;

impl FromStr for TimeOfDay {
    type Err = NoTime;

    fn from_str(text: &str) -> Result<Self, NoTime> {
        let number = |text: &str, end: u8| {
            let is_number = text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
            text.parse().ok().filter(|number| is_number && *number < end).ok_or(NoTime)
        };
        let (hour, minute) = text.split_once(':').ok_or(NoTime)?;
        Ok(Self { hour: number(hour, 24)?, minute: number(minute, 60)? })
    }
}

impl fmt::Display for TimeOfDay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02}:{:02}", self.hour, self.minute)
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Every(period) => write!(f, "every {}", humantime::format_duration(*period)),
            Self::At(time) => write!(f, "at {time} UTC"),
        }
    }
}

impl Schedule {
    /// When the job runs next. `last`: when its last run began; `None`: it has not run yet. `random`: any number.
    pub(super) fn next(self, last: Option<SystemTime>, now: SystemTime, random: u32) -> SystemTime {
        let (due, between) = match (self, last) {
            (Self::Every(period), None) => (now, period),
            // The clock may have been set back.
            (Self::Every(period), Some(last)) => (plus(last.min(now), period), period),
            (Self::At(time), _) => (time.next(now), Duration::from_secs(DAY)),
        };
        plus(due, delay(between, random))
    }

    /// The latest time of the next run. After the clock was set back, a time that was planned may be much later.
    pub(super) fn latest(self, now: SystemTime) -> SystemTime {
        let between = match self {
            Self::Every(period) => period,
            Self::At(_) => Duration::from_secs(DAY),
        };
        plus(plus(now, between), delay(between, u32::MAX))
    }
}

impl TimeOfDay {
    /// The next time after `now`.
    fn next(self, now: SystemTime) -> SystemTime {
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let of_day = u64::from(self.hour) * 60 * 60 + u64::from(self.minute) * 60;
        let today = now - now % DAY + of_day;
        plus(UNIX_EPOCH, Duration::from_secs(if today > now { today } else { today + DAY }))
    }
}

fn delay(between: Duration, random: u32) -> Duration {
    let most = (between / DELAY_PART).min(MAX_DELAY).as_millis();
    let millis = most * u128::from(random) / u128::from(u32::MAX);
    Duration::from_millis(u64::try_from(millis).unwrap_or_default())
}

fn plus(time: SystemTime, duration: Duration) -> SystemTime {
    time.checked_add(duration).unwrap_or(time)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(text: &str) -> SystemTime {
        humantime::parse_rfc3339(text).unwrap()
    }

    #[test]
    fn a_job_runs_when_its_schedule_says() {
        let hours = |hours: u64| Schedule::Every(Duration::from_secs(hours * 60 * 60));
        let at = |text: &str| Schedule::At(text.parse().unwrap());
        let noon = "2026-11-30T12:00:00Z";
        for (schedule, last, random, expected) in [
            (hours(6), None, 0, noon),
            (hours(1), None, u32::MAX, "2026-11-30T12:06:00Z"),
            (hours(6), None, u32::MAX, "2026-11-30T12:10:00Z"),
            (hours(6), Some("2026-11-30T11:00:00Z"), 0, "2026-11-30T17:00:00Z"),
            (hours(1), Some("2026-11-30T08:00:00Z"), 0, "2026-11-30T09:00:00Z"),
            (hours(1), Some("2027-11-30T08:00:00Z"), 0, "2026-11-30T13:00:00Z"),
            (at("12:01"), None, 0, "2026-11-30T12:01:00Z"),
            (at("12:00"), None, 0, "2026-12-01T12:00:00Z"),
            (at("02:00"), Some("2026-11-30T02:00:00Z"), u32::MAX, "2026-12-01T02:10:00Z"),
            (at("00:00"), None, 0, "2026-12-01T00:00:00Z"),
        ] {
            let next = schedule.next(last.map(time), time(noon), random);
            assert_eq!(humantime::format_rfc3339(next).to_string(), expected, "{schedule} {last:?} {random}");
            assert!(next <= schedule.latest(time(noon)));
        }
    }

    #[test]
    fn a_time_of_the_day_is_read_or_refused() {
        assert_eq!("23:59".parse::<TimeOfDay>().unwrap().to_string(), "23:59");
        assert_eq!(Schedule::At("02:00".parse().unwrap()).to_string(), "at 02:00 UTC");
        for wrong in ["", "2:00", "24:00", "02:60", "02", "02:0", "+2:00", "02:00:00", "02:00 CET", "é2:00"] {
            assert_eq!(wrong.parse::<TimeOfDay>(), Err(NoTime), "{wrong}");
        }
    }
}
