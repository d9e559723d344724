//! `[cache]`: where forebay keeps content, how much of it, and how long it trusts a tag.

use std::{path::PathBuf, time::Duration};

use super::{blob::uncached_limit::MAX_THROUGH, download::Complete, storage::MAX_OPEN};
use crate::transport::recipient::RATE_WINDOW;

/// The `[cache]` section. Sizes are in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    pub directory: PathBuf,
    /// The size of all files on disk, including those being downloaded.
    pub max_size: u64,
    /// What forebay leaves free on the file system for other programs.
    pub min_free: u64,
    /// How much memory manifests may use.
    pub manifest_memory: u64,
    /// How long forebay trusts a tag, and the list of referrers of a digest, without asking the upstream.
    pub tag_ttl: Duration,
    /// How long after its last confirmation forebay serves a tag or a list while the upstream cannot answer.
    pub stale_if_error: Duration,
    /// How long forebay trusts a 404.
    pub negative_ttl: Duration,
    /// How many layers of one image forebay fetches before a client requests them; 0: none.
    pub prefetch: usize,
    /// When a range of a large blob brings all of it: `download.complete`.
    pub complete: Complete,
    /// How old the verification of cached content may be; 0: forebay never verifies it again.
    pub verify_every: Duration,
    /// Over how much of its own time forebay judges a reader before it ends the reader for the sake of others. Not a
    /// key of the file: tests shorten it.
    pub reader_window: Duration,
    /// How many blobs stream through uncached at a time; a low limit of descriptors lowers it. Not a key of the file.
    pub max_through: u64,
    /// How many files of blobs stay open without readers; a low limit of descriptors lowers it. Not a key of the file.
    pub max_open: usize,
}

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

impl Default for Config {
    /// The defaults of the configuration, without a directory: the default directory depends on the user.
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
            complete: Complete::default(),
            verify_every: 7 * DAY,
            reader_window: RATE_WINDOW,
            max_through: MAX_THROUGH,
            max_open: MAX_OPEN,
        }
    }
}

#[cfg(test)]
impl Config {
    /// A cache of one MiB in this directory, for tests; all other values are zero.
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
            complete: Complete::default(),
            verify_every: Duration::ZERO,
            reader_window: Duration::ZERO,
            max_through: 0,
            max_open: 2,
        }
    }
}
