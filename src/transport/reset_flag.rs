//! Whether a connection must end with a reset.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

/// Says that a connection must end with a reset, so that no client takes a response that was cut short for a whole one. A write
/// that stalled sets it, and so does the end of a connection in the middle of a response. A cheap handle.
#[derive(Clone, Debug, Default)]
pub(super) struct ResetFlag(Arc<Flags>);

#[derive(Debug, Default)]
struct Flags {
    is_set: AtomicBool,
    is_stalled: AtomicBool,
}

impl ResetFlag {
    pub(super) fn set(&self) {
        self.0.is_set.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_set(&self) -> bool {
        self.0.is_set.load(Ordering::Relaxed)
    }

    /// Sets it because of a write that the client did not take.
    pub(super) fn set_stalled(&self) {
        self.0.is_stalled.store(true, Ordering::Relaxed);
        self.set();
    }

    pub(super) fn is_stalled(&self) -> bool {
        self.0.is_stalled.load(Ordering::Relaxed)
    }
}
