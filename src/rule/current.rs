//! The rules in force; a reload replaces them as one.

use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};

use super::Rules;

/// A cheap handle on the rules in force.
#[derive(Clone, Default)]
pub struct CurrentRules(Arc<ArcSwap<Rules>>);

impl CurrentRules {
    pub fn new(rules: Rules) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(rules)))
    }

    pub fn get(&self) -> Guard<Arc<Rules>> {
        self.0.load()
    }

    pub fn set(&self, rules: Rules) {
        self.0.store(Arc::new(rules));
    }
}
