//! When an object was last used, as one number that orders all objects (pure).

/// In nanoseconds.
const MINUTE: i64 = 60_000_000_000;
/// Set if a client has used the object: what no client used is evicted first.
const USED: u64 = 1 << 63;
/// Set if this process stamped the object, and not the start-up scan: within a minute, that is the later use.
const LIVE: u64 = 1 << 31;
const MAX_MINUTE: u32 = (1 << 31) - 1;
const MAX_NUMBER: u32 = (1 << 31) - 1;

/// Which of two lists an object is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// No client has used it.
    Unused,
    Used,
}

impl Class {
    /// The first to be evicted comes first.
    pub(super) const EVERY: [Self; 2] = [Self::Unused, Self::Used];
}

/// From the highest bit to the lowest: the class, the minute, who stamped it, and the order within the minute.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Stamp(u64);

impl Stamp {
    /// Later than every use.
    pub(super) const NEVER: Self = Self(u64::MAX);

    /// The `number`th use that this process noted.
    pub(super) fn live(class: Class, minute: u32, number: u32) -> Self {
        Self(Self::at(class, minute) | LIVE | u64::from(number & MAX_NUMBER))
    }

    /// The use that a file's mtime tells, in nanoseconds since 1970. No client has used a file of 1970.
    pub(super) fn of_file(modified: i64) -> Self {
        let minute = u32::try_from(modified / MINUTE).unwrap_or_default();
        let within = u64::try_from(modified % MINUTE).unwrap_or_default();
        let class = if minute == 0 { Class::Unused } else { Class::Used };
        // 60 * 10^9 / 2^5 is less than 2^31.
        Self(Self::at(class, minute) | within >> 5)
    }

    fn at(class: Class, minute: u32) -> u64 {
        let class = if class == Class::Used { USED } else { 0 };
        class | u64::from(minute.min(MAX_MINUTE)) << 32
    }

    pub(super) fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    pub(super) fn bits(self) -> u64 {
        self.0
    }

    pub(super) fn class(self) -> Class {
        if self.0 & USED == 0 { Class::Unused } else { Class::Used }
    }

    pub(super) fn minute(self) -> u32 {
        ((self.0 & !USED) >> 32) as u32
    }

    pub(super) fn is_live(self) -> bool {
        self.0 & LIVE != 0
    }

    /// The same use, moved to another minute.
    pub(super) fn moved_to(self, minute: u32) -> Self {
        Self(Self::at(self.class(), minute) | self.0 & u64::from(u32::MAX))
    }

    /// How many uses this process noted after this one and before the `next`th.
    pub(super) fn uses_since(self, next: u32) -> u32 {
        next.wrapping_sub(1).wrapping_sub(self.0 as u32) & MAX_NUMBER
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_are_in_the_order_of_eviction() {
        const NOW: i64 = 1_800_000_000_000_000_000;
        let minute = u32::try_from(NOW / MINUTE).unwrap();
        let stamps = [
            Stamp::of_file(-1),
            Stamp::of_file(1),
            Stamp::live(Class::Unused, minute, 9),
            Stamp::live(Class::Unused, minute, 10),
            Stamp::of_file(NOW - MINUTE),
            Stamp::live(Class::Used, minute - 1, 7),
            Stamp::of_file(NOW),
            Stamp::of_file(NOW + 1_000_000_000),
            Stamp::live(Class::Used, minute, 1),
            Stamp::live(Class::Used, minute, 2),
            Stamp::of_file(i64::MAX),
            Stamp::live(Class::Used, u32::MAX, u32::MAX),
            Stamp::NEVER,
        ];
        assert!(stamps.is_sorted(), "{stamps:x?}");
        assert_eq!(stamps.map(|stamp| stamp.is_live()).iter().filter(|live| **live).count(), 7);
        let moved = Stamp::live(Class::Used, 5, 3).moved_to(9);
        assert_eq!((moved, moved.minute()), (Stamp::live(Class::Used, 9, 3), 9));
    }

    #[test]
    fn uses_are_counted_over_the_end_of_their_numbers() {
        for (number, next, expected) in [(0, 1, 0), (5, 6, 0), (5, 9, 3), (MAX_NUMBER, 1 << 31, 0), (MAX_NUMBER, 2, 2)]
        {
            assert_eq!(Stamp::live(Class::Used, 7, number).uses_since(next), expected, "{number} {next}");
        }
    }
}
