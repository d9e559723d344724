//! A place in the order of requests: where a page ends.

use std::{fmt, str::FromStr, time::Duration};

/// When a request ended, and its number: later requests come later, and no two have the same position.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Position {
    /// Nanoseconds since the start.
    ended: u64,
    number: u64,
}

/// The text is no position.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("write what \"next\" of the page before this one says")]
pub(crate) struct PositionError;

impl Position {
    pub(super) fn new(ended: Duration, number: u64) -> Self {
        Self { ended: u64::try_from(ended.as_nanos()).unwrap_or(u64::MAX), number }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}-{:x}", self.ended, self.number)
    }
}

impl FromStr for Position {
    type Err = PositionError;

    fn from_str(text: &str) -> Result<Self, PositionError> {
        let (ended, number) = text.split_once('-').ok_or(PositionError)?;
        let hex = |text: &str| match text.starts_with('+') {
            true => Err(PositionError),
            false => u64::from_str_radix(text, 16).map_err(|_| PositionError),
        };
        Ok(Self { ended: hex(ended)?, number: hex(number)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_read_as_it_is_written() {
        for (ended, number) in [(0, 0), (1, u64::MAX), (u64::MAX, 255)] {
            let position = Position { ended, number };
            assert_eq!(position.to_string().parse(), Ok(position));
        }
        for text in ["", "-", "1", "1-", "-1", "1-2-3", "g-1", "+1-1", "1-+1", "11111111111111111-1"] {
            assert_eq!(text.parse::<Position>(), Err(PositionError), "{text:?}");
        }
    }
}
