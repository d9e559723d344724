//! The requests that fetch a blob beside its download, because they must not wait for it.
//!
//! What must hold: there is at most one per blob and registry.

use std::{collections::HashSet, sync::Arc};

use parking_lot::Mutex;

use crate::cache::{ContentKey, Origin, Source};

/// Blobs that one request fetches concurrently with their download. A cheap handle.
#[derive(Clone, Default)]
pub(super) struct SeparateFetches(Arc<Mutex<HashSet<(ContentKey, Origin)>>>);

/// A request fetches a blob concurrently with its download as long as this lives.
pub(crate) struct SeparateFetch {
    fetches: SeparateFetches,
    what: (ContentKey, Origin),
}

impl SeparateFetches {
    /// The place of the one request for this blob; `None` if it is taken.
    pub(super) fn begin(&self, source: &Source) -> Option<SeparateFetch> {
        let what = (source.id(), source.origin());
        let is_free = self.0.lock().insert(what.clone());
        is_free.then(|| SeparateFetch { fetches: self.clone(), what })
    }
}

impl Drop for SeparateFetch {
    fn drop(&mut self) {
        self.fetches.0.lock().remove(&self.what);
    }
}
