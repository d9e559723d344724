//! `[cache]`: where bytes are kept, how many, and how long a tag is believed.

use std::{path::PathBuf, time::Duration};

use super::blob::uncached_limit::MAX_THROUGH;
use crate::transport::recipient::RATE_WINDOW;

/// The `[cache]` section. Sizes are in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    pub directory: PathBuf,
    /// All that is on disk, bytes in flight included.
    pub max_size: u64,
    /// What is left free on the file system for others.
    pub min_free: u64,
    /// How much memory manifests may take.
    pub manifest_memory: u64,
    /// How long a tag, and what refers to a digest, is trusted without asking its upstream.
    pub tag_ttl: Duration,
    /// How long a tag or a list is served, after it was last confirmed, when the upstream cannot answer.
    pub stale_if_error: Duration,
    /// How long a 404 is believed.
    pub negative_ttl: Duration,
    /// How many layers of one image are fetched before a client asks for them; 0: none.
    pub prefetch: usize,
    /// How old the verification of what is cached may be; 0: it is never verified again.
    pub verify_every: Duration,
    /// How much of its own time a reader is judged by before it is ended for others. No key: tests shorten it.
    pub reader_window: Duration,
    /// How many blobs pass straight through at a time; few descriptors lower it. No key.
    pub max_through: u64,
}

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

impl Default for Config {
    /// The defaults of the configuration, in no directory: which one depends on the user.
    fn default() -> Self {
        Self {
            directory: PathBuf::new(),
            max_size: 50 * GIB,
            min_free: GIB,
            manifest_memory: 64 * MIB,
            tag_ttl: Duration::from_secs(60),
            stale_if_error: 30 * DAY,
            negative_ttl: Duration::from_secs(10),
            prefetch: 3,
            verify_every: 7 * DAY,
            reader_window: RATE_WINDOW,
            max_through: MAX_THROUGH,
        }
    }
}

#[cfg(test)]
impl Config {
    /// A cache in this directory, for tests: of a MiB, and all else is nothing.
    pub fn at(directory: &std::path::Path) -> Self {
        Self {
            directory: directory.to_owned(),
            max_size: 1 << 20,
            min_free: 0,
            manifest_memory: 0,
            tag_ttl: Duration::ZERO,
            stale_if_error: Duration::ZERO,
            negative_ttl: Duration::ZERO,
            prefetch: 0,
            verify_every: Duration::ZERO,
            reader_window: Duration::ZERO,
            max_through: 0,
        }
    }
}
