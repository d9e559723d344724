//! How the store is, in a word.

use std::time::SystemTime;

use parking_lot::Mutex;

use super::error::Error;

/// How the store is.
#[derive(Clone, Debug)]
pub(crate) struct Health {
    /// `unknown`, `ok`, `read-only`, `write-only` or `down`.
    pub word: &'static str,
    /// The last failure, and when it was.
    pub failure: Option<(SystemTime, String)>,
}

#[derive(Debug, Default)]
pub(super) struct HealthLog(Mutex<Log>);

#[derive(Debug, Default)]
struct Log {
    was_asked: bool,
    failure: Option<(SystemTime, String)>,
}

impl HealthLog {
    pub(super) fn note(&self, error: Option<&Error>) {
        let mut log = self.0.lock();
        log.was_asked = true;
        if let Some(error) = error.filter(|error| error.kind.is_outage()) {
            log.failure = Some((SystemTime::now(), error.to_string()));
        }
    }

    /// `reads_fail`, `writes_fail`: whether these are left alone now.
    pub(super) fn now(&self, reads_fail: bool, writes_fail: bool) -> Health {
        let log = self.0.lock();
        let word = match (log.was_asked, reads_fail, writes_fail) {
            (false, ..) => "unknown",
            (true, false, false) => "ok",
            (true, false, true) => "read-only",
            (true, true, false) => "write-only",
            (true, true, true) => "down",
        };
        Health { word, failure: log.failure.clone() }
    }
}
