//! Uses from memory, which reach the index later.
//!
//! A cache hit in memory reads one flag of its object. Only the first use since the last update of the index takes a
//! lock. forebay updates the index before it evicts anything, and periodically. So the order of the index is that of
//! use to within the interval, and objects used since the last update are evicted last.

use std::{
    fs::File,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::{DiskStore, blocking, io_limits, lru_index::IndexKey};
use crate::cache::freshness;

/// A use is noted on disk at most this often per object: recency needs no better precision, and each note is a write.
pub(super) const TOUCH_INTERVAL: Duration = Duration::from_secs(60);

/// Whether an object in memory was used since the last update of the index.
#[derive(Clone, Debug, Default)]
pub struct LastUse(Arc<AtomicBool>);

/// The uses that the index has not seen yet; each object in memory occurs at most once.
#[derive(Default)]
pub struct Uses(Mutex<Vec<(IndexKey, LastUse)>>);

impl Uses {
    /// Notes a use; returns the key if it is the first since [`Uses::take`].
    pub fn note(&self, used: &LastUse, key: impl FnOnce() -> IndexKey) -> Option<IndexKey> {
        // A plain load comes first, so that the cores of busy clients share the flag's cache line.
        if used.0.load(Ordering::Relaxed) || used.0.swap(true, Ordering::AcqRel) {
            return None;
        }
        let key = key();
        self.0.lock().push((key.clone(), used.clone()));
        Some(key)
    }

    /// Takes all used objects, in the order of first use; the next use of each counts as a first one again.
    pub fn take(&self) -> Vec<IndexKey> {
        let taken = std::mem::take(&mut *self.0.lock());
        let again = |(key, used): (IndexKey, LastUse)| {
            used.0.store(false, Ordering::Release);
            key
        };
        taken.into_iter().map(again).collect()
    }
}

impl DiskStore {
    /// Notes a use from memory: the object becomes the most recently used on disk as well.
    pub fn note_use(&self, used: &LastUse, key: impl FnOnce() -> IndexKey) {
        if let Some(key) = self.0.uses.note(used, key) {
            self.used(key);
        }
    }

    /// A client received the object from elsewhere than its file: the object becomes the most recently used.
    pub fn used(&self, key: IndexKey) {
        if !self.0.index.touch(&key) {
            return;
        }
        if self.0.touched.contains_key(&key) {
            return;
        }
        let path = self.path(&key);
        self.0.touched.insert(key, ());
        // The caller does not wait for this: a use that is not noted costs a little order after a restart.
        io_limits::change_if_idle(move || {
            if let Ok(file) = File::open(&path)
                && let Ok(metadata) = file.metadata()
                && metadata.modified().is_ok_and(|modified| is_note_due(modified, SystemTime::now()))
            {
                note_now(&file);
            }
        });
    }

    /// Updates the index with the uses from memory, closes files that were not read since, and notes the free space,
    /// periodically, until the shutdown.
    pub async fn keep_uses(self, end: CancellationToken) {
        while tokio::time::timeout(TOUCH_INTERVAL, end.cancelled()).await.is_err() {
            self.0.index.pass_minute();
            let store = self.clone();
            blocking(move || {
                store.settle_uses();
                store.0.index.close_idle();
                store.note_free();
            })
            .await;
        }
    }

    /// Updates the index with the uses from memory since the last update.
    pub(super) fn settle_uses(&self) {
        for key in self.0.uses.take() {
            self.0.index.touch(&key);
        }
    }
}

/// Notes a use on disk, at most once per interval and only if the disk is not busy: a cache hit does not wait for it.
pub(super) fn touch(file: &Arc<File>, metadata: &std::fs::Metadata) {
    if metadata.modified().is_ok_and(|modified| is_note_due(modified, SystemTime::now())) {
        note_later(file);
    }
}

/// The same, where it is not known when a use was noted.
pub(super) fn note_on_disk(file: &Arc<File>) {
    if freshness::is_set(SystemTime::now()) {
        note_later(file);
    }
}

fn note_later(file: &Arc<File>) {
    let file = file.clone();
    io_limits::change_if_idle(move || note_now(&file));
}

/// Whether to note a use at `now` on a file whose last noted use is `modified`.
fn is_note_due(modified: SystemTime, now: SystemTime) -> bool {
    let is_due = match now.duration_since(modified) {
        Ok(age) => age > TOUCH_INTERVAL,
        // A last use in the future comes from a clock that was set back since: it would stay the most recent use for
        // ever.
        Err(ahead) => ahead.duration() > TOUCH_INTERVAL,
    };
    // With the time of a clock that is not set yet, the file would count as older than all others after the next start.
    is_due && freshness::is_set(now)
}

fn note_now(file: &File) {
    if let Err(error) = file.set_modified(SystemTime::now()) {
        tracing::debug!(%error, "cannot note the use of a cached blob");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cache::Visibility,
        oci::{Algorithm, Digest},
    };

    #[test]
    fn each_is_told_once_between_two_tellings() {
        let key = |number: u8| IndexKey::Manifest(Visibility::Shared.key(&Digest::of(Algorithm::Sha256, &[number])));
        let (uses, first, second) = (Uses::default(), LastUse::default(), LastUse::default());
        for _ in 0..2 {
            assert_eq!(uses.note(&second, || key(2)), Some(key(2)));
            assert_eq!(uses.note(&first, || key(1)), Some(key(1)));
            assert_eq!(uses.note(&second, || key(2)), None);
            assert_eq!(uses.note(&first.clone(), || key(1)), None, "a copy is the same object");
            assert_eq!(uses.take(), [key(2), key(1)]);
            assert_eq!(uses.take(), []);
        }
    }

    #[test]
    fn a_use_is_noted_once_a_minute_by_a_clock_that_is_set() {
        let set = 1_800_000_000;
        for (modified, now, expected) in [
            (set, set, false),
            (set - 60, set, false),
            (set - 61, set, true),
            (0, set, true),
            // The clock was set back since.
            (set + 60, set, false),
            (set + 61, set, true),
            // The clock is not set yet.
            (set, 10, false),
            (set, 0, false),
            (0, 100, false),
            (set, 1_000_000_000, false),
        ] {
            let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
            assert_eq!(is_note_due(at(modified), at(now)), expected, "{modified} at {now}");
        }
    }
}
