//! What all caches share.

use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::DiskStore;
use crate::{metrics::Metrics, peer::TrustedNetworks};

/// The store, the metrics, and the tasks of all caches. Cheap to clone.
#[derive(Clone)]
pub(crate) struct CacheContext {
    pub store: DiskStore,
    pub metrics: Metrics,
    /// The tasks that outlive the request that began them.
    pub tasks: TaskTracker,
    /// Cancelled when these tasks are to end.
    pub end: CancellationToken,
    pub trusted: TrustedNetworks,
}
