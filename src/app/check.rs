//! What parses and cannot work: warnings about a configuration, before clients meet the consequences.
//!
//! [`Facts`] are gathered first: files, the clock, the disk, ports. The warnings are decided from the configuration and the
//! facts alone, one file per subject.

mod access;
mod certificates;
mod cluster;
mod facts;
mod listeners;
mod redirects;
mod rules;
mod storage;
mod upstreams;

use std::fmt;

pub use self::facts::{Facts, PortUse, Ports};
use crate::{
    config::{Config, Key},
    oci::HostPattern,
};

/// Something that forebay accepts, and that does not do what it seems to be meant for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// The key whose value is to be corrected.
    pub key: Key,
    /// What does not work, and what to do.
    pub problem: String,
}

impl Warning {
    fn new(key: Key, problem: impl Into<String>) -> Self {
        Self { key, problem: problem.into() }
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key, self.problem)
    }
}

/// All warnings about a configuration (pure), in the order of the file's sections.
pub fn warnings(config: &Config, facts: &Facts) -> Vec<Warning> {
    let mut found = listeners::warnings(config, facts);
    found.extend(certificates::warnings(config, facts));
    found.extend(storage::warnings(config, facts));
    found.extend(access::warnings(config, facts));
    found.extend(upstreams::warnings(config, facts));
    found.extend(redirects::warnings(config));
    found.extend(rules::warnings(config));
    found.extend(cluster::warnings(config, facts));
    found
}

/// The key of an upstream's field.
fn of_upstream(index: usize, field: &str) -> Key {
    Key::new("upstream").item(index).field(field)
}

/// The hosts of all upstreams, with their keys.
fn hosts(config: &Config) -> impl Iterator<Item = (Key, &HostPattern)> {
    config.upstreams.iter().enumerate().flat_map(|(index, upstream)| {
        let key = of_upstream(index, "hosts");
        upstream.hosts.iter().enumerate().map(move |(item, host)| (key.item(item), host))
    })
}

#[cfg(test)]
mod tests;
