//! How many clients, downloads and pushes wait for a disk now, so that background work can give way to them.

use std::sync::atomic::{AtomicUsize, Ordering};

static WAITS: AtomicUsize = AtomicUsize::new(0);

/// One wait for a disk, until this is dropped.
#[must_use = "the wait is over when this is dropped"]
pub(crate) struct DiskWait(());

impl DiskWait {
    pub(crate) fn begin() -> Self {
        WAITS.fetch_add(1, Ordering::Relaxed);
        Self(())
    }

    /// Whether any client, download or push waits for a disk.
    pub(crate) fn any() -> bool {
        WAITS.load(Ordering::Relaxed) > 0
    }
}

impl Drop for DiskWait {
    fn drop(&mut self) {
        WAITS.fetch_sub(1, Ordering::Relaxed);
    }
}
