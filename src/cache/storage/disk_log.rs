//! What the log says of a disk that fails: one line per kind of failure and minute.

use std::{fmt, io};

use super::DiskStore;
use crate::line_limit::{LINE_INTERVAL, LineLimit};

/// More than there are kinds.
const MAX_KINDS: usize = 32;

/// Which failures get a line, by what failed.
pub(super) type DiskLines = LineLimit<&'static str>;

pub(super) fn disk_lines() -> DiskLines {
    LineLimit::new(LINE_INTERVAL, MAX_KINDS)
}

impl DiskStore {
    /// Logs that the disk failed; `what` failed, with `object`. On a disk that is full or broken each request would be a
    /// line, so that of those within a minute one is.
    pub(crate) fn disk_failed(&self, what: &'static str, object: &dyn fmt::Debug, error: &io::Error) {
        match self.0.disk_lines.admit(what) {
            Some(left_out) => tracing::error!(%error, ?object, left_out, "{what}"),
            None => tracing::debug!(%error, ?object, "{what}"),
        }
    }
}
