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
    collections::{HashMap, HashSet},
    io,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use parking_lot::Mutex;
use tokio::sync::Semaphore;

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
    oci::{Accept, Digest, Repository, Tag},
    rule::Hold,
};

/// How many tags are remembered. Of more, those begin anew with which the least is lost ([`SeenTag::worth`]).
const MAX_TAGS: usize = 20_000;
/// How many tags are dropped at a time: one part in so many.
const DROPPED_PART: usize = 16;
/// A tag that no client has requested for so long is among the first to be dropped, whatever it means.
const MAX_IDLE: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// How often the file is written to in one turn: the second time takes what waited in vain for the first.
const WRITES_IN_TURN: usize = 2;
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
    /// Tags whose lines are to be written.
    unwritten: Mutex<HashSet<TagName>>,
    /// The turn to write: however slow the disk is, it holds one thread.
    writer: Arc<Semaphore>,
    /// Tags that were dropped and may still be held in the cache.
    dropped: Mutex<Vec<TagName>>,
    /// Whether a tag was imported at any time: usually none is looked up.
    has_imported: AtomicBool,
    start: Instant,
}

/// A tag, and what is known of it besides its checks.
#[derive(Default)]
struct SeenTag {
    checks: TagChecks,
    /// The last check that is in the file.
    written: Option<SystemTime>,
    /// A rule keeps what the tag means for ever.
    is_final: bool,
    /// When a client of this process requested it last.
    used: Option<SystemTime>,
}

/// How much is lost if a tag begins anew, in ascending order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Worth {
    /// An age, of a tag of which clients get nothing; or anything of a tag that clients have long not requested.
    Age,
    /// What clients get is what the upstream has.
    Present,
    /// What clients get is what the upstream may not say again.
    Earlier,
}

impl SeenTag {
    /// The checks, for a client that requests the tag.
    fn used(&mut self) -> &TagChecks {
        self.used = Some(SystemTime::now());
        &self.checks
    }

    /// What is dropped last is the greatest. A client that requests many tags must not make those begin anew that mean
    /// something else than the upstream says.
    fn worth(&self, now: SystemTime) -> (Worth, Option<SystemTime>) {
        let used = self.used.max(self.checks.checked());
        let idle = used.map(|used| now.duration_since(used).unwrap_or_default());
        if self.checks.is_imported {
            return (Worth::Earlier, used);
        }
        let worth = match self.checks.has_eligible() && idle.is_some_and(|idle| idle < MAX_IDLE) {
            false => Worth::Age,
            true if self.checks.held(self.is_final).is_empty() => Worth::Present,
            true => Worth::Earlier,
        };
        (worth, used)
    }
}

impl Default for FirstSeen {
    fn default() -> Self {
        Self(Arc::new(FirstSeenInner {
            tags: Mutex::default(),
            log: Mutex::default(),
            unwritten: Mutex::default(),
            writer: Arc::new(Semaphore::new(1)),
            dropped: Mutex::default(),
            has_imported: AtomicBool::new(false),
            start: Instant::now(),
        }))
    }
}

impl FirstSeen {
    /// Keeps all of it in this directory from now on, and reads what an earlier process left there. Blocks.
    pub(crate) fn keep(&self, state: &Path) {
        let mut log = self.0.log.lock();
        if log.as_ref().is_some_and(|log| log.is_in(state)) {
            return;
        }
        match FirstSeenLog::open(state) {
            Ok((opened, read)) => {
                self.take_over(read, state);
                let opened = log.insert(opened);
                self.replace(opened);
            }
            Err(error) => tracing::warn!(
                %error, path = %state.display(),
                "the times when tags were first seen are not kept over a restart: tags that rules hold begin anew then"
            ),
        }
    }

    /// Replaces the file. If that fails, the next write does it. Blocks.
    fn replace(&self, log: &mut FirstSeenLog) {
        let was_failing = log.is_failing();
        let tags = self.0.tags.lock();
        let all: Vec<_> = tags.iter().map(|(name, seen)| (name.clone(), seen.checks.clone())).collect();
        drop(tags);
        let written = log.replace(all.iter().map(|(name, checks)| (name, checks)));
        tell(&written, was_failing);
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
            self.note_imported(&checks);
            // What this process knows is newer.
            tags.entry(name).or_insert(SeenTag { checks, written, ..SeenTag::default() });
        }
        self.drop_surplus(&mut tags);
    }

    /// The upstream said at this time that a tag names a digest.
    pub(crate) async fn note(&self, key: &TagKey, digest: &Digest, confirmed: SystemTime, hold: &Hold) {
        let name = TagName::from(key);
        let must_be_written = {
            let mut tags = self.0.tags.lock();
            let seen = tags.entry(name.clone()).or_default();
            let now = self.moment(confirmed);
            let is_change = seen.checks.note(key.class, digest, now, hold);
            (seen.is_final, seen.used) = (hold.is_final, Some(SystemTime::now()));
            let lag = seen.written.map(|written| now.wall.duration_since(written).unwrap_or_default());
            let must_be_written = is_change || lag.is_none_or(|lag| lag > MAX_LAG);
            if must_be_written {
                seen.written = Some(now.wall);
            }
            self.drop_surplus(&mut tags);
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
        {
            let mut tags = self.0.tags.lock();
            let seen = tags.entry(name.clone()).or_default();
            seen.checks.note_push(Accept::default().class(), digest, now);
            seen.used = Some(now.wall);
            self.drop_surplus(&mut tags);
        }
        self.write(name).await;
    }

    /// A digest came with an archive: the tag means it from now on.
    pub(crate) async fn note_import(&self, name: TagName, digest: &Digest) {
        {
            let mut tags = self.0.tags.lock();
            let seen = tags.entry(name.clone()).or_default();
            seen.checks.note_import(Accept::default().class(), digest);
            seen.used = Some(SystemTime::now());
            self.note_imported(&seen.checks);
            self.drop_surplus(&mut tags);
        }
        self.write(name).await;
    }

    fn note_imported(&self, checks: &TagChecks) {
        if checks.is_imported {
            self.0.has_imported.store(true, Ordering::Release);
        }
    }

    /// Whether what a tag means came with an archive.
    pub(crate) fn is_imported(&self, upstream: &Arc<str>, repository: &Repository, tag: &Tag) -> bool {
        if !self.0.has_imported.load(Ordering::Acquire) {
            return false;
        }
        let name = TagName { upstream: upstream.clone(), repository: repository.clone(), tag: tag.clone() };
        self.0.tags.lock().get(&name).is_some_and(|seen| seen.checks.is_imported)
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
        let mut tags = self.0.tags.lock();
        match tags.get_mut(&TagName::from(key)) {
            Some(seen) => seen.used().meaning(key.class, present, hold),
            None => TagChecks::default().meaning(key.class, present, hold),
        }
    }

    /// What clients get of a tag, and when a check last named something; `None`: nothing yet.
    pub(crate) fn eligible(&self, key: &TagKey) -> Option<(Digest, Option<SystemTime>)> {
        let mut tags = self.0.tags.lock();
        let checks = tags.get_mut(&TagName::from(key))?.used();
        Some((checks.eligible(key.class)?.clone(), checks.checked()))
    }

    /// Whether the last check found this digest.
    pub(crate) fn names(&self, key: &TagKey, digest: &Digest) -> bool {
        self.0.tags.lock().get(&TagName::from(key)).is_some_and(|seen| seen.checks.names(key.class, digest))
    }

    /// The digests that must stay in the cache for a tag; `is_final`: a rule keeps for ever what the tag means.
    pub(crate) fn held(&self, name: &TagName, is_final: bool) -> Vec<Digest> {
        let mut tags = self.0.tags.lock();
        let Some(seen) = tags.get_mut(name) else { return Vec::new() };
        seen.is_final = is_final;
        seen.checks.held(is_final)
    }

    /// The tags that were dropped since the last call: nothing must stay in the cache for them.
    pub(crate) fn take_dropped(&self) -> Vec<TagName> {
        std::mem::take(&mut self.0.dropped.lock())
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

    /// Writes what is known of a tag. A disk that hangs keeps no response back, and holds one thread.
    async fn write(&self, name: TagName) {
        self.0.unwritten.lock().insert(name);
        let seen = self.clone();
        let written = async move {
            // The semaphore is never closed. The write before this one may have taken this tag with it.
            let turn = seen.0.writer.clone().acquire_owned().await.ok();
            blocking(move || {
                seen.write_all();
                drop(turn);
            })
            .await;
        };
        let _ = tokio::time::timeout(WRITE_TIMEOUT, written).await;
    }

    /// Writes the lines of all tags that wait for it. Blocks.
    fn write_all(&self) {
        for _ in 0..WRITES_IN_TURN {
            let names = std::mem::take(&mut *self.0.unwritten.lock());
            if names.is_empty() {
                return;
            }
            let mut guard = self.0.log.lock();
            let Some(log) = guard.as_mut() else { return };
            if log.must_be_replaced() {
                self.replace(log);
                continue;
            }
            // As they are now: two changes of one tag may come here in any order.
            let tags = self.0.tags.lock();
            let checks = |name: &TagName| tags.get(name).map(|seen| seen.checks.clone()).unwrap_or_default();
            let all: Vec<_> = names.into_iter().map(|name| (checks(&name), name)).collect();
            drop(tags);
            let written = log.append(all.iter().map(|(checks, name)| (name, checks)));
            tell(&written, false);
        }
    }

    /// Drops the tags with which the least is lost, if there are too many.
    fn drop_surplus(&self, tags: &mut HashMap<TagName, SeenTag>) {
        let dropped = drop_least(tags);
        if dropped.is_empty() {
            return;
        }
        tracing::warn!(
            dropped = dropped.len(),
            "rules hold more tags than are remembered: some begin anew, first those of which clients get nothing yet"
        );
        self.0.dropped.lock().extend(dropped);
    }
}

/// Logs a write that failed, and the first one that succeeds after that.
fn tell(written: &io::Result<()>, was_failing: bool) {
    match written {
        Err(error) if !was_failing => tracing::warn!(
            %error,
            "the times when tags were first seen cannot be written; forebay tries again with the next one"
        ),
        Ok(()) if was_failing => tracing::info!("the times when tags were first seen can be written again"),
        _ => {}
    }
}

fn drop_least(tags: &mut HashMap<TagName, SeenTag>) -> Vec<TagName> {
    if tags.len() <= MAX_TAGS {
        return Vec::new();
    }
    let now = SystemTime::now();
    let mut worths: Vec<_> = tags.iter().map(|(name, seen)| (seen.worth(now), name)).collect();
    let surplus = tags.len() - (MAX_TAGS - MAX_TAGS / DROPPED_PART);
    worths.select_nth_unstable_by_key(surplus, |(worth, _)| *worth);
    let dropped: Vec<TagName> = worths.into_iter().take(surplus).map(|(_, name)| name.clone()).collect();
    for name in &dropped {
        tags.remove(name);
    }
    dropped
}

#[cfg(test)]
mod tests;
