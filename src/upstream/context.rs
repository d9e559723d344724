//! What an upstream needs of the program around it.

use std::sync::Arc;

use super::{health::HealthTable, pause::PauseTable, rates::RateTable, response::document_budget::ReadBudget};
use crate::{byte_counter::ByteCounter, cluster::Cluster, metrics::Metrics, store::Store};

#[derive(Clone)]
pub struct Context {
    pub metrics: Metrics,
    /// The value of the Via header, such as `1.1 forebay-3f2a`, by which forebay recognises its own requests in a loop.
    pub via: Arc<str>,
    /// The memory for documents of all upstreams.
    pub budget: ReadBudget,
    /// The rates of all upstreams.
    pub rates: RateTable,
    /// How all upstreams are.
    pub health: HealthTable,
    /// Counts the bytes of manifests and blobs of all upstreams.
    pub content: ByteCounter,
    /// Which upstreams are paused.
    pub pauses: PauseTable,
    /// The forebays that are asked before registries.
    pub cluster: Option<Cluster>,
    /// The object store behind this forebay.
    pub store: Option<Store>,
}

#[cfg(test)]
impl Context {
    pub fn of_test() -> Self {
        Self {
            metrics: Metrics::new().unwrap(),
            via: "1.1 forebay-test".into(),
            budget: ReadBudget::default(),
            rates: RateTable::default(),
            health: HealthTable::default(),
            content: ByteCounter::default(),
            pauses: PauseTable::default(),
            cluster: None,
            store: None,
        }
    }
}
