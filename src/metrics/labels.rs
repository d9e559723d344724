//! Labels: closed and small sets, each defined by the stage whose word it is, and spelled the same in the log.

use crate::oci::Operation;

/// One value of a closed set.
pub trait Label: Copy + 'static {
    /// The whole set.
    const ALL: &'static [Self];

    fn as_str(self) -> &'static str;

    /// Its place in [`ALL`](Self::ALL).
    fn index(self) -> usize;
}

impl Label for Operation {
    const ALL: &'static [Self] = &Operation::ALL;

    fn as_str(self) -> &'static str {
        Operation::as_str(self)
    }

    fn index(self) -> usize {
        self as usize
    }
}
