//! Blobs and manifests that clients deleted through forebay: their cached copies are not served under that repository.
//!
//! Their bytes are removed, but a client of another repository, or a response in flight, may bring them back. So
//! forebay asks the upstream instead, until the object is pushed again or an hour has passed. forebay does not learn of
//! other deletions. The cache outlives a restart, and so do the deletions: they are in a file of the state directory,
//! one per line.

use std::{
    collections::HashMap,
    fmt::Write as _,
    fs::File,
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use parking_lot::{Mutex, MutexGuard};

use moka::{Expiry, sync::Cache};
use rustix::fs::OFlags;

use crate::{
    oci::{Digest, Repository},
    state_dir::{DELETED, StateDirectory},
};

/// The maximum number of remembered deletions.
const MAX_DELETIONS: u64 = 100_000;
const TTL: Duration = Duration::from_secs(60 * 60);
/// The maximum size of the file of deletions, in bytes. Further deletions are only in memory.
const MAX_FILE: u64 = 32 << 20;

/// The kind of a deleted object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Deleted {
    Blob,
    Manifest,
}

/// One deletion. A later deletion of the same object is not equal to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Deletion {
    /// In seconds since 1970.
    at: u64,
    number: u64,
}

type Place = (Deleted, Arc<str>, Repository, Digest);

/// The deletions of the last hour. A cheap handle.
#[derive(Clone)]
pub(crate) struct Deletions(Arc<DeletionsInner>);

struct DeletionsInner {
    /// Whether there was any deletion: usually there was none, and every request checks this.
    any: AtomicBool,
    places: Cache<Place, Deletion>,
    /// The number of deletions so far.
    count: AtomicU64,
    /// Opened for each deletion, because another process may have replaced the file.
    file: Mutex<Option<PathBuf>>,
}

/// A deletion from the file expires at the same time as it would have without the restart.
struct SinceDeleted;

impl Expiry<Place, Deletion> for SinceDeleted {
    fn expire_after_create(&self, _: &Place, deletion: &Deletion, _: std::time::Instant) -> Option<Duration> {
        Some(TTL.saturating_sub(Duration::from_secs(now().saturating_sub(deletion.at))))
    }

    fn expire_after_update(
        &self,
        place: &Place,
        deletion: &Deletion,
        updated_at: std::time::Instant,
        _: Option<Duration>,
    ) -> Option<Duration> {
        self.expire_after_create(place, deletion, updated_at)
    }
}

impl Default for Deletions {
    fn default() -> Self {
        let places = Cache::builder().max_capacity(MAX_DELETIONS).expire_after(SinceDeleted).build();
        Self(Arc::new(DeletionsInner {
            any: AtomicBool::default(),
            places,
            count: AtomicU64::default(),
            file: Mutex::default(),
        }))
    }
}

impl Deletions {
    /// Reads the deletions of an earlier process. Without a state directory, deletions are only in memory. Blocks.
    pub(crate) fn kept(state: Option<&Path>) -> Self {
        let deletions = Self::default();
        if let Some(path) = state {
            deletions.keep(path);
        }
        deletions
    }

    /// Keeps the deletions in this directory from now on, including those of this process. Blocks.
    pub(crate) fn keep(&self, state: &Path) {
        let mut file = self.file();
        let kept = StateDirectory::open(state).map_err(io::Error::other).and_then(|state| {
            let path = state.file(DELETED);
            if file.as_ref() != Some(&path) {
                self.take_over(&state)?;
            }
            Ok(path)
        });
        match kept {
            Ok(path) => *file = Some(path),
            Err(error) => {
                tracing::warn!(%error, path = %state.display(), "deletions through forebay are not remembered over a restart");
            }
        }
    }

    /// Reads the file, and rewrites it without expired deletions.
    fn take_over(&self, state: &StateDirectory) -> io::Result<()> {
        let mut noted = HashMap::new();
        for line in state.read(DELETED, MAX_FILE)?.split(|byte| *byte == b'\n') {
            match std::str::from_utf8(line).ok().and_then(parsed) {
                Some((true, place, at)) if now().saturating_sub(at) < TTL.as_secs() => drop(noted.insert(place, at)),
                Some((false, place, _)) => drop(noted.remove(&place)),
                Some(_) | None => {}
            }
        }
        // The deletions of this process are newer.
        for (place, at) in noted.into_iter().filter(|(place, _)| !self.0.places.contains_key(place)) {
            self.insert(place, at);
            self.0.any.store(true, Ordering::SeqCst);
        }
        let mut text = String::new();
        for (place, deletion) in &self.0.places {
            text.push_str(&line(true, &place, deletion.at));
        }
        state.write(DELETED, text.as_bytes())
    }

    pub(crate) async fn note(&self, what: Deleted, upstream: &Arc<str>, repository: &Repository, digest: &Digest) {
        let place = (what, upstream.clone(), repository.clone(), digest.clone());
        let at = now();
        self.0.any.store(true, Ordering::SeqCst);
        self.insert(place.clone(), at);
        self.append_line(line(true, &place, at)).await;
    }

    fn insert(&self, place: Place, at: u64) {
        let number = self.0.count.fetch_add(1, Ordering::Relaxed);
        self.0.places.insert(place, Deletion { at, number });
    }

    /// Removes the deletion of an object that was pushed.
    pub(crate) async fn forget(&self, what: Deleted, upstream: &Arc<str>, repository: &Repository, digest: &Digest) {
        if self.contains(what, upstream, repository, digest) {
            let place = (what, upstream.clone(), repository.clone(), digest.clone());
            self.0.places.invalidate(&place);
            self.append_line(line(false, &place, now())).await;
        }
    }

    /// Removes a deletion, because the upstream, asked after it, has the object. A later deletion stays.
    pub(crate) async fn refute(
        &self,
        deletion: Deletion,
        what: Deleted,
        upstream: &Arc<str>,
        repository: &Repository,
        digest: &Digest,
    ) {
        if self.find(what, upstream, repository, digest) == Some(deletion) {
            self.forget(what, upstream, repository, digest).await;
        }
    }

    pub(crate) fn contains(
        &self,
        what: Deleted,
        upstream: &Arc<str>,
        repository: &Repository,
        digest: &Digest,
    ) -> bool {
        self.find(what, upstream, repository, digest).is_some()
    }

    /// The last deletion of this object, if it has not expired.
    pub(crate) fn find(
        &self,
        what: Deleted,
        upstream: &Arc<str>,
        repository: &Repository,
        digest: &Digest,
    ) -> Option<Deletion> {
        if !self.0.any.load(Ordering::SeqCst) {
            return None;
        }
        self.0.places.get(&(what, upstream.clone(), repository.clone(), digest.clone()))
    }

    async fn append_line(&self, line: String) {
        let deletions = self.clone();
        let appending = tokio::task::spawn_blocking(move || deletions.append_now(&line));
        let _ = appending.await;
    }

    fn append_now(&self, line: &str) {
        let mut file = self.file();
        let Some(path) = &*file else { return };
        if let Err(error) = append(path, line) {
            tracing::warn!(%error, "deletions through forebay are not remembered over a restart any more");
            *file = None;
        }
    }

    fn file(&self) -> MutexGuard<'_, Option<PathBuf>> {
        self.0.file.lock()
    }
}

fn append(path: &Path, line: &str) -> io::Result<()> {
    let flags = OFlags::NOFOLLOW.bits().cast_signed();
    let mut file = File::options().append(true).create(true).mode(0o600).custom_flags(flags).open(path)?;
    match file.metadata()?.len() + line.len() as u64 <= MAX_FILE {
        true => file.write_all(line.as_bytes()),
        false => Err(io::ErrorKind::FileTooLarge.into()),
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// A line of the file; no upstream's name contains a space.
fn line(deleted: bool, (what, upstream, repository, digest): &Place, at: u64) -> String {
    let mut line = String::new();
    let sign = if deleted { '-' } else { '+' };
    let what = match what {
        Deleted::Blob => "blob",
        Deleted::Manifest => "manifest",
    };
    let _ = writeln!(line, "{sign} {at} {what} {upstream} {repository} {digest}");
    line
}

fn parsed(line: &str) -> Option<(bool, Place, u64)> {
    let mut words = line.split(' ');
    let deleted = match words.next()? {
        "-" => true,
        "+" => false,
        _ => return None,
    };
    let at = words.next()?.parse().ok()?;
    let what = match words.next()? {
        "blob" => Deleted::Blob,
        "manifest" => Deleted::Manifest,
        _ => return None,
    };
    let (upstream, repository, digest) = (words.next()?, words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    words.next().is_none().then(|| (deleted, (what, upstream.into(), repository, digest), at))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_request_before_a_deletion_does_not_end_it() {
        let deletions = Deletions::default();
        let (hub, app): (Arc<str>, Repository) = ("docker.io".into(), "team/app".parse().unwrap());
        let digest = Digest::of(crate::oci::Algorithm::Sha256, b"whatever");
        let find = || deletions.find(Deleted::Blob, &hub, &app, &digest);
        deletions.note(Deleted::Blob, &hub, &app, &digest).await;
        let before = find().unwrap();
        deletions.note(Deleted::Blob, &hub, &app, &digest).await;
        deletions.refute(before, Deleted::Blob, &hub, &app, &digest).await;
        let last = find().unwrap();
        assert_ne!(before, last);
        deletions.refute(last, Deleted::Blob, &hub, &app, &digest).await;
        assert_eq!(find(), None);
    }

    #[test]
    fn a_second_deletion_counts_for_its_own_hour() {
        let digest = Digest::of(crate::oci::Algorithm::Sha256, b"whatever");
        let place: Place = (Deleted::Blob, "docker.io".into(), "team/app".parse().unwrap(), digest);
        let (deletion, instant) = (Deletion { at: now(), number: 1 }, std::time::Instant::now());
        let left = SinceDeleted.expire_after_update(&place, &deletion, instant, Some(Duration::ZERO));
        assert!(left.is_some_and(|left| left > TTL / 2));
    }

    #[tokio::test]
    async fn a_deletion_is_for_one_repository_until_the_next_push() {
        let directory = tempfile::tempdir().unwrap();
        let deletions = Deletions::kept(Some(directory.path()));
        let (hub, other): (Arc<str>, Arc<str>) = ("docker.io".into(), "ghcr.io".into());
        let (app, base) = ("team/app".parse().unwrap(), "team/base".parse().unwrap());
        let digest = Digest::of(crate::oci::Algorithm::Sha256, b"");
        for what in [Deleted::Blob, Deleted::Manifest] {
            let is_gone = |deletions: &Deletions| deletions.contains(what, &hub, &app, &digest);
            deletions.note(what, &hub, &app, &digest).await;
            assert!(is_gone(&deletions) && is_gone(&Deletions::kept(Some(directory.path()))));
            assert!(
                !deletions.contains(what, &hub, &base, &digest) && !deletions.contains(what, &other, &app, &digest)
            );
            deletions.forget(what, &hub, &app, &digest).await;
            assert!(!is_gone(&deletions) && !is_gone(&Deletions::kept(Some(directory.path()))));
            deletions.note(what, &hub, &app, &digest).await;
        }
        deletions.forget(Deleted::Blob, &hub, &app, &digest).await;
        assert!(deletions.contains(Deleted::Manifest, &hub, &app, &digest), "another object of that digest");
    }

    #[tokio::test]
    async fn deletions_in_memory_are_kept_once_there_is_a_file() {
        let directory = tempfile::tempdir().unwrap();
        let digest = Digest::of(crate::oci::Algorithm::Sha256, b"");
        let (hub, names): (Arc<str>, _) = ("docker.io".into(), ["of/earlier", "of/memory", "of/both", "of/file"]);
        let is_gone = |deletions: &Deletions| {
            names.map(|name| deletions.contains(Deleted::Blob, &hub, &name.parse().unwrap(), &digest))
        };
        let note = async |deletions: &Deletions, name: &str| {
            deletions.note(Deleted::Blob, &hub, &name.parse().unwrap(), &digest).await;
        };
        let earlier = Deletions::kept(Some(directory.path()));
        note(&earlier, names[0]).await;
        note(&earlier, names[2]).await;
        let deletions = Deletions::default();
        note(&deletions, names[1]).await;
        note(&deletions, names[2]).await;
        assert_eq!(is_gone(&deletions), [false, true, true, false]);
        deletions.keep(directory.path());
        assert_eq!(is_gone(&deletions), [true, true, true, false]);
        note(&deletions, names[3]).await;
        assert_eq!(is_gone(&Deletions::kept(Some(directory.path()))), [true; 4]);
        // The second call reads nothing again.
        deletions.forget(Deleted::Blob, &hub, &names[0].parse().unwrap(), &digest).await;
        deletions.keep(directory.path());
        assert_eq!(is_gone(&deletions), [false, true, true, true]);
        assert_eq!(is_gone(&Deletions::kept(Some(directory.path()))), [false, true, true, true]);
    }

    #[test]
    fn old_deletions_and_damaged_lines_are_not_loaded() {
        let directory = tempfile::tempdir().unwrap();
        let digest = Digest::of(crate::oci::Algorithm::Sha256, b"");
        let written = |at: u64, repository: &str| format!("- {at} blob hub {repository} {digest}\n");
        let lines = [written(now() - TTL.as_secs(), "old"), "- x\n\u{0}\n".to_owned(), written(now() - 9, "new")];
        std::fs::write(directory.path().join(DELETED), lines.concat() + "- 1 blob hub cu").unwrap();
        let deletions = Deletions::kept(Some(directory.path()));
        let is_gone = |name: &str| deletions.contains(Deleted::Blob, &"hub".into(), &name.parse().unwrap(), &digest);
        assert!(is_gone("new") && !is_gone("old"));
        let kept = std::fs::read_to_string(directory.path().join(DELETED)).unwrap();
        assert_eq!(kept.lines().count(), 1, "{kept}");
    }
}
