//! Values of labels: small, closed sets. The stage that knows the values defines the enum; the log spells them in the same way.

use crate::oci::Operation;

/// A value of a label: one of a closed set.
pub trait Label: Copy + 'static {
    /// All values.
    const ALL: &'static [Self];

    fn as_str(self) -> &'static str;

    /// Its index in [`ALL`](Self::ALL).
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
