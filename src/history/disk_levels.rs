//! How full the disk was in the last day, by the intervals of the sums (pure).
//!
//! What must hold: time is that since the start, and memory is fixed.

use std::time::Duration;

use super::sums::{INTERVALS, first_interval, interval};

/// The bytes on disk at the end of each interval.
pub(super) struct DiskLevels([Option<Level>; INTERVALS]);

#[derive(Clone, Copy)]
struct Level {
    /// Which interval since the start.
    number: u64,
    bytes: u64,
}

impl Default for DiskLevels {
    fn default() -> Self {
        Self([None; INTERVALS])
    }
}

impl DiskLevels {
    /// Takes the place of what was noted in the same interval before.
    pub(super) fn note(&mut self, at: Duration, bytes: u64) {
        let number = interval(at);
        if let Some(level) = self.0.get_mut((number % INTERVALS as u64) as usize) {
            *level = Some(Level { number, bytes });
        }
    }

    /// The levels of a day that ends at `now`, the oldest first.
    pub(super) fn day(&self, now: Duration) -> [Option<u64>; INTERVALS] {
        let first = first_interval(now);
        let mut day = [None; INTERVALS];
        for Level { number, bytes } in self.0.iter().flatten() {
            let place = number.checked_sub(first).and_then(|place| usize::try_from(place).ok());
            if let Some(level) = place.and_then(|place| day.get_mut(place)) {
                *level = Some(*bytes);
            }
        }
        day
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_has_its_last_level() {
        const INTERVAL: Duration = Duration::from_secs(600);
        let mut levels = DiskLevels::default();
        levels.note(Duration::ZERO, 1);
        levels.note(Duration::from_secs(599), 2);
        levels.note(INTERVAL * 2, 3);
        assert_eq!(levels.day(INTERVAL * 2)[..4], [Some(2), None, Some(3), None]);
        // A day and ten minutes later.
        levels.note(INTERVAL * 145, 4);
        let day = levels.day(INTERVAL * 145);
        assert_eq!((day[0], day[139], day.iter().flatten().count()), (None, Some(4), 1));
    }
}
