//! What tags were seen to name, and since when: for rules that hold tags.
//!
//! In memory, and in the file `first-seen` of the state directory, so that it survives restarts, kills and the cache.
//!
//! What must hold: a change of what a tag names or means is in the file before a client gets it, if the disk answers in
//! time; what cannot be read makes nothing eligible; the number of tags is bounded.

mod checks;
mod line;
mod log;
mod tag_name;

use std::{
    collections::HashMap,
    path::Path,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use parking_lot::Mutex;

use self::{
    checks::TagChecks,
    log::{FirstSeenLog, ReadLog},
};
pub(crate) use self::{
    checks::{Meaning, Moment},
    tag_name::TagName,
};
use super::storage::{blocking, tag_record::TagKey};
use crate::{
    oci::{Accept, Digest, Repository},
    rule::Hold,
};

/// How many tags are remembered. Of more, those that were checked the longest time ago begin anew.
const MAX_TAGS: usize = 20_000;
/// How many tags are dropped at a time: one part in so many.
const DROPPED_PART: usize = 16;
/// How long a response waits for the disk.
const WRITE_TIMEOUT: Duration = Duration::from_millis(500);
/// How far the time of the last check in the file may lag behind. It counts if the process is killed and the upstream
/// does not answer after that.
const MAX_LAG: Duration = Duration::from_secs(600);

/// A cheap handle.
#[derive(Clone)]
pub(crate) struct FirstSeen(Arc<FirstSeenInner>);

struct FirstSeenInner {
    tags: Mutex<HashMap<TagName, SeenTag>>,
    /// Locked before `tags`, and while the disk is written to.
    log: Mutex<Option<FirstSeenLog>>,
    start: Instant,
}

/// A tag, and the last check that is in the file.
#[derive(Default)]
struct SeenTag {
    checks: TagChecks,
    written: Option<SystemTime>,
}

impl Default for FirstSeen {
    fn default() -> Self {
        Self(Arc::new(FirstSeenInner { tags: Mutex::default(), log: Mutex::default(), start: Instant::now() }))
    }
}

impl FirstSeen {
    /// Keeps all of it in this directory from now on, and reads what an earlier process left there. Blocks.
    pub(crate) fn keep(&self, state: &Path) {
        let mut log = self.0.log.lock();
        if log.as_ref().is_some_and(|log| log.is_in(state)) {
            return;
        }
        let opened = FirstSeenLog::open(state).and_then(|(mut opened, read)| {
            self.take_over(read, state);
            let tags = self.0.tags.lock();
            opened.replace(tags.iter().map(|(name, seen)| (name, &seen.checks)))?;
            Ok(opened)
        });
        match opened {
            Ok(opened) => *log = Some(opened),
            Err(error) => tracing::warn!(
                %error, path = %state.display(),
                "the times when tags were first seen are not kept over a restart: tags that rules hold begin anew then"
            ),
        }
    }

    fn take_over(&self, read: ReadLog, state: &Path) {
        if read.damaged > 0 {
            tracing::warn!(
                path = %state.display(), lines = read.damaged,
                "the file first-seen is damaged (kept as first-seen.damaged): what rules served stays, \
                 and what their tags name now begins its minimum_age anew"
            );
        }
        let mut tags = self.0.tags.lock();
        for (name, mut checks) in read.tags {
            if read.damaged > 0 {
                // A line that is lost may have said that the tag named something else.
                checks.note_absent();
            }
            let written = checks.checked();
            // What this process knows is newer.
            tags.entry(name).or_insert(SeenTag { checks, written });
        }
        drop_oldest(&mut tags);
    }

    /// The upstream said at this time that a tag names a digest.
    pub(crate) async fn note(&self, key: &TagKey, digest: &Digest, confirmed: SystemTime, hold: &Hold) {
        let name = TagName::from(key);
        let must_be_written = {
            let mut tags = self.0.tags.lock();
            let seen = tags.entry(name.clone()).or_default();
            let now = self.moment(confirmed);
            let is_change = seen.checks.note(key.class, digest, now, hold);
            let lag = seen.written.map(|written| now.wall.duration_since(written).unwrap_or_default());
            let must_be_written = is_change || lag.is_none_or(|lag| lag > MAX_LAG);
            if must_be_written {
                seen.written = Some(now.wall);
            }
            drop_oldest(&mut tags);
            must_be_written
        };
        if must_be_written {
            self.write(name).await;
        }
    }

    /// The upstream said that there is no such tag.
    pub(crate) async fn note_absent(&self, key: &TagKey) {
        self.change(TagName::from(key), |checks| checks.note_absent()).await;
    }

    /// A push through forebay made a tag name a digest.
    pub(crate) async fn note_push(&self, name: TagName, digest: &Digest) {
        let now = self.moment(SystemTime::now());
        self.0.tags.lock().entry(name.clone()).or_default().checks.note_push(Accept::default().class(), digest, now);
        self.write(name).await;
    }

    /// A tag begins anew.
    pub(crate) async fn forget(&self, name: TagName) {
        if self.0.tags.lock().remove(&name).is_some() {
            self.write(name).await;
        }
    }

    /// A manifest was deleted: no tag of the repository means it any more. Returns these tags.
    pub(crate) async fn forget_digest(&self, upstream: &str, repository: &Repository, digest: &Digest) -> Vec<TagName> {
        let mut changed = Vec::new();
        for (name, seen) in self.0.tags.lock().iter_mut() {
            if *name.upstream == *upstream && name.repository == *repository && seen.checks.forget_digest(digest) {
                changed.push(name.clone());
            }
        }
        for name in &changed {
            self.write(name.clone()).await;
        }
        changed
    }

    /// What a tag means, now that the upstream says that it names `present`.
    pub(crate) fn meaning(&self, key: &TagKey, present: &Digest, hold: &Hold) -> Meaning {
        let tags = self.0.tags.lock();
        match tags.get(&TagName::from(key)) {
            Some(seen) => seen.checks.meaning(key.class, present, hold),
            None => TagChecks::default().meaning(key.class, present, hold),
        }
    }

    /// What clients get of a tag, and when a check last named something; `None`: nothing yet.
    pub(crate) fn eligible(&self, key: &TagKey) -> Option<(Digest, Option<SystemTime>)> {
        let tags = self.0.tags.lock();
        let checks = &tags.get(&TagName::from(key))?.checks;
        Some((checks.eligible(key.class)?.clone(), checks.checked()))
    }

    /// Whether the last check found this digest.
    pub(crate) fn names(&self, key: &TagKey, digest: &Digest) -> bool {
        self.0.tags.lock().get(&TagName::from(key)).is_some_and(|seen| seen.checks.names(key.class, digest))
    }

    /// The digests that must stay in the cache for a tag.
    pub(crate) fn held(&self, name: &TagName, is_final: bool) -> Vec<Digest> {
        self.0.tags.lock().get(name).map(|seen| seen.checks.held(is_final)).unwrap_or_default()
    }

    /// All tags.
    pub(crate) fn tags(&self) -> Vec<TagName> {
        self.0.tags.lock().keys().cloned().collect()
    }

    async fn change(&self, name: TagName, change: impl FnOnce(&mut TagChecks)) {
        let is_changed = match self.0.tags.lock().get_mut(&name) {
            Some(seen) => {
                let before = seen.checks.clone();
                change(&mut seen.checks);
                seen.checks != before
            }
            None => false,
        };
        if is_changed {
            self.write(name).await;
        }
    }

    fn moment(&self, wall: SystemTime) -> Moment {
        Moment { wall, steady: self.0.start.elapsed() }
    }

    /// Writes what is known of a tag. A disk that hangs keeps no response back.
    async fn write(&self, name: TagName) {
        let seen = self.clone();
        let _ = tokio::time::timeout(WRITE_TIMEOUT, blocking(move || seen.write_now(&name))).await;
    }

    fn write_now(&self, name: &TagName) {
        let mut guard = self.0.log.lock();
        let Some(log) = guard.as_mut() else { return };
        // As it is now: two writes of one tag may come in any order.
        let checks = self.0.tags.lock().get(name).map(|seen| seen.checks.clone());
        let was_failing = log.is_failing();
        let written = match log.must_be_replaced() {
            true => {
                let tags = self.0.tags.lock();
                let all: Vec<_> = tags.iter().map(|(name, seen)| (name.clone(), seen.checks.clone())).collect();
                drop(tags);
                log.replace(all.iter().map(|(name, checks)| (name, checks)))
            }
            false => log.append(name, &checks.unwrap_or_default()),
        };
        match written {
            Err(error) if !was_failing => tracing::warn!(
                %error,
                "the times when tags were first seen cannot be written; forebay tries again with the next one"
            ),
            Ok(()) if was_failing => tracing::info!("the times when tags were first seen can be written again"),
            _ => {}
        }
    }
}

/// Drops the tags that were checked the longest time ago, if there are too many.
fn drop_oldest(tags: &mut HashMap<TagName, SeenTag>) {
    if tags.len() <= MAX_TAGS {
        return;
    }
    let mut checked: Vec<_> = tags.values().map(|seen| seen.checks.checked()).collect();
    let dropped = tags.len() - (MAX_TAGS - MAX_TAGS / DROPPED_PART);
    let (_, limit, _) = checked.select_nth_unstable(dropped.saturating_sub(1));
    let limit = *limit;
    let mut left = dropped;
    tags.retain(|_, seen| {
        let is_dropped = left > 0 && seen.checks.checked() <= limit;
        left -= usize::from(is_dropped);
        !is_dropped
    });
    tracing::warn!(
        dropped,
        "rules hold more tags than are remembered: those that were checked the longest time ago begin anew"
    );
}

#[cfg(test)]
mod tests;
