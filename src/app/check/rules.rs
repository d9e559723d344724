//! Warnings about rules without effect (pure).

use super::Warning;
use crate::config::{Config, Key};

pub(super) fn warnings(config: &Config) -> Vec<Warning> {
    let found = config.rule_warnings().into_iter();
    found.map(|(rule, why)| Warning::new(Key::new("rule"), format!("the rule {rule} {why}"))).collect()
}
